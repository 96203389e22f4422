"""What the pushes of a process share: the threads that write and hash, the states of the hashes, and the requests that
run to their end whether their client waits or not."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from holdfast_core.digest import ChunkHasher

from holdfast.errors import ClientGone
from holdfast.log import log

T = TypeVar("T")
#: One blocks for seconds when the kernel throttles writers, or for a sync; hashing keeps cores busy.
THREADS = 4
#: states of hashes; each is about 100 bytes for each MiB it covers (its chunk table)
LIMIT = 256
#: a push whose client is gone may take so long to end before its files are closed (seconds)
FINISH_SECONDS = 5.0


class Hashes:
    """How far this process hashed the bytes of each session: states by the session's name. Beyond `limit` the least
    recently used is dropped.

    A state at some offset stays true while its session lives: what it covers was acknowledged, or was left in place by
    a connection that broke off, and neither is taken back. So a state that lags behind, because another process wrote
    in between, is continued from the file. A missing one starts again from byte 0.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._states: OrderedDict[str, tuple[str, ChunkHasher]] = OrderedDict()

    def take(self, name: str, algorithm: str, size: int) -> ChunkHasher:
        """The state to go on from, now the caller's: at most `size` bytes far, perhaps 0."""
        kept, hasher = self._states.pop(name, (algorithm, ChunkHasher(algorithm)))
        return hasher if kept == algorithm and hasher.size <= size else ChunkHasher(algorithm)

    def keep(self, name: str, algorithm: str, hasher: ChunkHasher) -> None:
        """Remember a state."""
        if hasher.size:
            self._states[name] = (algorithm, hasher)
        if len(self._states) > self._limit:
            self._states.popitem(last=False)

    def forget(self, name: str) -> None:
        """The session is over."""
        self._states.pop(name, None)

    def __len__(self) -> int:
        return len(self._states)


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="push")


@dataclass(eq=False)
class PushContext:
    """One a process. Threads start with the first push."""

    hashes: Hashes = field(default_factory=Hashes)
    threads: ThreadPoolExecutor = field(default_factory=_threads)
    #: held while the directory of sessions is listed, on a thread
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

    async def finish(self) -> None:
        """Wait for what no request waits for any more, before the store is closed under it."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=FINISH_SECONDS)


def _left(task: asyncio.Task[Any]) -> None:
    """Log the failure of a task that no request waits for any more. A client that went is none."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, ClientGone):
        log.warning("push failed unseen", error=str(error), kind=type(error).__name__)
