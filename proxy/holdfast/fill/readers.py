"""The readers of a fill: those attached in this process, those that opened it and have yet to attach, and the workers
that subscribed to its changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

import msgspec
from holdfast_core.errors import NotHeld

from holdfast.errors import NodeFailed, Refusal
from holdfast.fill.buffer import FillBuffer
from holdfast.fill.extents import Extents, Run
from holdfast.fill.phases import Lifecycle
from holdfast.fill.planner import Want

#: How long an opened fill waits for its reader to attach (seconds); a worker does it at once.
ATTACH_SECONDS = 30.0
#: After a change of growth the next is gathered for so long (seconds), and longer for each reader: every one of
#: them is woken, and waking forty for every packet cost more than sending them its bytes.
GATHER_SECONDS, GATHER_READER_SECONDS = 0.005, 0.000_25


class FillGrown(msgspec.Struct, frozen=True, array_like=True, tag="g"):
    """Bytes [start, end) can be read now. Coalesced: one a few milliseconds, not one a read."""

    start: int
    end: int


class FillVerified(msgspec.Struct, frozen=True, array_like=True, tag="v"):
    """The whole blob matched its digest and is in the store (or, unstored, was all streamed)."""


class FillFailed(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """The bytes will not come. `kind` is the name of an exception class of `holdfast.errors`."""

    kind: str
    message: str
    retry_after: int | None = None


class FillMoved(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """From `offset` on, bytes are found in the file at `path` (the disk is full; see unstored fills). Several
    of these in ascending order alternate between files: what was on disk stays there."""

    offset: int
    path: str


#: What subscribers get, in this process or over the keeper's socket: in order, and without a gap after a FillSnapshot.
FillChange = FillGrown | FillVerified | FillFailed | FillMoved


class FillSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """The state of a fill: blob size, (offset, path) of the files that hold bytes in ascending order (a byte
    is in the last one whose offset is not above it), extents that can be read, whether the digest matched."""

    size: int
    sources: tuple[tuple[int, str], ...]
    extents: tuple[tuple[int, int], ...]
    verified: bool


class BlobAnswer(msgspec.Struct, frozen=True, array_like=True):
    """`fill` is 0 when the blob is held (read the store); otherwise the number of the fill to follow. `unlinked`: the
    bytes are held, and the disk took no note that the repository has them, as its parent says."""

    size: int
    fill: int = 0
    unlinked: bool = False


def failure_change(error: BaseException) -> FillFailed:
    """An error as a change; what is no refusal is a fault of this node."""
    if isinstance(error, Refusal):
        kind = next(k.__name__ for k in type(error).__mro__ if k.__module__ == "holdfast.errors")
        return FillFailed(kind, error.message, error.retry_after)
    return FillFailed(NodeFailed.__name__, str(error) or type(error).__name__)


class Reader:
    """One reader of a fill in this process; see `holdfast.keeper.api.Following`. It wakes when bytes land, never polls,
    and never sets the pace.

    `advance` says how far the reader is; `wait_for` and `read` say it by themselves. A reader that never says is
    taken to keep up with the link, except in an unstored fill, which waits for its slowest reader. `moved` and `closed`
    are called when the position changed and when the reader leaves.
    """

    def __init__(
        self,
        readers: FillReaders,
        held: Extents,
        buffer: FillBuffer,
        start: int,
        end: int,
        whole: bool,
        *,
        moved: Callable[[Reader], None],
        closed: Callable[[Reader], None],
    ) -> None:
        self.size: int = buffer.size
        self.start, self.end, self.whole = start, min(end, buffer.size), whole
        self.position = -1
        self.failure: BaseException | None = None
        self._readers, self._held, self._buffer = readers, held, buffer
        self._on_moved, self._on_closed = moved, closed
        self._closed = False

    def want(self) -> Want:
        """What this reader wants, for the planner."""
        if self.whole:
            return Want(whole=True)
        return Want(self.start, self.end, position=self.position)

    async def wait_for(self, offset: int) -> int:
        """End of the run that holds `offset`, once it is held. Raises what made the fill fail."""
        while (end := self.available(offset)) <= offset < self.size:
            if self.failure is not None:
                raise self.failure
            self.demand(offset)
            await self._readers.wait(offset)
        self.advance(offset)
        return end

    def demand(self, offset: int) -> None:
        """The reader waits for this byte. A body of several ranges may go back; what it waits for decides."""
        if offset != self.position:
            self.position = offset
            self._on_moved(self)

    async def wait_verified(self) -> None:
        """Wait until the digest matched. For a range reader that needs others that bring the rest."""
        while not self._readers.lifecycle.is_verified:
            if self.failure is not None:
                raise self.failure
            await self._readers.wait_verdict()

    def available(self, offset: int) -> int:
        """End of the run that holds `offset`; `offset` when it is not held."""
        return self._held.run_end(offset)

    def read(self, offset: int, length: int) -> bytes:
        """1..length bytes of the run that holds `offset`. Raises NotHeld when it is not held."""
        length = min(length, self.available(offset) - offset)
        if length <= 0:
            raise NotHeld(f"byte {offset} has not arrived")
        data = self._buffer.read(offset, length)
        self.advance(offset + len(data))
        return data

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """See `holdfast.keeper.api.Following`. Memory is given back behind a reader, so it is not lent."""
        length = min(length, self.available(offset) - offset)
        if length <= 0:
            return None
        self.advance(offset)
        return self._buffer.lend(length)

    def advance(self, offset: int) -> None:
        """The reader needs nothing below `offset` any more. Goes forward only."""
        if offset > self.position:
            self.position = offset
            self._on_moved(self)

    def close(self) -> None:
        """Leave. May be called twice."""
        if not self._closed:
            self._closed = True
            self._on_closed(self)


class FillReaders:
    """All readers and subscribers of one fill. A change of growth goes to subscribers at once when there was none
    lately; otherwise growth is gathered for a moment."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.attached: set[Reader] = set()
        self._reservations: dict[int, Want] = {}
        self._subscribers: dict[int, Callable[[FillChange], None]] = {}
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._grown = Extents()
        #: the next change of growth, and the end of the pause after the last
        self._soon: asyncio.Handle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._numbers = count()

    @property
    def is_empty(self) -> bool:
        """Whether no reader is attached and none is about to attach."""
        return not self.attached and not self._reservations

    @property
    def has_whole(self) -> bool:
        """Whether a reader wants the whole blob."""
        return any(r.whole for r in self.attached) or any(w.whole for w in self._reservations.values())

    @property
    def has_ranges(self) -> bool:
        """Whether a reader wants a part of the blob."""
        return not all(r.whole for r in self.attached) or not all(
            w.whole for w in self._reservations.values()
        )

    def wants(self) -> set[Want]:
        """The wants of all readers, equal ones once."""
        return {r.want() for r in self.attached if r.failure is None} | set(self._reservations.values())

    def unstored_wants(self, hashed: int | None) -> set[Want]:
        """The wants while bytes pass through memory: what readers still have before them and, for readers of the whole
        blob, what the hash has (it is at `hashed`; None: the digest matched)."""
        wants = {
            Want(at, reader.end, position=at)
            for reader in self.attached
            if reader.failure is None and (at := max(reader.start, reader.position)) < reader.end
        }
        wants |= {Want(want.start, want.end) for want in self._reservations.values()}
        if self.has_whole and hashed is not None:
            wants.add(Want(hashed, None, position=hashed))
        return wants

    def reserve(self, want: Want, on_dropped: Callable[[], None]) -> Callable[[], None]:
        """Count a reader that opened the fill and will attach; returns what ends that. `on_dropped` is called when it
        was ended, or the reader did not attach in time."""
        number = next(self._numbers)
        self._reservations[number] = want

        def drop() -> None:
            if self._reservations.pop(number, None) is not None:
                on_dropped()

        asyncio.get_running_loop().call_later(ATTACH_SECONDS, drop)
        return drop

    def join(self, reader: Reader) -> None:
        """Attach a reader. It takes the place of the oldest reservation of its kind, or of the oldest of all."""
        kinds = [number for number, want in self._reservations.items() if want.whole == reader.whole]
        for number in (kinds or list(self._reservations))[:1]:
            del self._reservations[number]
        self.attached.add(reader)

    def subscribe(self, on_change: Callable[[FillChange], None]) -> Callable[[], None]:
        """Have `on_change` called with every change from now on; returns what ends it."""
        number = next(self._numbers)
        self._subscribers[number] = on_change
        return lambda: self._subscribers.pop(number, None) and None

    async def wait(self, offset: int) -> None:
        """Wait until the byte at `offset` landed (-1: until the verdict), or no more will come."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(offset, []).append(future)
        await future

    async def wait_verdict(self) -> None:
        """Wait until the digest matched or the fill failed."""
        await self.wait(-1)

    def landed(self, runs: list[Run]) -> None:
        """Bytes can be read now: wake who waits for them."""
        for start, end in runs:
            for offset in [o for o in self._waiting if start <= o < end]:
                self._wake(offset)
        if self._subscribers:
            for run in runs:
                self._grown.add(*run)
            if self._soon is None and self._is_urgent(runs):
                self._soon = asyncio.get_running_loop().call_soon(self._publish_growth)

    def _is_urgent(self, runs: list[Run]) -> bool:
        """Whether growth cannot be gathered: there was none lately, or it completes what a reader wants."""
        if self._pause is None:
            return True
        ends = [reader.end for reader in self.attached if not reader.whole]
        return any(start < last <= end for last in ends for start, end in runs)

    def _wake(self, offset: int) -> None:
        for future in self._waiting.pop(offset, ()):
            if not future.done():
                future.set_result(None)

    def _publish_growth(self) -> None:
        runs = list(self._grown)
        self._grown = Extents()
        for handle in (self._soon, self._pause):
            if handle is not None:
                handle.cancel()
        self._soon = self._pause = None
        if runs:
            seconds = GATHER_SECONDS + GATHER_READER_SECONDS * len(self.attached)
            self._pause = asyncio.get_running_loop().call_later(seconds, self._pause_over)
        for run in runs:
            self._publish(FillGrown(*run))

    def _pause_over(self) -> None:
        self._pause = None
        if self._grown:
            self._publish_growth()

    def _publish(self, change: FillChange) -> None:
        for on_change in list(self._subscribers.values()):
            on_change(change)

    def moved(self, sources: list[tuple[int, str]]) -> None:
        """Bytes from these offsets on are in other files."""
        self._publish_growth()
        for offset, path in sources:
            self._publish(FillMoved(offset, path))

    def verified(self) -> None:
        """The digest matched: wake every reader."""
        self._publish_growth()
        self._publish(FillVerified())
        self._wake_all()

    def failed(self, error: BaseException) -> None:
        """No more will come: every reader gets the same error, and reservations end."""
        self._publish_growth()
        self._publish(failure_change(error))
        for reader in self.attached:
            reader.failure = error
        self._reservations.clear()
        self._wake_all()

    def _wake_all(self) -> None:
        for offset in list(self._waiting):
            self._wake(offset)
