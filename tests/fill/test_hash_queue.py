"""Jobs of several fills: side by side when they wait, each with its own end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from holdfast.fill import hash_queue
from holdfast.fill.hash_queue import READ_BYTES, HashQueue, Stretch
from holdfast.testing.random_content import GeneratedContent
from holdfast_core.digest import ChunkHasher, Digest, update_together
from holdfast_core.sha256 import LANES
from support.patience import PATIENCE

pytestmark = pytest.mark.loop("asyncio")

BODY = GeneratedContent(3_000_000).read(0, 3_000_000)


class Threads(ThreadPoolExecutor):
    """One thread, that begins with the first job when it is let go."""

    def __init__(self) -> None:
        super().__init__(1)
        self.let_go = threading.Event()
        self.submit(self.let_go.wait, PATIENCE)


@pytest.fixture
def threads() -> Iterator[Threads]:
    with Threads() as threads:
        yield threads
        threads.let_go.set()


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were hashed side by side, each time."""
    counts, original = list[int](), update_together

    def counted(hashers: list[ChunkHasher], data: list[memoryview]) -> None:
        counts.append(len(hashers))
        original(hashers, data)

    monkeypatch.setattr(hash_queue, "update_together", counted)
    return counts


def cut(body: bytes, step: int) -> list[Stretch]:
    return [memoryview(body)[at : at + step] for at in range(0, len(body), step)]


async def test_what_waits_is_hashed_side_by_side(threads: Threads, together: list[int]) -> None:
    queue = HashQueue(threads)
    bodies = [BODY[n : n + 1_000_000] for n in range(2 * LANES)]
    hashers = [ChunkHasher() for _ in bodies]
    jobs = [queue.hash(hasher, cut(body, 250_000)) for hasher, body in zip(hashers, bodies, strict=True)]
    threads.let_go.set()
    await asyncio.gather(*jobs)
    assert [hasher.digest() for hasher in hashers] == [Digest.of(body) for body in bodies]
    assert together == [LANES] * 8


async def test_pieces_of_any_lengths(threads: Threads, together: list[int]) -> None:
    """Each call uses up at least one piece, so there are no more calls than pieces."""
    queue = HashQueue(threads)
    steps = [1_000_003, 7_919, 300_000, 65_536][:LANES]
    hashers = [ChunkHasher() for _ in steps]
    jobs = [
        queue.hash(hasher, [*cut(BODY, step), memoryview(b"")])
        for hasher, step in zip(hashers, steps, strict=True)
    ]
    threads.let_go.set()
    await asyncio.gather(*jobs)
    assert {hasher.digest() for hasher in hashers} == {Digest.of(BODY)}
    assert len(together) <= sum(len(cut(BODY, step)) for step in steps)


async def test_a_lone_job_is_hashed_alone_piece_by_piece(threads: Threads, together: list[int]) -> None:
    threads.let_go.set()
    hasher = ChunkHasher()
    await HashQueue(threads).hash(hasher, cut(BODY, 1_000_000))
    await HashQueue(threads).hash(hasher, [])
    assert hasher.digest() == Digest.of(BODY)
    assert together == [1, 1, 1]


async def test_bytes_of_a_file_and_of_memory(threads: Threads) -> None:
    file = os.memfd_create("part")
    os.write(file, BODY)
    threads.let_go.set()
    hasher, at = ChunkHasher(), READ_BYTES + 5
    await HashQueue(threads).hash(hasher, [memoryview(BODY)[:at], (file, at, len(BODY))])
    os.close(file)
    assert hasher.digest() == Digest.of(BODY)


async def test_a_job_that_cannot_be_read_fails_alone(threads: Threads) -> None:
    queue, short = HashQueue(threads), os.memfd_create("part")
    os.write(short, BODY[:100])
    good, bad, closed = ChunkHasher(), ChunkHasher(), ChunkHasher()
    jobs = [
        queue.hash(bad, [(short, 0, 101)]),
        queue.hash(good, cut(BODY, 100_000)),
        queue.hash(closed, [memoryview(BODY), (1 << 30, 0, 1)]),
    ]
    threads.let_go.set()
    results = await asyncio.gather(*jobs, return_exceptions=True)
    os.close(short)
    assert str(results[0]) == "the file ends at 100, 101 was written"
    assert isinstance(results[2], OSError)
    assert good.digest() == Digest.of(BODY)


async def test_a_hasher_that_refuses_leaves_nobody_waiting(threads: Threads) -> None:
    queue, ended = HashQueue(threads), ChunkHasher()
    ended.table()
    jobs = [queue.hash(ended, cut(BODY, 100)), queue.hash(ChunkHasher(), cut(BODY, 100))]
    threads.let_go.set()
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
    hasher = ChunkHasher()
    await queue.hash(hasher, cut(BODY, 1_000_000))
    assert hasher.digest() == Digest.of(BODY)


async def test_a_job_that_was_given_up_is_not_hashed(threads: Threads, together: list[int]) -> None:
    queue = HashQueue(threads)
    given_up, kept = ChunkHasher(), ChunkHasher()
    jobs = [queue.hash(given_up, cut(BODY, 1_000_000)), queue.hash(kept, cut(BODY, 1_000_000))]
    jobs[0].cancel()
    await asyncio.sleep(0)
    threads.let_go.set()
    await jobs[1]
    assert kept.digest() == Digest.of(BODY)
    assert given_up.size == 0
    assert together == [1, 1, 1]
