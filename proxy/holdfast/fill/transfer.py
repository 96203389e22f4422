"""One GET of the parent: its answer is checked, its bytes go to the intake, its end is told to the fill."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from holdfast.errors import ParentBroken
from holdfast.fill.intake import Intake
from holdfast.fill.plan import Running

if TYPE_CHECKING:
    from holdfast.parent.client import BlobStream, Parent
    from holdfast.sync.share import Work


class RangeBroken(ParentBroken):
    """The parent answered a Range with other bytes than asked."""


class Owner(Protocol):
    """The fill, as its transfers see it."""

    parent: Parent
    name: str
    text: str
    etag: str

    @property
    def size(self) -> int | None: ...
    @property
    def is_background(self) -> bool: ...
    @property
    def work(self) -> Work: ...
    def sized(self, size: int, etag: str) -> Intake: ...
    def answered_whole(self) -> None: ...
    def etag_changed(self, etag: str) -> None: ...
    def received(self, count: int) -> None: ...
    def transfer_ended(self, transfer: Transfer, error: BaseException | None) -> None: ...


class Transfer:
    """Brings [start, end) of one blob; `end` None is the blob's end.

    `landed` and `received` are positions, `gained` counts bytes that were new. With `compares` bytes that
    are held are compared with what comes, because the parent's ETag is not the one they came under.
    """

    def __init__(self, owner: Owner, number: int, start: int, end: int | None, sequential: bool) -> None:
        self.owner, self.number = owner, number
        self.start, self.end, self.sequential = start, end, sequential
        self.landed = self.received = start
        self.gained = 0
        self.compares = False
        self.stopped = False
        self._intake: Intake | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._over = asyncio.Event()

    def begin(self) -> None:
        """Ask the parent."""
        self._lane = self.owner.parent.enter(self.owner.work)
        self._task = asyncio.ensure_future(self._run())
        # not at the end of the task itself, which `stop` may cancel anywhere, even before it starts
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._closed = True
        self._lane.close()
        self._task = asyncio.ensure_future(self._end(task))

    def stop(self) -> None:
        """Close the connection; what was received still lands."""
        if self._task is not None and not self.stopped and not self._closed:
            self.stopped = True
            self._task.cancel()

    def turn(self, work: Work) -> None:
        """Somebody began to wait for it, or nobody does any more."""
        self._lane.turn(work)

    async def finished(self) -> None:
        """Wait until it is over, in whatever way, and has told its fill."""
        await self._over.wait()

    @property
    def background(self) -> bool:
        """Whether no person waits for it."""
        return self.owner.is_background

    def running(self) -> Running:
        """Its state for the planner."""
        if self.stopped:  # what was received still lands
            return Running(self.number, self.landed, self.received, self.received, False)
        return Running(self.number, self.landed, self.received, self.end, self.sequential)

    async def _run(self) -> None:
        async with self._asked() as stream:
            self._intake = self.owner.sized(stream.size, stream.etag)
            self._accept(stream)
            await self._bring(stream, self._intake)

    async def _end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._intake is not None:
            await self._intake.settled(self, self.received)
            # the last bytes are written after they were taken; bytes that cannot be kept outweigh the rest
            error = self._intake.failure or error
        self._over.set()
        self.owner.transfer_ended(self, error)

    def _asked(self) -> AbstractAsyncContextManager[BlobStream]:
        owner = self.owner
        etag = "" if self.compares else owner.etag
        lane = self._lane
        return owner.parent.get_blob(
            owner.name, owner.text, start=self.start, end=self.end, etag=etag, lane=lane
        )

    def _accept(self, stream: BlobStream) -> None:
        """Where the stream really starts. Raises when it cannot be joined to what is here."""
        changed = bool(self.owner.etag and stream.etag and stream.etag != self.owner.etag)
        if stream.partial:
            if stream.start != self.start:
                raise RangeBroken(f"asked for bytes from {self.start}, got them from {stream.start}")
            if changed and not self.compares:
                raise RangeBroken("the parent's blob has another ETag than the bytes before")
            return
        if changed:
            self.compares = True
            self.owner.etag_changed(stream.etag)
        if self.start or self.end is not None:
            if not changed:
                self.owner.answered_whole()
            self.start = self.landed = self.received = 0
            self.end, self.sequential = None, True

    async def _bring(self, stream: BlobStream, intake: Intake) -> None:
        size = stream.size if self.end is None else min(self.end, stream.size)
        async for piece in stream:
            data = piece[: size - self.received]
            offset, self.received = self.received, self.received + len(data)
            self.owner.received(len(piece))
            await intake.put(self, offset, data)
            if self.received == size:
                break
