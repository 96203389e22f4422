"""Rounds of garbage collection over a store, on a clock of the test: what goes, what stays, what the report says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import pytest
from holdfast.config import CollectionSection
from holdfast.errors import ControlConflict
from holdfast.resources.model import GarbageCollection
from holdfast.storage.collection_report import CollectedRepository
from holdfast.storage.collection_rounds import KIND, NAME, CollectionRounds
from holdfast.testing.manual_clock import START, FakeClock
from holdfast_core import Digest, Pin, Store, fsck
from holdfast_core.changes import collection
from holdfast_core.upkeep.store_upkeep import Upkeep
from support.images import body_of, cached, has, layer, pushed
from support.logs import captured_logs
from support.patience import until
from support.stores import push, push_file, put_file

DAY = 86_400.0
#: when everything of a test was stored: its leases of a day are over
OLD = START - 2 * DAY


def rounds(
    store: Store,
    clock: FakeClock,
    managed: Callable[[], GarbageCollection | None] = lambda: None,
    kept_since: Callable[[str], float] = lambda repository: inf,
    **config: Any,
) -> CollectionRounds:
    """Rounds that nobody has started."""
    return CollectionRounds(store, CollectionSection(**config), managed, kept_since, clock)


@asynccontextmanager
async def running(one: CollectionRounds) -> AsyncIterator[CollectionRounds]:
    """Rounds by their schedule."""
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await one.close()


async def test_a_dry_run_reports_what_the_next_run_removes(store: Store) -> None:
    clock = FakeClock(jump=False)
    shared, alone, named = layer(1), layer(2), layer(3)
    for repository in ("a", "b"):
        push_file(store, repository, shared, now=OLD)
    push_file(store, "a", alone, now=OLD)
    pushed(store, "a", named, tag="v1", now=OLD)
    one = rounds(store, clock)
    dry = (await one.order(True, "operator")).report
    assert dry is not None
    assert (dry.dry_run, dry.looked_at, dry.digests, dry.bytes) == (True, 3, 3, 81_920)
    assert all(has(store, name, shared) for name in ("a", "b"))
    assert store.documents.get(KIND, NAME) is None, "a dry run writes nothing"
    real = (await one.order(False, "operator")).report
    assert real is not None
    assert (real.dry_run, real.looked_at, real.digests, real.bytes) == (False, 3, 3, 81_920)
    assert real.repositories == dry.repositories
    assert sorted((row.name, row.digests) for row in real.repositories) == [("a", 2), ("b", 1)]
    assert [has(store, "a", content) for content in (shared, alone, named)] == [False, False, True]
    assert not has(store, "b", shared)
    assert store.upkeep.sweep(now=clock.now() + 1, grace=0).result() == 81_920
    again = (await one.order(False, "operator")).report
    assert again is not None
    assert (again.looked_at, again.digests, again.repositories) == (0, 0, ())


async def test_of_a_digest_that_many_repositories_lose_the_bytes_count_once(store: Store) -> None:
    """More holders than the store looks at for its accounts; the last one keeps the bytes."""
    clock, content = FakeClock(jump=False), layer(1)
    for number in range(8):
        push_file(store, f"r{number}", content, now=OLD)
    pushed(store, "keeps", content, tag="v1", now=OLD)
    one = rounds(store, clock)
    dry = (await one.order(True, "x")).report
    assert dry is not None
    assert (dry.digests, dry.bytes) == (8, 0)
    real = (await one.order(False, "x")).report
    assert real is not None
    assert (real.digests, real.bytes, real.repositories) == (8, 0, dry.repositories)
    assert has(store, "keeps", content)


async def test_more_than_a_slice_goes_in_one_run(store: Store) -> None:
    clock = FakeClock(jump=False)
    futures = []
    for number in range(2500):
        content = b"%d" % number
        futures.append(store.blobs.push_inline("a", Digest.of(content), content, now=OLD))
    for future in futures:
        future.result(60)
    one = rounds(store, clock)
    dry = (await one.order(True, "x")).report
    real = (await one.order(False, "x")).report
    assert dry is not None
    assert real is not None
    assert (dry.looked_at, dry.digests, dry.bytes) == (2500, 2500, 0)
    assert real.repositories == (CollectedRepository(name="a", digests=2500, bytes=0),)
    assert store.space.account_of("a").blobs == 0


async def test_a_lease_that_is_not_over_holds(store: Store) -> None:
    clock, content = FakeClock(jump=False), layer(1)
    push_file(store, "a", content, now=START - DAY + 1)
    one = rounds(store, clock)
    report = (await one.order(False, "x")).report
    assert report is not None
    assert (report.looked_at, report.digests) == (1, 0)
    clock.advance(1)
    report = (await one.order(False, "x")).report
    assert report is not None
    assert report.digests == 1


async def test_a_clock_that_is_set_forward_ends_no_lease(store: Store) -> None:
    """A push that began before it finishes; what is left of another goes once its lease is over by any clock."""
    clock, content, left = FakeClock(jump=False), layer(1), layer(2)
    one = rounds(store, clock, untagged_after="P1D")
    for body in (content, left):
        push_file(store, "a", body, now=clock.now())
    clock.advance(60)
    clock.step(3 * DAY)
    assert (await one.order(False, "x")).report.digests == 0  # type: ignore[union-attr]
    push(store, "a", body_of(content), "v1", now=clock.now())
    assert has(store, "a", content)
    clock.advance(DAY - 1)
    assert (await one.order(False, "x")).report.digests == 0  # type: ignore[union-attr]
    clock.advance(1)
    assert (await one.order(False, "x")).report.digests == 1  # type: ignore[union-attr]
    assert [has(store, "a", body) for body in (content, left)] == [True, False]


@pytest.mark.parametrize("kind", ["pushed", "cached", "deleted"])
async def test_a_clock_that_is_set_back_keeps_nothing_for_ever(store: Store, kind: str) -> None:
    """Its lease begins anew when a collection first sees it."""
    clock = FakeClock(jump=False)
    clock.step(1000 * DAY)
    one = rounds(store, clock, deleted_after="P1D", untagged_after="P1D")
    content = layer(1)
    if kind == "pushed":
        push_file(store, "a", content, now=clock.now())
    elif kind == "cached":
        put_file(store, "a", content, now=clock.now())
    else:
        digest = push(store, "a", body_of(), "v1", now=clock.now())
        store.references.delete_manifest("a", digest, now=clock.now(), restorable=True).result()
    clock.step(-1000 * DAY)
    assert (await one.order(False, "x")).report.digests == 0  # type: ignore[union-attr]
    clock.advance(DAY - 1)
    assert (await one.order(False, "x")).report.digests == 0  # type: ignore[union-attr]
    clock.advance(1)
    assert (await one.order(False, "x")).report.digests == 1  # type: ignore[union-attr]


async def test_pinned_content_and_referrers_of_what_is_here_stay(store: Store) -> None:
    clock, signed_layer = FakeClock(jump=False), layer(2)
    kept = pushed(store, "a", layer(1), now=OLD)
    store.space.pin(Pin("a", "manifest", str(kept), math.inf), now=OLD).result()
    subject = pushed(store, "a", layer(3), tag="v1", now=OLD)
    push_file(store, "a", signed_layer, now=OLD)
    signature = body_of(signed_layer, subject={"digest": str(subject), "size": 1})
    push(store, "a", signature, now=OLD, subject=subject)
    gone = pushed(store, "a", layer(4), now=OLD)
    one = rounds(store, clock, untagged_after="P1D")
    report = (await one.order(False, "x")).report
    assert report is not None
    assert (report.looked_at, report.digests) == (3, 1)
    assert store.references.manifest("a", gone) is None
    assert store.references.manifest("a", kept) is not None
    assert store.references.manifest("a", Digest.of(signature)) is not None
    assert has(store, "a", layer(1))


async def test_untagged_manifests_stay_unless_it_is_asked_for(store: Store) -> None:
    """An image that clients pull by its digest has no other name: it is served whatever the link does."""
    clock = FakeClock(jump=False)
    by_digest = cached(store, "a", layer(1), now=OLD)
    untagged = pushed(store, "a", layer(2), now=OLD)
    one = rounds(store, clock)
    report = (await one.order(False, "x")).report
    assert report is not None
    assert (report.looked_at, report.digests) == (2, 0)
    assert store.references.manifest("a", by_digest) is not None
    asked = rounds(store, clock, untagged_after="P1D")
    report = (await asked.order(False, "x")).report
    assert report is not None
    assert report.digests == 2
    assert store.references.manifest("a", untagged) is None


async def test_untagged_manifests_of_a_parent_that_is_away_stay(store: Store) -> None:
    clock, kept = FakeClock(jump=False), [-inf]
    by_digest = cached(store, "a", layer(1), now=OLD)
    one = rounds(store, clock, kept_since=lambda _: kept[0], untagged_after="P1D")
    report = (await one.order(False, "x")).report
    assert report is not None
    assert (report.looked_at, report.digests) == (1, 0)
    kept[0] = inf
    report = (await one.order(False, "x")).report
    assert report is not None
    assert report.digests == 1
    assert store.references.manifest("a", by_digest) is None


async def test_cached_blobs_stay_while_their_parent_is_away_or_their_image_is_coming(store: Store) -> None:
    clock = FakeClock(jump=False)
    for repository in ("away:a", "coming:a", "here:a"):
        put_file(store, repository, layer(1), now=OLD)
    kept = {"away:a": -inf, "coming:a": OLD - 1}
    one = rounds(store, clock, kept_since=lambda repository: kept.get(repository, inf))
    dry = (await one.order(True, "x")).report
    real = (await one.order(False, "x")).report
    assert dry is not None
    assert real is not None
    assert real.repositories == dry.repositories == (CollectedRepository(name="here:a", digests=1, bytes=0),)
    assert [has(store, name, layer(1)) for name in ("away:a", "coming:a", "here:a")] == [True, True, False]


# --- by the schedule ---------------------------------------------------------------------------------------


async def test_it_is_done_at_midnight_and_once(store: Store) -> None:
    clock = FakeClock(jump=False)
    push_file(store, "a", layer(1), now=OLD)
    async with running(rounds(store, clock)) as one:
        await until(lambda: clock.sleepers == 1)
        assert one.status().next_run == "2027-01-16T00:00:00Z"
        clock.advance(60)
        await until(lambda: clock.slept == [60.0, 60.0])
        clock.advance(57_539)
        await until(lambda: clock.slept == [60.0, 60.0, 1.0])
        assert one.status().report is None
        clock.advance(1)
        await until(lambda: one.status().report is not None and not one.status().running)
        report = one.status().report
        assert report is not None
        assert (report.trigger, report.began, report.digests) == ("Scheduled", "2027-01-16T00:00:00Z", 1)
        assert one.status().next_run == "2027-01-17T00:00:00Z"
    assert not has(store, "a", layer(1))


async def test_a_node_that_was_off_at_midnight_does_it_at_its_start(store: Store) -> None:
    clock = FakeClock(jump=False)
    async with running(rounds(store, clock)):
        await until(lambda: clock.sleepers == 1)
        clock.advance(60)
        await until(lambda: len(clock.slept) == 2)
    push_file(store, "a", layer(1), now=OLD)
    clock.advance(3 * DAY)
    async with running(rounds(store, clock)) as one:
        await until(lambda: clock.sleepers == 1)
        assert one.status().report is None, "parents and synchronisation are looked at first"
        assert has(store, "a", layer(1))
        clock.advance(60)
        await until(lambda: one.status().report is not None and not one.status().running)
        report = one.status().report
        assert report is not None
        assert (report.trigger, report.digests) == ("Scheduled", 1)
        assert one.status().next_run == "2027-01-19T00:00:00Z"
    after = rounds(store, clock)
    async with running(after):
        await until(lambda: after.status().report == report)


async def test_the_parent_turns_it_off_and_on(store: Store) -> None:
    clock, word = FakeClock(jump=False), [GarbageCollection(enabled=False, schedule="0 * * * *")]
    push_file(store, "a", layer(1), now=OLD)
    async with running(rounds(store, clock, managed=lambda: word[0])) as one:
        await until(lambda: clock.sleepers == 1)
        assert (one.status().enabled, one.status().next_run) == (False, None)
        clock.advance(5 * DAY)
        await until(lambda: len(clock.slept) == 2)
        assert has(store, "a", layer(1))
        word[0] = GarbageCollection(enabled=True, schedule="0 * * * *")
        clock.advance(60)
        await until(lambda: one.status().report is not None and not one.status().running)
        assert not has(store, "a", layer(1))


async def test_a_full_disk_is_emptied_at_once_and_not_all_the_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers of an image that was deleted ten minutes ago go; a push of a moment ago has its lease."""
    clock, full = FakeClock(jump=False), [False]
    monkeypatch.setattr(Upkeep, "is_pressed", property(lambda _: full[0]))
    digest = pushed(store, "a", layer(1), tag="v1", now=OLD)
    store.references.delete_manifest("a", digest, now=START - 600).result()
    push_file(store, "a", layer(2), now=START)
    async with running(rounds(store, clock)) as one:
        await until(lambda: clock.sleepers == 1)
        clock.advance(60)
        await until(lambda: len(clock.slept) == 2)
        assert one.status().report is None
        full[0] = True
        clock.advance(60)
        await until(lambda: one.status().report is not None and not one.status().running)
        report = one.status().report
        assert report is not None
        assert (report.trigger, report.digests, report.bytes) == ("FullDisk", 1, 40_960)
        assert [has(store, "a", layer(number)) for number in (1, 2)] == [False, True]
        began = []
        for _ in range(8):
            await until(lambda: clock.sleepers == 1)
            clock.advance(60)
            await until(lambda: clock.sleepers == 1)
            latest = one.status().report
            assert latest is not None
            began.append(latest.began)
        assert sorted(set(began)) == ["2027-01-15T08:02:00Z", "2027-01-15T08:07:00Z"]


