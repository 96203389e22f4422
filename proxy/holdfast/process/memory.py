"""Memory that is free is given back to the system.

The C allocator keeps freed memory for the next allocation, and after a flood of large requests that is a hundred
megabytes for good: the node would be accounted as if the flood went on.
"""

from __future__ import annotations

import asyncio
import ctypes

from holdfast.clock import Clock

#: between two rounds (seconds); memory in steady use is not free, and so not given back
ROUND_SECONDS = 10.0

#: glibc's; other C libraries give back by themselves, or not at all
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Do it now. Takes a few milliseconds after a flood, so it is for a thread."""
    if _trim is not None:
        _trim(0)


async def give_back_rounds(clock: Clock) -> None:
    """Do it every few seconds, for as long as the process lives."""
    while True:
        await clock.sleep(ROUND_SECONDS)
        await asyncio.to_thread(give_back)
