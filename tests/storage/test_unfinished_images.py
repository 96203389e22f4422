"""Blobs of an image that synchronisation brings have no name before its manifest comes; a collection leaves them, also
between two windows that lie longer apart than cached content is kept."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core import Digest
from support.fills import until
from support.images import has
from support.replicas import holds, image_of, replica_of, replicating
from support.stores import put_file

MIB = 1 << 20
DAY = 86_400.0
#: Sunday 2027-01-17 22:07 UTC, in a window that opens once a week
SUNDAY = 1_800_223_620.0
WEEKLY = {"schedule": "0 22 * * 0", "window": "PT1H"}


@pytest.mark.loop("asyncio")
async def test_between_two_windows_nothing_of_it_is_collected(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        early, late = b"x" * 50_000, GeneratedContent(4 * MIB)
        digest = image_of(parent, "demo", "v1", early, late)
        fault = ScriptedFault(method="GET", path=late.digest, status=503, times=1000)
        parent.script(fault)
        clock = FakeClock(SUNDAY, jump=False)
        async with replicating(tmp_path, parent, schedule=WEEKLY, clock=clock) as keeper:
            await until(lambda: has(keeper.store, "demo", early))
            assert replica_of(keeper).unfinished_since("demo") == SUNDAY
        wednesday = FakeClock(SUNDAY + 3 * DAY, jump=False)
        async with replicating(tmp_path, parent, schedule=WEEKLY, clock=wednesday) as keeper:
            assert replica_of(keeper).unfinished_since("demo") == SUNDAY
            report = (await keeper.order_collection(False, "x")).report
            assert report is not None
            assert (report.looked_at, report.digests) == (2, 0)
            assert has(keeper.store, "demo", early)
        parent.faults.clear()
        sunday = FakeClock(SUNDAY + 7 * DAY, jump=False)
        async with replicating(tmp_path, parent, schedule=WEEKLY, clock=sunday) as keeper:
            await until(lambda: holds(keeper, "demo", "v1", digest))
            await until(lambda: replica_of(keeper).unfinished_since("demo") == inf)
        assert parent.bytes_sent[str(Digest.of(early))] == 50_000, "it crossed the link once"


@pytest.mark.loop("asyncio")
async def test_what_nothing_brings_goes_unless_its_parent_is_away(tmp_path: Path) -> None:
    """It could not be had again."""
    async with ScriptedParent() as parent:
        clock = FakeClock(SUNDAY + 3 * DAY, jump=False)
        async with replicating(tmp_path, parent, schedule=WEEKLY, clock=clock) as keeper:
            put_file(keeper.store, "demo", b"y" * 50_000, now=SUNDAY)
            await keeper.turn_parent("default", "offline")
            report = (await keeper.order_collection(False, "x")).report
            assert report is not None
            assert (report.looked_at, report.digests) == (1, 0)
            await keeper.turn_parent("default", "auto")
            report = (await keeper.order_collection(False, "x")).report
            assert report is not None
            assert (report.looked_at, report.digests, report.bytes) == (1, 1, 50_000)
