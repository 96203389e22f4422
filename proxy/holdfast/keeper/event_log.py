"""Keeps the log of changes while it has readers, and trims it: an event stays as long as a reader may request it."""

from __future__ import annotations

import asyncio

from holdfast_core.errors import RecordDamaged
from holdfast_core.store import Store

from holdfast.background import for_ever
from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.control.catalogue import Catalogue
from holdfast.log import log
from holdfast.timestamps import duration

#: between two checks whether the log has readers; a child that was created can read it from then on (seconds)
LOOK_SECONDS = 1.0
#: between two removals of events that are too old (seconds)
TRIM_SECONDS = 60.0
#: how long events are kept at least, the default of `messageTtl` (references.md 1.1; seconds)
LEAST_SECONDS = 2 * 86400.0
#: events that one transaction removes; others wait for it, 1,000 take about 5 ms
BATCH = 1000
#: events stay so much longer than a webhook wants them (seconds): a pause between two tries, and one between two trims
HOOK_SECONDS = 3600.0


class EventLog:
    """Keeps the log of one node while it is read."""

    def __init__(self, store: Store, config: Configuration, clock: Clock) -> None:
        self._store, self._config, self._clock = store, config, clock
        self._catalogue = Catalogue(store)
        self._revision = -1
        self._is_read, self._seconds = False, LEAST_SECONDS
        self._trim_at = 0.0

    async def run(self) -> None:
        """Look after it until cancelled."""
        self._trim_at = self._clock.monotonic()
        await for_ever(self._step, self._clock, lambda: LOOK_SECONDS, "log of changes")

    async def _step(self) -> bool:
        await self.update()
        if self._clock.monotonic() >= self._trim_at:
            self._trim_at = self._clock.monotonic() + TRIM_SECONDS
            await self.trim()
        return False

    async def update(self) -> None:
        """Begin the log, or end it, by the present control plane. Raises StoreError."""
        revision = self._store.documents.revision()
        if revision != self._revision:
            self._is_read, self._seconds = self._readers()
            self._revision = revision
        if self._is_read != self._is_kept():
            await asyncio.wrap_future(self._store.events.keep(self._is_read))
            log.info("changes are logged" if self._is_read else "changes are not logged any more")

    async def trim(self) -> None:
        """Remove the events that no reader can ask for. Raises StoreError."""
        before, keep = self._clock.now() - self._seconds, self._config.gateway.messages
        gone = BATCH
        while gone == BATCH:
            gone = await asyncio.wrap_future(self._store.events.trim(before=before, keep=keep, limit=BATCH))

    def _is_kept(self) -> bool:
        try:
            return self._store.events.head() is not None
        except RecordDamaged:
            return False

    def _readers(self) -> tuple[bool, float]:
        """(whether the log has readers, for how many seconds events are kept)."""
        identity = self._catalogue.identity()
        own = None if identity is None else self._catalogue.registry(identity.name)
        every = self._catalogue.registries()
        below = [one for one in every if own is None or one.name != own.name]
        # a conflict over a tag is sent to the parent whatever the list has
        notifies = own is not None and (own.mode == "ReadWrite" or bool(own.notifications_list))
        lives = (duration(one.parent.sync_properties.message_ttl) for one in every)
        seconds = [life.total_seconds() for life in lives if life is not None]
        # a webhook drops events that are too old, and reports that
        seconds += [hook.keep + HOOK_SECONDS for hook in self._config.webhook]
        return bool(below or notifies or self._config.webhook), max((LEAST_SECONDS, *seconds))
