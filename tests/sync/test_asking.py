"""Synchronisation asks no more often than it may, and leaves to clients what the parent allows."""

from __future__ import annotations

from pathlib import Path

import pytest
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.scripted_parent import ScriptedParent
from support.fills import until
from support.replicas import advance, image_of, replica_of, replicating

pytestmark = pytest.mark.loop("asyncio")

NIGHTLY = {"schedule": "0 22 * * *", "window": "PT1H"}
DAY_SECONDS, HOUR_SECONDS = 86400.0, 3600.0
#: 22:07 UTC of some day: a window has begun
NIGHT = 20834 * DAY_SECONDS + 22 * HOUR_SECONDS + 7 * 60


async def test_an_hour_has_only_so_many_questions_and_what_was_not_asked_goes_first_next_time(
    tmp_path: Path,
) -> None:
    """200 unchanged tags of two repositories, 120 questions an hour, windows of an hour: two nights see all of them."""
    tags = 100
    async with ScriptedParent() as parent:
        for name in ("one", "two"):
            for number in range(tags):
                parent.repository(name)
                image_of(parent, name, f"1.0.{number}")
        rows = [{"name": "one"}, {"name": "two"}]
        async with replicating(
            tmp_path, parent, *rows, schedule=NIGHTLY, clock=FakeClock(NIGHT, jump=False)
        ) as keeper:
            await until(lambda: replica_of(keeper).record.state.synced_at > 0)
        sync = {**NIGHTLY, "requests": 120}
        for night in (1, 2):
            parent.reset_counts()
            clock = FakeClock(NIGHT + night * DAY_SECONDS, jump=False)
            async with replicating(tmp_path, parent, *rows, schedule=sync, clock=clock) as keeper:
                replica = replica_of(keeper)
                await until(lambda r=replica: bool(r.record.state.running))  # type: ignore[misc]
                await advance(clock, 2 * HOUR_SECONDS, lambda r=replica: not r.record.state.running, 10.0)  # type: ignore[misc]
            assert sum(parent.requests.values()) <= 120
            seen = parent.count("HEAD")
            assert seen >= 80
            if night == 1:
                assert parent.count("HEAD", "/one/") == 100
                assert parent.count("HEAD", "/two/") < 20
            else:
                assert parent.count("HEAD", "/two/") >= 80
                assert parent.requests["GET", "/v2/two/tags/list"] == 1


async def test_what_the_parent_allows_is_left_to_clients(tmp_path: Path) -> None:
    """A manifest is requested, the parent says that few requests are left, and the next one waits and is reported."""
    clock = FakeClock(NIGHT, jump=False)
    async with ScriptedParent() as parent:
        parent.ratelimit = "19;w=21600"
        for number in range(5):
            image_of(parent, "demo", f"v{number}", f"layer {number}".encode())
        async with replicating(tmp_path, parent, schedule=NIGHTLY, clock=clock) as keeper:
            replica = replica_of(keeper)

            def waits() -> bool:
                return any("19 of 100 requests" in words for words in replica.status().words)

            await until(waits)
            assert parent.count() == 1  # the list, whose answer had the header
            assert "and 20% are for clients: the next request is in 18 min" in "\n".join(
                replica.status().words
            )
            assert (await keeper.manifest("demo", "v3")).digest  # a client does not wait
            requests = parent.count()
            await advance(clock, 1200.0, lambda: parent.count() > requests, 10.0)
            assert parent.count() == requests + 1  # one request, to read how many are left
            parent.ratelimit = "90;w=21600"
            await advance(clock, 3000.0, lambda: replica.record.state.synced_at > 0, 10.0)
            assert len(keeper.store.references.tags("demo")) == 5
            assert not waits()
