"""A fill as a worker sees it: which bytes are on disk, and which are waited for. Woken, never polled."""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_right

from holdfast import errors
from holdfast.fill.extents import Extents
from holdfast.fill.readers import FillChange, FillFailed, FillGrown, FillMoved, FillSnapshot, FillVerified
from holdfast.keeper.rpc.frames import refusal_of


class KeeperLost(Exception):
    """The connection to the keeper ended; the reader attaches again."""


class FillView:
    """One fill in one worker, shared by its readers there. Owns the descriptors of the growing files."""

    def __init__(self, snapshot: FillSnapshot) -> None:
        self.size = snapshot.size
        self.extents = Extents(snapshot.extents)
        self.verified = snapshot.verified
        self.failure: Exception | None = None
        self.readers = 0
        #: the disk is full: bytes pass through memory, and what every reader has passed is gone
        self.in_memory = False
        self._offsets: list[int] = []
        self._files: list[int] = []
        self._waiting: dict[asyncio.Future[None], int] = {}
        for offset, path in snapshot.sources:
            self._open(offset, path)

    def _open(self, offset: int, path: str) -> None:
        self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        self._offsets.append(offset)
        self.in_memory = self.in_memory or path.startswith("/proc/")

    def change(self, change: FillChange) -> None:
        """Apply a change that the keeper sent, and wake the readers that wait for it."""
        if isinstance(change, FillGrown):
            self.extents.add(change.start, change.end)
        elif isinstance(change, FillVerified):
            self.verified = True
        elif isinstance(change, FillMoved):
            try:
                self._open(change.offset, change.path)
            except OSError as error:  # its readers come again; others of this connection go on
                self.failure = errors.of_shortage(error) or error
        elif isinstance(change, FillFailed):
            self.failure = refusal_of(change.kind, change.message, retry_after=change.retry_after)
        self._wake()

    def lose(self, reason: Exception) -> None:
        """No more news will come."""
        self.failure = self.failure or reason
        self._wake()

    def _wake(self) -> None:
        for future, offset in list(self._waiting.items()):
            if not future.done() and self._settled(offset):
                future.set_result(None)

    def _settled(self, offset: int) -> bool:
        """Whether a reader at `offset` (-1: of the verdict) has something to go on."""
        if self.failure is not None or self.verified:
            return True
        return offset >= 0 and self.available(offset) > offset

    def available(self, offset: int) -> int:
        """End of the run on disk that holds `offset`; `offset` when there is none."""
        return self.size if self.verified and offset < self.size else self.extents.run_end(offset)

    async def wait(self, offset: int) -> None:
        """Return when the byte at `offset` (-1: the verdict) is there. Raises the fill's failure."""
        while not self._settled(offset):
            future = asyncio.get_running_loop().create_future()
            self._waiting[future] = offset
            try:
                await future
            finally:
                del self._waiting[future]
        there = self.verified or (offset >= 0 and self.available(offset) > offset)
        if self.failure is not None and not there:
            raise self.failure

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes that are there; at least one."""
        index = bisect_right(self._offsets, offset) - 1
        if index + 1 < len(self._offsets):
            length = min(length, self._offsets[index + 1] - offset)
        data = os.pread(self._files[index], length, offset)
        if not data:
            raise errors.NodeFailed("the growing file is shorter than its extents")
        return data

    def lend(self, length: int) -> tuple[int, int] | None:
        """The file, and `length`; None once bytes are in several."""
        return (self._files[0], length) if len(self._files) == 1 else None

    def close(self) -> None:
        """Close the files; called when the last reader left."""
        for fd in self._files:
            os.close(fd)
        self._files.clear()
