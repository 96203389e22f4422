"""The source of a connected registry: its parent says what is synchronised and when. A Holdfast parent is asked for its
log, which it holds open while nothing happens; any other is polled like the parents of `[sync]`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast.config import Configuration
from holdfast.control.catalogue import Catalogue
from holdfast.control.moment import is_past, seconds
from holdfast.control.resource import ConnectedRegistry, SyncProperties
from holdfast.gateway.child import CutLoose, Denied, Elsewhere, Failed
from holdfast.gateway.link import Link, Trimmed, Unlogged
from holdfast.gateway.message import WAIT_SECONDS, Contents, Messages
from holdfast.gateway.rounds import Rounds
from holdfast.replica.again import Again
from holdfast.replica.copy import Copy
from holdfast.replica.holdings import Reading
from holdfast.replica.look import ScopeLook, outweighed
from holdfast.replica.memory import Memory
from holdfast.replica.source import Search
from holdfast.replica.told import Told, Unread
from holdfast.steps import for_ever
from holdfast.sync import full
from holdfast.sync import schedule as when
from holdfast.sync.backoff import pause
from holdfast.sync.cron import ScheduleInvalid
from holdfast.sync.feed import AskContents, AskMessages, Feed
from holdfast.sync.held import Held
from holdfast.sync.wanted import Wanted
from holdfast.sync.work import granted, named

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

log = structlog.get_logger()

#: a log that was read to its end so short a time ago is not asked before a run (seconds)
HEARD_SECONDS = 60.0
#: whether there is something to listen to is looked at this often (seconds)
LOOK_SECONDS = 1.0
#: between two questions that brought nothing, whatever the parent does (seconds)
LEAST_SECONDS = 1.0
#: a parent that does not answer is asked again after at most this (seconds)
AWAY_SECONDS = 15.0
#: a parent without a log is asked for it again after this (seconds)
UNLOGGED_SECONDS = 3600.0
READ = "content/read"


class Managed:
    """See `Source`. `rounds` knows whether this instance is the active one; `link` is closed with this."""

    def __init__(self, keeper: Keeper, config: Configuration, rounds: Rounds, link: Link) -> None:
        self._keeper, self._clock, self._store = keeper, keeper.clock, keeper.store
        self._config, self._rounds, self._link = config, rounds, link
        self._catalogue = Catalogue(keeper.store)
        self._revision = -1
        self._registry: ConnectedRegistry | None = None
        self.schedule: when.Schedule | None = None
        self._said: SyncProperties | None = None
        self._wanted = Wanted.of(config.sync.repositories, ())
        self.feed, self.held = Feed(), Held()
        self._look: Told | None = None
        self._share = 0.0
        self._unlogged_at = float("-inf")
        self._heard_at = float("-inf")
        self._changed: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []

    # ---- what a replica asks

    @property
    def texts(self) -> tuple[str, str]:
        """See `Source`."""
        return ("", "") if self._said is None else (self._said.schedule, self._said.sync_window or "")

    @property
    def is_ready(self) -> bool:
        """See `Source`."""
        return self._rounds.child.active

    @property
    def waits(self) -> bool:
        """See `Source`."""
        return self.feed.waits

    @property
    def _is_logged(self) -> bool:
        """Whether the parent has a log, as far as was asked."""
        return self._clock.monotonic() - self._unlogged_at > UNLOGGED_SECONDS

    def decided(self, key: str, *, ours: bool) -> bool:
        """See `Source`. Where there is a log it is asked for this tag alone."""
        if not self._is_logged:
            return not ours
        self.held.decided(key, self._clock.monotonic(), ours=ours)
        return False

    def follows(self, repository: str, tag: str) -> bool:
        """See `Source`. What is managed is the default parent's alone."""
        return ":" not in repository and self._wanted.follows(repository, tag)

    def asked_at(self, trigger: str) -> float:
        """See `Source`."""
        text = "" if self._registry is None else self._registry.resync_requested
        known = trigger == when.MANUAL and text and not is_past(text, float("-inf"))
        return seconds(text) if known else 0.0

    def start(self, memory: Memory, share: float, changed: Callable[[], None]) -> None:
        """See `Source`."""
        self.feed, self._share, self._changed = Feed(memory.cursor), share, changed
        self.held = Held(memory.held, self._waits)
        self._again = Again(self._keeper, self.held, lambda: self.feed, self._covers)
        self._take_up()
        for step, what in (
            (self._listen, "listening to the parent's log"),
            (self._ask_again, "asking for tags that the outbox is through with"),
        ):
            work = for_ever(step, self._clock, lambda: LOOK_SECONDS, what)
            self._tasks.append(asyncio.create_task(work))

    async def close(self) -> None:
        """See `Source`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()

    def remembered(self, memory: Memory) -> Memory:
        """See `Source`."""
        return replace(memory, cursor=self.feed.kept, held=self.held.rows())

    def notice(self, memory: Memory) -> Memory:
        """The first activation, another scope, the operator's wish, a log that was trimmed."""
        self._take_up()
        if self._registry is None or not self.is_ready:
            return memory
        scope, resync = self._wanted.scope or (), self._registry.resync_requested
        first = memory.result.sync_state == "NotActivated"
        if first:
            memory = _asking(memory, when.INITIAL)
        elif scope != memory.scope:
            memory = _asking(memory, when.TOKEN_UPDATE)
            memory = replace(
                memory, job=None if memory.job is None else granted(memory.job, self._clock.now())
            )
        if resync != memory.resync and resync and not first:
            memory = _asking(memory, when.MANUAL)
            if not memory.state.running:  # one that was cut off before does not answer this wish
                memory = replace(memory, result=full.asked_for(memory.result, full.trigger_of(when.MANUAL)))
        is_full = when.later(memory.state.asked, memory.state.running) in when.FULL
        if self._is_logged and self.feed.question() is None and not is_full:
            memory = _asking(memory, when.RECOVERY)
        return replace(memory, scope=scope, resync=resync)

    def search(self, reading: Reading, trigger: str, memory: Memory, *, keeps: bool) -> Search:
        """See `Source`."""
        if not self._is_logged:
            every = when.seconds(self._config.sync.referrers_every, "referrers_every")
            copy = Copy(self._keeper, reading, anew=trigger in when.FULL, every=every)
            return Search(ScopeLook(self._keeper, reading, copy, self._wanted, keeps=keeps), (), copy)
        copy = Copy(self._keeper, reading)
        lists = trigger in when.FULL or not keeps or self.feed.question() is None
        look = Told(
            self._keeper,
            reading,
            copy,
            self._wanted,
            self.feed if keeps else Feed(),
            self,
            self._due(memory),
            self.held if keeps else Held(),
            lists=lists,
            keeps=keeps,
        )
        if keeps:
            self._look = look
        return Search(look, (), copy)

    def _due(self, memory: Memory) -> list[str]:
        if memory.job is None:
            return []
        now = self._clock.now()
        return [key for key, found in memory.job.troubles.items() if found.is_due(now)]

    # ---- what the parent said

    def _take_up(self) -> None:
        """The configuration that is held, when it is another."""
        try:
            revision = self._store.control_revision()
            if revision != self._revision:
                self._configured()
                self._revision = revision
        except StoreError as error:
            log.error("configuration cannot be read", reason=str(error))

    def _configured(self) -> None:
        self._registry = self._catalogue.registry(self._rounds.identity.name)
        if self._registry is None:
            return
        said = self._registry.parent.sync_properties
        self._wanted = Wanted.of(self._config.sync.repositories, self._scope(said.token_id))
        if said == self._said:
            return
        self._said = said
        try:
            self.schedule = when.Schedule.parse(said.schedule, said.sync_window, said.message_ttl)
        except ScheduleInvalid as error:
            log.error("schedule cannot be kept", reason=str(error))

    def _scope(self, token_id: str) -> tuple[str, ...]:
        """Repositories and patterns that the sync token may read."""
        token = self._catalogue.token(token_id)
        scope_map = None if token is None else self._catalogue.scope_map(token.scope_map_id)
        texts = () if scope_map is None else scope_map.actions
        parts = (text.lower().split("/") for text in texts)
        return tuple(
            sorted("/".join(p[1:-2]) for p in parts if p[0] == "repositories" and "/".join(p[-2:]) == READ)
        )

    # ---- the parent's log

    async def read(self, feed: Feed) -> Unread | None:
        """See `told.Log`."""
        unread = await self._read(feed)
        if unread is None and feed is self.feed:
            await self._again.step()
        return unread

    async def _read(self, feed: Feed) -> Unread | None:
        is_fresh = self._clock.monotonic() - self._heard_at < HEARD_SECONDS and not feed.is_behind
        if feed is self.feed and is_fresh and isinstance(feed.question(), AskMessages):
            return None
        while True:
            if (unread := await self._ask(feed, 0.0)) is not None:
                return unread
            if isinstance(feed.question(), AskMessages) and not feed.is_behind:
                return None

    async def _ask(self, feed: Feed, wait: float) -> Unread | None:
        """One question; None when it was answered."""
        question, rounds = feed.question(), self._rounds
        instance, generation = rounds.identity.instance, rounds.child.generation
        if question is None:
            return Unread("the parent's log is to be read anew")
        found: object
        if isinstance(question, AskContents):
            found = await self._link.contents(instance, generation, question.after)
        else:
            found = await self._link.messages(instance, generation, question.after, wait)
        match found:
            case Contents():
                feed.contents(question.after, found)
            case Messages():
                feed.messages(question.after, found)
                self._heard_at = self._clock.monotonic()
            case Trimmed():
                if question == feed.question():
                    feed.gone()
                    self._changed()
                return Unread("the parent keeps its log not so far back (410): all is listed anew")
            case Unlogged():
                self._unlogged_at = self._clock.monotonic()
                self._changed()
                return Unread("the parent has no log: it is polled from now on")
            case _:
                return _unread(found)
        return None

    async def _listen(self) -> bool:
        """Hear of changes for as long as nothing fails."""
        failures = 0
        while True:
            now, feed = self._clock.now(), self.feed
            closes = self._closes(now)
            if closes is None or not isinstance(feed.question(), AskMessages):
                await self._clock.sleep(LOOK_SECONDS)
                continue
            wait = 0.0 if feed.is_behind else min(WAIT_SECONDS, closes - now)
            asked, seen = self._clock.monotonic(), feed.seen
            unread = await self._ask(feed, wait)
            failures = 0 if unread is None else failures + 1
            if unread is not None:
                log.debug("parent's log is not read", reason=unread.why)
                share = self._clock.jitter(1.0)
                rest = min(AWAY_SECONDS, pause("transient", failures, share))
                await self._clock.sleep(unread.retry_after or rest)
            elif feed.waits:
                self._came()
            elif feed.seen == seen:
                await self._clock.sleep(max(0.0, asked + LEAST_SECONDS - self._clock.monotonic()))

    def _covers(self, repository: str) -> bool:
        return self._wanted.covers(repository)

    def _waits(self, key: str, word: str | None) -> bool:
        """See `Held`. A record that cannot be read is for the run to tell."""
        repository, tag, _ = named(key)
        try:
            return bool(outweighed(self._keeper, repository, tag, word))
        except StoreError:
            return False

    async def _ask_again(self) -> bool:
        """Ask for tags of which the outbox decided, while the parent is listened to."""
        away = self._keeper.parents[""].state == "offline"
        if not away and self._closes(self._clock.now()) is not None and await self._again.step():
            self._came()
        return False

    def _closes(self, now: float) -> float | None:
        """Until when the parent is listened to; None while it is not."""
        schedule = self.schedule
        if schedule is None or not self.is_ready or not self._is_logged:
            return None
        if not schedule.continuous and schedule.window is None:
            return None
        return schedule.closes(now, self._share)

    def _came(self) -> None:
        """To the run that is under way, or to one of its own."""
        if self._look is not None and self._look.is_open:
            self._look.news.set()
        else:
            self._changed()


def _asking(memory: Memory, trigger: str) -> Memory:
    """The parent has a reason for it now, whatever failed before."""
    state = replace(when.asked(memory.state, trigger), again_at=0.0)
    return replace(memory, state=state)


def _unread(found: object) -> Unread:
    match found:
        case Failed():
            return Unread(found.why, found.retry_after)
        case Denied():
            return Unread(found.why)
        case Elsewhere():
            return Unread("another instance of this connected registry is active")
        case CutLoose():
            return Unread("the operator deactivated this instance")
    return Unread("the parent's answer means nothing here")
