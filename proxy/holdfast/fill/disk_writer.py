"""Writes what transfers receive to the fill's buffer: on a thread, in batches.

The first bytes are written at once. While a write runs, more bytes gather and are written together, so that a fast link
costs few hops to the thread. After a small write of a long body bytes gather for 2 ms more: a hop for every packet
would cost more than its bytes. Bytes that are held already are dropped, never written twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from holdfast_core.errors import StoreError

from holdfast.errors import ParentBroken
from holdfast.fill.buffer import FillBuffer
from holdfast.fill.context import FillContext
from holdfast.fill.extents import Extents

#: After a write of less than so many bytes more is gathered for so long (seconds), once LONG_BYTES came: a short
#: body is over sooner than that pays.
GATHER_BYTES, GATHER_SECONDS, LONG_BYTES = 256 << 10, 0.002, 1 << 20
#: Free space is looked at again after so many written bytes.
SPACE_CHECK_BYTES = 16 << 20

Data = bytes | memoryview
Piece = tuple[int, memoryview]


class BlobChanged(ParentBroken):
    """The parent sends another blob under the name: what came before belongs to something else."""

    permanent = True


@dataclass(eq=False, slots=True)
class TransferProgress:
    """How far one transfer is. `received` and `landed` are positions: the end of what came over the link, and of what
    was written. `gained` counts the bytes that were new. With `compares` bytes that are held are compared with those
    that come, because the parent's ETag is not the one they came under."""

    landed: int = 0
    received: int = 0
    gained: int = 0
    compares: bool = False


