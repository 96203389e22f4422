"""Caps on connections and on requests a second to one parent. Callers wait in the order of their arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

from holdfast.clock import Clock
from holdfast.errors import SlotsTaken
from holdfast.token_bucket import TokenBucket

#: a transfer may wait longer for a connection than a client that waits for an answer (seconds)
TRANSFER_QUEUE_SECONDS = 300.0


#: the work that moves bodies no client waits for: synchronisation, and the outbox
Bulk = Literal["sync", "push"]


class BulkRoom:
    """Places for bulk work: `together` at once, `alone` of one kind.

    A free place goes to the waiting kind that holds fewer; when both hold as many, to the one that did not get the
    last. So each has what the other leaves, and half when both want all, also of a single place.
    """

    def __init__(self, together: int, alone: int) -> None:
        self._together, self._alone = together, alone
        self._held: dict[Bulk, int] = {"sync": 0, "push": 0}
        self._last: Bulk = "push"
        self._waiting: dict[Bulk, deque[asyncio.Future[None]]] = {"sync": deque(), "push": deque()}

    @asynccontextmanager
    async def place(self, work: Bulk) -> AsyncIterator[None]:
        """Hold one place; waits for it."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[work].append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was admitted just now
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
    """A parent's connections. A quarter of them (at least one) is kept for short requests, so that a manifest never
    waits for long transfers; with a cap of 1 both share the one. Of those for bodies a sixth is kept for misses."""

    def __init__(self, connections: int, requests_per_second: float, clock: Clock) -> None:
        kept = max(1, connections // 4)
        self._short = asyncio.Semaphore(kept)
        self._transfers = asyncio.Semaphore(connections - kept) if connections > 1 else self._short
        together = max(1, connections - kept - max(1, (connections - kept) // 6))
        self._bulk = BulkRoom(together, max(1, together - max(1, together // 5)))
        self._clock = clock
        #: None: requests are not capped. A burst is what one second allows, at least one request
        self._bucket = None
        if requests_per_second:
            burst = max(1.0, requests_per_second)
            self._bucket = TokenBucket(requests_per_second, burst, clock.monotonic())

    @asynccontextmanager
    async def short(self, seconds: float) -> AsyncIterator[None]:
        """Hold a connection for a short request. Raises SlotsTaken when none is free within `seconds`."""
        async with _held(self._short, seconds):
            yield

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[None]:
        """Hold a connection for the body of a blob. Raises SlotsTaken after TRANSFER_QUEUE_SECONDS."""
        async with _held(self._transfers, TRANSFER_QUEUE_SECONDS):
            yield

    def bulk(self, work: Bulk) -> AbstractAsyncContextManager[None]:
        """Hold a place for one transfer that no client waits for, around `transfer`."""
        return self._bulk.place(work)

    @asynccontextmanager
    async def push(self) -> AsyncIterator[None]:
        """Hold a connection for one request of the outbox. Raises SlotsTaken as `transfer` does."""
        async with self.bulk("push"), self.transfer():
            yield

    async def pace(self, seconds: float) -> None:
        """Wait until the cap on requests allows this one. Raises SlotsTaken when that takes more than `seconds`."""
        if self._bucket is None:
            return
        wait = self._bucket.take(1, self._clock.monotonic())
        if wait > seconds:
            self._bucket.give_back(1)
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
