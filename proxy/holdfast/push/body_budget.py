"""How many bytes of request bodies are held at once. Pure counting: who waits, who goes on, in which order.

A body is counted in steps, as it grows, so a client that sends slowly holds what it sent and not what it
announced. Steps alone could lock up: every body holds a part, and none gets the rest. So room for one whole body,
the `reserve`, is kept back; only one share at a time may use it, and that one never waits again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class BodyBudget:
    """`total` bytes, of which `reserve` are for one share at a time; no share may grow over `reserve`."""

    def __init__(self, total: int, reserve: int) -> None:
        assert 0 < reserve <= total
        self.free, self._reserve = total, reserve
        self._first: BodyShare | None = None
        self._waiting: deque[tuple[BodyShare, int, asyncio.Future[None]]] = deque()

    def share(self) -> BodyShare:
        """A share of nothing yet. Leaving its `with` gives back what it held."""
        return BodyShare(self)

    async def take(self, share: BodyShare, count: int) -> None:
        """`count` more bytes for a share, in the order of asking."""
        if (self._first is share or not self._waiting) and self._granted(share, count):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((share, count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self._advance()  # the one that left may have held up others
            raise

    def give(self, share: BodyShare, count: int) -> None:
        """A share is over."""
        self.free += count
        if self._first is share:
            self._first = None
        self._advance()

    def _granted(self, share: BodyShare, count: int) -> bool:
        if self.free - count < self._reserve:
            if self._first not in (None, share):
                return False
            self._first = share
        self.free -= count
        share.held += count
        return True

    def _advance(self) -> None:
        while self._waiting:
            share, count, turn = self._waiting[0]
            if not turn.done():
                if not self._granted(share, count):
                    return
                turn.set_result(None)
            self._waiting.popleft()


class BodyShare:
    """What one body holds."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.held = 0

    async def cover(self, count: int) -> None:
        """Hold at least `count` bytes."""
        if count > self.held:
            await self._budget.take(self, count - self.held)

    def __enter__(self) -> BodyShare:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self.held = self.held, 0
        self._budget.give(self, held)
