"""The state machines of a connected registry as tables (connected-registry 1.4), and what of them is a function of
what is known."""

from __future__ import annotations

from math import inf
from typing import Literal

from msgspec.structs import replace

from holdfast.control import moment
from holdfast.control.resource import (
    ConnectedRegistry,
    ConnectionState,
    Lease,
    Status,
    StatusDetail,
    SyncState,
)
from holdfast.control.schedule import closed_for, silence_of

ActivationStatus = Literal["Active", "Inactive"]
ActivationEvent = Literal["activate", "deactivate", "release", "report"]

#: state -> event -> next state; an event that is not here is refused.
ACTIVATION: dict[ActivationStatus, dict[ActivationEvent, ActivationStatus]] = {
    "Inactive": {"activate": "Active", "deactivate": "Inactive", "release": "Inactive"},
    "Active": {"activate": "Active", "deactivate": "Inactive", "release": "Inactive", "report": "Active"},
}
#: state of the last full synchronisation -> those that may follow it
SYNC: dict[SyncState, frozenset[SyncState]] = {
    "NotActivated": frozenset({"NotActivated", "Pending", "Syncing"}),
    "Pending": frozenset({"Pending", "Syncing", "Failed", "TimedOut"}),
    "Syncing": frozenset({"Pending", "Syncing", "Succeeded", "Failed", "TimedOut"}),
    "Succeeded": frozenset({"Pending", "Syncing", "Succeeded"}),
    "Failed": frozenset({"Pending", "Syncing", "Failed"}),
    "TimedOut": frozenset({"Pending", "Syncing", "TimedOut"}),
}

ALREADY_ACTIVATED = "ALREADY_ACTIVATED"
ALREADY_ACTIVATED_TEXT = (
    "This connected registry is already activated by another instance."
    " Only one instance is supported at any time."
)
NOT_ACTIVATED = "NOT_ACTIVATED"

#: a report that moves times alone on is written so often; otherwise it is remembered (`keeper.heartbeats`)
WRITE_SECONDS = 3600.0
#: the shortest silence that means anything: times have whole seconds
LEAST_SECONDS = 4.0


def activation(status: Status) -> ActivationStatus:
    """Active until it is deactivated or released, however long its instance has been silent."""
    return "Inactive" if status.lease is None else "Active"


def after(state: ActivationStatus, event: ActivationEvent) -> ActivationStatus | None:
    """The next state, or None when the event is refused."""
    return ACTIVATION[state].get(event)


def is_held(lease: Lease | None, now: float) -> bool:
    """Whether a lease keeps other instances out."""
    return lease is not None and not moment.is_past(lease.expires, now)


def reachable(state: SyncState) -> frozenset[SyncState]:
    """The states of a synchronisation that a later report may name: reports skip states, and never go back to before
    the activation."""
    found: set[SyncState] = {state}
    while more := set().union(*(SYNC[one] for one in found)) - found:
        found |= more
    return frozenset(found)


def connection(status: Status, registry: ConnectedRegistry, now: float) -> ConnectionState:
    """What the parent says of the connection. Within a window the last activity decides: the lease outlasts the next
    window, so that nobody takes the place of a node that waits for it. Between windows nobody is heard of. Troubles
    that the node reported come before a transfer."""
    if not is_held(status.lease, now) or status.last_activity_time is None:
        return "Offline"
    sync = registry.parent.sync_properties
    if closed_for(sync, now) > 0 or now >= _silent_at(status, registry):
        return "Offline"
    if status.status_details:
        return "Unhealthy"
    return "Syncing" if status.syncing else "Online"


def _silent_at(status: Status, registry: ConnectedRegistry) -> float:
    """When a node that is not heard of counts as gone, within its window. Its lease without what the schedule added to
    it is three reports long; of a node right below the root one report that is missed is enough, what is said of deeper
    ones comes by others."""
    assert status.lease is not None
    heard = moment.seconds(status.last_activity_time or "")
    lease = moment.seconds(status.lease.expires) - heard - silence_of(registry.parent.sync_properties, heard)
    return heard + max(lease, LEAST_SECONDS) * (0.5 if registry.parent.id is None else 1.0)


def expected(status: Status, registry: ConnectedRegistry, now: float) -> str | None:
    """When a node that waits for its window is to be heard of again; None for any other."""
    closed = closed_for(registry.parent.sync_properties, now)
    if not is_held(status.lease, now) or not 0 < closed < inf:
        return None
    return moment.stamp(now + closed)


def timeless(status: Status) -> Status:
    """Without what each report moves on. The text of a trouble is part of that: it counts, and says for how long."""
    return replace(
        status,
        last_activity_time=None,
        last_sync_time=None,
        sync_progress=None,
        lease=status.lease and replace(status.lease, expires=""),
        status_details=tuple(StatusDetail(one.type, one.code, "") for one in status.status_details),
    )


def revived(status: Status, began: float) -> Status:
    """A document of an earlier keeper. Renewals of its lease were remembered for an hour at most, and none came after
    this keeper `began`."""
    if status.lease is None or status.last_activity_time is None:
        return status
    heard, expires = moment.seconds(status.last_activity_time), moment.seconds(status.lease.expires)
    latest = min(began, heard + WRITE_SECONDS) + (expires - heard) + 1.0  # texts have whole seconds
    if latest <= expires:
        return status
    return replace(status, lease=replace(status.lease, expires=moment.stamp(latest)))
