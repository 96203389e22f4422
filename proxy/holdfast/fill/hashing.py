"""The digest of a blob whose bytes arrive in any order.

The frontier is the end of the run that starts at byte 0 and was hashed. Bytes are read back from where
they were written, in the page cache a moment later (some 0.1 ms a MiB beside 0.9 ms of hashing), so one
path serves bytes in order, bytes that came early, and bytes from before a restart.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Executor

from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash

from holdfast.fill.extents import Extents
from holdfast.fill.medium import READ_BYTES, Medium

#: One job on the thread; long enough to make the hop cheap, short enough to be fair.
JOB_BYTES = 8 << 20


def hash_pieces(hasher: ChunkHasher, pieces: list[tuple[int, int, int]]) -> None:
    """Feed file runs to the hasher; blocks."""
    buffer = memoryview(bytearray(READ_BYTES))
    for fd, start, end in pieces:
        at = start
        while at < end:
            count = os.preadv(fd, [buffer[: end - at]], at)
            if count == 0:
                raise OSError(f"the file ends at {at}, {end} was written")
            hasher.update(buffer[:count])
            at += count


class Frontier:
    """Hashes one fill behind its writer, on a thread, never more than one job at a time."""

    def __init__(self, algorithm: str, medium: Medium, held: Extents, threads: Executor) -> None:
        self.hasher = ChunkHasher(algorithm)
        self.position = 0
        self._medium, self._held, self._threads = medium, held, threads
        self._job: asyncio.Task[None] | None = None

    def advance(self) -> asyncio.Task[None] | None:
        """Begin to hash what is new, unless it is under 1 MiB or a job is running."""
        if self._job is None and self._behind() >= min(CHUNK_BYTES, self._medium.size - self.position) > 0:
            self._job = asyncio.ensure_future(self._run())
            self._job.add_done_callback(self._done)
        return self._job

    def _done(self, job: asyncio.Task[None]) -> None:
        self._job = None

    @property
    def is_busy(self) -> bool:
        """A job is running; what lies before it will be hashed soon."""
        return self._job is not None

    def _behind(self) -> int:
        return self._held.run_end(self.position) - self.position

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._behind() >= min(CHUNK_BYTES, self._medium.size - self.position) > 0:
            end = min(self._held.run_end(self.position), self.position + JOB_BYTES)
            pieces = self._medium.pieces(self.position, end)
            await loop.run_in_executor(self._threads, hash_pieces, self.hasher, pieces)
            self.position = end

    async def settled(self) -> None:
        """Wait until nothing is being hashed. A job's failure is for who began it."""
        while self._job is not None:
            await asyncio.wait((self._job,))

    def digest(self) -> Digest:
        """Of everything up to the frontier."""
        return self.hasher.digest()


def hash_chunks(medium: Medium, indexes: list[int]) -> dict[int, bytes]:
    """BLAKE3 of whole chunks as they are on disk now; blocks."""
    return {index: chunk_hash(read_chunk(medium, index)) for index in indexes}


def read_chunk(medium: Medium, index: int) -> bytes:
    """One chunk as it is on disk now, holes as zeros."""
    start, end = index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, medium.size)
    return b"".join(os.pread(fd, b - a, a) for fd, a, b in medium.pieces(start, end))


def whole_chunks(held: Extents, size: int) -> list[int]:
    """Indexes of the chunks of which every byte is held."""
    found: list[int] = []
    for start, end in held:
        last = -(-end // CHUNK_BYTES) if end == size else end // CHUNK_BYTES
        found += range(-(-start // CHUNK_BYTES), last)
    return found
