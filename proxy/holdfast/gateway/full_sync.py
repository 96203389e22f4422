"""The state machine of full synchronisations, with the original's states and triggers (registrySyncResult,
references.md 1.1 and 1.4). A run that is interrupted by the end of a window stays Syncing. One that lasts longer than
the messages' TTL becomes TimedOut; it continues and may still succeed."""

from __future__ import annotations

from typing import Final, get_args

from msgspec import Struct
from msgspec.structs import replace

from holdfast.resources.model import SyncProgress, SyncResult, SyncState, SyncTrigger
from holdfast.timestamps import seconds, stamp

#: state -> states that may follow. An order during a pending or running synchronisation changes its trigger alone.
FOLLOWS: Final[dict[SyncState, tuple[SyncState, ...]]] = {
    "NotActivated": ("Pending",),
    "Pending": ("Pending", "Syncing", "NotActivated"),
    "Syncing": ("Syncing", "Succeeded", "Failed", "TimedOut", "Pending", "NotActivated"),
    "Succeeded": ("Pending", "NotActivated"),
    "Failed": ("Pending", "Syncing", "NotActivated"),
    "TimedOut": ("Pending", "Syncing", "Succeeded", "Failed", "NotActivated"),
}


class Synchronised(Struct, frozen=True):
    """What a node reports of its synchronisation. `at` is when it last had all changes of the parent (wall seconds), 0
    for never; `syncing`: content is being copied now, and `progress` how much of it."""

    result: SyncResult = SyncResult()
    at: float = 0.0
    syncing: bool = False
    progress: SyncProgress | None = None


class NoSuchStep(Exception):
    """A transition that `FOLLOWS` does not have: a bug of this program."""


def trigger_of(text: str) -> SyncTrigger:
    """A trigger of `sync.schedule.FULL`, in the original's words. Raises NoSuchStep for any other."""
    trigger: SyncTrigger | None = next((name for name in get_args(SyncTrigger) if name == text), None)
    if trigger is None:
        raise NoSuchStep(f"{text!r} is no trigger of a full synchronisation")
    return trigger


def moved(result: SyncResult, state: SyncState) -> SyncResult:
    """The result in its next state. Raises NoSuchStep."""
    if state not in FOLLOWS[result.sync_state]:
        raise NoSuchStep(f"{result.sync_state} is never followed by {state}")
    return replace(result, sync_state=state)


def ordered(result: SyncResult, trigger: SyncTrigger) -> SyncResult:
    """The result after a full synchronisation was ordered: Pending."""
    return replace(moved(result, "Pending"), sync_trigger=trigger)


def is_under_way(result: SyncResult, trigger: str) -> bool:
    """Whether a run for this trigger has begun and not ended."""
    return result.sync_trigger == trigger and result.sync_state in ("Syncing", "TimedOut")


def started(result: SyncResult, now: float) -> SyncResult:
    """The result after the run began: Syncing. A run that continues in a later window keeps its start time."""
    is_running = result.sync_state == "Syncing"
    syncing = moved(result, "Syncing")
    return (
        syncing if is_running else replace(syncing, last_sync_start_time=stamp(now), last_sync_end_time=None)
    )


def begun(result: SyncResult, trigger: str, now: float) -> SyncResult:
    """The result after a run for a trigger began or continued, also without an order before."""
    waits = result.sync_state == "Pending" and result.sync_trigger == trigger
    if not waits and not is_under_way(result, trigger):
        result = ordered(result, trigger_of(trigger))
    return started(result, now)


def ended(result: SyncResult, now: float, *, failed: bool) -> SyncResult:
    """The result after the run ended: Succeeded when everything selected was copied, else Failed (parked images
    too)."""
    end = replace(moved(result, "Failed" if failed else "Succeeded"), last_sync_end_time=stamp(now))
    return end if failed else replace(end, last_successful_sync_end_time=stamp(now))


def timed(result: SyncResult, now: float, ttl: float) -> SyncResult:
    """The result at `now`: TimedOut when the run has lasted longer than the messages' TTL of `ttl` seconds."""
    begun_at = result.last_sync_start_time
    if result.sync_state != "Syncing" or begun_at is None or now - seconds(begun_at) <= ttl:
        return result
    return replace(moved(result, "TimedOut"), last_sync_end_time=stamp(now))
