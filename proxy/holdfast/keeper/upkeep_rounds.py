"""The upkeep of the store while the keeper runs: batches of cached content are made durable, abandoned uploads and
unreferenced bytes are removed, the journal is compacted, and every record is verified once a day."""

from __future__ import annotations

import asyncio
import contextlib

from holdfast_core.errors import StoreError, Unwritable
from holdfast_core.filesystem.disk_state import DiskState
from holdfast_core.store import Store

from holdfast.background import BackgroundTasks
from holdfast.clock import Clock
from holdfast.config import PushSection
from holdfast.keeper.fetched_content import committed
from holdfast.keeper.record_repair import RecordRepair
from holdfast.log import log

#: A batch of cached blobs is made durable this often (seconds; design.md, "The store").
SYNC_INTERVAL_SECONDS = 5.0
#: The first sweep after a start, so that a node that is often restarted sweeps at all; a clock without a
#: battery is right by then.
FIRST_SWEEP_SECONDS = 60.0
#: All records of the index are verified once in so long, a thousand at a time with so long between (seconds): a
#: million takes two minutes, and 2.6 s of processor in them (measured, beside other load).
SCRUB_SECONDS, SCRUB_PAUSE_SECONDS = 86_400.0, 0.1


class UpkeepRounds:
    """The rounds of one keeper, as tasks of `tasks`."""

    def __init__(
        self, store: Store, records: RecordRepair, config: PushSection, clock: Clock, tasks: BackgroundTasks
    ) -> None:
        self._store, self._records, self._config = store, records, config
        self._clock, self._tasks = clock, tasks

    def start(self) -> None:
        """Begin the rounds."""
        for rounds in (self._sync_rounds, self._sweep_rounds, self._scrub_rounds):
            self._tasks.begin(rounds())

    async def close(self) -> None:
        """Make everything durable, after the rounds have ended."""
        with contextlib.suppress(Unwritable):
            await committed(self._store.upkeep.sync_cached())

    async def _sync_rounds(self) -> None:
        while True:
            await self._clock.sleep(SYNC_INTERVAL_SECONDS)
            self._store.blobs.let_go()
            try:
                await committed(self._store.upkeep.sync_cached())
            except Unwritable:  # the change of the disk's condition was logged
                if self._store.condition.state is not DiskState.FULL:
                    continue
            except StoreError as error:
                log.error("sync failed", reason=str(error))
            if self._store.upkeep.journal_is_long:
                self._tasks.begin(self._compact())
            if self._store.upkeep.is_pressed:
                await self._sweep()  # deleted content goes at once while the disk is full

    async def _compact(self) -> None:
        before = self._store.statistics().journal_bytes
        try:
            is_done = await asyncio.wrap_future(self._store.upkeep.compact_journal())
        except (OSError, StoreError) as error:
            log.error("journal not compacted", reason=str(error))
            return
        if is_done:
            log.info("journal compacted", before=before, bytes=self._store.statistics().journal_bytes)

    async def _sweep_rounds(self) -> None:
        wait = min(FIRST_SWEEP_SECONDS, self._config.sweep_interval)
        while True:
            await self._clock.sleep(wait)
            wait = self._config.sweep_interval
            await self._sweep()

    async def _sweep(self) -> None:
        try:
            await self.sweep(self._config.expiry, self._config.sweep_grace)
        except (StoreError, OSError) as error:
            log.error("sweep failed", reason=str(error))

    async def sweep(self, expiry: float, grace: float) -> None:
        """Remove upload sessions without a write for `expiry` seconds, and bytes that no repository has had for `grace`
        seconds. Raises StoreError and OSError."""
        now = self._clock.now()
        loop = asyncio.get_running_loop()
        expiring = loop.run_in_executor(None, self._store.uploads.expire, now - expiry)
        try:
            expired = await asyncio.shield(expiring)
        except asyncio.CancelledError:
            await expiring  # the store is closed after this: no thread may be using it then
            raise
        reclaimed = await asyncio.wrap_future(self._store.upkeep.sweep(now=now, grace=grace))
        if expired or reclaimed:
            log.info("store swept", expired_uploads=expired, reclaimed_bytes=reclaimed)

    async def _scrub_rounds(self) -> None:
        """Verify the records after a start, and then once a day: a record that is never read rots as well."""
        wait = FIRST_SWEEP_SECONDS
        while True:
            await self._clock.sleep(wait)
            wait = SCRUB_SECONDS
            try:
                await self._records.scrub(lambda: self._clock.sleep(SCRUB_PAUSE_SECONDS))
            except StoreError as error:
                log.error("records not looked at", reason=str(error))