class DiskWriter:
    """One fill's queue of received bytes.

    Calls `landed(pieces)` when they can be read; `move()` when the disk is full, which returns once bytes go to memory;
    `make_room()` to drop memory that no reader needs; `is_far_behind()` to ask whether hashing must catch up first;
    `may_keep(count)` to ask whether the disk may take so many more.
    """

    def __init__(
        self,
        context: FillContext,
        buffer: FillBuffer,
        held: Extents,
        landed: Callable[[list[Piece]], None],
        move: Callable[[], None],
        make_room: Callable[[], None],
        is_far_behind: Callable[[], bool],
        may_keep: Callable[[int], bool],
    ) -> None:
        self._context, self._buffer, self._held = context, buffer, held
        self._on_landed, self._move, self._make_room = landed, move, make_room
        self._is_far_behind, self._may_keep = is_far_behind, may_keep
        self._pending: list[tuple[TransferProgress, int, Data]] = []
        self._bytes = 0
        self._unchecked = self._passed = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        #: set: the pause is over, or a caller waits for what is pending
        self._hurry = asyncio.Event()
        #: what made writing fail; nothing is written after it
        self.failure: BaseException | None = None
        self._task = asyncio.ensure_future(self._run())

    async def ready(self) -> None:
        """Wait until bytes may come: at once, unless they pass through memory and too many other fills do."""
        budget = self._context.unstored_budget
        while self._buffer.window is not None and not budget.enter(self._buffer, self.woken):
            await self._wait()

    async def put(self, transfer: TransferProgress, offset: int, data: Data) -> None:
        """Take bytes; returns once the thread has them, so that what comes meanwhile gathers where it is
        received and the parent's sender waits. Raises what made writing fail."""
        if self.failure is not None:
            raise self.failure
        self._pending.append((transfer, offset, data))
        self._bytes += len(data)
        self._work.set()
        while self._is_full():
            await self._wait()

    def _is_full(self) -> bool:
        if self._pending or self._is_far_behind():
            return True
        if self._buffer.window is None or self._has_room():
            return False
        self._make_room()
        return not self._has_room()

    def _has_room(self) -> bool:
        return self._context.unstored_budget.has_room(self._buffer, self._bytes)

    async def settled(self, transfer: TransferProgress) -> None:
        """Wait until everything that the transfer received has landed, or never will."""
        while transfer.landed < transfer.received and self.failure is None:
            self._hurry.set()
            await self._wait(False)

    async def _wait(self, raises: bool = True) -> None:
        if self.failure is None:
            self._room.clear()
            await self._room.wait()
        if self.failure is not None and raises:
            raise self.failure

    def woken(self) -> None:
        """Memory may have become free: a reader went on or left, or more was hashed."""
        self._room.set()

    async def _run(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._pending:
                    await self._gather(await self._write_batch())
        except Exception as error:  # noqa: BLE001  every waiting transfer gets it
            self.failure = error
            self._room.set()

    async def _gather(self, count: int) -> None:
        """Wait a little after a batch of `count` bytes, if it was small and no caller waits for the next."""
        self._passed += count
        if count < GATHER_BYTES and self._passed >= LONG_BYTES:
            pause = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._hurry.set)
            await self._hurry.wait()
            pause.cancel()
        self._hurry.clear()

    async def _write_batch(self) -> int:
        """Returns the number of bytes."""
        batch, self._pending = self._pending, []
        self._room.set()
        fresh = [piece for _, offset, data in batch for piece in self._missing(offset, data)]
        known = [piece for t, offset, data in batch if t.compares for piece in self._known(offset, data)]
        if self._buffer.window is None and not self._may_keep(sum(len(data) for _, data in fresh)):
            self._go_unstored()
        await self._write_pieces(fresh, known)
        for offset, data in fresh:
            self._buffer.landed((offset, offset + len(data)))
        for transfer, offset, taken in batch:
            transfer.gained += self._held.add(offset, offset + len(taken))
            transfer.landed = max(transfer.landed, offset + len(taken))
            self._bytes -= len(taken)
        self._on_landed(fresh)
        self._room.set()
        return sum(len(taken) for _, _, taken in batch)

    def _missing(self, offset: int, data: Data) -> list[Piece]:
        view = memoryview(data)
        gaps = self._held.gaps(offset, offset + len(data))
        return [(start, view[start - offset : end - offset]) for start, end in gaps]

    def _known(self, offset: int, data: Data) -> list[Piece]:
        view, last = memoryview(data), offset + len(data)
        runs = ((max(start, offset), min(end, last)) for start, end in self._held.runs(offset, last))
        return [(start, view[start - offset : end - offset]) for start, end in runs]

    async def _write_pieces(self, fresh: list[Piece], known: list[Piece]) -> None:
        loop = asyncio.get_running_loop()
        try:
            is_short = await loop.run_in_executor(self._context.writers, self._write, fresh, known)
        except (StoreError, OSError):  # full, read-only, broken: whatever the disk has, the bytes go on
            if self._buffer.window is not None:
                raise
            self._go_unstored()
            await loop.run_in_executor(self._context.writers, self._write, fresh, [])
            return
        if is_short and self._buffer.window is None:
            self._go_unstored()

    def _go_unstored(self) -> None:
        self._move()
        self._context.unstored_budget.add(self._buffer)

    def _write(self, fresh: list[Piece], known: list[Piece]) -> bool:
        """On a thread. Returns whether the disk is short of space. Raises BlobChanged when `known` differ."""
        for offset, data in known:
            if self._buffer.read(offset, len(data)) != data:
                raise BlobChanged("the parent's blob changed while it was fetched")
        for offset, data in fresh:
            self._buffer.write(offset, data)
            self._unchecked += len(data)
        if self._unchecked < SPACE_CHECK_BYTES:
            return False
        self._unchecked = 0
        return self._context.is_short_of_space()

    async def close(self) -> None:
        """Write what is pending, then end. After it nothing writes to the buffer."""
        while self._bytes and self.failure is None:
            self._hurry.set()
            self._room.clear()
            await self._room.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def leave(self) -> None:
        """The buffer is closed: give its place in memory back. May be called twice."""
        self._context.unstored_budget.leave(self._buffer)
