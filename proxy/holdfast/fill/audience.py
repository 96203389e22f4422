"""Who waits for the bytes of a fill: readers here, readers to come, and workers that are told of changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from holdfast.errors import NodeFailed, Refusal
from holdfast.fill.change import Failed, FillChange, Grown, Moved, Verified
from holdfast.fill.extents import Extents, Run
from holdfast.fill.plan import Want
from holdfast.fill.reader import Reader

#: How long an opened fill waits for its reader to attach (seconds); a worker does it at once.
ATTACH_SECONDS = 30.0
#: After news of growth the next is gathered for so long (seconds), and longer for each reader: every one of
#: them is woken, and telling forty of every packet cost more than sending them its bytes.
GATHER_SECONDS, GATHER_READER_SECONDS = 0.005, 0.000_25


def failure_change(error: BaseException) -> Failed:
    """An error as news; what is no refusal is a fault of this node."""
    if isinstance(error, Refusal):
        kind = next(k.__name__ for k in type(error).__mro__ if k.__module__ == "holdfast.errors")
        return Failed(kind, error.message, error.retry_after)
    return Failed(NodeFailed.__name__, str(error) or type(error).__name__)


class Audience:
    """Woken by events. News of growth goes to subscribers at once when there was none lately, else gathered."""

    def __init__(self) -> None:
        self.readers: set[Reader] = set()
        self._tickets: dict[int, Want] = {}
        self._subscribers: dict[int, Callable[[FillChange], None]] = {}
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._grown = Extents()
        #: the next news of growth, and the end of the pause after the last
        self._soon: asyncio.Handle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._numbers = count()

    @property
    def is_empty(self) -> bool:
        """Nobody reads and nobody is about to."""
        return not self.readers and not self._tickets

    @property
    def has_whole(self) -> bool:
        """Somebody wants the blob itself."""
        return any(r.whole for r in self.readers) or any(w.whole for w in self._tickets.values())

    @property
    def has_ranges(self) -> bool:
        """Somebody wants a part of the blob."""
        return not all(r.whole for r in self.readers) or not all(w.whole for w in self._tickets.values())

    def wants(self) -> set[Want]:
        """What is wanted, equal wants once."""
        return {r.want() for r in self.readers if r.failure is None} | set(self._tickets.values())

    def reserve(self, want: Want, left: Callable[[], None]) -> Callable[[], None]:
        """Somebody opened the fill and will attach. `left` is called if they do not in time, or if what
        is returned is called before."""
        number = next(self._numbers)
        self._tickets[number] = want

        def drop() -> None:
            if self._tickets.pop(number, None) is not None:
                left()

        asyncio.get_running_loop().call_later(ATTACH_SECONDS, drop)
        return drop

    def join(self, reader: Reader) -> None:
        """The reader of the oldest ticket of its kind is here, or of the oldest of all."""
        kinds = [number for number, want in self._tickets.items() if want.whole == reader.whole]
        for number in (kinds or list(self._tickets))[:1]:
            del self._tickets[number]
        self.readers.add(reader)

    def tickets(self) -> list[Want]:
        """What those want who opened the fill and have not attached yet."""
        return list(self._tickets.values())

    def subscribe(self, on_change: Callable[[FillChange], None]) -> Callable[[], None]:
        """Be told of every change from now on; call what is returned to end it."""
        number = next(self._numbers)
        self._subscribers[number] = on_change
        return lambda: self._subscribers.pop(number, None) and None

    async def wait(self, offset: int) -> None:
        """Wait until the byte at `offset` landed (-1: until the verdict), or nothing more will."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(offset, []).append(future)
        await future

    def landed(self, runs: list[Run]) -> None:
        """Bytes are readable now."""
        for start, end in runs:
            for offset in [o for o in self._waiting if start <= o < end]:
                self._wake(offset)
        if self._subscribers:
            for run in runs:
                self._grown.add(*run)
            if self._soon is None and self._is_worth_telling(runs):
                self._soon = asyncio.get_running_loop().call_soon(self._tell_growth)

    def _is_worth_telling(self, runs: list[Run]) -> bool:
        """Whether news of growth cannot wait: there was none lately, or it is all that somebody wants."""
        if self._pause is None:
            return True
        ends = [reader.end for reader in self.readers if not reader.whole]
        return any(start < wanted <= end for wanted in ends for start, end in runs)

    def _wake(self, offset: int) -> None:
        for future in self._waiting.pop(offset, ()):
            if not future.done():
                future.set_result(None)

    def _tell_growth(self) -> None:
        runs = list(self._grown)
        self._grown = Extents()
        for handle in (self._soon, self._pause):
            if handle is not None:
                handle.cancel()
        self._soon = self._pause = None
        if runs:
            seconds = GATHER_SECONDS + GATHER_READER_SECONDS * len(self.readers)
            self._pause = asyncio.get_running_loop().call_later(seconds, self._pause_over)
        for run in runs:
            self._tell(Grown(*run))

    def _pause_over(self) -> None:
        self._pause = None
        if self._grown:
            self._tell_growth()

    def _tell(self, change: FillChange) -> None:
        for on_change in list(self._subscribers.values()):
            on_change(change)

    def moved(self, sources: list[tuple[int, str]]) -> None:
        """Bytes from these offsets on are in other files."""
        self._tell_growth()
        for offset, path in sources:
            self._tell(Moved(offset, path))

    def verified(self) -> None:
        """The digest matched."""
        self._tell_growth()
        self._tell(Verified())
        self._wake_all()

    def failed(self, error: BaseException) -> None:
        """Nothing more will come: every reader gets the same error, and nobody is left."""
        self._tell_growth()
        self._tell(failure_change(error))
        for reader in self.readers:
            reader.failure = error
        self._tickets.clear()
        self._wake_all()

    def _wake_all(self) -> None:
        for offset in list(self._waiting):
            self._wake(offset)
