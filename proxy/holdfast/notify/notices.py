"""Sends events of this node and of those below it to the parent of a connected registry, as notices: those that
`notificationsList` selects (references.md 1.5), while the window of the schedule is open.

The cursor is in the index and moves when the parent accepts a batch; events that are not sent are skipped in memory
(`delivery_record.Lag`). A batch whose answer was lost is sent again, and the parent recognises it by its number. A
batch with a notice that the parent does not understand is halved until that notice is alone. A parent that refuses
every request gives the same answer, so the notice is left out only after the parent accepted the next one, or, without
a next one, a request without notices. Until then all of them wait and are sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
from holdfast_core.errors import RecordDamaged
from holdfast_core.record import EventHead, EventRecord
from holdfast_core.store import Store

from holdfast.background import for_ever
from holdfast.backoff import pause
from holdfast.clock import Clock
from holdfast.gateway.agent_state import NoAnswer, Outcome
from holdfast.gateway.gateway_client import GatewayClient, NoticesRefused
from holdfast.gateway.protocol import Notices, Taken
from holdfast.log import log
from holdfast.notify.delivery_record import Lag, Sent, keep_sent, sent_of
from holdfast.notify.event import outgoing_event
from holdfast.resources.model import REGISTRY, ConnectedRegistry
from holdfast.resources.notification import Notice, Notifications
from holdfast.routing import Repository

#: how often the log is read while there is nothing to send (seconds)
LOOK_SECONDS = 0.25
#: events that are read at once, and so the most notices in one request
PAGE = 200

#: so many notices in a row are sent one by one, twice as many after each failure. When the parent refuses all of them,
#: a request without notices no longer shows that it accepts any
ROW = 3

#: the instance and generation with which requests to the parent are allowed now; None while they are not
ActiveInstance = Callable[[], tuple[str, int] | None]


class NoticeSender:
    """Sends the notices of connected registry `name`."""

    def __init__(
        self, store: Store, name: str, link: GatewayClient, active: ActiveInstance, clock: Clock
    ) -> None:
        self._store, self._name, self._link = store, name, link
        self._active_instance, self._clock = active, clock
        self._sent = self._kept = sent_of(store)
        self._lag = Lag(clock)
        self._failures, self._due = 0, 0.0
        #: notices in one request; fewer during the search for one that the parent refuses
        self._batch = PAGE
        #: how many are sent one by one after the first of them was refused
        self._singles = ROW
        self._trouble = ""
        #: notices that were left out
        self._lost = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the task. Uses no network before it returns."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stops the task."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def notes(self) -> list[str]:
        """Returns sentences for /readyz while the parent does not accept notices, and about those that were left
        out."""
        sentences = [f"the parent does not accept notices: {self._trouble}"] if self._trouble else []
        if self._lost:
            sentences.append(
                f"the parent does not understand {self._lost} of the notices since the start: they were left out,"
                " see `notice left out` in the log"
            )
        return sentences

    async def _run(self) -> None:
        await for_ever(self.step, self._clock, lambda: LOOK_SECONDS, "notices")

    async def step(self) -> bool:
        """Sends the next notices. Returns False when there are none, or requests are not allowed now."""
        head = self._store.events.head()
        if head is None:
            if self._sent is None:  # a log that starts later is sent from its beginning
                await self._keep(Sent("", 0))
            return False
        active = self._active_instance()
        is_time = active is not None and self._clock.monotonic() >= self._due
        if self._sent is not None and not is_time:
            return False
        sent = await self._cursor(head)
        rows = self._rows(sent, head) if is_time else []
        if not rows or active is None:
            if self._lag.is_due and self._sent != self._kept:
                await self._keep(sent)
            return False
        every = self._notices(rows, head.log)
        notices = every[: self._batch]
        last = notices[-1].number if len(notices) < len(every) else rows[-1].number
        answer = await self._send(notices, head.log, *active) if notices else None
        if isinstance(answer, NoticesRefused) and len(notices) > 1:
            self._batch = len(notices) // 2
            return True
        if isinstance(answer, NoticesRefused):
            last = await self._refused(every, answer, head.log, *active)
        elif answer is not None and not self._is_taken(answer, notices, head.log):
            last = 0
        if not last:
            return False
        self._batch = min(PAGE, 2 * self._batch)
        self._sent = Sent(head.log, last)
        self._lag.passed(len(rows))
        if notices or self._lag.is_due:
            await self._keep(self._sent)
        return True

    async def _cursor(self, head: EventHead) -> Sent:
        """Returns the cursor to send from. A node without one begins with the next event."""
        sent = self._sent
        if sent is not None and sent.log == head.log and sent.number >= head.floor:
            return sent
        if sent is not None and sent.log:
            log.warning("notices lost", reason="the event log no longer holds them", after=sent.number)
        begun = Sent(head.log, head.last if sent is None else head.floor)
        await self._keep(begun)
        return begun

    def _rows(self, sent: Sent, head: EventHead) -> list[EventRecord]:
        try:
            return self._store.events.after(sent.number, PAGE)
        except RecordDamaged:
            log.warning("notices lost", reason="the event log is damaged", after=sent.number, upto=head.last)
            return [EventRecord("push", "repository", "", 0.0, number=head.last)]

    def _notices(self, rows: Sequence[EventRecord], log_id: str) -> tuple[Notice, ...]:
        """Returns the notices among the rows: events from below, conflicts over tags, and those of this node's own
        events that `notificationsList` selects."""
        patterns = Notifications(self._patterns())
        notices = []
        for row in rows:
            outgoing = outgoing_event(row, log_id, self._name)
            if outgoing is None or Repository.from_key(row.repository).namespace:
                continue  # a repository of another parent is not part of this registry
            if row.registry or row.verb == "conflict" or patterns.matches(outgoing.event):
                notices.append(Notice(number=row.number, event=outgoing.event, registry=outgoing.registry))
        return tuple(notices)

    def _patterns(self) -> tuple[str, ...]:
        held = self._store.documents.get(REGISTRY, self._name)
        return (
            () if held is None else msgspec.json.decode(held.body, type=ConnectedRegistry).notifications_list
        )

    async def _send(
        self, notices: tuple[Notice, ...], log_id: str, instance: str, generation: int
    ) -> Taken | NoticesRefused | Outcome:
        order = Notices(instance=instance, generation=generation, log=log_id, notices=notices)
        return await self._link.notices(order)

    async def _refused(
        self,
        notices: tuple[Notice, ...],
        refused: NoticesRefused,
        log_id: str,
        instance: str,
        generation: int,
    ) -> int:
        """Handles the refusal of a request with only the first of the notices. Returns the number up to which the
        notices are accepted or left out; 0 when the parent accepts none, and the sender pauses."""
        why = [refused.why]
        for notice in notices[1 : self._singles]:
            answer = await self._send((notice,), log_id, instance, generation)
            if not isinstance(answer, NoticesRefused):
                return (
                    self._left_out(notices, why, notice.number)
                    if self._is_taken(answer, (notice,), log_id)
                    else 0
                )
            why.append(answer.why)
        self._singles = min(PAGE, 2 * self._singles)
        if len(why) >= ROW:
            self._back_off(refused, len(notices))
            return 0
        answer = await self._send((), log_id, instance, generation)
        if not self._is_taken(answer, (), log_id):
            return 0
        return self._left_out(notices, why, notices[len(why) - 1].number)

    def _left_out(self, notices: tuple[Notice, ...], why: Sequence[str], last: int) -> int:
        """Logs the first notices as left out, one for each reason. Returns `last`, the new cursor."""
        for notice, reason in zip(notices, why, strict=False):
            event = notice.event
            where = {"repository": event.repository, "tag": event.tag}
            log.warning("notice left out", number=notice.number, verb=event.verb, reason=reason, **where)
        self._lost, self._singles = self._lost + len(why), ROW
        return last

    def _is_taken(
        self, answer: Taken | NoticesRefused | Outcome, notices: tuple[Notice, ...], log_id: str
    ) -> bool:
        """Whether the parent accepted the notices; if not, the sender pauses."""
        last = notices[-1].number if notices else 0
        if isinstance(answer, Taken) and answer.log == log_id and answer.number >= last:
            if self._failures:
                log.info("the parent accepts notices again")
            self._failures, self._trouble = 0, ""
            return True
        self._back_off(answer, len(notices))
        return False

    def _back_off(self, answer: Taken | NoticesRefused | Outcome, notices: int) -> None:
        """Pauses after a request that the parent did not accept; `notices` is their number, for the log."""
        why = getattr(answer, "why", "") or f"the parent answered {type(answer).__name__}"
        self._failures += 1
        wait = pause("transient", self._failures, self._clock.jitter(1.0))
        wait = max(wait, answer.retry_after if isinstance(answer, NoAnswer) else 0.0)
        self._due = self._clock.monotonic() + wait
        if why != self._trouble:
            log.warning("notices not accepted", reason=why, notices=notices)
            self._trouble = why

    async def _keep(self, sent: Sent) -> None:
        await keep_sent(self._store, sent)
        self._sent = self._kept = sent
        self._lag.written()
