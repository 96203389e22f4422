"""How far webhooks are, as it is kept: a record each in the control plane's table, of a kind that changes no ETag."""

from __future__ import annotations

import asyncio

import msgspec
from holdfast_core.errors import StoreError
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store
from msgspec import Struct

from holdfast import config
from holdfast.clock import Clock
from holdfast.notify.standing import Standing
from holdfast.notify.told import told_of
from holdfast.sync.notification import Notifications

#: kinds of the records: one a webhook, and one that says what the parent was told
WEBHOOK, SENT = "webhook", "notices-sent"
SELF = "self"
#: see `Lag`
LAG_EVENTS, LAG_SECONDS = 1000, 3600.0


def pending(store: Store, hook: config.Webhook, standing: Standing, limit: int) -> int:
    """How many of the next `limit` events of the log a webhook is still to be told."""
    head, patterns = store.event_head(), Notifications(hook.patterns)
    if head is None:
        return 0
    after = standing.number if standing.log == head.log else head.floor
    told = (told_of(row, head.log, "") for row in store.events(after, limit))
    return sum(one is not None and patterns.matches(one.event) for one in told)


def standing_of(store: Store, name: str) -> Standing | None:
    """How far a webhook is; None for a new one, and when the record cannot be read."""
    try:
        held = store.resource(WEBHOOK, name)
        return None if held is None else msgspec.msgpack.decode(held.body, type=Standing)
    except (StoreError, msgspec.MsgspecError):
        return None


async def keep(store: Store, name: str, standing: Standing | None) -> None:
    """Write how far a webhook is, or with None forget it."""
    await _put(store, WEBHOOK, name, None if standing is None else msgspec.msgpack.encode(standing))


class Lag:
    """How far a cursor in the store is behind events that nobody is to be told of: passing them is worth a write once
    they are `LAG_EVENTS`, or an hour old. They are looked at again after a kill."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.written()

    def written(self) -> None:
        """The cursor in the store is the present one."""
        self._events, self._at = 0, self._clock.monotonic()

    def passed(self, events: int) -> None:
        """So many more were passed."""
        self._events += events

    @property
    def is_due(self) -> bool:
        """Whether the cursor is to be written."""
        return self._events >= LAG_EVENTS or self._clock.monotonic() - self._at >= LAG_SECONDS


class Sent(Struct, frozen=True):
    """The parent has what it is to be told of the log `log` up to event `number`."""

    log: str
    number: int


def sent_of(store: Store) -> Sent | None:
    """What the parent was told; None before the first, and when the record cannot be read."""
    try:
        held = store.resource(SENT, SELF)
        return None if held is None else msgspec.msgpack.decode(held.body, type=Sent)
    except (StoreError, msgspec.MsgspecError):
        return None


async def keep_sent(store: Store, sent: Sent) -> None:
    """Write what the parent was told."""
    await _put(store, SENT, SELF, msgspec.msgpack.encode(sent))


async def _put(store: Store, kind: str, name: str, body: bytes | None) -> None:
    """A change that was begun is finished whoever waits."""
    change = [ResourceChange(kind, name, body)]
    future = store.change_resources(lambda view: change, quiet=frozenset({kind}))
    await asyncio.shield(asyncio.wrap_future(future))
