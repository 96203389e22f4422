"""The record of full synchronisations, with the original's states and triggers (registrySyncResult, connected-registry
1.2 and 1.4). A run that a window cut off is still Syncing; one that outlasts the messages' TTL has TimedOut, and may go
on and succeed all the same."""

from __future__ import annotations

from typing import Final, get_args

from msgspec import Struct
from msgspec.structs import replace

from holdfast.control.moment import seconds, stamp
from holdfast.control.resource import SyncProgress, SyncResult, SyncState, SyncTrigger

#: state -> states that may follow. Asking again for one that waits or runs changes its trigger at most.
FOLLOWS: Final[dict[SyncState, tuple[SyncState, ...]]] = {
    "NotActivated": ("Pending",),
    "Pending": ("Pending", "Syncing", "NotActivated"),
    "Syncing": ("Syncing", "Succeeded", "Failed", "TimedOut", "Pending", "NotActivated"),
    "Succeeded": ("Pending", "NotActivated"),
    "Failed": ("Pending", "Syncing", "NotActivated"),
    "TimedOut": ("Pending", "Syncing", "Succeeded", "Failed", "NotActivated"),
}


class Synchronised(Struct, frozen=True):
    """What a node says of its synchronisation. `at` is when the parent's changes were last all here (wall seconds), 0
    never; `syncing`: something is on its way now, and `progress` how far it is."""

    result: SyncResult = SyncResult()
    at: float = 0.0
    syncing: bool = False
    progress: SyncProgress | None = None


class NoSuchStep(Exception):
    """A state that may not follow the one before: an error of this program."""


def trigger_of(text: str) -> SyncTrigger:
    """A trigger of `sync.schedule.FULL`, in the original's words. Raises NoSuchStep for any other."""
    found: SyncTrigger | None = next((name for name in get_args(SyncTrigger) if name == text), None)
    if found is None:
        raise NoSuchStep(f"{text!r} asks for no full synchronisation")
    return found


def moved(result: SyncResult, state: SyncState) -> SyncResult:
    """The result in its next state. Raises NoSuchStep."""
    if state not in FOLLOWS[result.sync_state]:
        raise NoSuchStep(f"{result.sync_state} is never followed by {state}")
    return replace(result, sync_state=state)


def asked_for(result: SyncResult, trigger: SyncTrigger) -> SyncResult:
    """Somebody wants a full synchronisation."""
    return replace(moved(result, "Pending"), sync_trigger=trigger)


def is_under_way(result: SyncResult, trigger: str) -> bool:
    """Whether a run for this trigger has begun and did not end."""
    return result.sync_trigger == trigger and result.sync_state in ("Syncing", "TimedOut")


def started(result: SyncResult, now: float) -> SyncResult:
    """It begins, or goes on after a window's end: then it keeps its time of start."""
    going_on = result.sync_state == "Syncing"
    found = moved(result, "Syncing")
    return found if going_on else replace(found, last_sync_start_time=stamp(now), last_sync_end_time=None)


def begun(result: SyncResult, trigger: str, now: float) -> SyncResult:
    """A run for a trigger begins, or goes on."""
    waits = result.sync_state == "Pending" and result.sync_trigger == trigger
    if not waits and not is_under_way(result, trigger):
        result = asked_for(result, trigger_of(trigger))
    return started(result, now)


def ended(result: SyncResult, now: float, *, failed: bool) -> SyncResult:
    """Everything wanted was brought, or something failed for good. Parked images fail it, and are told."""
    found = replace(moved(result, "Failed" if failed else "Succeeded"), last_sync_end_time=stamp(now))
    return found if failed else replace(found, last_successful_sync_end_time=stamp(now))


def looked_at(result: SyncResult, now: float, ttl: float) -> SyncResult:
    """TimedOut when it has been running for longer than messages wait."""
    begun_at = result.last_sync_start_time
    if result.sync_state != "Syncing" or begun_at is None or now - seconds(begun_at) <= ttl:
        return result
    return replace(moved(result, "TimedOut"), last_sync_end_time=stamp(now))
