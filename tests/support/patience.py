"""How long tests wait for what has to come. Looks are counted and not seconds, so that a loaded machine has longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

#: (s) what a condition that never holds costs on a machine that has nothing else to do
PATIENCE = 10.0
#: (s) the same where programs of their own start, end or transfer: in tests of real nodes and clients
PROGRAM_PATIENCE = 120.0
LOOK_SECONDS = 0.01


@asynccontextmanager
async def patience() -> AsyncIterator[None]:
    """`asyncio.timeout(PATIENCE)`, by the turns that the event loop got. Raises TimeoutError."""
    loop, is_waiting = asyncio.get_running_loop(), True

    def count(left: int) -> None:
        if is_waiting and left:
            loop.call_later(LOOK_SECONDS, count, left - 1)
        elif is_waiting:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        count(round(PATIENCE / LOOK_SECONDS))
        try:
            yield
        finally:
            is_waiting = False


async def until(condition: Callable[[], bool], look: float = LOOK_SECONDS) -> None:
    """Return when it holds; a test whose condition never does has failed."""
    async with patience():
        while not condition():
            await asyncio.sleep(look)
