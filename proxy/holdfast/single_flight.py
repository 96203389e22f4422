"""One piece of work a key, shared by everyone who asks while it runs.

The work is a task of its own: an asker that leaves cancels nothing, and success and failure reach all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from holdfast.errors import Refusal

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Running work by key."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def join(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """The running task of a key, started with `work` when there is none. Await it shielded."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._land(key, done))
        return task

    async def result(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """`join` and wait for the outcome."""
        return await asyncio.shield(self.join(key, work))

    def _land(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._running[key]
        if task.cancelled():
            return
        error = task.exception()  # seen: an asker that left is no reason for a warning
        if isinstance(error, Refusal):
            # its frames have what was read, megabytes of it, and who waits is in a circle with them
            error.__traceback__ = error.__cause__ = error.__context__ = None

    async def close(self) -> None:
        """Cancel what runs and wait until it is gone."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
