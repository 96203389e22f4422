"""Whether what changes here is logged, and for how long: as long as somebody may ask what he missed."""

from __future__ import annotations

import asyncio

import structlog
from holdfast_core.errors import RecordDamaged
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.control.catalogue import Catalogue
from holdfast.control.rules import duration
from holdfast.steps import for_ever

log = structlog.get_logger()

#: between two looks at whether anybody reads the log: a child that was made can follow from then on (seconds)
LOOK_SECONDS = 1.0
#: between two looks at what is too old (seconds)
TRIM_SECONDS = 60.0
#: how long events are kept at least, the default of `messageTtl` (connected-registry 1.2; seconds)
LEAST_SECONDS = 2 * 86400.0
#: events that one transaction takes away; others wait for it, 1,000 take about 5 ms
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
        await self.look()
        if self._clock.monotonic() >= self._trim_at:
            self._trim_at = self._clock.monotonic() + TRIM_SECONDS
            await self.trim()
        return False

    async def look(self) -> None:
        """Begin the log, or end it, as the control plane says now. Raises StoreError."""
        revision = self._store.control_revision()
        if revision != self._revision:
            self._is_read, self._seconds = self._wanted()
            self._revision = revision
        if self._is_read != self._is_kept():
            await asyncio.wrap_future(self._store.keep_events(self._is_read))
            log.info("changes are logged" if self._is_read else "changes are not logged any more")

    async def trim(self) -> None:
        """Take away what nobody can ask for. Raises StoreError."""
        before, keep = self._clock.now() - self._seconds, self._config.gateway.messages
        gone = BATCH
        while gone == BATCH:
            gone = await asyncio.wrap_future(self._store.trim_events(before=before, keep=keep, limit=BATCH))

    def _is_kept(self) -> bool:
        try:
            return self._store.event_head() is not None
        except RecordDamaged:
            return False

    def _wanted(self) -> tuple[bool, float]:
        """(whether anybody reads the log, for how many seconds events are kept)."""
        identity = self._catalogue.identity()
        own = None if identity is None else self._catalogue.registry(identity.name)
        every = self._catalogue.registries()
        below = [one for one in every if own is None or one.name != own.name]
        # a conflict over a tag goes up whatever the list says
        told = own is not None and (own.mode == "ReadWrite" or bool(own.notifications_list))
        lives = (duration(one.parent.sync_properties.message_ttl) for one in every)
        seconds = [life.total_seconds() for life in lives if life is not None]
        # a webhook itself gives up what is too old, and tells of it
        seconds += [hook.keep + HOOK_SECONDS for hook in self._config.webhook]
        return bool(below or told or self._config.webhook), max((LEAST_SECONDS, *seconds))
