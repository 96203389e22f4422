"""How much at once: connections and requests a second to one parent. Waiting is in the order of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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


class Caps:
    """A parent's connections, a quarter of them (at least one) kept for short asks, so that long transfers
    never keep a manifest waiting. With a cap of 1 both share the one."""

    def __init__(self, connections: int, requests_per_second: float, clock: Clock) -> None:
        kept = max(1, connections // 4)
        self._asks = asyncio.Semaphore(kept)
        self._transfers = asyncio.Semaphore(connections - kept) if connections > 1 else self._asks
        #: connections that synchronisation may hold: half of those for bodies; the outbox has a third, a miss finds one
        self.beside = max(1, (connections - kept) // 2)
        self._pushes = asyncio.Semaphore(max(1, (connections - kept) // 3))
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

    @asynccontextmanager
    async def push(self) -> AsyncIterator[None]:
        """Hold a connection for one request of the outbox: a transfer's, and at most a third of those, so that a
        miss finds one however much goes up. Raises SlotsTaken as `transfer` does, after its turn in the outbox."""
        async with self._pushes, self.transfer():
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
