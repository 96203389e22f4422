"""Fills that end badly: nobody waits for ever, nothing spins, and the next who asks gets a new fill."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from holdfast.errors import NodeFailed, ParentBroken, ParentNotFound, ParentUnreachable
from holdfast.fill import hash_queue
from holdfast.fill.buffer import FillBuffer, Frontier
from holdfast.fill.extents import Extents
from holdfast.fill.hash_queue import HashQueue, Stretch
from holdfast.fill.registry import Origin
from holdfast.parent.client import Parent
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from support.fills import BLOBS, MIB, drain, held_hashing, run, site, until
from support.parent_cases import BLOB, client_of, read_all, stocked

pytestmark = pytest.mark.loop("asyncio")


async def test_a_reader_that_comes_after_the_failure_is_told_to_open_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = held_hashing(monkeypatch)
    async with site(tmp_path) as node:
        content = GeneratedContent(300_000)
        digest = node.parent.add_blob("demo", content)
        node.script(flip_at=5)
        first = await node.fills.open("demo", digest, 0, -1, True)
        late = await node.fills.open("demo", digest, 0, -1, True)
        reader = await node.fills.attach(first.fill, 0, -1, True)
        verdict.set()
        with pytest.raises(ParentBroken):
            await reader.wait_verified()
        with pytest.raises(NodeFailed):
            await node.fills.attach(late.fill, 0, -1, True)
        with pytest.raises(NodeFailed):
            node.fills.subscribe(late.fill, print)
        with pytest.raises(NodeFailed):
            node.fills.snapshot(late.fill)
        assert await drain(node, digest) == content.read(0, content.size)
        reader.close()
        await until(lambda: not node.fills._by_number)


async def test_a_part_that_cannot_be_read_back_fails_the_fill_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, spans = list[None](), hash_queue.spans

    def broken(pieces: list[Stretch]) -> Iterator[memoryview]:
        jobs.append(None)
        if len(jobs) > 20:  # a fill that tries without end gets through, and the count tells
            return spans(pieces)
        raise OSError(5, "input/output error")

    async with site(tmp_path) as node:
        digest = node.parent.add_blob("demo", GeneratedContent(300_000))
        monkeypatch.setattr(hash_queue, "spans", broken)
        with pytest.raises(NodeFailed):
            await drain(node, digest)
        await until(lambda: not node.fills._by_number)
        assert len(jobs) == 1


async def test_settling_waits_for_a_job_that_fails_and_does_not_fail_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(hash_queue, "spans", broken)
    medium = FillBuffer(None, 10)
    medium.move(Extents())
    with ThreadPoolExecutor(1) as threads:
        frontier = Frontier("sha256", medium, Extents([(0, 10)]), HashQueue(threads))
        job = frontier.advance()
        await frontier.settled()
    assert job is not None
    assert isinstance(job.exception(), OSError)
    medium.close()


async def test_one_write_error_costs_no_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a blob that was received before its first write failed."""
    errors, write = [StoreError("input/output error")], FillBuffer.write

    def once(self: FillBuffer, offset: int, data: memoryview) -> None:
        if errors:
            raise errors.pop()
        write(self, offset, data)

    async with site(tmp_path, clock=FakeClock()) as node:
        content = GeneratedContent(100_000)
        digest = node.parent.add_blob("demo", content)
        monkeypatch.setattr(FillBuffer, "write", once)
        for _ in range(2):  # the first passes through unstored, the second is kept
            assert await drain(node, digest) == content.read(0, content.size)
        assert node.gets() == 2
        assert node.fills.counters["interrupted"] == 0


