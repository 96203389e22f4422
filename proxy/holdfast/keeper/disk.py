"""What a person is told of the disk, and the rounds that find out when it takes writes again."""

from __future__ import annotations

import asyncio

import structlog
from holdfast_core.condition import DiskState
from holdfast_core.errors import StoreError
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.errors import KeeperAway

log = structlog.get_logger()

#: between two looks at a disk that took no write, and at most between two that were in vain (seconds)
PROBE_SECONDS, LONGEST_SECONDS = 1.0, 30.0
#: what every sentence says of a disk, as the original names it (connected-registry 2.5)
CODE = "DiskError"
SENTENCES = {
    DiskState.FULL: "the disk is full: what is held is served, misses pass through unstored, what is pushed is refused;"
    " free space, or delete images",
    DiskState.READ_ONLY: "the file system of the store is read-only: what is held is served, misses pass through"
    " unstored, what is pushed is refused; find the reason in the kernel's log, repair it and mount it for writing",
    DiskState.FAILED: "the disk failed: what is held is served, and nothing is written before the store was opened"
    " anew, which is tried by itself; find the reason in the kernel's log",
}
UNREADABLE = (
    "the disk cannot be read: what is in memory is served, misses pass through unstored, and the store is opened anew"
    " by itself once it can be read; find the reason in the kernel's log, and repair and mount the file system"
)


def sentence(said: str, reason: str) -> str:
    """What is told of a disk."""
    return f"{CODE}: {said} ({reason})"


def unreadable() -> KeeperAway:
    """The refusal of what a process cannot give that did not get to its store. What others have in memory is served."""
    detail = "its operator finds the reason in /readyz"
    return KeeperAway("the disk of this node cannot be read", detail=detail, retry_after=5)


class DiskWatch:
    """Watches the condition of the keeper's store. `failed` is set when the store can only be opened anew, and the disk
    can be read for it: the process must end. As long as it cannot be read, whoever came anew would find less than what
    is in memory here."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self.failed = asyncio.Event()
        self._unreadable = ""
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Say each change in the log, and probe. Call it on the loop."""
        loop, condition = asyncio.get_running_loop(), self._store.condition

        def changed(state: DiskState, reason: str) -> None:
            log.warning("disk condition", condition=str(state), reason=reason)
            if state is DiskState.FAILED and not self._store.is_waiting:
                loop.call_soon_threadsafe(begin)

        def begin() -> None:
            self._looking = asyncio.create_task(self._until_readable())

        condition.changed = changed
        if condition.state is not DiskState.WRITABLE:
            changed(condition.state, condition.reason)
        return asyncio.create_task(self._rounds())

    @property
    def is_failed(self) -> bool:
        """Whether the store can do no work but serve what is held."""
        return self._store.condition.state is DiskState.FAILED

    def sentences(self) -> list[str]:
        """What is the matter, for a person; nothing when nothing is."""
        condition = self._store.condition
        if self._unreadable:
            return [sentence(UNREADABLE, f"{self._unreadable}; {condition.reason}")]
        if (said := SENTENCES.get(condition.state)) is None:
            return []
        return [sentence(said, condition.reason)]

    async def _until_readable(self) -> None:
        """Set `failed` once the disk can be read. A look at a broken one may take long, so it is a thread's."""
        loop, wait = asyncio.get_running_loop(), PROBE_SECONDS
        while found := await loop.run_in_executor(None, self._store.read_failure):
            if not self._unreadable:
                log.error("disk cannot be read", reason=found)
            self._unreadable = found
            await self._clock.sleep(wait)
            wait = min(2 * wait, LONGEST_SECONDS)
        self.failed.set()

    async def close(self) -> None:
        """End the look that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _rounds(self) -> None:
        wait = PROBE_SECONDS
        while True:
            await self._clock.sleep(wait)
            if self._store.is_waiting or self._store.condition.state in (DiskState.FULL, DiskState.READ_ONLY):
                wait = PROBE_SECONDS if await self._probed() else min(2 * wait, LONGEST_SECONDS)

    async def _probed(self) -> bool:
        """Try it; False when the disk took the probe and the store could not be opened all the same."""
        probe = asyncio.get_running_loop().run_in_executor(None, self._store.probe)
        try:
            if await asyncio.shield(probe) and self._store.is_waiting:
                self._store.take_up()
                log.warning("store written again")
        except asyncio.CancelledError:
            await asyncio.wait((probe,))  # the store is closed after this: no thread may be using it then
            raise
        except StoreError as error:
            log.error("store not opened for writing", reason=str(error))
            return False
        return True
