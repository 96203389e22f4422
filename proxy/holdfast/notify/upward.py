"""Tells the parent of a connected registry what happened here and below, as far as `notificationsList` says
(connected-registry 1.6), while the schedule lets it speak.

How far the parent is stands in the index and moves on its word; what it is not told of is passed over in memory
(`progress.Lag`). A batch that it took and whose answer was lost is sent again; the parent knows it by the number and
takes it once. One with a notice that the parent does not understand is sent by halves, until that one is alone. A
parent that refuses a whole order says the same words, so the notice is left out only once the parent takes the one
behind it, or where there is none an order without notices. Otherwise all of it waits, and is sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import structlog
from holdfast_core.errors import RecordDamaged
from holdfast_core.record import Event as Row
from holdfast_core.record import EventHead
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.control.resource import REGISTRY, ConnectedRegistry
from holdfast.gateway.child import Failed, Outcome
from holdfast.gateway.link import Link, NoticesRefused
from holdfast.gateway.message import Notice, Notices, Taken
from holdfast.notify.progress import Lag, Sent, keep_sent, sent_of
from holdfast.notify.told import told_of
from holdfast.repository import Repository
from holdfast.steps import for_ever
from holdfast.sync.backoff import pause
from holdfast.sync.notification import Notifications

log = structlog.get_logger()

#: how often the log is looked at while there is nothing to tell (seconds)
LOOK_SECONDS = 0.25
#: events that are read, and so notices that are sent, at once
PAGE = 200

#: so many in a row are sent alone, twice as many after each failure. When the parent refuses them all, an order without
#: notices no longer shows that it takes any
ROW = 3

#: the instance and generation with which the parent may be spoken to now; None when it may not
Standing = Callable[[], tuple[str, int] | None]


class Upward:
    """The notices of connected registry `name`."""

    def __init__(self, store: Store, name: str, link: Link, standing: Standing, clock: Clock) -> None:
        self._store, self._name, self._link = store, name, link
        self._standing, self._clock = standing, clock
        self._sent = self._kept = sent_of(store)
        self._lag = Lag(clock)
        self._failures, self._due = 0, 0.0
        #: notices that are sent at once; fewer while one is looked for that the parent refuses
        self._most = PAGE
        #: how many are sent alone, when the first of them is refused
        self._reach = ROW
        self._trouble = ""
        #: notices that the parent will never take
        self._lost = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. Uses no network before it returns."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop where it is."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._link.close()

    def notes(self) -> list[str]:
        """Sentences when the parent does not take notices, or never will."""
        found = [f"the parent does not take notices: {self._trouble}"] if self._trouble else []
        if self._lost:
            found.append(
                f"the parent does not understand {self._lost} of the notices since the start: they were left out,"
                " see `notice left out` in the log"
            )
        return found

    async def _run(self) -> None:
        await for_ever(self.step, self._clock, lambda: LOOK_SECONDS, "notices")

    async def step(self) -> bool:
        """Tell the parent of the next events; False when there are none, or it is not time."""
        head = self._store.event_head()
        if head is None:
            if self._sent is None:  # a log that begins after this is told from its beginning
                await self._keep(Sent("", 0))
            return False
        standing = self._standing()
        is_time = standing is not None and self._clock.monotonic() >= self._due
        if self._sent is not None and not is_time:
            return False
        sent = await self._from(head)
        rows = self._rows(sent, head) if is_time else []
        if not rows or standing is None:
            if self._lag.is_due and self._sent != self._kept:
                await self._keep(sent)
            return False
        every = self._notices(rows, head.log)
        notices = every[: self._most]
        last = notices[-1].number if len(notices) < len(every) else rows[-1].number
        answer = await self._told(notices, head.log, *standing) if notices else None
        if isinstance(answer, NoticesRefused) and len(notices) > 1:
            self._most = len(notices) // 2
            return True
        if isinstance(answer, NoticesRefused):
            last = await self._behind(every, answer, head.log, *standing)
        elif answer is not None and not self._is_taken(answer, notices, head.log):
            last = 0
        if not last:
            return False
        self._most = min(PAGE, 2 * self._most)
        self._sent = Sent(head.log, last)
        self._lag.passed(len(rows))
        if notices or self._lag.is_due:
            await self._keep(self._sent)
        return True

    async def _from(self, head: EventHead) -> Sent:
        """Where to go on. A node that tells for the first time begins with what happens from now on."""
        sent = self._sent
        if sent is not None and sent.log == head.log and sent.number >= head.floor:
            return sent
        if sent is not None and sent.log:
            log.warning("notices lost", reason="the event log no longer holds them", after=sent.number)
        begun = Sent(head.log, head.last if sent is None else head.floor)
        await self._keep(begun)
        return begun

    def _rows(self, sent: Sent, head: EventHead) -> list[Row]:
        try:
            return self._store.events(sent.number, PAGE)
        except RecordDamaged:
            log.warning("notices lost", reason="the event log is damaged", after=sent.number, upto=head.last)
            return [Row("push", "repository", "", 0.0, number=head.last)]

    def _notices(self, rows: Sequence[Row], log_id: str) -> tuple[Notice, ...]:
        """What of the rows the parent is told: what came from below, conflicts over tags, and what the list names of
        this node's own."""
        wanted = Notifications(self._list())
        found = []
        for row in rows:
            told = told_of(row, log_id, self._name)
            if told is None or Repository.from_key(row.repository).namespace:
                continue  # what is of other parents is not of this registry
            if row.registry or row.verb == "conflict" or wanted.matches(told.event):
                found.append(Notice(number=row.number, event=told.event, registry=told.registry))
        return tuple(found)

    def _list(self) -> tuple[str, ...]:
        held = self._store.resource(REGISTRY, self._name)
        return (
            () if held is None else msgspec.json.decode(held.body, type=ConnectedRegistry).notifications_list
        )

    async def _told(
        self, notices: tuple[Notice, ...], log_id: str, instance: str, generation: int
    ) -> Taken | NoticesRefused | Outcome:
        said = Notices(instance=instance, generation=generation, log=log_id, notices=notices)
        return await self._link.notices(said)

    async def _behind(
        self,
        notices: tuple[Notice, ...],
        refused: NoticesRefused,
        log_id: str,
        instance: str,
        generation: int,
    ) -> int:
        """The number up to which the parent has all that it will ever take, when it refused the first of the notices
        alone; 0 when it takes nothing, and is left alone for a while."""
        why = [refused.why]
        for notice in notices[1 : self._reach]:
            answer = await self._told((notice,), log_id, instance, generation)
            if not isinstance(answer, NoticesRefused):
                return (
                    self._without(notices, why, notice.number)
                    if self._is_taken(answer, (notice,), log_id)
                    else 0
                )
            why.append(answer.why)
        self._reach = min(PAGE, 2 * self._reach)
        if len(why) >= ROW:
            self._leave_alone(refused, len(notices))
            return 0
        answer = await self._told((), log_id, instance, generation)
        if not self._is_taken(answer, (), log_id):
            return 0
        return self._without(notices, why, notices[len(why) - 1].number)

    def _without(self, notices: tuple[Notice, ...], why: Sequence[str], last: int) -> int:
        """Leave the first of the notices out, for a reason each: the parent has what is behind them, up to `last`."""
        for notice, reason in zip(notices, why, strict=False):
            event = notice.event
            where = {"repository": event.repository, "tag": event.tag}
            log.warning("notice left out", number=notice.number, verb=event.verb, reason=reason, **where)
        self._lost, self._reach = self._lost + len(why), ROW
        return last

    def _is_taken(
        self, answer: Taken | NoticesRefused | Outcome, notices: tuple[Notice, ...], log_id: str
    ) -> bool:
        """Whether the parent has them now; otherwise it is left alone for a while."""
        last = notices[-1].number if notices else 0
        if isinstance(answer, Taken) and answer.log == log_id and answer.number >= last:
            if self._failures:
                log.info("the parent takes notices again")
            self._failures, self._trouble = 0, ""
            return True
        self._leave_alone(answer, len(notices))
        return False

    def _leave_alone(self, answer: Taken | NoticesRefused | Outcome, notices: int) -> None:
        """Ask nothing of a parent for a while that did not take so many notices."""
        why = getattr(answer, "why", "") or f"the parent answered {type(answer).__name__}"
        self._failures += 1
        wait = pause("transient", self._failures, self._clock.jitter(1.0))
        wait = max(wait, answer.retry_after if isinstance(answer, Failed) else 0.0)
        self._due = self._clock.monotonic() + wait
        if why != self._trouble:
            log.warning("notices not taken", reason=why, notices=notices)
            self._trouble = why

    async def _keep(self, sent: Sent) -> None:
        await keep_sent(self._store, sent)
        self._sent = self._kept = sent
        self._lag.written()
