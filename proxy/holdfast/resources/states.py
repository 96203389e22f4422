"""The state machines of a connected registry as tables (references.md 1.3), and the states that follow from its report,
its lease and its schedule."""

from __future__ import annotations

from math import inf
from typing import Literal

from msgspec.structs import replace

from holdfast import timestamps
from holdfast.resources.cron import closed_for, silence_of
from holdfast.resources.model import (
    ConnectedRegistry,
    ConnectionState,
    Lease,
    Revision,
    Status,
    StatusDetail,
    SyncState,
)

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

#: interval of writes of a report in which only times changed (seconds); in between it is in memory
#: (`keeper.heartbeats`)
WRITE_SECONDS = 3600.0
#: shortest time without a report that counts (seconds): times have whole seconds
LEAST_SECONDS = 4.0


def activation(status: Status) -> ActivationStatus:
    """Returns Active until a deactivation or release, even when the instance has sent no report for long."""
    return "Inactive" if status.lease is None else "Active"


def after(state: ActivationStatus, event: ActivationEvent) -> ActivationStatus | None:
    """The next state, or None when the event is refused."""
    return ACTIVATION[state].get(event)


def is_held(lease: Lease | None, now: float) -> bool:
    """Whether a lease excludes other instances now."""
    return lease is not None and not timestamps.is_past(lease.expires, now)


def reachable(state: SyncState) -> frozenset[SyncState]:
    """The states of a synchronisation that a later report may name: reports skip states, and never go back to before
    the activation."""
    reached: set[SyncState] = {state}
    while more := set().union(*(SYNC[one] for one in reached)) - reached:
        reached |= more
    return frozenset(reached)


def connection(status: Status, registry: ConnectedRegistry, now: float) -> ConnectionState:
    """Returns the state of the connection as the parent sees it. Within a window the last activity decides: the lease
    outlasts the next window, so that no instance replaces a node that waits for it. Between windows no node reports.
    Troubles that the node reported come before a transfer."""
    if not is_held(status.lease, now) or status.last_activity_time is None:
        return "Offline"
    sync = registry.parent.sync_properties
    if closed_for(sync, now) > 0 or now >= _silent_at(status, registry):
        return "Offline"
    if status.status_details:
        return "Unhealthy"
    return "Syncing" if status.syncing else "Online"


def _silent_at(status: Status, registry: ConnectedRegistry) -> float:
    """Returns when a node without reports counts as disconnected, within its window. Its lease without the addition for
    the schedule is three reports long; for a node directly below the root one missing report is enough, while reports
    on deeper nodes come through others."""
    assert status.lease is not None
    last_contact = timestamps.seconds(status.last_activity_time or "")
    lease = (
        timestamps.seconds(status.lease.expires)
        - last_contact
        - silence_of(registry.parent.sync_properties, last_contact)
    )
    return last_contact + max(lease, LEAST_SECONDS) * (0.5 if registry.parent.id is None else 1.0)


def expected(status: Status, registry: ConnectedRegistry, now: float) -> str | None:
    """Returns when the next report of a node outside its window is expected; None for any other node."""
    closed = closed_for(registry.parent.sync_properties, now)
    if not is_held(status.lease, now) or not 0 < closed < inf:
        return None
    return timestamps.stamp(now + closed)


def missed(status: Status, revision: Revision) -> str | None:
    """Returns the time of the first change that the node has not taken over; None when there is none, for a node that
    never reported its revision, and for one that is not activated."""
    if activation(status) != "Active" or status.revision in (None, revision.number):
        return None
    return revision.since or None


def timeless(status: Status) -> Status:
    """Returns a status without the fields that every report changes, among them the texts of troubles, which have
    counts and durations."""
    return replace(
        status,
        last_activity_time=None,
        last_sync_time=None,
        sync_progress=None,
        lease=status.lease and replace(status.lease, expires=""),
        status_details=tuple(StatusDetail(one.type, one.code, "") for one in status.status_details),
    )


def revived(status: Status, began: float) -> Status:
    """Returns the status of an earlier keeper with its latest possible lease. That keeper had renewals in memory for at
    most an hour, and there was none after this keeper `began`."""
    if status.lease is None or status.last_activity_time is None:
        return status
    last_contact, expires = (
        timestamps.seconds(status.last_activity_time),
        timestamps.seconds(status.lease.expires),
    )
    latest = (
        min(began, last_contact + WRITE_SECONDS) + (expires - last_contact) + 1.0
    )  # texts have whole seconds
    if latest <= expires:
        return status
    return replace(status, lease=replace(status.lease, expires=timestamps.stamp(latest)))
