"""What every push of a worker works with: the threads that write and hash, the states of the hashes, and the
requests that are seen through to their end whether their client waits or not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from holdfast.push.hashes import Hashes

log = structlog.get_logger()

T = TypeVar("T")
#: One blocks for seconds when the kernel throttles writers, or for a sync; hashing keeps cores busy.
THREADS = 4


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="push")


@dataclass(eq=False)
class Means:
    """One a process. Threads start with the first push."""

    hashes: Hashes = field(default_factory=Hashes)
    threads: ThreadPoolExecutor = field(default_factory=_threads)
    #: who lists the directory of sessions: one at a time, on a thread
    listing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _under_way: set[asyncio.Task[Any]] = field(default_factory=set)

    async def see_through(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on when the caller is cancelled: what began to change a session
        finishes or is undone, and the file is not closed under a thread."""
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_left)
            raise
        finally:
            del task  # it has the error, and the error's trace has this frame


def _left(task: asyncio.Task[Any]) -> None:
    """Nobody waited for the end of this one, so how it failed is told here."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("push failed unseen", error=str(error), kind=type(error).__name__)
