"""The condition of the disk: sentences about it for the operator, and the probes that find out when it takes writes
again."""

from __future__ import annotations

import asyncio

from holdfast_core.errors import StoreError
from holdfast_core.filesystem.disk_state import DiskState
from holdfast_core.store import Store

from holdfast.background import BackgroundTasks
from holdfast.clock import Clock
from holdfast.errors import KeeperAway
from holdfast.log import log

#: between two probes of a disk that took no write, and at most between two that failed (seconds)
PROBE_SECONDS, LONGEST_SECONDS = 1.0, 30.0
#: the error code in every sentence about the disk, as the original names it (references.md 1.9)
CODE = "DiskError"
SENTENCES = {
    DiskState.FULL: "the disk is full: what is held is served, misses pass through unstored, what is pushed is refused;"
    " free space or inodes (df, df -i), or delete images",
    DiskState.READ_ONLY: "the file system of the store is read-only: what is held is served, misses pass through"
    " unstored, what is pushed is refused; find the reason in the kernel's log, repair it and mount it for writing",
    DiskState.FAILED: "the disk failed: what is held is served, and nothing is written before the store was opened"
    " anew, which is tried by itself; find the reason in the kernel's log",
}
UNREADABLE = (
    "the disk cannot be read: what is in memory is served, misses pass through unstored, and the store is opened anew"
    " by itself once it can be read; find the reason in the kernel's log, and repair and mount the file system"
)


def sentence(description: str, reason: str) -> str:
    """The sentence about a condition of the disk, with its code and reason."""
    return f"{CODE}: {description} ({reason})"


def unreadable() -> KeeperAway:
    """The refusal of a process that cannot read its store. Other processes serve what they have in memory."""
    detail = "its operator finds the reason in /readyz"
    return KeeperAway("the disk of this node cannot be read", detail=detail, retry_after=5)


class DiskWatch:
    """Watches the condition of the keeper's store. `failed` is set when the store has to be opened again and the disk
    can be read for it: the process must end. As long as it cannot be read, the next process would have less than what
    is in memory here."""

    def __init__(self, store: Store, clock: Clock, tasks: BackgroundTasks) -> None:
        self._store, self._clock, self._tasks = store, clock, tasks
        self.failed = asyncio.Event()
        self._unreadable = ""
        self._probed_at = -PROBE_SECONDS

    def start(self) -> None:
        """Log each change, and probe. Call it on the loop."""
        loop, condition = asyncio.get_running_loop(), self._store.condition

        def changed(state: DiskState, reason: str) -> None:
            log.warning("disk condition", condition=str(state), reason=reason)
            if state is DiskState.FAILED and not self._store.is_waiting:
                loop.call_soon_threadsafe(lambda: self._tasks.begin(self._until_readable()))

        condition.subscribe(changed)
        if condition.state is not DiskState.WRITABLE:
            changed(condition.state, condition.reason)
        self._tasks.begin(self._rounds())

    @property
    def is_failed(self) -> bool:
        """Whether the store can do no work but serve what is held."""
        return self._store.condition.state is DiskState.FAILED

    def sentences(self) -> list[str]:
        """What is wrong with the disk and what to do, for the operator; none when it takes writes."""
        condition = self._store.condition
        if self._unreadable:
            return [sentence(UNREADABLE, f"{self._unreadable}; {condition.reason}")]
        if (description := SENTENCES.get(condition.state)) is None:
            return []
        return [sentence(description, condition.reason)]

    async def check(self) -> None:
        """Probe whether the disk takes a write, because one was refused: a worker writes uploads, and an upload for
        which there is no room does not show that the disk is full. A disk that is known to take none is not probed."""
        now = self._clock.monotonic()
        if self._store.condition.state is DiskState.WRITABLE and now - self._probed_at >= PROBE_SECONDS:
            self._probed_at = now
            await self._probe()

    async def _until_readable(self) -> None:
        """Set `failed` once the disk can be read. To read a broken disk may take long, so a thread does it."""
        loop, wait = asyncio.get_running_loop(), PROBE_SECONDS
        while failure := await loop.run_in_executor(None, self._store.read_failure):
            if not self._unreadable:
                log.error("disk cannot be read", reason=failure)
            self._unreadable = failure
            await self._clock.sleep(wait)
            wait = min(2 * wait, LONGEST_SECONDS)
        self.failed.set()

    async def _rounds(self) -> None:
        wait = PROBE_SECONDS
        while True:
            await self._clock.sleep(wait)
            if self._store.is_waiting or self._store.condition.state in (DiskState.FULL, DiskState.READ_ONLY):
                wait = PROBE_SECONDS if await self._probe() else min(2 * wait, LONGEST_SECONDS)

    async def _probe(self) -> bool:
        """Try a write; False when the disk took it and the store could not be opened for writing all the same."""
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