def test_a_new_fill_waits_until_the_old_one_dropped_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fill's end is held up by its hashing; the part it drops must not be the second's."""
    free = held_hashing(monkeypatch)

    async def main() -> None:
        async with site(tmp_path) as node:
            content = GeneratedContent(4 * MIB)
            digest = node.parent.add_blob("demo", content)
            node.script(cut_after=MIB, flip_at=10)
            gate = RequestGate()
            node.script(gate=gate)
            task = drain(node, digest)
            await gate.wait_arrived()
            node.parent.etags[digest] = '"other"'
            gate.release()
            with pytest.raises(ParentBroken):
                await task
            again = drain(node, digest)
            for _ in range(50):
                await asyncio.sleep(0.002)
            assert node.gets() == 2
            free.set()
            assert await again == content.read(0, content.size)
            await until(lambda: not node.fills._by_number)
            assert node.held("demo", digest)

    try:
        run(main())
    finally:
        free.set()


def _lose(parent: Parent) -> None:
    for endpoint in parent.endpoints:
        endpoint.health.unreachable(endpoint._clock.monotonic(), decisive=True)


async def test_a_parent_known_to_be_away_is_not_queued_for(tmp_path: Path) -> None:
    """The node's only slot is taken by a transfer that hangs."""
    async with site(tmp_path, transfers=1) as node:
        gate = RequestGate()
        node.script(gate=gate, times=-1)
        first, other = (node.parent.add_blob("demo", GeneratedContent(1000, seed)) for seed in "ab")
        hanging = drain(node, first)
        await gate.wait_arrived()
        _lose(node.client)
        for digest in (other, first):
            with pytest.raises(ParentUnreachable):
                await drain(node, digest)
        assert set(node.fills._by_origin) == {Origin("", Digest.parse(first))}
        assert (gate.arrived, hanging.done()) == (1, False)  # nobody's slot came free for it
        gate.release()
        assert len(await hanging) == 1000


async def test_a_transfer_of_a_parent_known_to_be_away_is_refused_before_it_waits_for_a_connection() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        gate = RequestGate()
        scripted.script(ScriptedFault(path=BLOBS, gate=gate, times=-1))
        async with client_of(scripted, connections=2) as parent:
            hanging = asyncio.ensure_future(read_all(parent, "team/app", BLOB.digest))
            await gate.wait_arrived()
            _lose(parent)
            with pytest.raises(ParentUnreachable):
                await read_all(parent, "team/app", BLOB.digest)
            assert (gate.arrived, hanging.done()) == (1, False)
            gate.release()
            assert len(await hanging) == BLOB.size


async def test_an_idle_fill_that_is_still_read_is_not_put_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fill failed, and a slow reader reads what had come before that."""
    monkeypatch.setattr("holdfast.fill.registry.IDLE_FILLS", 1)
    async with site(tmp_path, on_leave="park") as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=MIB)
        node.script(status=404)
        answer = await node.fills.open("demo", digest, 0, -1, True)
        reader = await node.fills.attach(answer.fill, 0, -1, True)
        with pytest.raises(ParentNotFound):
            await reader.wait_verified()
        for seed in "abc":
            other = node.parent.add_blob("demo", GeneratedContent(4 * MIB, seed))
            await drain(node, other, 0, MIB, whole=False)
        await until(lambda: set(node.fills._by_origin) == {Origin("", Digest.parse(digest))})
        await until(lambda: not node.fills._closing)
        assert reader.read(MIB - 100, 100) == content.read(MIB - 100, 100)
        reader.close()


async def test_a_fill_that_fails_while_it_waits_to_be_admitted_is_not(tmp_path: Path) -> None:
    """A checkpoint is being written: the blob comes into the store after it, or not at all."""
    async with site(tmp_path) as node:
        content = GeneratedContent(300_000)
        digest = node.parent.add_blob("demo", content)
        opened = await node.fills.open("demo", digest, 0, -1, True)
        fill = node.fills._by_number[opened.fill]
        reader = await node.fills.attach(opened.fill, 0, -1, True)
        async with fill._writing_checkpoint:
            await until(lambda: bool(fill._writing_checkpoint._waiters))
            fill.fail(NodeFailed("the node failed"), drop=True)
        with pytest.raises(NodeFailed):
            await reader.wait_verified()
        reader.close()
        await until(lambda: not node.fills._by_number)
        assert node.fills.counters["verified"] == 0
        assert not fill.verified
        assert not node.held("demo", digest)
        assert await drain(node, digest) == content.read(0, content.size)
