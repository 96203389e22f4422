"""Delivers the event log to one receiver: in order, at least once, whatever dies in between.

How far it is stands in the index (`standing.Standing`, one record a webhook) and moves once the receiver has the event;
events that it is not told of are passed over in memory (`progress.Lag`).
So an event is told again when the keeper dies between the two, with the same id and the same bytes.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import structlog
from holdfast_core.errors import RecordDamaged
from holdfast_core.record import Event as Row
from holdfast_core.record import EventHead
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast import config
from holdfast.clock import Clock
from holdfast.notify.progress import Lag, keep, standing_of
from holdfast.notify.standing import Answer, Standing
from holdfast.notify.told import Told, told_of, topic_of
from holdfast.steps import for_ever
from holdfast.sync.notification import Notifications, body_of, plain_body_of

log = structlog.get_logger()

#: how often the log is looked at while nothing is to be told (seconds)
LOOK_SECONDS = 0.25
#: events that are read at once, and the pause before that (seconds)
PAGE, PAUSE_SECONDS = 200, 0.001


class Posts(Protocol):
    """`receiver.Receiver`, as far as it is needed here."""

    async def post(self, body: bytes) -> Answer: ...


class Webhook:
    """One webhook of this node. `own` says which connected registry this is, "" at the root; `host` is what this node
    is called."""

    def __init__(
        self, hook: config.Webhook, store: Store, receiver: Posts, own: str, host: str, clock: Clock
    ) -> None:
        self.hook, self._receiver = hook, receiver
        self._store, self._clock, self._own, self._host = store, clock, own, host
        self._patterns = Notifications(hook.patterns)
        self.standing = Standing()
        self._kept: Standing | None = None
        self._lag = Lag(clock)
        self._rows: deque[Row] = deque()

    async def take_up(self) -> None:
        """Go on where the last keeper was. A webhook that is new begins with what happens from now on."""
        held = standing_of(self._store, self.hook.name)
        head = self._store.event_head()
        if held is not None:
            self.standing = self._kept = held
        elif head is not None:
            self.standing = Standing(head.log, head.last)
        await self._keep()

    async def run(self) -> None:
        """Deliver, for ever."""
        await for_ever(self.step, self._clock, lambda: LOOK_SECONDS, "webhook", webhook=self.hook.name)

    async def step(self) -> bool:
        """Try one event; False when there is none, or it is not time yet."""
        head = self._store.event_head()
        if head is None:
            return False
        self._follow(head)
        if not self.standing.is_due(self._clock.now()):
            return False
        found = await self._next(head)
        if found is None:
            if self._is_worth_a_write():
                await self._keep()
            return False
        await self._deliver(*found, head)
        return True

    def _follow(self, head: EventHead) -> None:
        """Notice a log that was begun anew, and events that are gone before they were told."""
        standing = self.standing
        if standing.log != head.log:
            if standing.log:
                log.warning("event log begun anew", webhook=self.hook.name, after=standing.number)
            self.standing = replace(standing, log=head.log, number=head.floor, refusals=0)
            self._rows.clear()
        elif head.floor > standing.number and not self._rows:
            self._lose("the event log no longer holds it", head.floor)

    def _lose(self, why: str, upto: int) -> None:
        """Events that nobody can tell any more: how many, nobody knows either; they count as one."""
        log.warning(
            "events dropped", webhook=self.hook.name, reason=why, after=self.standing.number, upto=upto
        )
        self.standing = self.standing.dropped_one(upto, why, self._clock.now())

    async def _next(self, head: EventHead) -> tuple[Row, Told] | None:
        """The next event that is to be told; those before it are passed."""
        while True:
            if not self._rows and not await self._read(head):
                return None
            while self._rows:
                row = self._rows[0]
                if (told := self._wanted(row, head.log)) is not None:
                    return row, told
                self._rows.popleft()
                self._lag.passed(1)
                self.standing = self.standing.passed(row.number)

    async def _read(self, head: EventHead) -> bool:
        """Whether there is more to look at. Gives way first, so that a long log holds up nobody."""
        await self._clock.sleep(PAUSE_SECONDS)
        try:
            self._rows.extend(self._store.events(self.standing.number, PAGE))
        except RecordDamaged:
            self._lose("the event log is damaged", head.last)
        return bool(self._rows)

    def _wanted(self, row: Row, log_id: str) -> Told | None:
        told = told_of(row, log_id, self._own)
        return told if told is not None and self._patterns.matches(told.event) else None

    async def _deliver(self, row: Row, told: Told, head: EventHead) -> None:
        answer = await self._receiver.post(self.body(told))
        now, before = self._clock.now(), self.standing
        if answer.is_taken:
            self._rows.popleft()
            self.standing = before.told(row.number, answer, now)
            if before.failures:
                log.info("webhook is well again", webhook=self.hook.name, failures=before.failures)
        else:
            self.standing = before.failed(answer, now, self._clock.jitter(1.0))
            if not before.failures or before.answer != answer.words:
                log.warning("webhook failed", webhook=self.hook.name, reason=answer.words, id=told.event.id)
            await self._drop(head, now)
        await self._keep()

    async def _drop(self, head: EventHead, now: float) -> None:
        """Give up the event that was just tried when it is time, and with it all that are as old."""
        before = self.standing.dropped
        while (found := await self._next(head)) is not None:
            row, told = found
            if not (why := self.standing.why_drop(row.at, self.hook.keep, now)):
                break
            self._rows.popleft()
            self.standing = self.standing.dropped_one(row.number, why, now)
            last, reason = told.event.id, why
        if count := self.standing.dropped - before:
            log.warning("events dropped", webhook=self.hook.name, events=count, reason=reason, last=last)

    def body(self, told: Told) -> bytes:
        """An event as this receiver wants it."""
        if self.hook.format == "acr":
            return plain_body_of(told.event, told.registry, self._host)
        return body_of(told.event, told.registry, told.topic)

    @property
    def topic(self) -> str:
        """The topic of this node's own events."""
        return topic_of(self._own)

    async def _keep(self) -> None:
        if self.standing == self._kept:
            return
        standing = self.standing
        await keep(self._store, self.hook.name, standing)
        self._kept = standing
        self._lag.written()

    def _is_worth_a_write(self) -> bool:
        """Not when events were passed over and nothing else is new, for a while."""
        kept, now = self._kept, self.standing
        same = kept is not None and replace(kept, number=now.number, refusals=now.refusals) == now
        return not same or self._lag.is_due
