"""The bytes of a fill, and the digest of those that are in order.

A `FillBuffer` holds them in a part on disk or, once the disk is full, in a window of memory. Both hold every byte at
its own offset, and both are files that another process can open by path. A `Frontier` hashes bytes that arrive in any
order: it is the end of the run that starts at byte 0 and was hashed. Bytes that come in order are hashed from the
memory they were received into; those that came early, or before a restart, or faster than they could be hashed are read
back from where they were written.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from bisect import bisect_right
from collections import deque

from holdfast_core.blob_files.fill_file import FillPart
from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash
from holdfast_core.errors import NotHeld

from holdfast.fill.extents import Extents, Run
from holdfast.fill.hash_queue import HashQueue, Stretch

#: linux/falloc.h: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
PUNCH_HOLE = 0x01 | 0x02
#: Memory is given back in steps of at least this.
DROP_BYTES = 1 << 20
#: One job on the thread; long enough to make the hop cheap, short enough to be fair.
JOB_BYTES = 8 << 20
#: Received bytes that are kept in memory for the hash, a fill. At half of it the link waits for the hash: what
#: is faster ends no sooner, and has to be read back.
LENT_BYTES = 8 << 20

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Window:
    """Anonymous memory with the blob's size and offsets; only what was written and not dropped costs."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("holdfast-fill", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self.held = Extents()

    def drop(self, start: int, end: int) -> None:
        """Give the memory of [start, end) back. A page that is only partly inside keeps its memory."""
        self.held.remove(start, end)
        if _fallocate(self.fd, PUNCH_HOLE, start, end - start) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def close(self) -> None:
        """Give everything back; may be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class FillBuffer:
    """`sources` are (offset, path) in the order in which they were added: a byte is in the last source whose
    offset is not above it. `window` is None while bytes go to the disk."""

    def __init__(self, part: FillPart | None, size: int) -> None:
        self.part, self.size = part, size
        self.window: Window | None = None
        self._offsets: list[int] = []
        self._descriptors: list[int] = []
        self.sources: list[tuple[int, str]] = []
        if part is not None:
            self._add(0, part.fd, part.path)

    def _add(self, offset: int, fd: int, path: str) -> None:
        self._offsets.append(offset)
        self._descriptors.append(fd)
        self.sources.append((offset, path))

    def move(self, held: Extents) -> list[tuple[int, str]]:
        """Write to memory from now on. Held bytes stay on disk, so the file alternates at each gap; returns the
        sources that were added."""
        self.window = Window(self.size)
        known = len(self.sources)
        for start, end in held.gaps(0, self.size):
            self._add(start, self.window.fd, self.window.path)
            if end < self.size and self.part is not None:
                self._add(end, self.part.fd, self.part.path)
        return self.sources[known:]

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`; blocks. Raises StoreError when the disk refuses."""
        if self.window is None:
            assert self.part is not None
            self.part.write(offset, data)
            return
        while data:
            done = os.pwrite(self.window.fd, data, offset)
            offset, data = offset + done, data[done:]

    def pieces(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """[start, end) as (descriptor, from, to) runs, for a thread to read."""
        runs = []
        while start < end:
            index = bisect_right(self._offsets, start) - 1
            later = self._offsets[index + 1 : index + 2]
            stop = min([end, *later])
            runs.append((self._descriptors[index], start, stop))
            start = stop
        return runs

    def read(self, offset: int, length: int) -> bytes:
        """1..length of the bytes at `offset`, which the caller knows to be held. Raises NotHeld after `close`."""
        if not self._offsets:
            raise NotHeld("the fill is closed")
        fd, start, end = self.pieces(offset, offset + length)[0]
        return os.pread(fd, end - start, start)

    def lend(self, length: int) -> tuple[int, int] | None:
        """The part's descriptor, and `length`; None when bytes are in memory too, or after `close`."""
        return (self._descriptors[0], length) if len(self._descriptors) == 1 and self.part else None

    def keep(self, wanted: Extents) -> list[Run]:
        """Drop from memory what is not wanted, if it is worth a call; returns the dropped runs. Bytes on disk stay."""
        assert self.window is not None
        gaps = [gap for run in self.window.held for gap in wanted.gaps(*run)]
        if sum(end - start for start, end in gaps) < DROP_BYTES:
            return []
        for gap in gaps:
            self.window.drop(*gap)
        return gaps

    def landed(self, run: Run) -> None:
        """Count bytes that were written to memory."""
        if self.window is not None:
            self.window.held.add(*run)

    @property
    def in_memory(self) -> int:
        """Bytes held in memory."""
        return self.window.held.total if self.window else 0

    def close(self) -> None:
        """Close the files; may be called twice. Readers in other processes have their own descriptors."""
        self._offsets.clear()
        self._descriptors.clear()
        if self.part is not None:
            self.part.close()
        if self.window is not None:
            self.window.close()


def hash_chunks(buffer: FillBuffer, indexes: list[int]) -> dict[int, bytes]:
    """BLAKE3 of whole chunks as they are on disk now; blocks."""
    return {index: chunk_hash(read_chunk(buffer, index)) for index in indexes}


def read_chunk(buffer: FillBuffer, index: int) -> bytes:
    """One chunk as it is on disk now, holes as zeros."""
    start, end = index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, buffer.size)
    return b"".join(os.pread(fd, b - a, a) for fd, a, b in buffer.pieces(start, end))


