"""`newer_than`: the age of an image is read once, and never again."""

from __future__ import annotations

from pathlib import Path

import pytest
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast.timestamps import stamp
from holdfast_core.digest import Digest
from support.fills import MIB
from support.replicas import image_of, one_run, replica_of, replicating

pytestmark = pytest.mark.loop("asyncio")

NIGHTLY = {"schedule": "0 22 * * *"}
NOW, DAY_SECONDS = 1_800_000_000.0, 86400.0
ROW = {"name": "demo", "newer_than": "P30D", "exclude": ["excluded"]}


def stocked(parent: ScriptedParent) -> None:
    """An image of yesterday, one of last year, one without a time, and one that is not read."""
    image_of(parent, "demo", "new", b"new", created=stamp(NOW - DAY_SECONDS))
    image_of(parent, "demo", "old", GeneratedContent(MIB), created=stamp(NOW - 365 * DAY_SECONDS))
    image_of(parent, "demo", "unknown", b"unknown")
    image_of(parent, "demo", "excluded", b"excluded", created=stamp(NOW))


async def test_what_was_made_long_ago_is_left_out_and_asked_about_once(tmp_path: Path) -> None:
    clock = FakeClock(NOW, jump=False)
    async with ScriptedParent() as parent:
        stocked(parent)
        async with replicating(tmp_path, parent, ROW, schedule=NIGHTLY, clock=clock) as keeper:
            await one_run(keeper, clock)
            assert keeper.store.references.tags("demo") == ["new", "unknown"]
            words = replica_of(keeper).status().words
            assert "demo: newer_than P30D leaves out 1 of 3 tags" in words
            assert any("keeps 1 tags whose images do not say" in one for one in words)
            assert parent.count("", "/manifests/excluded") == 0
            parent.reset_counts()
        async with replicating(tmp_path, parent, ROW, schedule=NIGHTLY, clock=clock) as keeper:
            plan = await replica_of(keeper).plan()
            assert plan.images == ()
            assert "demo: newer_than P30D leaves out 1 of 3 tags" in plan.words
        assert parent.count() == 1 + 3  # the list, and a HEAD for each that its name does not leave out
        assert parent.count("HEAD") == 3
        clock.advance(40 * DAY_SECONDS)
        async with replicating(tmp_path, parent, ROW, schedule=NIGHTLY, clock=clock) as keeper:
            await one_run(keeper, clock)
            assert keeper.store.references.tags("demo") == ["new", "unknown"]  # what is here stays


async def test_an_index_is_asked_through_one_of_its_images(tmp_path: Path) -> None:
    """In a plan, which keeps nothing: the index, a child and its config, which says nothing in the sample."""
    clock = FakeClock(NOW, jump=False)
    async with ScriptedParent() as parent:
        sample = parent.add_sample("demo", "1.0")
        row = {**ROW, "platforms": ["linux/amd64"], "referrers": []}
        async with replicating(tmp_path, parent, row, schedule=NIGHTLY, clock=clock) as keeper:
            await replica_of(keeper).close()
            parent.reset_counts()
            plan = await replica_of(keeper).plan()
            assert [one.image for one in plan.images] == ["demo:1.0"]
            assert any("keeps 1 tags whose images do not say" in words for words in plan.words)
            assert parent.count("GET", "/manifests/") == 2
            assert parent.count("GET", "/blobs/") == 1
            assert keeper.store.references.manifest("demo", Digest.parse(sample.index)) is None
            await replica_of(keeper).close()


async def test_an_image_that_cannot_be_asked_is_told_and_the_others_arrive(tmp_path: Path) -> None:
    clock = FakeClock(NOW, jump=False)
    async with ScriptedParent() as parent:
        stocked(parent)
        fault = parent.script(ScriptedFault(method="GET", path="/blobs/", flip_at=3, times=1))
        async with replicating(tmp_path, parent, ROW, schedule=NIGHTLY, clock=clock) as keeper:
            await one_run(keeper, clock)
            assert fault.taken
            troubles = replica_of(keeper).status().troubles
            assert ["has other bytes" in one.reason for one in troubles] == [True]
            clock.advance(3700.0)
            await one_run(keeper, clock)
            assert keeper.store.references.tags("demo") == ["new", "unknown"]
