"""Hashes the bytes of all fills on threads; what waits at the same time is hashed side by side.

A job of a lone fill begins at once and is alone. Where fills bring more than the threads hash, jobs wait, and the
thread that becomes free takes several: SHA-256 of several streams costs a core less than one after the other.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future

from holdfast_core.digest import ChunkHasher, update_together
from holdfast_core.sha256 import LANES

READ_BYTES = 256 << 10

#: bytes in memory, or a run of a file: descriptor, from, to
Stretch = memoryview | tuple[int, int, int]


def spans(pieces: list[Stretch]) -> Iterator[memoryview]:
    """The bytes of these in order, never none at a time; a span of a file is valid until the next is asked for. Raises
    OSError."""
    for piece in pieces:
        if not isinstance(piece, memoryview):
            yield from _read(*piece)
        elif piece:
            yield piece


def _read(fd: int, at: int, end: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(READ_BYTES))
    while at < end:
        count = os.preadv(fd, [buffer[: end - at]], at)
        if count == 0:
            raise OSError(f"the file ends at {at}, {end} was written")
        yield buffer[:count]
        at += count


class HashJob:
    """Bytes that one hasher is to take. `at_hand` are the next of them."""

    def __init__(self, hasher: ChunkHasher, pieces: list[Stretch]) -> None:
        self.hasher, self._pieces = hasher, pieces
        self.done: Future[None] = Future()
        self.at_hand = memoryview(b"")
        self._spans: Iterator[memoryview] | None = None

    def begin(self) -> bool:
        """Whether there is something to hash, which is at hand."""
        return self.done.set_running_or_notify_cancel() and self.advance(0)

    def advance(self, count: int) -> bool:
        """So many of the bytes at hand were hashed. Whether there are more."""
        try:
            if self._spans is None:
                self._spans = spans(self._pieces)
            self.at_hand = self.at_hand[count:] or next(self._spans)
        except StopIteration:
            self.done.set_result(None)
        except Exception as error:  # noqa: BLE001  the fill gets it, and fails alone
            self.done.set_exception(error)
        return not self.done.done()


class HashQueue:
    """See the module. A hasher has one job at a time."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._waiting = deque[HashJob]()

    def hash(self, hasher: ChunkHasher, pieces: list[Stretch]) -> asyncio.Future[None]:
        """Have the hasher take these bytes; fails with OSError when they cannot be read."""
        job = HashJob(hasher, pieces)
        self._waiting.append(job)
        self._threads.submit(
            self._work
        )  # one for each job: they take their turn among what else the threads do
        return asyncio.wrap_future(job.done)

    def _work(self) -> None:
        jobs = [job for job in self._take() if job.begin()]
        while jobs:
            count = min(len(job.at_hand) for job in jobs)
            try:
                update_together([job.hasher for job in jobs], [job.at_hand[:count] for job in jobs])
            except Exception as error:  # noqa: BLE001  every waiting fill gets it
                for job in jobs:
                    job.done.set_exception(error)
                return
            jobs = [job for job in jobs if job.advance(count)]

    def _take(self) -> list[HashJob]:
        """The next jobs; none when another thread took them all."""
        jobs = list[HashJob]()
        while self._waiting and len(jobs) < LANES:
            try:
                jobs.append(self._waiting.popleft())
            except IndexError:  # another thread was faster
                break
        return jobs