async def test_one_at_a_time(store: Store) -> None:
    clock = FakeClock(jump=False)
    push_file(store, "a", layer(1), now=OLD)
    one = rounds(store, clock)
    dry = asyncio.create_task(one.order(True, "x"))
    joined = asyncio.create_task(one.order(True, "y"))
    await asyncio.sleep(0)
    with pytest.raises(ControlConflict, match="a dry run is under way"):
        await one.order(False, "z")
    assert await dry == await joined
    assert has(store, "a", layer(1))


async def test_who_ordered_it_is_in_the_log(store: Store) -> None:
    clock = FakeClock(jump=False)
    push_file(store, "a", layer(1), now=OLD)
    with captured_logs() as logs:
        await rounds(store, clock).order(False, "operator")
    lines = {line["event"]: line for line in logs if line["event"].startswith("garbage")}
    assert lines["garbage collection ordered"]["by"] == "operator"
    ended = lines["garbage collection ended"]
    assert (ended["trigger"], ended["digests"], ended["bytes"]) == ("Ordered", 1, 40_960)


async def test_the_store_is_sound_afterwards(store: Store, tmp_path: Path) -> None:
    clock = FakeClock(jump=False)
    cached(store, "a", layer(1), layer(2), tag="v1", now=OLD)
    for number in range(40):
        push_file(store, f"r{number % 7}", layer(number), now=OLD)
    await rounds(store, clock).order(False, "x")
    store.close()
    assert fsck(tmp_path / "store").problems == []


