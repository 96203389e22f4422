"""A clock that a test controls: time moves by the test or a sleeper, and never by itself."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

START = 1_800_000_000.0


class FakeClock:
    """`holdfast.clock.Clock` without the machine's time.

    With `jump` (the default) a sleeper moves the clock to its own waking time and continues at once, so code
    that backs off runs in no time and the test reads `slept`. Without it sleepers wait for `advance`.
    `share` is the part of the limit that `jitter` returns (1.0: the longest wait).
    """

    def __init__(self, now: float = START, *, jump: bool = True, share: float = 1.0) -> None:
        self._started, self._elapsed = now, 0.0
        self._jump, self._share = jump, share
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()
        #: the argument of every `sleep`, in order (seconds)
        self.slept: list[float] = []

    def now(self) -> float:
        """Wall time in seconds since 1970."""
        return self._started + self._elapsed

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed

    def jitter(self, limit: float) -> float:
        """`share` of the limit: no chance in a test."""
        return limit * self._share

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of this clock; always gives way to the event loop at least once."""
        self.slept.append(seconds)
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._jump:
            self._elapsed += max(seconds, 0.0)
            asyncio.get_running_loop().call_soon(_wake, woken)
        else:
            heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Move time, and wake all sleepers that are due, in order."""
        self._elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            _wake(heapq.heappop(self._sleepers)[2])

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back, as a person or NTP does; `monotonic` does not notice."""
        self._started += seconds

    @property
    def sleepers(self) -> int:
        """How many wait for `advance` now."""
        return sum(not woken.done() for _, _, woken in self._sleepers)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
