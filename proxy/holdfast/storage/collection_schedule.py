"""When garbage is collected, and what may go then. Pure: configuration, what the parent says, and `now` (wall seconds)
in; a moment or a rule out."""

from __future__ import annotations

from math import inf, nextafter

from holdfast_core.record import CollectionRule

from holdfast.config import CollectionSection
from holdfast.resources.cron import occurrences
from holdfast.resources.model import GarbageCollection
from holdfast.timestamps import duration

#: a client that finds a blob before it pushes has so long for the manifest (seconds)
PUSHER_SECONDS = 3600.0

#: longest lease of a pushed blob on a full disk (seconds)
PRESSED_LEASE_SECONDS = 600.0
#: a difference between the clocks that is a jump, and no correction by NTP's slewing (500 ppm of a minute are 30 ms)
JUMP_SECONDS = 5.0


class SteadyTime:
    """How long the wall clock has gone without a jump. Times in the store are of the wall; one that is set forward
    would end every lease at once, on a node that took pushes before it knew the time. Looked at at least each minute,
    and before anything ends by its time."""

    def __init__(self, now: float, monotonic: float) -> None:
        self._ahead, self._jumped = now - monotonic, -inf

    def seconds(self, now: float, monotonic: float) -> float:
        """Seconds (monotonic) since the wall clock was last seen to have been set forward, infinity when it was not. A
        machine that slept counts as well: its clients slept too, or their push was cut."""
        ahead = now - monotonic
        if ahead - self._ahead > JUMP_SECONDS:
            self._jumped = monotonic
        self._ahead = ahead
        return monotonic - self._jumped


def settings_of(config: CollectionSection, managed: GarbageCollection | None) -> GarbageCollection:
    """Whether and when to collect: as the parent of a connected registry says, of any other node as it is
    configured."""
    return managed or GarbageCollection(enabled=config.enabled, schedule=config.schedule)


def next_run(settings: GarbageCollection, last: float, now: float) -> float:
    """When the next collection is due, infinity for never. `last` is when the last one began, or the node was first
    started: of the occurrences since then that were missed, one is made up for. A last one in the future was stamped by
    a wrong clock and counts from now."""
    cron = occurrences(settings.schedule) if settings.enabled else None
    return inf if cron is None else cron.around(min(last, now))[1]


def rule_of(
    config: CollectionSection,
    now: float,
    kept_since: float = inf,
    *,
    is_pressed: bool = False,
    steady: float = inf,
) -> CollectionRule:
    """What may go. `kept_since` is the moment since which cached content of a repository is in use all the same:
    what synchronisation brings has no name before its manifest comes; -inf for a repository whose cached
    content stays whole. What was deleted can be restored so long; so can a tag, and its manifest stays for it.
    On a full disk (`is_pressed`) a lease is ten minutes at most, because no push can be completed there, and so
    is the time of what was deleted; what was cached has none: so deleted images make room. A time that is
    longer than the wall clock has been `steady` (seconds since it was set forward) cannot be told to be over:
    nothing goes by it."""
    pushed, cached = _seconds(config.lease), _seconds(config.cached_after)
    untagged, deleted = _seconds(config.untagged_after), _seconds(config.deleted_after) or 0.0
    if is_pressed:
        pushed = None if pushed is None else min(pushed, PRESSED_LEASE_SECONDS)
        deleted = min(deleted, PRESSED_LEASE_SECONDS)
        cached = None if cached is None else 0.0
    untagged = None if untagged is None else max(untagged, _seconds(config.deleted_after) or 0.0)
    before = [
        None if length is None or length > steady else now - length
        for length in (pushed, untagged, cached, deleted)
    ]
    if (last_use := before[2]) is not None:
        before[2] = None if kept_since == -inf else min(last_use, nextafter(kept_since, -inf))
    return CollectionRule(*before)


def found_for(config: CollectionSection) -> float:
    """Seconds that a blob may be without a name and is still found by a client that may push. The rest of its lease, an
    hour or half of it, is the client's for the manifest that names it."""
    lengths = (_seconds(config.lease), _seconds(config.cached_after))
    lease = min((length for length in lengths if length is not None), default=inf)
    return lease - min(PUSHER_SECONDS, lease / 2)


def _seconds(text: str) -> float | None:
    """The length of a duration; None for none."""
    length = duration(text) if text else None
    return None if length is None else length.total_seconds()
