"""Scrubs over a store, a scripted parent and a clock of the test: what is found, what is asked for, what is read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from holdfast.config import ScrubSection
from holdfast.storage.scrubbing import damage_repair
from holdfast.storage.scrubbing.damage_repair import DamageRepair
from holdfast.storage.scrubbing.scrub_pace import SLICE_BYTES
from holdfast.storage.scrubbing.scrub_rounds import PLACE_SECONDS, REPAIR_SECONDS, ScrubRounds
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast_core import Digest, Store, fsck
from holdfast_core.errors import ChunkDamaged, NotHeld
from holdfast_core.journal.journal_file import frames
from support.fills import MIB, Site, drain, site
from support.logs import captured_logs
from support.patience import until
from support.stores import file_of, flip_bit, push_file, read_all, some_bytes

pytestmark = pytest.mark.loop("asyncio")

DAY = 86_400.0


def rounds_of(
    store: Store,
    clock: FakeClock,
    node: Site | None = None,
    is_serving: Callable[[], bool] = lambda: False,
    **config: Any,
) -> ScrubRounds:
    """Rounds that nobody has started; without a site there is no parent."""
    parents: Any = {} if node is None else {"": node.client}
    fills: Any = SimpleNamespace(repaired_chunks=0) if node is None else node.fills
    repair = DamageRepair(store, parents, fills, clock)
    return ScrubRounds(store, ScrubSection(**{"period": DAY, **config}), repair, is_serving, clock)


@asynccontextmanager
async def running(one: ScrubRounds) -> AsyncIterator[ScrubRounds]:
    """Rounds under way; closed as a node closes them."""
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await one.close()


async def passed(one: ScrubRounds) -> Any:
    """The report of the first full pass."""
    await until(lambda: one.status().last_full_pass is not None)
    return one.status().last_full_pass


class Counted:
    """Counts what the store reads for scrubs."""

    def __init__(self, store: Store) -> None:
        self.bytes = 0
        scrub = store.upkeep.scrub_blobs

        def counted(after: bytes, limit: int) -> Any:
            future = scrub(after, limit)
            future.add_done_callback(lambda done: self._add(done.result().bytes_read))
            return future

        store.upkeep.scrub_blobs = counted  # type: ignore[method-assign]

    def _add(self, size: int) -> None:
        self.bytes += size


async def held(node: Site, number: int, size: int) -> tuple[str, Path]:
    """A blob that was fetched."""
    digest = node.parent.add_blob("demo", GeneratedContent(size, seed=str(number)))
    await drain(node, digest)
    return digest, file_of(node.store.path, Digest.parse(digest))


async def test_one_pass_finds_every_flipped_bit_and_fetches_each_chunk_once(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        blobs = [await held(node, number, 3 * MIB + 7 * number) for number in range(1, 9)]
        whole = {path: path.read_bytes() for _, path in blobs}
        damaged = {0: [1], 2: [0, 2], 5: [3], 7: [0, 1, 2]}
        for number, chunks in damaged.items():
            for chunk in chunks:
                flip_bit(blobs[number][1], chunk * MIB + 3, chunk)
        node.parent.reset_counts()
        with captured_logs() as logs:
            async with running(rounds_of(node.store, FakeClock(), node)) as one:
                report = await passed(one)
                await until(lambda: any(line.get("event") == "scrub ended" for line in logs))
        assert (report.found, report.repaired, report.lost, report.journal_frames) == (7, 7, 0, 0)
        assert report.bytes == sum(map(len, whole.values()))
        sent = {digest: node.sent(digest) for digest, _ in blobs}
        assert [sent[digest] for digest, _ in blobs] == [MIB, 0, 2 * MIB, 0, 0, 42, 0, 3 * MIB]
        assert node.gets() == 5, "a run of chunks is one request"
        assert {path: path.read_bytes() for _, path in blobs} == whole
        assert one.status().unrepaired == 0
        ended = [line for line in logs if line.get("event") == "scrub ended"]
        assert [(line["found"], line["repaired"], line["unrepaired"]) for line in ended[:1]] == [(7, 7, 0)]
    assert not fsck(tmp_path / "store", (1, 1)).problems


@pytest.mark.parametrize("harm", ["gone", "short", "directory", "link", "fifo"])
async def test_a_file_that_is_not_there_as_written_comes_again(tmp_path: Path, harm: str) -> None:
    async with site(tmp_path) as node:
        digest, path = await held(node, 1, 2 * MIB + 5)
        body = path.read_bytes()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(body)
        if harm == "short":
            os.truncate(path, MIB)
        else:
            path.unlink()
        if harm == "directory":
            path.mkdir()
        elif harm == "link":
            path.symlink_to(elsewhere)
        elif harm == "fifo":
            os.mkfifo(path)
        node.parent.reset_counts()
        async with running(rounds_of(node.store, FakeClock(), node)) as one:
            report = await passed(one)
        assert (report.found, report.lost, report.repaired, report.bytes) == (3, 1, 3, 0)
        assert (node.gets(), node.sent(digest)) == (1, 2 * MIB + 5)
        assert not path.is_symlink()
        assert path.read_bytes() == body == elsewhere.read_bytes()


async def test_without_a_parent_it_is_listed_and_never_served(tmp_path: Path, store: Store) -> None:
    good, bad, lost = (push_file(store, "mine", some_bytes(2 * MIB, seed)) for seed in range(3))
    flip_bit(file_of(store.path, bad.digest), MIB + 9)
    file_of(store.path, lost.digest).unlink()
    async with running(rounds_of(store, FakeClock())) as one:
        report = await passed(one)
    assert (report.found, report.lost, report.repaired) == (3, 1, 0)
    assert one.status().unrepaired == 2
    assert one.counters["scrub.unrepaired"] == 2
    assert {(d.digest, d.chunks) for d in store.blobs.damage(limit=10)} == {
        (bad.digest, (1,)),
        (lost.digest, (0, 1)),
    }
    assert read_all(store, good) == some_bytes(2 * MIB, 0)
    again = store.blobs.anywhere(bad.digest)
    assert again is not None
    with pytest.raises(ChunkDamaged):
        read_all(store, again)
    with pytest.raises(NotHeld):
        read_all(store, lost)


async def test_a_run_of_damage_behind_a_slice_is_counted(tmp_path: Path) -> None:
    """The repair of the last chunk of a slice finds and fetches those behind it."""
    async with site(tmp_path) as node:
        digest, path = await held(node, 1, 12 * MIB)
        for chunk in range(6, 12):
            flip_bit(path, chunk * MIB)
        node.parent.reset_counts()
        async with running(rounds_of(node.store, FakeClock(), node)) as one:
            report = await passed(one)
        assert (report.found, report.repaired, node.sent(digest)) == (6, 6, 6 * MIB)


async def test_known_damage_is_not_found_again(store: Store) -> None:
    bad = push_file(store, "mine", some_bytes(2 * MIB))
    flip_bit(file_of(store.path, bad.digest), 9)
    clock = FakeClock()
    async with running(rounds_of(store, clock, period=DAY)) as one:
        assert (await passed(one)).found == 1
        first = clock.now()
        await until(lambda: clock.now() > first + 2 * DAY)
        last = one.status().last_full_pass
        assert last is not None
        assert (last.found, last.bytes) == (0, MIB)


async def test_an_offline_parent_is_waited_for(tmp_path: Path) -> None:
    """Nothing is asked for meanwhile; once it is back the chunk comes within a minute of the clock."""
    async with site(tmp_path) as node:
        digest, path = await held(node, 1, 2 * MIB)
        body = path.read_bytes()
        flip_bit(path, 77)
        await node.client.set_switch("offline")
        node.parent.reset_counts()
        clock = FakeClock(jump=False)
        async with running(rounds_of(node.store, clock, node)) as one:
            await until(lambda: clock.sleepers > 0)
            clock.advance(60.0)
            await until(lambda: one.status().unrepaired == 1)
            assert digest in one.notes()[0]
            for _ in range(5):
                clock.advance(REPAIR_SECONDS + 1)
                await asyncio.sleep(0.01)
            assert node.gets() == 0
            await node.client.set_switch("auto")
            await node.client.probe()

            def repaired() -> bool:
                clock.advance(REPAIR_SECONDS + 1)
                return one.status().unrepaired == 0

            await until(repaired)
            assert one.notes() == []
        assert node.sent(digest) == MIB
        assert path.read_bytes() == body


async def read_until(store: Store, clock: FakeClock, goal: int, *, is_killed: bool) -> int:
    """Let a process scrub until it has read `goal` bytes, or a pass is over; what it read."""
    one, counted = rounds_of(store, clock, period=3600.0, bytes_per_second=1 << 20), Counted(store)
    task = asyncio.create_task(one.run())
    await until(lambda: counted.bytes >= goal or one.status().last_full_pass is not None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if not is_killed:
        await one.close()
    return counted.bytes


async def test_a_restart_goes_on_where_the_pass_stood(tmp_path: Path) -> None:
    """Ended in order at most the slice that was being read is read twice: 1 MiB here, and up to a chunk more."""
    path, clock, read = tmp_path / "store", FakeClock(), 0
    store = Store.create_or_open(path, write=True)
    total = sum(push_file(store, "mine", some_bytes(4 * MIB + seed, seed)).size for seed in range(20))
    for _ in range(4):
        read += await read_until(store, clock, 12 * MIB, is_killed=False)
        store.close()
        store = Store.create_or_open(path, write=True)
    assert read < total
    read += await read_until(store, clock, total, is_killed=False)
    assert 0 <= read - total <= 5 * 2 * MIB
    store.close()


async def test_a_killed_node_reads_little_again(tmp_path: Path, store: Store) -> None:
    clock = FakeClock()
    total = sum(push_file(store, "mine", some_bytes(4 * MIB + seed, seed)).size for seed in range(20))
    first = await read_until(store, clock, 60 * MIB, is_killed=True)
    assert 60 * MIB <= first < total
    second = await read_until(store, clock, total, is_killed=False)
    assert 0 < first + second - total <= total * (PLACE_SECONDS + 60) / (0.9 * 3600.0) + SLICE_BYTES
    third = await read_until(store, clock, total, is_killed=False)
    assert third == 0 or third >= MIB, "the pass is over, and the next one begins an hour after it"


async def test_the_rate_holds(store: Store) -> None:
    """By the clock of the test: never more than the ceiling, ordered or late."""
    clock, reads = FakeClock(), list[tuple[float, int]]()
    total = sum(push_file(store, "mine", some_bytes(4 * MIB, seed)).size for seed in range(12))
    scrub = store.upkeep.scrub_blobs

    def noted(after: bytes, limit: int) -> Any:
        future = scrub(after, limit)
        reads.append((clock.monotonic(), future.result().bytes_read))
        return future

    store.upkeep.scrub_blobs = noted  # type: ignore[method-assign]
    one = rounds_of(store, clock, period=0.0, bytes_per_second=2 * MIB)
    await one.order("operator")
    async with running(one):
        await passed(one)
    begun = reads[0][0]
    assert sum(size for _, size in reads) == total
    for at, size in reads:
        before = sum(other for then, other in reads if then < at)
        assert before <= 2 * MIB * (at - begun)
        assert size <= 3 * MIB


async def test_a_busy_node_is_left_alone_until_the_period_is_over(store: Store) -> None:
    clock, counted = FakeClock(), Counted(store)
    push_file(store, "mine", some_bytes(4 * MIB))
    async with running(rounds_of(store, clock, is_serving=lambda: True, period=3600.0)) as one:
        begun = clock.now()
        await until(lambda: clock.now() > begun + 3000.0)
        assert counted.bytes == 0
        assert one.status().paused
        await passed(one)
        assert clock.now() >= begun + 3600.0
    assert counted.bytes >= 4 * MIB


async def test_a_damaged_frame_of_the_journal_is_written_again(store: Store) -> None:
    for seed in range(8):
        push_file(store, "mine", some_bytes(20_000, seed))
    log = store.path / "journal" / "log"
    flip_bit(log, log.stat().st_size // 2)
    async with running(rounds_of(store, FakeClock())) as one:
        assert (await passed(one)).journal_frames == 1
    assert all(frame.changes is not None for frame in frames(log.parent))
    assert sum(1 for _ in frames(log.parent)) > 0


async def test_what_cannot_be_repaired_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round looks at two blobs; the two first are at no parent."""
    monkeypatch.setattr(damage_repair, "MOST", 2)
    async with site(tmp_path) as node:
        blobs = sorted([await held(node, number, 2 * MIB) for number in range(3)])
        for digest, path in blobs:
            flip_bit(path, 77)
            node.store.blobs.quarantine(Digest.parse(digest), 0, MIB).result()
        for digest, _ in blobs[:2]:
            del node.parent.repositories["demo"].blobs[digest]
        repair = DamageRepair(node.store, {"": node.client}, node.fills, FakeClock())
        assert [await repair.round() for _ in range(2)] == [0, 1]
        assert [str(one.digest) for one in repair.unrepaired()] == [digest for digest, _ in blobs[:2]]
        node.parent.reset_counts()
        assert [await repair.round() for _ in range(3)] == [0, 0, 0]
        assert node.gets() == 0, "their turn comes again, and then only after a minute"


