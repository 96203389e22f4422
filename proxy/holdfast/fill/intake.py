"""From the link to the disk: takes what transfers receive and writes it on a thread, in batches.

The first bytes go out at once; while a write is under way more gather and go together, so that a fast
link costs few hops. After a small write of a long body they gather for 2 ms more: a hop for every packet
cost more than its bytes, and nobody is told of growth that often. What is held already is dropped, never
written twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from holdfast_core.errors import StoreError

from holdfast.errors import ParentBroken
from holdfast.fill.extents import Extents
from holdfast.fill.means import Means
from holdfast.fill.medium import Medium

#: Memory a fill may use once the disk is full.
WINDOW_BYTES = 64 << 20
#: After a write of less than so many bytes more is gathered for so long (seconds), once LONG_BYTES came: a short
#: body is over sooner than that pays.
GATHER_BYTES, GATHER_SECONDS, LONG_BYTES = 256 << 10, 0.002, 1 << 20
#: Free space is looked at again after so many written bytes.
SPACE_CHECK_BYTES = 16 << 20


class BlobChanged(ParentBroken):
    """The parent sends another blob under the name: what came before belongs to something else."""

    permanent = True


class Bringer(Protocol):
    """A transfer, as the intake sees it."""

    landed: int
    gained: int
    compares: bool


Data = bytes | memoryview
Piece = tuple[int, memoryview]


class Intake:
    """One fill's queue of received bytes. `landed(pieces)` is told what is readable now; `move()` is called
    when the disk is full and returns once bytes go to memory; `make_room()` drops memory nobody needs;
    `is_far_behind()` says that no more is to be taken before more was hashed."""

    def __init__(
        self,
        means: Means,
        medium: Medium,
        held: Extents,
        landed: Callable[[list[Piece]], None],
        move: Callable[[], None],
        make_room: Callable[[], None],
        is_far_behind: Callable[[], bool],
    ) -> None:
        self._means, self._medium, self._held = means, medium, held
        self._on_landed, self._move, self._make_room = landed, move, make_room
        self._is_far_behind = is_far_behind
        self._pending: list[tuple[Bringer, int, Data]] = []
        self._bytes = 0
        self._since_check = self._passed = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        #: set: the pause is over, or somebody waits for what is pending
        self._hurry = asyncio.Event()
        #: what made writing fail; nothing is written after it
        self.failure: BaseException | None = None
        self._task = asyncio.ensure_future(self._run())

    async def put(self, bringer: Bringer, offset: int, data: Data) -> None:
        """Take bytes; returns once the writer has them, so that what comes meanwhile gathers where it is
        received and the parent's sender waits. Raises what made writing fail."""
        if self.failure is not None:
            raise self.failure
        self._pending.append((bringer, offset, data))
        self._bytes += len(data)
        self._work.set()
        while self._is_full():
            await self._wait()

    def _is_full(self) -> bool:
        if self._pending or self._is_far_behind():
            return True
        if self._medium.in_memory + self._bytes <= WINDOW_BYTES:
            return False
        self._make_room()
        return self._medium.in_memory + self._bytes > WINDOW_BYTES

    async def settled(self, bringer: Bringer, received: int) -> None:
        """Wait until everything the transfer received has landed, or never will."""
        while bringer.landed < received and self.failure is None:
            self._hurry.set()
            await self._wait(False)

    async def _wait(self, raises: bool = True) -> None:
        if self.failure is None:
            self._room.clear()
            await self._room.wait()
        if self.failure is not None and raises:
            raise self.failure

    def woken(self) -> None:
        """A reader moved on or left, or more was hashed: memory may have become free."""
        self._room.set()

    async def _run(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._pending:
                    await self._gathered(await self._write_batch())
        except Exception as error:  # noqa: BLE001  every waiting transfer gets it
            self.failure = error
            self._room.set()

    async def _gathered(self, count: int) -> None:
        """Wait a little after a batch of `count` bytes, if it was small and nobody waits for the next."""
        self._passed += count
        if count < GATHER_BYTES and self._passed >= LONG_BYTES:
            pause = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._hurry.set)
            await self._hurry.wait()
            pause.cancel()
        self._hurry.clear()

    async def _write_batch(self) -> int:
        batch, self._pending = self._pending, []
        self._room.set()
        pieces = [piece for _, offset, data in batch for piece in self._missing(offset, data)]
        known = [p for b, offset, data in batch if b.compares for p in self._known(offset, data)]
        await self._written(pieces, known)
        for offset, data in pieces:
            self._medium.landed((offset, offset + len(data)))
        for bringer, offset, taken in batch:
            bringer.gained += self._held.add(offset, offset + len(taken))
            bringer.landed = max(bringer.landed, offset + len(taken))
            self._bytes -= len(taken)
        self._on_landed(pieces)
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

    async def _written(self, pieces: list[Piece], known: list[Piece]) -> None:
        loop = asyncio.get_running_loop()
        try:
            short = await loop.run_in_executor(self._means.writers, self._write, pieces, known)
        except (StoreError, OSError):  # full, read-only, broken: whatever the disk has, the bytes go on
            if self._medium.window is not None:
                raise
            self._move()
            await loop.run_in_executor(self._means.writers, self._write, pieces, [])
            return
        if short and self._medium.window is None:
            self._move()

    def _write(self, pieces: list[Piece], known: list[Piece]) -> bool:
        """On a thread. Returns whether the disk is short of space."""
        for offset, data in known:
            if self._medium.read(offset, len(data)) != data:
                raise BlobChanged("the parent's blob changed while it was fetched")
        for offset, data in pieces:
            self._medium.write(offset, data)
            self._since_check += len(data)
        if self._since_check < SPACE_CHECK_BYTES:
            return False
        self._since_check = 0
        return self._means.is_short_of_space()

    async def close(self) -> None:
        """Write what is pending, then end. After it nothing touches the medium."""
        while self._bytes and self.failure is None:
            self._hurry.set()
            self._room.clear()
            await self._room.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
