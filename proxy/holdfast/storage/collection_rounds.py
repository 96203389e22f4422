"""Garbage collection: by a schedule and on demand, what nothing names is taken away, or counted by a dry run.

A collection walks what is loose in slices and gives each repository's part to transactions of at most 32 digests and
about 80 changes, one after the other, which look at their names once more. So it holds the writer for a few ms at a
time, others commit in between, and a push comes before it or finds the content gone. A dry run puts the same question
to the same rows, a few in each turn of the loop, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from math import inf

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.record import CollectionRule, Departure, ResourceChange
from holdfast_core.store import Store

from holdfast.background import for_ever
from holdfast.clock import Clock, give_way
from holdfast.config import CollectionSection
from holdfast.errors import ControlConflict
from holdfast.log import log
from holdfast.resources.model import GarbageCollection
from holdfast.storage.collection_report import (
    SHOWN,
    CollectedRepository,
    CollectionReport,
    CollectionStatus,
    Trigger,
)
from holdfast.storage.collection_schedule import SteadyTime, next_run, rule_of, settings_of
from holdfast.timestamps import stamp

Loose = list[tuple[str, Digest]]

#: keys that are read at once, and digests of a dry run that are looked at in one turn of the loop
SLICE, TURN = 500, 8
#: between two looks at the schedule, which the parent may have changed, and at the clock (seconds)
LOOK_SECONDS = 60.0
#: the first look after a start: whether parents are there is known then, and a clock without a battery is right
FIRST_LOOK_SECONDS = 60.0
#: between two collections because the disk is full (seconds)
PRESSED_SECONDS = 300.0
#: longest wait for a collection that was ordered before its report so far is returned (seconds); within the 25 s of
#: every answer
ANSWER_SECONDS = 10.0
#: the document that outlasts the process
KIND, NAME = "collection", "self"


class CollectionRecord(msgspec.Struct, frozen=True):
    """When the last collection began, or the node first looked at its schedule (wall seconds); and its report."""

    began: float
    report: CollectionReport | None = None


class Collection:
    """One collection under way. `kept_since` as in `rule_of`, by repository, and `steady` as there."""

    def __init__(
        self,
        store: Store,
        config: CollectionSection,
        kept_since: Callable[[str], float],
        clock: Clock,
        trigger: Trigger,
        *,
        is_dry: bool,
        steady: float = inf,
    ) -> None:
        self._steady = steady
        self._store, self._config, self._kept_since, self._clock = store, config, kept_since, clock
        self._trigger: Trigger = trigger
        self.is_dry, self.began, self._since = is_dry, clock.now(), clock.monotonic()
        self._is_pressed = store.upkeep.is_pressed
        self._digests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._looked_at, self._failure = 0, ""
        self._gone: dict[Digest, set[bytes]] = {}
        self._seconds: float | None = None

    async def run(self) -> None:
        """Walk what is loose, to its end. An error of the store ends it, and is in the report."""
        try:
            after = b""
            while True:
                loose, after = self._store.space.loose(after, limit=SLICE)
                for repository, rows in groupby(loose, key=lambda row: row[0]):
                    await self._take(repository, list(rows))
                if not after:
                    break
        except StoreError as error:
            self._failure = str(error)
        finally:
            self._seconds = self._clock.monotonic() - self._since

    async def _take(self, repository: str, rows: Loose) -> None:
        """What is loose in one repository, part by part."""
        while rows:
            step = self._counted if self.is_dry else self._collected
            departure = await step(repository, rows)
            self._looked_at += len(rows) - departure.left
            rows = rows[len(rows) - departure.left :]
            self._count(repository, departure)

    async def _collected(self, repository: str, rows: Loose) -> Departure:
        future = self._store.space.collect(rows, self._rule_of(repository), now=self._clock.now())
        return await asyncio.wrap_future(future)

    async def _counted(self, repository: str, rows: Loose) -> Departure:
        await give_way()
        rule, now = self._rule_of(repository), self._clock.now()
        part = self._store.space.collectable(rows[:TURN], rule, now=now, gone=self._gone)
        return part._replace(left=len(rows[TURN:]))

    def _rule_of(self, repository: str) -> CollectionRule:
        since = self._kept_since(repository)
        return rule_of(self._config, self.began, since, is_pressed=self._is_pressed, steady=self._steady)

    def _count(self, repository: str, departure: Departure) -> None:
        if departure.digests:
            self._digests[repository] += departure.digests
            self._bytes[repository] += departure.freed_bytes

    def report(self) -> CollectionReport:
        """What it did so far."""
        most = sorted(self._digests, key=lambda name: (-self._bytes[name], -self._digests[name], name))
        took = self._clock.monotonic() - self._since if self._seconds is None else self._seconds
        return CollectionReport(
            dry_run=self.is_dry,
            trigger=self._trigger,
            began=stamp(self.began),
            seconds=round(took, 3),
            looked_at=self._looked_at,
            digests=self._digests.total(),
            bytes=self._bytes.total(),
            repositories=tuple(
                CollectedRepository(name=name, digests=self._digests[name], bytes=self._bytes[name])
                for name in most[:SHOWN]
            ),
            failure=self._failure,
        )


class CollectionRounds:
    """The collections of one node, one at a time. `managed` has what the parent of a connected registry says, None of
    any other node."""

    def __init__(
        self,
        store: Store,
        config: CollectionSection,
        managed: Callable[[], GarbageCollection | None],
        kept_since: Callable[[str], float],
        clock: Clock,
    ) -> None:
        self._store, self._config, self._managed, self._clock = store, config, managed, clock
        self._kept_since = kept_since
        self._settings = settings_of(config, None)
        self._steady = SteadyTime(clock.now(), clock.monotonic())
        self._record = CollectionRecord(clock.now())
        self._current: Collection | None = None
        self._pressed_at = -inf
        self._work: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Collect by the schedule, until cancelled."""
        stored = self._stored_record()
        self._record = stored or self._record
        await self._clock.sleep(FIRST_LOOK_SECONDS)
        if stored is None:  # its first occurrence counts also when the node is off then
            await self._write(self._record)
        await for_ever(self._step, self._clock, self._pause, "garbage collection")

    async def _step(self) -> bool:
        self._steady.seconds(self._clock.now(), self._clock.monotonic())
        self._settings = settings_of(self._config, self._managed())
        is_due = self._next_run() <= self._clock.now()
        if not is_due and not self._makes_room():
            return False
        if not self._is_running:  # by order
            self._begin("Scheduled" if is_due else "FullDisk", is_dry=False)
        await self._ended()
        return True

    def _makes_room(self) -> bool:
        """Whether the disk is full, and nothing was collected for that lately."""
        is_pressed = self._settings.enabled and self._store.upkeep.is_pressed
        if not is_pressed or self._clock.monotonic() - self._pressed_at < PRESSED_SECONDS:
            return False
        self._pressed_at = self._clock.monotonic()
        return True

    def _pause(self) -> float:
        return min(max(self._next_run() - self._clock.now(), 0.0), LOOK_SECONDS)

    def _stored_record(self) -> CollectionRecord | None:
        """None on a node that never collected, and for one that cannot be read."""
        try:
            held = self._store.documents.get(KIND, NAME)
            return None if held is None else msgspec.json.decode(held.body, type=CollectionRecord)
        except (StoreError, msgspec.DecodeError) as error:
            log.error("record of garbage collection cannot be read", reason=str(error))
            return None

    def _next_run(self) -> float:
        return next_run(self._settings, self._record.began, self._clock.now())

    @property
    def _is_running(self) -> bool:
        return self._work is not None and not self._work.done()

    async def _ended(self, seconds: float | None = None) -> None:
        """Wait for the end of the collection under way, at most so long."""
        assert self._work is not None
        await asyncio.wait((self._work,), timeout=seconds)

    def _begin(self, trigger: Trigger, *, is_dry: bool) -> None:
        steady = self._steady.seconds(self._clock.now(), self._clock.monotonic())
        collection = Collection(
            *(self._store, self._config, self._kept_since, self._clock, trigger),
            is_dry=is_dry,
            steady=steady,
        )
        self._current, self._work = collection, asyncio.create_task(self._carried_out(collection))

    async def _carried_out(self, collection: Collection) -> None:
        await collection.run()
        report = collection.report()
        figures = msgspec.structs.asdict(report)
        told = ("trigger", "dry_run", "looked_at", "digests", "bytes", "seconds")
        log.info("garbage collection ended", **{name: figures[name] for name in told})
        if report.failure:
            log.error("garbage collection failed", reason=report.failure)
        if not collection.is_dry:
            self._record = CollectionRecord(collection.began, report)
            await self._write(self._record)

    async def order(self, is_dry: bool, by: str) -> CollectionStatus:
        """Collect now, or count what would go, for an operator. Returns when that is over, or after ten seconds with
        the report so far; the same order joins one that is under way. Raises ControlConflict beside one of the other
        kind."""
        if self._is_running and self._current is not None and self._current.is_dry != is_dry:
            other = "a dry run" if self._current.is_dry else "a collection"
            raise ControlConflict(f"{other} is under way; wait for its end: GET collection shows it")
        if not self._is_running:
            log.info("garbage collection ordered", by=by, dry_run=is_dry)
            self._begin("Ordered", is_dry=is_dry)
        await self._ended(ANSWER_SECONDS)
        return self.status(is_dry=is_dry)

    def status(self, *, is_dry: bool = False) -> CollectionStatus:
        """Whether and when garbage is collected; the report of the collection under way or of the last one, with
        `is_dry` of the last dry run of this process."""
        with contextlib.suppress(
            StoreError
        ):  # a damaged record: what was known of it counts until it is mended
            self._settings = settings_of(self._config, self._managed())
        settings, at = self._settings, self._next_run()
        current, running = self._current, self._is_running
        is_shown = current is not None and (running or (is_dry and current.is_dry))
        return CollectionStatus(
            enabled=settings.enabled,
            schedule=settings.schedule,
            next_run=None if at == inf else stamp(at),
            running=running,
            report=current.report() if current is not None and is_shown else self._record.report,
        )

    async def close(self) -> None:
        """End a collection that is under way; what it has taken stays taken."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _write(self, record: CollectionRecord) -> None:
        body = msgspec.json.encode(record)

        def plan(_: ResourceView) -> list[ResourceChange]:
            return [ResourceChange(KIND, NAME, body)]

        try:
            await asyncio.wrap_future(self._store.documents.change(plan, quiet=frozenset({KIND})))
        except StoreError as error:
            log.error("record of garbage collection cannot be written", reason=str(error))
