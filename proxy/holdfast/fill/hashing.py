"""The digest of a blob whose bytes arrive in any order.

The frontier is the end of the run that starts at byte 0 and was hashed. Bytes that come in order are hashed
from the memory they were received into; what came early, or from before a restart, or faster than it could
be hashed is read back from where it was written.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from concurrent.futures import Executor

from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash

from holdfast.fill.extents import Extents
from holdfast.fill.medium import READ_BYTES, Medium

#: One job on the thread; long enough to make the hop cheap, short enough to be fair.
JOB_BYTES = 8 << 20
#: Received bytes that are kept in memory for the hash, a fill. At half of it the link waits for the hash: what
#: is faster ends no sooner, and has to be read back.
LENT_BYTES = 8 << 20

#: bytes in memory, or a run of a file: descriptor, from, to
Stretch = memoryview | tuple[int, int, int]


def hash_pieces(hasher: ChunkHasher, pieces: list[Stretch]) -> None:
    """Feed the hasher; blocks."""
    for piece in pieces:
        if isinstance(piece, memoryview):
            hasher.update(piece)
        else:
            _hash_file(hasher, *piece)


def _hash_file(hasher: ChunkHasher, fd: int, at: int, end: int) -> None:
    buffer = memoryview(bytearray(READ_BYTES))
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
        self._lent = deque[memoryview]()
        #: where what is lent ends, or would begin: behind everything that is hashed or being hashed
        self._lent_end = 0
        self._lent_bytes = 0

    def lend(self, pieces: list[tuple[int, memoryview]]) -> None:
        """Bytes that were just written and are still in memory."""
        for offset, data in pieces:
            if offset == self._lent_end and self._lent_bytes < LENT_BYTES:
                self._lent.append(data)
                self._lent_bytes += len(data)
                self._lent_end += len(data)

    @property
    def is_far_behind(self) -> bool:
        """Much is in memory that was not hashed. A job takes all of it."""
        return self._lent_bytes >= LENT_BYTES // 2

    def advance(self) -> asyncio.Task[None] | None:
        """Begin to hash what is new, unless it is under 1 MiB or a job is running."""
        if self._job is None and self._behind() >= min(CHUNK_BYTES, self._medium.size - self.position) > 0:
            self._job = asyncio.ensure_future(self._run(*self._next()))
            self._job.add_done_callback(self._done)
        return self._job

    def _done(self, job: asyncio.Task[None]) -> None:
        self._job = None

    def _behind(self) -> int:
        return self._held.run_end(self.position) - self.position

    async def _run(self, pieces: list[Stretch], end: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, hash_pieces, self.hasher, pieces)
        self.position = end

    def _next(self) -> tuple[list[Stretch], int]:
        """What one job hashes, and where it ends."""
        if self._lent:
            lent, self._lent, self._lent_bytes = self._lent, deque(), 0
            return [*lent], self._lent_end
        end = min(self._held.run_end(self.position), self.position + JOB_BYTES)
        self._lent_end = end
        return [*self._medium.pieces(self.position, end)], end

    async def passed(self, offset: int) -> None:
        """Wait until the bytes before `offset`, all of which are here, were hashed as far as they will be
        without more. Somebody else goes on with `advance` when a job is done."""
        while self.position < offset and self._job is not None:
            await asyncio.wait((self._job,))

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
