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
    config: CollectionSection, now: float, kept_since: float = inf, *, is_pressed: bool = False
) -> CollectionRule:
    """What may go. `kept_since` is the moment since which cached content of a repository is in use all the same: what
    synchronisation brings has no name before its manifest comes; -inf for a repository whose cached content stays
    whole. On a full disk (`is_pressed`) a lease is ten minutes at most, because no push can be completed there, and
    what was cached has none: so the layers of deleted images make room."""
    pushed, cached = _before(config.lease, now), _before(config.cached_after, now)
    if is_pressed:
        pushed = None if pushed is None else max(pushed, now - PRESSED_LEASE_SECONDS)
        cached = None if cached is None else now
    return CollectionRule(
        blobs_before=pushed,
        manifests_before=_before(config.untagged_after, now),
        cached_before=None
        if cached is None or kept_since == -inf
        else min(cached, nextafter(kept_since, -inf)),
    )


def found_for(config: CollectionSection) -> float:
    """Seconds that a blob may be without a name and is still found by a client that may push. The rest of its lease, an
    hour or half of it, is the client's for the manifest that names it."""
    lengths = (duration(text) for text in (config.lease, config.cached_after) if text)
    lease = min((length.total_seconds() for length in lengths if length is not None), default=inf)
    return lease - min(PUSHER_SECONDS, lease / 2)


def _before(text: str, now: float) -> float | None:
    length = duration(text) if text else None
    return None if length is None else now - length.total_seconds()
