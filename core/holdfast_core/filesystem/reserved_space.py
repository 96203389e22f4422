"""Space reserved for the writes that make room: a file of blocks that nothing else can use.

The index is copied on write, so on a disk without a free block even a delete cannot be committed. This file gives its
blocks up for that, a quarter at a time, and takes them again once the disk has some. Until it has all of them, nothing
is committed but what makes room: what a delete set free would be gone before the next one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

NAME = "ballast"  # as the option `ballast_bytes`
LEAST_BYTES, MOST_BYTES = 4 << 20, 16 << 20
SHARE = 100  # a hundredth of the file system
PARTS = 4


def usual_bytes(path: Path) -> int:
    """A hundredth of the file system, 4 MiB at least and 16 MiB at most: a delete dirties some 20 pages of the index,
    a sweep of 32 blobs some 100, and the journal's frame and the file system's own blocks come on top."""
    status = os.statvfs(path)
    return min(max(status.f_frsize * status.f_blocks // SHARE, LEAST_BYTES), MOST_BYTES)


class ReservedSpace:
    """The file in a store's directory, of `size` bytes; 0 for none. Safe on any thread."""

    def __init__(self, directory: Path, size: int) -> None:
        self._path = directory / NAME
        self.size = size
        self._one = threading.Lock()
        self._held = 0
        with contextlib.suppress(OSError):
            self._held = self._path.stat().st_size

    @property
    def is_whole(self) -> bool:
        """Whether it has all of its blocks."""
        return self._held >= self.size

    def give(self) -> bool:
        """Give a part up; whether there was any left. The blocks are free when this returns: file systems keep them
        until their own journal is written, so it is."""
        with self._one:
            if not self._held:
                return False
            try:
                self._resize(max(self._held - max(self.size // PARTS, 1), 0))
            except OSError:
                return False
            return True

    def take(self) -> bool:
        """Allocate what is missing, as far as there is room; whether it is whole. Found out by trying: what a file
        system says of its free blocks is not what it gives."""
        with self._one:
            part = max(self.size // PARTS, 1)
            try:
                if self._held > self.size:  # less was configured
                    self._resize(self.size)
                while self._held < self.size:
                    self._resize(min(self._held + part, self.size))
            except OSError:
                with contextlib.suppress(OSError):
                    self._resize(self._held)
            return self._held >= self.size

    def _resize(self, size: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        try:
            if size > self._held:
                os.posix_fallocate(fd, self._held, size - self._held)
            else:
                os.ftruncate(fd, size)
            os.fsync(fd)
            self._held = size
        finally:
            os.close(fd)