async def test_a_collection_holds_nobody_up_for_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By counts: keys that are read at once, changes of a transaction, digests of a dry run in one turn of the loop."""
    clock, read, taken, looks = FakeClock(jump=False), list[int](), list[tuple[int, int]](), list[int]()
    layers = [b"%d" % number for number in range(30)]
    futures = [store.blobs.push_inline("a", Digest.of(one), one, now=OLD) for one in layers]
    for number in range(60):
        futures.append(store.blobs.push_inline("a", Digest.of(b"x%d" % number), b"x%d" % number, now=OLD))
        push(store, "a", body_of(*layers, number=number), now=OLD)
    for future in futures:
        future.result(60)
    planned, loose, collectable = collection.collected_together, store.space.loose, store.space.collectable

    def counted_plan(*arguments: Any, **more: Any) -> Any:
        rows, departure = planned(*arguments, **more)
        taken.append((departure.digests, len(rows)))
        return rows, departure

    def counted_read(after: bytes, limit: int) -> Any:
        read.append(limit)
        return loose(after, limit=limit)

    def counted_looks(rows: Any, *arguments: Any, **more: Any) -> Any:
        looks.append(len(rows))
        return collectable(rows, *arguments, **more)

    monkeypatch.setattr(store.space, "loose", counted_read)
    monkeypatch.setattr(store.space, "collectable", counted_looks)
    one = rounds(store, clock, untagged_after="P1D")
    dry = (await one.order(True, "x")).report
    monkeypatch.setattr(collection, "collected_together", counted_plan)
    real = (await one.order(False, "x")).report
    assert dry is not None
    assert real is not None
    assert (dry.digests, real.digests, real.looked_at) == (120, 120, 120)
    assert max(read) <= 1000
    assert max(looks) <= 8
    assert max(changes for _, changes in taken) <= collection.CHANGES + 40, "and what the last manifest has"
    edges = 60 * 30
    assert len(taken) >= (edges + sum(changes for _, changes in taken)) / (collection.CHANGES + 40)