async def test_a_push_amid_the_finding_is_left_alone(store: Store) -> None:
    """The same blob is pushed after the scrub read the damaged file and before that is noted."""
    body = some_bytes(2 * MIB)
    bad = push_file(store, "mine", body)
    flip_bit(file_of(store.path, bad.digest), 9)
    scrub = store.upkeep.scrub_blobs

    def pushed_behind(after: bytes, limit: int) -> Any:
        future = scrub(after, limit)
        if future.result().found:
            push_file(store, "mine", body)
        return future

    store.upkeep.scrub_blobs = pushed_behind  # type: ignore[method-assign]
    async with running(rounds_of(store, FakeClock())) as one:
        assert (await passed(one)).found == 0
    assert (store.blobs.damage(limit=10), read_all(store, bad)) == ([], body)


async def test_an_order_takes_the_place_of_a_scheduled_pass(store: Store) -> None:
    push_file(store, "mine", some_bytes(4 * MIB))
    clock = FakeClock(jump=False)
    one = rounds_of(store, clock)
    async with running(one):
        await until(lambda: clock.sleepers > 0)
        clock.advance(61)
        await until(lambda: one.status().current is not None)
        first = one.status().current
        assert first is not None
        assert first.trigger == "Scheduled"
        ordered = (await one.order("operator")).current
        assert ordered is not None
        assert (ordered.trigger, ordered.bytes) == ("Ordered", 0)
        assert (await one.order("operator")).current is not None

        def over() -> bool:
            clock.advance(1.0)
            last = one.status().last_full_pass
            return last is not None and last.trigger == "Ordered" and last.bytes == 4 * MIB

        await until(over)
