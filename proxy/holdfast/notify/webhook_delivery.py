"""Delivers the event log to the receivers of webhooks: in order, at least once, each independent of the others.

The cursor of a webhook is in the index (`delivery_state.DeliveryState`, one record a webhook) and moves once the
receiver has the event; events that match none of its patterns are skipped in memory (`delivery_record.Lag`). When the
keeper dies between delivery and commit, the event is delivered again with the same id and the same bytes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from holdfast_core.errors import RecordDamaged, StoreError
from holdfast_core.record import EventHead, EventRecord
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast import config
from holdfast.background import for_ever
from holdfast.clock import Clock
from holdfast.errors import ControlUnknown
from holdfast.http.address import Lookup
from holdfast.log import log
from holdfast.notify.delivery_record import WEBHOOK, Lag, Pinged, delivery_state_of, keep
from holdfast.notify.delivery_state import DeliveryOutcome, DeliveryState
from holdfast.notify.event import OutgoingEvent, outgoing_event, topic_of
from holdfast.notify.receiver import Receiver
from holdfast.oci.names import shown
from holdfast.resources.notification import Notifications, body_of, ping_of, plain_body_of, plain_ping_of
from holdfast.timestamps import stamp

#: how often the log is read while there is nothing to deliver (seconds)
LOOK_SECONDS = 0.25
#: events that are read at once, and the pause before that (seconds)
PAGE, PAUSE_SECONDS = 200, 0.001


class Posts(Protocol):
    """The part of `receiver.Receiver` that a delivery uses."""

    async def post(self, body: bytes) -> DeliveryOutcome: ...


class WebhookDelivery:
    """One webhook of this node. `own` is the name of the connected registry that this node is, "" at the root; `host`
    is the host name that events carry."""

    def __init__(
        self, hook: config.WebhookSection, store: Store, receiver: Posts, own: str, host: str, clock: Clock
    ) -> None:
        self.hook, self._receiver = hook, receiver
        self._store, self._clock, self._own, self._host = store, clock, own, host
        self._patterns = Notifications(hook.patterns)
        self.state = DeliveryState()
        self._kept: DeliveryState | None = None
        self._lag = Lag(clock)
        self._rows: deque[EventRecord] = deque()

    async def take_up(self) -> None:
        """Reads the stored state. A new webhook begins with the next event of the log."""
        held = delivery_state_of(self._store, self.hook.name)
        head = self._store.events.head()
        if held is not None:
            self.state = self._kept = held
        elif head is not None:
            self.state = DeliveryState(head.log, head.last)
        await self._keep()

    async def run(self) -> None:
        """Delivers until cancelled."""
        await for_ever(self.step, self._clock, lambda: LOOK_SECONDS, "webhook", webhook=self.hook.name)

    async def step(self) -> bool:
        """Tries one event. Returns False when there is none, or when the pause after a failure is not over."""
        head = self._store.events.head()
        if head is None:
            return False
        self._follow(head)
        if not self.state.is_due(self._clock.now()):
            return False
        following = await self._next(head)
        if following is None:
            if self._is_write_due():
                await self._keep()
            return False
        await self._deliver(*following, head)
        return True

    def _follow(self, head: EventHead) -> None:
        """Detects a new log, and events that were removed before their delivery."""
        state = self.state
        if state.log != head.log:
            if state.log:
                log.warning("event log started anew", webhook=self.hook.name, after=state.number)
            self.state = replace(state, log=head.log, number=head.floor, refusals=0)
            self._rows.clear()
        elif head.floor > state.number and not self._rows:
            self._count_lost("the event log no longer holds it", head.floor)

    def _count_lost(self, why: str, upto: int) -> None:
        """Counts events that are no longer in the log. Their number is unknown; they count as one."""
        log.warning("events dropped", webhook=self.hook.name, reason=why, after=self.state.number, upto=upto)
        self.state = self.state.dropped_one(upto, why, self._clock.now())

    async def _next(self, head: EventHead) -> tuple[EventRecord, OutgoingEvent] | None:
        """Returns the next event to deliver, after skipping those before it; None at the end of the log."""
        while True:
            if not self._rows and not await self._read(head):
                return None
            while self._rows:
                row = self._rows[0]
                if (outgoing := self._outgoing(row, head.log)) is not None:
                    return row, outgoing
                self._rows.popleft()
                self._lag.passed(1)
                self.state = self.state.passed(row.number)

    async def _read(self, head: EventHead) -> bool:
        """Reads the next page of the log. Returns False at its end. Sleeps first, so that a long log does not hold up
        other work."""
        await self._clock.sleep(PAUSE_SECONDS)
        try:
            self._rows.extend(self._store.events.after(self.state.number, PAGE))
        except RecordDamaged:
            self._count_lost("the event log is damaged", head.last)
        return bool(self._rows)

    def _outgoing(self, row: EventRecord, log_id: str) -> OutgoingEvent | None:
        outgoing = outgoing_event(row, log_id, self._own)
        return outgoing if outgoing is not None and self._patterns.matches(outgoing.event) else None

    async def _deliver(self, row: EventRecord, outgoing: OutgoingEvent, head: EventHead) -> None:
        answer = await self._receiver.post(self.body(outgoing))
        now, before = self._clock.now(), self.state
        if answer.is_taken:
            self._rows.popleft()
            self.state = before.confirmed(row.number, answer, now)
            if before.failures:
                log.info("webhook recovered", webhook=self.hook.name, failures=before.failures)
        else:
            self.state = before.failed(answer, now, self._clock.jitter(1.0))
            if not before.failures or before.answer != answer.text:
                log.warning(
                    "webhook failed", webhook=self.hook.name, reason=answer.text, id=outgoing.event.id
                )
            await self._drop(head, now)
        await self._keep()

    async def _drop(self, head: EventHead, now: float) -> None:
        """Drops the event that was just tried if it is due for that, and then every following one that is."""
        before = self.state.dropped
        while (following := await self._next(head)) is not None:
            row, outgoing = following
            if not (why := self.state.why_drop(row.at, self.hook.keep, now)):
                break
            self._rows.popleft()
            self.state = self.state.dropped_one(row.number, why, now)
            last, reason = outgoing.event.id, why
        if count := self.state.dropped - before:
            log.warning("events dropped", webhook=self.hook.name, events=count, reason=reason, last=last)

    def body(self, outgoing: OutgoingEvent) -> bytes:
        """The body of an event in the format of this webhook."""
        if self.hook.format == "acr":
            return plain_body_of(outgoing.event, outgoing.registry, self._host)
        return body_of(outgoing.event, outgoing.registry, outgoing.topic)

    @property
    def topic(self) -> str:
        """The topic of this node's own events."""
        return topic_of(self._own)

    async def _keep(self) -> None:
        if self.state == self._kept:
            return
        state = self.state
        await keep(self._store, self.hook.name, state)
        self._kept = state
        self._lag.written()

    def _is_write_due(self) -> bool:
        """Whether the state has to be written. A state that differs only by skipped events waits for `Lag`."""
        kept, now = self._kept, self.state
        same = kept is not None and replace(kept, number=now.number, refusals=now.refusals) == now
        return not same or self._lag.is_due


