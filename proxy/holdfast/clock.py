"""Time and chance, passed in everywhere, so that a test can own both. Only this file imports them."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks and a die. `now` is wall time (seconds since 1970), `monotonic` never steps."""

    def now(self) -> float: ...
    def monotonic(self) -> float: ...
    def jitter(self, limit: float) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own."""

    def now(self) -> float:
        """Wall time in seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps."""
        return time.monotonic()

    def jitter(self, limit: float) -> float:
        """A random number of seconds from 0 to `limit` (full jitter)."""
        return random.uniform(0, limit)

    async def sleep(self, seconds: float) -> None:
        """Give way for `seconds`."""
        await asyncio.sleep(seconds)


async def give_way() -> None:
    """Let everything else that is ready have its turn; no time passes."""
    await asyncio.sleep(0)