def whole_chunks(held: Extents, size: int) -> list[int]:
    """Indexes of the chunks of which every byte is held."""
    indexes: list[int] = []
    for start, end in held:
        last = -(-end // CHUNK_BYTES) if end == size else end // CHUNK_BYTES
        indexes += range(-(-start // CHUNK_BYTES), last)
    return indexes


class Frontier:
    """Hashes one fill behind its writer, on a thread, never more than one job at a time."""

    def __init__(self, algorithm: str, buffer: FillBuffer, held: Extents, queue: HashQueue) -> None:
        self.hasher = ChunkHasher(algorithm)
        self.position = 0
        self._buffer, self._held, self._queue = buffer, held, queue
        self._job: asyncio.Task[None] | None = None
        self._lent = deque[memoryview]()
        #: end of the bytes that are lent, hashed or being hashed
        self.lent_to = 0
        self._lent_bytes = 0

    def lend(self, pieces: list[tuple[int, memoryview]]) -> None:
        """Keep bytes that were just written in memory for the next job, if they come next and there is room."""
        for offset, data in pieces:
            if offset == self.lent_to and self._lent_bytes < LENT_BYTES:
                self._lent.append(data)
                self._lent_bytes += len(data)
                self.lent_to += len(data)

    @property
    def is_far_behind(self) -> bool:
        """Whether so much in memory was not hashed that the link must wait. A job takes all of it."""
        return self._lent_bytes >= LENT_BYTES // 2

    def advance(self) -> asyncio.Task[None] | None:
        """The running job; begins one when a chunk or the rest of the blob is new."""
        if self._job is None and self._behind() >= min(CHUNK_BYTES, self._buffer.size - self.position) > 0:
            self._job = asyncio.ensure_future(self._run(*self._next()))
            self._job.add_done_callback(self._done)
        return self._job

    def _done(self, job: asyncio.Task[None]) -> None:
        self._job = None

    def _behind(self) -> int:
        return self._held.run_end(self.position) - self.position

    async def _run(self, pieces: list[Stretch], end: int) -> None:
        await self._queue.hash(self.hasher, pieces)
        self.position = end

    def _next(self) -> tuple[list[Stretch], int]:
        """What the next job hashes, and where it ends."""
        if self._lent:
            lent, self._lent, self._lent_bytes = self._lent, deque(), 0
            return [*lent], self.lent_to
        end = min(self._held.run_end(self.position), self.position + JOB_BYTES)
        self.lent_to = end
        return [*self._buffer.pieces(self.position, end)], end

    async def passed(self, offset: int) -> None:
        """Wait until the bytes before `offset`, all of which are held, were hashed as far as the fill hashes them by
        itself: it calls `advance` after each job."""
        while self.position < offset and self._job is not None:
            await asyncio.wait((self._job,))

    async def settled(self) -> None:
        """Wait until no job runs. A job's failure is for the caller that began it."""
        while self._job is not None:
            await asyncio.wait((self._job,))

    def digest(self) -> Digest:
        """The digest of everything before the frontier."""
        return self.hasher.digest()
