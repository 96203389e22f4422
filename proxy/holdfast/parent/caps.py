"""How much at once: connections and requests a second to one parent. Waiting is in the order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

from holdfast.clock import Clock
from holdfast.errors import SlotsTaken

#: a transfer may wait longer for its turn than a person does
TRANSFER_QUEUE_SECONDS = 300.0


class TokenBucket:
    """`rate` a second with a burst of one second's worth (at least 1). Pure: `take` says how long to wait."""

    def __init__(self, rate: float) -> None:
        self._rate, self._burst = rate, max(1.0, rate)
        self._level, self._at = self._burst, 0.0

    def take(self, now: float) -> float:
        """Take one; returns the seconds until it may be used. Later callers get later turns."""
        if not self._rate:
            return 0.0
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = now
        self._level -= 1.0
        return max(0.0, -self._level / self._rate)

    def give_back(self) -> None:
        """Undo a `take` whose turn was not waited for."""
        self._level += 1.0


#: who moves bodies that nobody waits for: what synchronises, and the outbox
Bulk = Literal["sync", "push"]


class BulkRoom:
    """Room for bulk work: `together` at once, `alone` of one kind. A place that is free goes to the kind that has fewer
    of those that wait, and of two that have as many to the one that did not get the last. So each has what the other
    leaves, and half when both want all, also of a single place."""

    def __init__(self, together: int, alone: int) -> None:
        self._together, self._alone = together, alone
        self._held: dict[Bulk, int] = {"sync": 0, "push": 0}
        self._last: Bulk = "push"
        self._waiting: dict[Bulk, deque[asyncio.Future[None]]] = {"sync": deque(), "push": deque()}

    @asynccontextmanager
    async def place(self, work: Bulk) -> AsyncIterator[None]:
        """Hold one."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[work].append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was admitted in this moment
                self._leave(work)
            raise
        try:
            yield
        finally:
            self._leave(work)

    def _leave(self, work: Bulk) -> None:
        self._held[work] -= 1
        self._admit()

    def _admit(self) -> None:
        while sum(self._held.values()) < self._together:
            wait = [work for work, queue in self._waiting.items() if queue and self._held[work] < self._alone]
            if not wait:
                return
            first = min(wait, key=lambda work: (self._held[work], work == self._last))
            turn = self._waiting[first].popleft()
            if not turn.cancelled():
                self._held[first] += 1
                self._last = first
                turn.set_result(None)


class Caps:
    """A parent's connections, a quarter of them (at least one) kept for short asks, so that long transfers
    never keep a manifest waiting. With a cap of 1 both share the one. Of those for bodies a sixth is a miss's alone."""

    def __init__(self, connections: int, requests_per_second: float, clock: Clock) -> None:
        kept = max(1, connections // 4)
        self._asks = asyncio.Semaphore(kept)
        self._transfers = asyncio.Semaphore(connections - kept) if connections > 1 else self._asks
        together = max(1, connections - kept - max(1, (connections - kept) // 6))
        self._bulk = BulkRoom(together, max(1, together - max(1, together // 5)))
        self._bucket, self._clock = TokenBucket(requests_per_second), clock

    @asynccontextmanager
    async def ask(self, seconds: float) -> AsyncIterator[None]:
        """Hold a connection for a short ask. Raises SlotsTaken when none is free within `seconds`."""
        async with _held(self._asks, seconds):
            yield

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[None]:
        """Hold a connection for the body of a blob. Raises SlotsTaken after TRANSFER_QUEUE_SECONDS."""
        async with _held(self._transfers, TRANSFER_QUEUE_SECONDS):
            yield

    def bulk(self, work: Bulk) -> AbstractAsyncContextManager[None]:
        """Room for one transfer that nobody waits for, held around `transfer`."""
        return self._bulk.place(work)

    @asynccontextmanager
    async def push(self) -> AsyncIterator[None]:
        """Hold a connection for one request of the outbox. Raises SlotsTaken as `transfer` does, after its turn."""
        async with self.bulk("push"), self.transfer():
            yield

    async def pace(self, seconds: float) -> None:
        """Wait for this request's turn under the cap on requests. Raises SlotsTaken when it comes later
        than `seconds` from now."""
        wait = self._bucket.take(self._clock.monotonic())
        if wait > seconds:
            self._bucket.give_back()
            raise SlotsTaken("the cap on requests to the parent is reached", retry_after=int(wait) + 1)
        if wait:
            await self._clock.sleep(wait)


@asynccontextmanager
async def _held(slots: asyncio.Semaphore, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            await slots.acquire()
    except TimeoutError:
        raise SlotsTaken("the cap on connections to the parent is reached", retry_after=1) from None
    try:
        yield
    finally:
        slots.release()
