"""The cursors of webhooks and of notices in the event log, as the store keeps them, and the answer to a ping.

Each cursor is a record in the table of the control plane, of a kind that changes no ETag."""

from __future__ import annotations

import asyncio

import msgspec
from holdfast_core.errors import StoreError
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store
from msgspec import Struct

from holdfast import config
from holdfast.clock import Clock
from holdfast.notify.delivery_state import DeliveryState
from holdfast.notify.event import outgoing_event
from holdfast.resources.notification import Notifications

#: kinds of the records: one for each webhook, and one for the notices to the parent
WEBHOOK, SENT = "webhook", "notices-sent"
SELF = "self"
#: a cursor that only skipped events is written after so many events, or so long (seconds)
LAG_EVENTS, LAG_SECONDS = 1000, 3600.0


def pending(store: Store, hook: config.WebhookSection, state: DeliveryState, limit: int) -> int:
    """Returns how many of the next `limit` events of the log a webhook has yet to deliver."""
    head, patterns = store.events.head(), Notifications(hook.patterns)
    if head is None:
        return 0
    after = state.number if state.log == head.log else head.floor
    events = (outgoing_event(row, head.log, "") for row in store.events.after(after, limit))
    return sum(one is not None and patterns.matches(one.event) for one in events)


def delivery_state_of(store: Store, name: str) -> DeliveryState | None:
    """Returns the delivery state of a webhook; None for a new one, and when the record cannot be read."""
    try:
        held = store.documents.get(WEBHOOK, name)
        return None if held is None else msgspec.msgpack.decode(held.body, type=DeliveryState)
    except (StoreError, msgspec.MsgspecError):
        return None


async def keep(store: Store, name: str, state: DeliveryState | None) -> None:
    """Writes the delivery state of a webhook; None deletes the record."""
    await _put(store, WEBHOOK, name, None if state is None else msgspec.msgpack.encode(state))


class Lag:
    """Decides when a cursor that only skipped events is written: after `LAG_EVENTS` of them, or an hour. The skipped
    events are read again after a kill."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.written()

    def written(self) -> None:
        """Notes that the cursor was written: the count and the hour begin again."""
        self._events, self._at = 0, self._clock.monotonic()

    def passed(self, events: int) -> None:
        """Adds a number of skipped events."""
        self._events += events

    @property
    def is_due(self) -> bool:
        """Whether the cursor has to be written now."""
        return self._events >= LAG_EVENTS or self._clock.monotonic() - self._at >= LAG_SECONDS


class Sent(Struct, frozen=True):
    """The cursor of the notices: the parent has accepted those of the log `log` up to event `number`."""

    log: str
    number: int


def sent_of(store: Store) -> Sent | None:
    """Returns the cursor of the notices; None before the first, and when the record cannot be read."""
    try:
        held = store.documents.get(SENT, SELF)
        return None if held is None else msgspec.msgpack.decode(held.body, type=Sent)
    except (StoreError, msgspec.MsgspecError):
        return None


async def keep_sent(store: Store, sent: Sent) -> None:
    """Writes the cursor of the notices."""
    await _put(store, SENT, SELF, msgspec.msgpack.encode(sent))


async def _put(store: Store, kind: str, name: str, body: bytes | None) -> None:
    """Writes or deletes a record. Cancelling the caller does not cancel the commit."""
    change = [ResourceChange(kind, name, body)]
    future = store.documents.change(lambda view: change, quiet=frozenset({kind}))
    await asyncio.shield(asyncio.wrap_future(future))


class Pinged(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The answer of webhook `name` to a ping, as JSON in camelCase: whether the receiver would have accepted an event,
    and what it answered."""

    name: str
    taken: bool
    answer: str
