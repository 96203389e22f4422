"""Removals and their refusals: tags that the parent lost, repositories that are no longer selected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from holdfast.keeper.keeper import Keeper
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.record import Lock, LockTarget
from support.replicas import holds, image_of, one_run, replica_of, replicating

pytestmark = pytest.mark.loop("asyncio")

NIGHTLY = {"schedule": "0 22 * * *"}
REMOVE = {**NIGHTLY, "on_parent_delete": "remove"}
DAY_SECONDS = 86400.0
NOW = 1_800_000_000.0


def clock_of(days: float = 0.0) -> FakeClock:
    """A morning so many days later; it stands still, so that no run begins but those that a test asks for."""
    return FakeClock(NOW + days * DAY_SECONDS, jump=False)


def remarks(keeper: Keeper) -> str:
    """The remarks of the last run."""
    return "\n".join(replica_of(keeper).status().words)


def tags_of(keeper: Keeper) -> list[str]:
    return keeper.store.references.tags("demo")


# ---- tags


async def test_a_tag_that_the_parent_lost_stays_and_is_told(tmp_path: Path) -> None:
    clock = clock_of()
    async with ScriptedParent() as parent:
        digests = {tag: image_of(parent, "demo", tag, tag.encode()) for tag in ("v1", "v2")}
        async with replicating(tmp_path, parent, schedule=NIGHTLY, clock=clock) as keeper:
            await one_run(keeper, clock)
            del parent.repository("demo").tags["v1"]
            for _ in range(3):
                await one_run(keeper, clock)
                assert "demo: the parent does not list v1; what is here stays" in remarks(keeper)
            assert holds(keeper, "demo", "v1", digests["v1"])
            assert (await replica_of(keeper).plan()).removals == ()


async def test_a_tag_that_two_runs_did_not_find_goes_where_that_is_wanted(tmp_path: Path) -> None:
    """Also when the node was restarted between the two."""
    clock = clock_of()
    async with ScriptedParent() as parent:
        for tag in ("v1", "v2"):
            image_of(parent, "demo", tag, tag.encode())
        async with replicating(tmp_path, parent, schedule=REMOVE, clock=clock) as keeper:
            await one_run(keeper, clock)
            del parent.repository("demo").tags["v1"]
            await one_run(keeper, clock)
            assert tags_of(keeper) == ["v1", "v2"]
            assert "v1; it is removed here when the next run does not find it either" in remarks(keeper)
            assert parent.count("HEAD", "/manifests/v1$") == 1  # the first run's
            (planned,) = (await replica_of(keeper).plan()).removals
            assert (planned.name, planned.fate) == ("demo:v1", "remove")
            assert tags_of(keeper) == ["v1", "v2"]
        async with replicating(tmp_path, parent, schedule=REMOVE, clock=clock) as keeper:
            await one_run(keeper, clock)
            assert tags_of(keeper) == ["v2"]
            assert "so it is removed here as well" in remarks(keeper)
            assert parent.count("DELETE") == 0
            image_of(parent, "demo", "v1", b"v1")
            await one_run(keeper, clock)
            assert tags_of(keeper) == ["v1", "v2"]


async def test_a_tag_that_came_back_was_not_lost_twice(tmp_path: Path) -> None:
    clock = clock_of()
    async with ScriptedParent() as parent:
        image_of(parent, "demo", "v2", b"v2")
        digest = image_of(parent, "demo", "v1", b"v1")
        tags = parent.repository("demo").tags
        async with replicating(tmp_path, parent, schedule=REMOVE, clock=clock) as keeper:
            await one_run(keeper, clock)
            for _ in range(3):
                del tags["v1"]
                await one_run(keeper, clock)
                tags["v1"] = [digest]
                await one_run(keeper, clock)
            assert tags_of(keeper) == ["v1", "v2"]


LISTS: list[tuple[str, dict[str, Any]]] = [
    ("no tag at all", {"status": 200, "body": '{"name": "demo", "tags": []}'}),
    ("null", {"status": 200, "body": '{"name": "demo", "tags": null}'}),
    ("another document", {"status": 200, "body": "{}"}),
    ("not JSON", {"status": 200, "body": "<html>"}),
    ("500", {"status": 500}),
    ("404", {"status": 404}),
    ("403", {"status": 403}),
    ("cut", {"cut_after": 10}),
]


@pytest.mark.parametrize("answer", [fault for _, fault in LISTS], ids=[name for name, _ in LISTS])
async def test_a_list_of_a_failing_parent_removes_nothing(tmp_path: Path, answer: dict[str, Any]) -> None:
    """Nor does it count as one of two: here every tag is gone as well."""
    clock = clock_of()
    async with ScriptedParent() as parent:
        for tag in ("v1", "v2"):
            image_of(parent, "demo", tag, tag.encode())
        async with replicating(tmp_path, parent, schedule=REMOVE, clock=clock) as keeper:
            await one_run(keeper, clock)
            parent.script(
                ScriptedFault(path="/tags/list", times=-1, **answer),
                ScriptedFault(path="/manifests/", status=404, times=-1),
            )
            for _ in range(2):
                await one_run(keeper, clock)
            assert tags_of(keeper) == ["v1", "v2"]
        parent.faults.clear()
        del parent.repository("demo").tags["v1"]
        async with replicating(tmp_path, parent, schedule=REMOVE, clock=clock) as keeper:
            await one_run(keeper, clock)
            assert "v1; it is removed here when the next run" in remarks(keeper)
            assert tags_of(keeper) == ["v1", "v2"]


async def test_a_short_list_that_says_it_is_whole_removes_nothing(tmp_path: Path) -> None:
    """A proxy may drop the Link to the next page: what a HEAD still finds was not lost."""
    clock = clock_of()
    async with ScriptedParent() as parent:
        for tag in ("v1", "v2"):
            image_of(parent, "demo", tag, tag.encode())
        async with replicating(tmp_path, parent, schedule=REMOVE, clock=clock) as keeper:
            await one_run(keeper, clock)
            body = json.dumps({"name": "demo", "tags": ["v1"]})
            parent.script(ScriptedFault(path="/tags/list", times=-1, status=200, body=body))
            for _ in range(3):
                await one_run(keeper, clock)
            assert tags_of(keeper) == ["v1", "v2"]
            assert "demo:v2 stays: the parent does not list it, but answers a HEAD for it" in remarks(keeper)


async def test_a_404_of_a_tag_that_is_listed_removes_nothing(tmp_path: Path) -> None:
    clock = clock_of()
    async with ScriptedParent() as parent:
        image_of(parent, "demo", "v1", b"v1")
        async with replicating(tmp_path, parent, schedule=REMOVE, clock=clock) as keeper:
            await one_run(keeper, clock)
            parent.script(ScriptedFault(path="/manifests/v1$", status=404, times=-1))
            for _ in range(2):
                await one_run(keeper, clock)
            assert [one.image for one in replica_of(keeper).status().troubles] == ["demo:v1"]
            assert tags_of(keeper) == ["v1"]


async def test_what_is_locked_or_was_pushed_here_stays(tmp_path: Path) -> None:
    clock = clock_of()
    async with ScriptedParent() as parent:
        digest = image_of(parent, "demo", "v1", b"v1")
        image_of(parent, "demo", "v2", b"v2")
        async with replicating(tmp_path, parent, schedule=REMOVE, mode="ReadWrite", clock=clock) as keeper:
            await one_run(keeper, clock)
            parent.script(ScriptedFault(method="PUT", status=503, times=-1))
            held = keeper.store.references.manifest("demo", keeper.store.references.tag("demo", "v1").digest)  # type: ignore[union-attr]
            assert held is not None
            await keeper.put_manifest("demo", digest, ("mine",), held.media_type, held.body)
            keeper.store.references.set_lock(
                "demo", LockTarget("tag", "v1"), Lock(delete=False), now=1.0
            ).result()
            del parent.repository("demo").tags["v1"]
            for _ in range(2):
                await one_run(keeper, clock)
            assert tags_of(keeper) == ["mine", "v1", "v2"]
            assert "demo:v1 stays: " in remarks(keeper)
            assert "deleteEnabled is false on the tag v1 of demo" in remarks(keeper)
            assert "mine" not in remarks(keeper)


# ---- repositories


async def _wanted_once(place: Path, parent: ScriptedParent) -> None:
    """Synchronisation brought demo and old; a client pulled other."""
    for name in ("demo", "old", "other"):
        image_of(parent, name, "v1", name.encode())
    rows, clock = [{"name": "demo"}, {"name": "old"}], clock_of()
    async with replicating(place, parent, *rows, schedule=NIGHTLY, clock=clock) as keeper:
        await one_run(keeper, clock)
        await keeper.manifest("other", "v1")


@pytest.mark.parametrize(
    ("mode", "prune", "goes"),
    [
        ("ReadOnly", "", True),
        ("ReadOnly", "never", False),
        ("ReadWrite", "", False),
        ("ReadWrite", "always", True),
    ],
)
async def test_what_is_wanted_no_longer_goes_after_its_grace(
    tmp_path: Path, mode: str, prune: str, goes: bool
) -> None:
    async with ScriptedParent() as parent:
        await _wanted_once(tmp_path, parent)
        sync = {**NIGHTLY, "prune": prune, "prune_grace": "P2D"}
        for day in (1, 2):
            clock = clock_of(day)
            async with replicating(tmp_path, parent, schedule=sync, mode=mode, clock=clock) as keeper:
                await one_run(keeper, clock)
                assert keeper.store.references.repositories() == ["demo", "old", "other"]
                removals = (await replica_of(keeper).plan()).removals
                assert [(one.name, one.fate) for one in removals] == ([("old", "wait")] if goes else [])
                if goes:
                    assert removals[0].at is not None
                    assert removals[0].at.startswith("2027-01-18T")
                    assert "old is no longer selected; it is removed by the first run after" in remarks(
                        keeper
                    )
                else:
                    assert "old is no longer selected, and is kept" in remarks(keeper)
        clock = clock_of(4)
        async with replicating(tmp_path, parent, schedule=sync, mode=mode, clock=clock) as keeper:
            await one_run(keeper, clock)
            left = ["demo", "other"] if goes else ["demo", "old", "other"]
            assert keeper.store.references.repositories() == left
            assert (await replica_of(keeper).plan()).removals == ()


async def test_what_is_wanted_again_has_its_whole_grace_anew(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        await _wanted_once(tmp_path, parent)
        days = [(0.9, ["demo"]), (1.5, ["demo", "old"]), (1.7, ["demo"]), (2.6, ["demo"])]
        for day, names in days:
            rows, clock = [{"name": name} for name in names], clock_of(day)
            async with replicating(tmp_path, parent, *rows, schedule=NIGHTLY, clock=clock) as keeper:
                await one_run(keeper, clock)
                assert keeper.store.references.repositories() == ["demo", "old", "other"]
        clock = clock_of(2.8)
        async with replicating(tmp_path, parent, schedule=NIGHTLY, clock=clock) as keeper:
            await one_run(keeper, clock)
            assert keeper.store.references.repositories() == ["demo", "other"]


async def test_a_repository_with_a_lock_stays_whole_and_is_told(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        await _wanted_once(tmp_path, parent)
        for day in (1, 3):
            clock = clock_of(day)
            async with replicating(tmp_path, parent, schedule=NIGHTLY, clock=clock) as keeper:
                keeper.store.set_mode("ReadWrite")
                keeper.store.references.set_lock(
                    "old", LockTarget("repository"), Lock(delete=False), now=1.0
                ).result()
                keeper.store.set_mode("ReadOnly")
                await one_run(keeper, clock)
                assert keeper.store.references.tags("old") == ["v1"]
        assert "old stays" in remarks(keeper)
        assert "deleteEnabled is false on the repository old" in remarks(keeper)


async def test_what_is_on_its_way_up_waits(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        await _wanted_once(tmp_path, parent)
        parent.script(ScriptedFault(method="PUT", status=503, times=-1))
        sync = {**NIGHTLY, "prune": "always"}
        for day in (1, 3):
            clock = clock_of(day)
            async with replicating(tmp_path, parent, schedule=sync, mode="ReadWrite", clock=clock) as keeper:
                references = keeper.store.references
                held = references.manifest("old", references.tag("old", "v1").digest)  # type: ignore[union-attr]
                assert held is not None
                await keeper.put_manifest("old", str(held.digest), ("mine",), held.media_type, held.body)
                await one_run(keeper, clock)
                assert (
                    "old is no longer selected; it is removed when its pushes are at the parent"
                    in remarks(keeper)
                )
                assert keeper.store.references.tags("old") == ["mine", "v1"]
