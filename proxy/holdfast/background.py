"""Background work: tasks that end with their owner, and steps that are repeated whatever becomes of one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from holdfast_core.errors import StoreError

from holdfast.clock import Clock
from holdfast.errors import Refusal
from holdfast.log import log


class BackgroundTasks:
    """Tasks that run beside everything else until they are done, or are cancelled together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it as a task of its own."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all of them and wait until they have ended."""
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def for_ever(
    step: Callable[[], Awaitable[bool]], clock: Clock, pause: Callable[[], float], what: str, **who: str
) -> None:
    """Take steps until cancelled. One that did nothing (False), or failed, is followed by a pause (seconds). A failure
    is logged with `what` and `who`; work that ended at the first surprise would not be missed until it was
    needed."""
    while True:
        moved = False
        try:
            moved = await step()
        except (StoreError, Refusal) as error:
            log.error(f"{what} stopped for now", reason=str(error), **who)
        except Exception:
            log.exception(f"{what} failed", **who)
        if not moved:
            await clock.sleep(pause())


async def rest(clock: Clock, seconds: float, woken: asyncio.Event) -> None:
    """Wait until the time is over or the event is set, and clear it."""
    pause = asyncio.create_task(clock.sleep(seconds))
    event = asyncio.create_task(woken.wait())
    try:
        await asyncio.wait({pause, event}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pause.cancel()
        event.cancel()
        woken.clear()
