"""The frontier: hashed from memory where bytes come in order, read back where they do not, right either way."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from holdfast.fill import buffer, hash_queue
from holdfast.fill.buffer import LENT_BYTES, FillBuffer, Frontier
from holdfast.fill.extents import Extents
from holdfast.fill.hash_queue import HashQueue, Stretch
from holdfast.testing.random_content import GeneratedContent
from support.fills import drain, site, until
from support.patience import PATIENCE

pytestmark = pytest.mark.loop("asyncio")

MIB = 1 << 20
CONTENT = GeneratedContent(21 * MIB + 77)


@pytest.fixture
def read_back(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Runs that were hashed from the file, also for notes of a chunk."""
    runs: list[tuple[int, int]] = []
    original, read_chunk = hash_queue.spans, buffer.read_chunk

    def noted_chunk(medium: FillBuffer, index: int) -> bytes:
        runs.append((index * MIB, (index + 1) * MIB))
        return read_chunk(medium, index)

    def noted(pieces: list[Stretch]) -> Iterator[memoryview]:
        runs.extend(piece[1:] for piece in pieces if isinstance(piece, tuple))
        return original(pieces)

    monkeypatch.setattr(hash_queue, "spans", noted)
    monkeypatch.setattr(buffer, "read_chunk", noted_chunk)
    return runs


def hashed(pieces: list[tuple[int, int]], *, at_once: bool) -> str:
    """The digest after these (offset, length) landed, hashed as they come or when all of them are here."""

    async def main() -> str:
        medium, held = FillBuffer(None, CONTENT.size), Extents()
        medium.move(held)
        with ThreadPoolExecutor(1) as threads:
            frontier = Frontier("sha256", medium, held, HashQueue(threads))
            for offset, length in pieces:
                data = memoryview(CONTENT.read(offset, length))
                medium.write(offset, data)
                held.add(offset, offset + length)
                frontier.lend([(offset, data)])
                while not at_once and (job := frontier.advance()) is not None:
                    await job
            while (job := frontier.advance()) is not None:
                await job
            digest, position = str(frontier.digest()), frontier.position
        medium.close()
        assert position == CONTENT.size
        return digest

    return asyncio.run(main())


def in_order(step: int) -> list[tuple[int, int]]:
    return [(at, min(step, CONTENT.size - at)) for at in range(0, CONTENT.size, step)]


@pytest.mark.parametrize("step", [300_001, 2 * MIB, 5 * MIB])
def test_bytes_in_order_are_never_read_back(step: int, read_back: list[tuple[int, int]]) -> None:
    assert hashed(in_order(step), at_once=False) == CONTENT.digest
    assert read_back == []


def test_what_is_kept_for_a_slow_hash_is_bounded(read_back: list[tuple[int, int]]) -> None:
    assert hashed(in_order(MIB), at_once=True) == CONTENT.digest
    runs = read_back
    assert runs[0][0] == LENT_BYTES
    assert sum(end - start for start, end in runs) == CONTENT.size - LENT_BYTES


async def test_a_job_takes_all_that_waits_in_memory() -> None:
    medium, held = FillBuffer(None, CONTENT.size), Extents()
    medium.move(held)
    with ThreadPoolExecutor(1) as threads:
        frontier = Frontier("sha256", medium, held, HashQueue(threads))
        for at in range(0, LENT_BYTES // 2, MIB):
            assert not frontier.is_far_behind
            held.add(at, at + MIB)
            frontier.lend([(at, memoryview(CONTENT.read(at, MIB)))])
        assert frontier.is_far_behind
        job = frontier.advance()
        assert job is not None
        assert not frontier.is_far_behind
        await job
    medium.close()


@pytest.mark.parametrize("held_up", [False, True])
async def test_the_link_waits_for_a_hash_that_is_slower(
    held_up: bool, tmp_path: Path, read_back: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is received and not hashed is bounded, and so nothing is read back."""
    free, spans = threading.Event(), hash_queue.spans
    content = GeneratedContent(96 * MIB)

    def slow(pieces: list[Stretch]) -> Iterator[memoryview]:
        assert free.wait(PATIENCE)
        return spans(pieces)

    if held_up:
        monkeypatch.setattr(hash_queue, "spans", slow)
    async with site(tmp_path) as node:
        digest = node.parent.add_blob("demo", content)
        task = drain(node, digest)
        if held_up:
            await until(lambda: node.fills.counters["received_bytes"] >= LENT_BYTES // 2)
            for _ in range(100):
                await asyncio.sleep(0.002)
            assert node.fills.counters["received_bytes"] <= 3 * LENT_BYTES
        free.set()
        assert await task == content.read(0, content.size)
        assert read_back == []


@pytest.mark.parametrize("seed", range(6))
def test_bytes_in_any_order(seed: int, read_back: list[tuple[int, int]]) -> None:
    pieces = in_order(700_000)
    random.Random(seed).shuffle(pieces)
    assert hashed(pieces, at_once=bool(seed % 2)) == CONTENT.digest
    assert read_back
