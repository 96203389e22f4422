"""When a connected registry may speak to its parent: cron occurrences in UTC, each of which opens a slot as long as the
sync window (connected-registry 1.2). Every minute means always. Pure; `now` is wall time in seconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf

from holdfast.control.resource import SyncProperties
from holdfast.control.rules import duration

CONTINUOUS = "* * * * *"
#: a schedule without a window has no length of its own; one contact takes no longer than this (seconds)
SLOT_SECONDS = 60.0


def is_continuous(sync: SyncProperties) -> bool:
    """Whether the parent may be asked at any time; the window then means nothing."""
    return " ".join(sync.schedule.split()) == CONTINUOUS


def closed_for(sync: SyncProperties, now: float) -> float:
    """Seconds until the next slot opens; 0 while one is open; infinite when no occurrence ever comes."""
    if is_continuous(sync):
        return 0.0
    if now < _occurrence(sync.schedule, now, before=True) + window_seconds(sync):
        return 0.0
    return max(0.0, _occurrence(sync.schedule, now) - now)


def silence_of(sync: SyncProperties, now: float) -> float:
    """Seconds that a node may be silent, as its schedule wants it: until its next slot after the present one has
    ended. A lease must outlast it, or a second instance would take over from a living one."""
    if is_continuous(sync):
        return 0.0
    opens = now + closed_for(sync, now)
    if opens > now:
        return opens + window_seconds(sync) - now
    return _occurrence(sync.schedule, now) + window_seconds(sync) - now


def window_seconds(sync: SyncProperties) -> float:
    """How long a slot stays open."""
    if sync.sync_window is None:
        return SLOT_SECONDS
    found = duration(sync.sync_window)
    return SLOT_SECONDS if found is None else found.total_seconds()


def _occurrence(schedule: str, now: float, *, before: bool = False) -> float:
    """The first occurrence after `now`, or the last one up to it; infinite, or minus infinite, when there is none."""
    from cronsim import CronSim, CronSimError

    # whole minutes: occurrences are, and the one of this minute has come
    minute = now // 60 * 60 + (60 if before else 0)
    try:
        return float(next(CronSim(schedule, datetime.fromtimestamp(minute, UTC), reverse=before)).timestamp())
    except (CronSimError, StopIteration):
        return -inf if before else inf
