"""Where the bytes of a fill are: its part on disk or, once the disk is full, a window of memory.

Both hold every byte at its own offset, and both are files that another process can open by path.
"""

from __future__ import annotations

import ctypes
import os
from bisect import bisect_right

from holdfast_core.errors import NotHeld
from holdfast_core.part import FillPart

from holdfast.fill.extents import Extents, Run

#: linux/falloc.h: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
PUNCH_HOLE = 0x01 | 0x02
READ_BYTES = 256 << 10
#: Memory is given back in steps of at least this.
DROP_BYTES = 1 << 20

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Window:
    """Anonymous memory with the blob's size and offsets; only what was written and not dropped costs."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("holdfast-fill", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        #: what it holds
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


class Medium:
    """One fill's bytes. `sources` are (offset, path) in the order in which they were added: a byte is in
    the last source whose offset is not above it."""

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
        """From now on bytes go to memory. Held ones stay on disk, so the file alternates at each gap;
        returns the sources that were added."""
        self.window = Window(self.size)
        known = len(self.sources)
        for start, end in held.gaps(0, self.size):
            self._add(start, self.window.fd, self.window.path)
            if end < self.size and self.part is not None:
                self._add(end, self.part.fd, self.part.path)
        return self.sources[known:]

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`; blocks. Raises StoreError when the disk takes it not."""
        if self.window is None:
            assert self.part is not None
            self.part.write(offset, data)
            return
        while data:
            done = os.pwrite(self.window.fd, data, offset)
            offset, data = offset + done, data[done:]

    def pieces(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """[start, end) as (descriptor, from, to) runs, for a thread to read."""
        found = []
        while start < end:
            index = bisect_right(self._offsets, start) - 1
            later = self._offsets[index + 1 : index + 2]
            stop = min([end, *later])
            found.append((self._descriptors[index], start, stop))
            start = stop
        return found

    def read(self, offset: int, length: int) -> bytes:
        """1..length bytes that are known to be there. Raises NotHeld after `close`."""
        if not self._offsets:
            raise NotHeld("the fill is closed")
        fd, start, end = self.pieces(offset, offset + length)[0]
        return os.pread(fd, end - start, start)

    def lend(self, length: int) -> tuple[int, int] | None:
        """The part's descriptor, and `length`; None when bytes are elsewhere too, or after `close`."""
        return (self._descriptors[0], length) if len(self._descriptors) == 1 and self.part else None

    def keep(self, wanted: Extents) -> list[Run]:
        """Drop from memory what is not wanted, if it is worth a call; returns what was dropped. What is
        on disk stays."""
        assert self.window is not None
        gaps = [gap for run in self.window.held for gap in wanted.gaps(*run)]
        if sum(end - start for start, end in gaps) < DROP_BYTES:
            return []
        for gap in gaps:
            self.window.drop(*gap)
        return gaps

    def landed(self, run: Run) -> None:
        """Bytes were written; remember which of them cost memory."""
        if self.window is not None:
            self.window.held.add(*run)

    @property
    def in_memory(self) -> int:
        """Bytes held in memory."""
        return self.window.held.total if self.window else 0

    def close(self) -> None:
        """Close both; may be called twice. Readers in other processes have their own descriptors."""
        self._offsets.clear()
        self._descriptors.clear()
        if self.part is not None:
            self.part.close()
        if self.window is not None:
            self.window.close()
