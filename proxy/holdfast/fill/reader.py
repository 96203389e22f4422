"""One reader of a fill in this process. Wakes when bytes land, never polls, never sets the pace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from holdfast_core.errors import NotHeld

from holdfast.fill.plan import Want

if TYPE_CHECKING:
    from holdfast.fill.stock import Stock


class Source(Protocol):
    """The fill, as its readers see it."""

    stock: Stock
    verified: bool

    async def wait_landed(self, offset: int) -> None: ...
    async def wait_verdict(self) -> None: ...
    def moved_on(self, reader: Reader) -> None: ...
    def left(self, reader: Reader) -> None: ...


class Reader:
    """See `holdfast.keeper.port.Following`. `advance` says how far the reader has come; `wait_for` and
    `read` say it by themselves. A reader that never says is taken to keep up with the link, except in an
    unstored fill, which waits for its slowest reader."""

    def __init__(self, fill: Source, start: int, end: int, whole: bool) -> None:
        assert fill.stock.size is not None
        self.size: int = fill.stock.size
        self.start, self.end, self.whole = start, min(end, fill.stock.size), whole
        self.position = -1
        self.failure: BaseException | None = None
        self._fill = fill
        self._closed = False

    def want(self) -> Want:
        """What the planner is told."""
        if self.whole:
            return Want(whole=True)
        return Want(self.start, self.end, position=self.position)

    async def wait_for(self, offset: int) -> int:
        """End of the run that holds `offset`, once it is there. Raises what made the fill fail."""
        while (end := self.available(offset)) <= offset < self.size:
            if self.failure is not None:
                raise self.failure
            self.demand(offset)
            await self._fill.wait_landed(offset)
        self.advance(offset)
        return end

    def demand(self, offset: int) -> None:
        """The reader waits for this byte. A body of several ranges may go back; what it waits for decides."""
        if offset != self.position:
            self.position = offset
            self._fill.moved_on(self)

    async def wait_verified(self) -> None:
        """Wait for the digest. For a range reader it comes only if others bring the rest."""
        while not self._fill.verified:
            if self.failure is not None:
                raise self.failure
            await self._fill.wait_verdict()

    def available(self, offset: int) -> int:
        """End of the run that holds `offset`; `offset` when it is not there."""
        return self._fill.stock.held.run_end(offset)

    def read(self, offset: int, length: int) -> bytes:
        """1..length bytes that are there; none that are not. Raises NotHeld when there are none."""
        there = min(length, self.available(offset) - offset)
        if self._fill.stock.medium is None or there <= 0:
            raise NotHeld(f"byte {offset} has not arrived")
        data = self._fill.stock.medium.read(offset, there)
        self.advance(offset + len(data))
        return data

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """See `holdfast.keeper.port.Following`. Memory is given back behind a reader, so it is not lent."""
        there = min(length, self.available(offset) - offset)
        if self._fill.stock.medium is None or there <= 0:
            return None
        self.advance(offset)
        return self._fill.stock.medium.lend(there)

    def advance(self, offset: int) -> None:
        """The reader needs nothing below `offset` any more. Goes forward only."""
        if offset > self.position:
            self.position = offset
            self._fill.moved_on(self)

    def close(self) -> None:
        """Leave. May be called twice."""
        if not self._closed:
            self._closed = True
            self._fill.left(self)
