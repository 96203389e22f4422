"""What goes because it is wanted no longer: repositories that left the scope, tags that the parent lost. Pure; a dry
run is the same call with nobody acting on it.

A repository that left the scope is removed in ReadOnly and kept in ReadWrite (connected-registry C6), after a grace
period that starts when it was first seen outside. A tag that the parent no longer has is kept unless the configuration
says otherwise, and is told: one list without it removes nothing, and neither does the parent's 404 alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from msgspec import Struct

from holdfast.control.resource import Mode
from holdfast.sync.schedule import spoken

Policy = Literal["", "never", "always"]


class Verdict(Struct, frozen=True):
    """What becomes of one repository or tag. `since` is when it was first seen to be unwanted, `at` when it goes at the
    soonest, None where that cannot be said (wall seconds)."""

    name: str
    fate: Literal["keep", "wait", "remove"]
    since: float
    words: str
    at: float | None = None


def left_scope(
    held: Iterable[str],
    wanted: Iterable[str],
    since: Mapping[str, float],
    now: float,
    *,
    mode: Mode,
    policy: Policy = "",
    grace: float = 86400.0,
    pushed: Iterable[str] = (),
) -> list[Verdict]:
    """A verdict for each held repository outside `wanted`. `since` holds those seen outside before; what returned is to
    be dropped from it. `pushed`: repositories with entries still on their way up are never removed."""
    inside, busy = frozenset(wanted), frozenset(pushed)
    removes = policy == "always" or (policy == "" and mode == "ReadOnly")
    return [
        _verdict(name, min(since.get(name, now), now), now, removes, grace, name in busy)
        for name in sorted(set(held) - inside)
    ]


def _verdict(name: str, since: float, now: float, removes: bool, grace: float, busy: bool) -> Verdict:
    if not removes:
        return Verdict(name, "keep", since, f"{name} is wanted no longer, and is kept")
    if busy:
        return Verdict(
            name, "wait", since, f"{name} is wanted no longer; it goes when its pushes are at the parent"
        )
    left = since + grace - now
    if left > 0:
        words = f"{name} is wanted no longer; it goes with the first run in {spoken(left)}"
        return Verdict(name, "wait", since, words, since + grace)
    words = f"{name} is wanted no longer since {spoken(now - since)}; it goes"
    return Verdict(name, "remove", since, words, now)


def lost_tags(
    held: Iterable[str],
    listed: Collection[str],
    since: Mapping[str, float],
    now: float,
    *,
    policy: Literal["keep", "remove"] = "keep",
    local: Iterable[str] = (),
) -> list[Verdict]:
    """A verdict for each held tag that the parent's list no longer has. `since` holds those that the run before found
    lost: only what two runs in a row did not find is removed, and never on the word of a list without any tag, which is
    what a registry in trouble says. `local`: tags made here, which the parent never had."""
    gone = sorted(set(held) - set(listed) - set(local))
    return [_lost(tag, since.get(tag), now, policy == "remove", bool(listed)) for tag in gone]


def _lost(tag: str, since: float | None, now: float, removes: bool, believed: bool) -> Verdict:
    first = now if since is None else min(since, now)
    what = f"{tag}: the parent no longer lists it"
    if not removes:
        return Verdict(tag, "keep", first, f"{what}; what is here is kept")
    if not believed:
        return Verdict(tag, "keep", first, f"{what}, nor any other tag; nothing is removed on such a list")
    if since is None:
        return Verdict(tag, "wait", first, f"{what}; it goes when the next run does not find it either")
    return Verdict(tag, "remove", first, f"{what}, nor did it {spoken(now - first)} ago", now)