class Webhooks:
    """All webhooks of a node, one task each: a receiver that hangs delays no other. `own` is the name of the connected
    registry that this node is, "" at the root; `host` is the host name that events carry."""

    def __init__(
        self,
        hooks: Sequence[config.WebhookSection],
        store: Store,
        clock: Clock,
        own: str = "",
        host: str = "",
        lookup: Lookup | None = None,
    ) -> None:
        self._store, self._clock, self._own, self._host = store, clock, own, host
        self._receivers = {hook.name: Receiver(hook, clock, lookup) for hook in hooks}
        self._hooks = [
            WebhookDelivery(hook, store, self._receivers[hook.name], own, host, clock) for hook in hooks
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Turns the event log on, reads the state of each webhook, deletes that of webhooks which left the
        configuration, and starts the tasks. Uses no network before it returns."""
        try:
            await asyncio.shield(asyncio.wrap_future(self._store.events.keep(True)))
            await self._delete_unconfigured()
            for hook in self._hooks:
                await hook.take_up()
        except StoreError as error:
            log.error("state of webhooks cannot be read", reason=str(error))
        self._tasks = [asyncio.create_task(hook.run()) for hook in self._hooks]

    async def _delete_unconfigured(self) -> None:
        names = {hook.hook.name for hook in self._hooks}
        for row in self._store.documents.of_kind(WEBHOOK):
            if row.name not in names:
                await keep(self._store, row.name, None)

    async def close(self) -> None:
        """Stops all. An event that was being posted is delivered again after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for receiver in self._receivers.values():
            await receiver.close()

    def notes(self) -> list[str]:
        """Returns a sentence for each webhook that fails, for /readyz."""
        return [
            f"webhook {hook.hook.name} fails since {stamp(hook.state.failing_since)}: {hook.state.answer}"
            for hook in self._hooks
            if hook.state.failures
        ]

    async def ping(self, name: str) -> Pinged:
        """Posts a ping to the receiver of a webhook and returns its answer. Raises ControlUnknown."""
        webhook = next((hook for hook in self._hooks if hook.hook.name == name), None)
        if webhook is None:
            raise ControlUnknown(
                f"there is no webhook {shown(name)!r}; webhooks are rows of [[webhook]] in the configuration"
            )
        id, now = f"ping-{secrets.token_hex(8)}", self._clock.now()
        plain = webhook.hook.format == "acr"
        body = plain_ping_of(id, now, self._host) if plain else ping_of(id, now, webhook.topic)
        answer = await self._receivers[name].post(body)
        return Pinged(name, answer.is_taken, answer.text)
