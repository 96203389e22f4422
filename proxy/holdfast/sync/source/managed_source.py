"""The source of a connected registry: its parent configures what is synchronised, and when. The log of a Holdfast
parent is read by long polling; any other parent is polled like the parents of `[sync]`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast.background import for_ever
from holdfast.backoff import pause
from holdfast.config import Configuration
from holdfast.control.catalogue import Catalogue
from holdfast.gateway import full_sync
from holdfast.gateway.agent_state import AccessRefused, Deactivated, NoAnswer, OtherInstanceActive
from holdfast.gateway.gateway_client import GatewayClient, Trimmed, Unlogged
from holdfast.gateway.own_registry import OwnRegistry
from holdfast.gateway.protocol import WAIT_SECONDS, Contents, Messages
from holdfast.log import log
from holdfast.resources.cron import ScheduleInvalid
from holdfast.resources.model import ConnectedRegistry, SyncProperties
from holdfast.sync import schedule as when
from holdfast.sync.holdings import ManifestReader
from holdfast.sync.image_copy import ImageCopy
from holdfast.sync.run_record import RunRecord
from holdfast.sync.run_state import parse_key, retry_parked
from holdfast.sync.source.feed import ContentsQuery, Feed, MessagesQuery
from holdfast.sync.source.feed_applier import FeedApplier, LogReadFailure
from holdfast.sync.source.held_tags import HeldTags
from holdfast.sync.source.polled_source import RunParts
from holdfast.sync.source.scan import ScopeScan, why_kept_local
from holdfast.sync.source.selection import Selection
from holdfast.sync.source.tag_recheck import TagRecheck
from holdfast.timestamps import is_past, seconds

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext

#: a log that was read to its end within this time is not read again before a run (seconds)
FRESH_SECONDS = 60.0
#: interval between checks whether the log is to be read (seconds)
LOOK_SECONDS = 1.0
#: shortest time between two queries without a result (seconds)
LEAST_SECONDS = 1.0
#: longest pause after a query without an answer (seconds)
AWAY_SECONDS = 15.0
#: time after which a parent without a log is queried for one again (seconds)
UNLOGGED_SECONDS = 3600.0
READ = "content/read"


class ManagedSource:
    """See `WorkSource`. `own` has the state of the activation."""

    def __init__(
        self, context: SyncContext, config: Configuration, own: OwnRegistry, client: GatewayClient
    ) -> None:
        self._context, self._clock, self._store = context, context.clock, context.store
        self._config, self._own, self._client = config, own, client
        self._catalogue = Catalogue(context.store)
        self._revision = -1
        self._registry: ConnectedRegistry | None = None
        self.schedule: when.Schedule | None = None
        self._properties: SyncProperties | None = None
        self._selection = Selection.of(config.sync.repositories, ())
        self.feed, self.held = Feed(), HeldTags()
        self._scan: FeedApplier | None = None
        self._share = 0.0
        self._unlogged_at = float("-inf")
        self._read_at = float("-inf")
        self._changed: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def texts(self) -> tuple[str, str]:
        """See `WorkSource`."""
        return (
            ("", "")
            if self._properties is None
            else (self._properties.schedule, self._properties.sync_window or "")
        )

    @property
    def is_ready(self) -> bool:
        """See `WorkSource`."""
        return self._own.is_active

    @property
    def has_changes(self) -> bool:
        """See `WorkSource`."""
        return self.feed.has_ready

    @property
    def _is_logged(self) -> bool:
        """Whether the parent has a log, as far as is known."""
        return self._clock.monotonic() - self._unlogged_at > UNLOGGED_SECONDS

    def tag_decided(self, key: str, *, ours: bool) -> bool:
        """See `WorkSource`. With a log, only this tag is requested."""
        if not self._is_logged:
            return not ours
        self.held.decided(key, self._clock.monotonic(), ours=ours)
        return False

    def follows(self, repository: str, tag: str) -> bool:
        """See `WorkSource`. Only repositories of the default parent are managed."""
        return ":" not in repository and self._selection.follows(repository, tag)

    def covers(self, repository: str) -> bool:
        """See `WorkSource`. Only repositories of the default parent are managed."""
        return ":" not in repository and self._selection.covers(repository)

    def brings_referrers(self, repository: str) -> bool:
        """See `WorkSource`. They are messages of the parent's log, as every manifest is."""
        return self._is_logged and self.covers(repository) and not self._selection.has_rule(repository)

    def requested_at(self, trigger: str) -> float:
        """See `WorkSource`."""
        text = "" if self._registry is None else self._registry.resync_requested
        known = trigger == when.MANUAL and text and not is_past(text, float("-inf"))
        return seconds(text) if known else 0.0

    def start(self, record: RunRecord, share: float, changed: Callable[[], None]) -> None:
        """See `WorkSource`."""
        self.feed, self._share, self._changed = Feed(record.cursor), share, changed
        self.held = HeldTags(record.held, self._waits)
        self._tag_recheck = TagRecheck(self._context, self.held, lambda: self.feed, self._covers)
        self._read_configuration()
        for step, what in (
            (self._listen, "reading the parent's log"),
            (self._recheck_tags, "requesting tags that the outbox has decided on"),
        ):
            work = for_ever(step, self._clock, lambda: LOOK_SECONDS, what)
            self._tasks.append(asyncio.create_task(work))

    async def close(self) -> None:
        """See `WorkSource`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def with_state(self, record: RunRecord) -> RunRecord:
        """See `WorkSource`."""
        return replace(record, cursor=self.feed.kept, held=self.held.rows())

    def with_requests(self, record: RunRecord) -> RunRecord:
        """See `WorkSource`. Full synchronisations are requested by the first activation, a changed scope, the operator,
        and a trimmed log."""
        self._read_configuration()
        if self._registry is None or not self.is_ready:
            return record
        scope, resync = self._selection.scope or (), self._registry.resync_requested
        first = record.result.sync_state == "NotActivated"
        if first:
            record = _with_trigger(record, when.INITIAL)
        elif scope != record.scope:
            record = _with_trigger(record, when.TOKEN_UPDATE)
            record = replace(
                record, job=None if record.job is None else retry_parked(record.job, self._clock.now())
            )
        if resync != record.resync and resync and not first:
            record = _with_trigger(record, when.MANUAL)
            if not record.state.running:  # a run that was stopped before does not fulfil this request
                record = replace(
                    record, result=full_sync.ordered(record.result, full_sync.trigger_of(when.MANUAL))
                )
        is_full = when.broader(record.state.requested, record.state.running) in when.FULL
        if self._is_logged and self.feed.query() is None and not is_full:
            record = _with_trigger(record, when.RECOVERY)
        return replace(record, scope=scope, resync=resync)

    def run_parts(self, reading: ManifestReader, trigger: str, record: RunRecord, *, keeps: bool) -> RunParts:
        """See `WorkSource`."""
        if not self._is_logged:
            every = when.seconds(self._config.sync.referrers_every, "referrers_every")
            copy = ImageCopy(self._context, reading, anew=trigger in when.FULL, every=every)
            return RunParts(ScopeScan(self._context, reading, copy, self._selection, keeps=keeps), (), copy)
        copy = ImageCopy(self._context, reading)
        lists = trigger in when.FULL or not keeps or self.feed.query() is None
        scan = FeedApplier(
            self._context,
            reading,
            copy,
            self._selection,
            self.feed if keeps else Feed(),
            self,
            self._due(record),
            self.held if keeps else HeldTags(),
            lists=lists,
            keeps=keeps,
        )
        if keeps:
            self._scan = scan
        return RunParts(scan, (), copy)

    def _due(self, record: RunRecord) -> list[str]:
        if record.job is None:
            return []
        now = self._clock.now()
        return [key for key, trouble in record.job.troubles.items() if trouble.is_due(now)]

    def _read_configuration(self) -> None:
        """Reads the stored configuration when it has changed."""
        try:
            revision = self._store.documents.revision()
            if revision != self._revision:
                self._apply_configuration()
                self._revision = revision
        except StoreError as error:
            log.error("configuration cannot be read", reason=str(error))

    def _apply_configuration(self) -> None:
        self._registry = self._catalogue.registry(self._own.identity.name)
        if self._registry is None:
            return
        properties = self._registry.parent.sync_properties
        self._selection = Selection.of(self._config.sync.repositories, self._scope(properties.token_id))
        if properties == self._properties:
            return
        self._properties = properties
        try:
            self.schedule = when.Schedule.parse(
                properties.schedule, properties.sync_window, properties.message_ttl
            )
        except ScheduleInvalid as error:
            log.error("schedule is invalid", reason=str(error))

    def _scope(self, token_id: str) -> tuple[str, ...]:
        """Returns the repositories and patterns that the sync token may read."""
        token = self._catalogue.token(token_id)
        scope_map = None if token is None else self._catalogue.scope_map(token.scope_map_id)
        texts = () if scope_map is None else scope_map.actions
        parts = (text.lower().split("/") for text in texts)
        return tuple(
            sorted("/".join(p[1:-2]) for p in parts if p[0] == "repositories" and "/".join(p[-2:]) == READ)
        )

    async def read(self, feed: Feed) -> LogReadFailure | None:
        """See `FeedLog`."""
        failure = await self._read(feed)
        if failure is None and feed is self.feed:
            await self._tag_recheck.step()
        return failure

    async def _read(self, feed: Feed) -> LogReadFailure | None:
        is_fresh = self._clock.monotonic() - self._read_at < FRESH_SECONDS and not feed.is_behind
        if feed is self.feed and is_fresh and isinstance(feed.query(), MessagesQuery):
            return None
        while True:
            if (failure := await self._send(feed, 0.0)) is not None:
                return failure
            if isinstance(feed.query(), MessagesQuery) and not feed.is_behind:
                return None

    async def _send(self, feed: Feed, wait: float) -> LogReadFailure | None:
        """Sends one query. Returns None when it was answered, else why not."""
        query, own = feed.query(), self._own
        instance, generation = own.identity.instance, own.state.generation
        if query is None:
            return LogReadFailure("a full listing of the parent is due")
        answer: object
        if isinstance(query, ContentsQuery):
            answer = await self._client.contents(instance, generation, query.after)
        else:
            answer = await self._client.messages(instance, generation, query.after, wait)
        match answer:
            case Contents():
                feed.add_contents(query.after, answer)
            case Messages():
                feed.add_messages(query.after, answer)
                self._read_at = self._clock.monotonic()
            case Trimmed():
                if query == feed.query():
                    feed.trimmed()
                    self._changed()
                return LogReadFailure(
                    "the parent's log no longer has this node's cursor (410): a full listing follows"
                )
            case Unlogged():
                self._unlogged_at = self._clock.monotonic()
                self._changed()
                return LogReadFailure("the parent has no log: it is polled from now on")
            case _:
                return _failure_of(answer)
        return None

    async def _listen(self) -> bool:
        """Reads the log by long polling until it is cancelled."""
        failures = 0
        while True:
            now, feed = self._clock.now(), self.feed
            closes = self._reads_until(now)
            if closes is None or not isinstance(feed.query(), MessagesQuery):
                await self._clock.sleep(LOOK_SECONDS)
                continue
            wait = 0.0 if feed.is_behind else min(WAIT_SECONDS, closes - now)
            sent_at, seen = self._clock.monotonic(), feed.seen
            failure = await self._send(feed, wait)
            failures = 0 if failure is None else failures + 1
            if failure is not None:
                log.debug("parent's log is not read", reason=failure.reason)
                share = self._clock.jitter(1.0)
                rest = min(AWAY_SECONDS, pause("transient", failures, share))
                await self._clock.sleep(failure.retry_after or rest)
            elif feed.has_ready:
                self._start_run()
            elif feed.seen == seen:
                await self._clock.sleep(max(0.0, sent_at + LEAST_SECONDS - self._clock.monotonic()))

    def _covers(self, repository: str) -> bool:
        return self._selection.covers(repository)

    def _waits(self, key: str, digest: str | None) -> bool:
        """See `HeldTags`. A record that cannot be read is reported by the run."""
        repository, tag, _ = parse_key(key)
        try:
            return bool(why_kept_local(self._context, repository, tag, digest))
        except StoreError:
            return False

    async def _recheck_tags(self) -> bool:
        """Requests the tags that the outbox has decided on, while the log is read."""
        away = self._context.parents[""].state == "offline"
        if not away and self._reads_until(self._clock.now()) is not None and await self._tag_recheck.step():
            self._start_run()
        return False

    def _reads_until(self, now: float) -> float | None:
        """Returns until when the log is read (wall seconds); None while it is not."""
        schedule = self.schedule
        if schedule is None or not self.is_ready or not self._is_logged:
            return None
        if not schedule.continuous and schedule.window is None:
            return None
        return schedule.closes(now, self._share)

    def _start_run(self) -> None:
        """Hands new changes to the run under way, or requests a run for them."""
        if self._scan is not None and self._scan.is_open:
            self._scan.more_ready.set()
        else:
            self._changed()


def _with_trigger(record: RunRecord, trigger: str) -> RunRecord:
    """Returns the record with a request for a run, without the pause after a failure."""
    state = replace(when.request_run(record.state, trigger), again_at=0.0)
    return replace(record, state=state)


def _failure_of(answer: object) -> LogReadFailure:
    match answer:
        case NoAnswer():
            return LogReadFailure(answer.why, answer.retry_after)
        case AccessRefused():
            return LogReadFailure(answer.why)
        case OtherInstanceActive():
            return LogReadFailure("another instance of this connected registry is active")
        case Deactivated():
            return LogReadFailure("the operator deactivated this instance")
    return LogReadFailure(f"the parent's answer {type(answer).__name__} is not expected here")
