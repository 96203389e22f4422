"""What goes because it is wanted no longer: repositories that left the scope, tags that the parent lost. Pure; a dry
run is the same call with nobody acting on it.

A repository that left the scope is removed in ReadOnly and kept in ReadWrite (connected-registry C6), after a grace
period that starts when it was first seen outside. A tag that the parent no longer has is kept unless the configuration
says otherwise, and is told: the parent's 404 alone removes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from holdfast.control.resource import Mode
from holdfast.sync.schedule import spoken

Policy = Literal["", "never", "always"]


class Verdict(Struct, frozen=True):
    """What becomes of one repository or tag. `since` is when it was first seen to be unwanted (wall seconds)."""

    name: str
    fate: Literal["keep", "wait", "remove"]
    since: float
    words: str


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
        return Verdict(name, "keep", since, f"{name} left the scope and is kept")
    if busy:
        return Verdict(
            name, "wait", since, f"{name} left the scope; it goes when its pushes are at the parent"
        )
    left = since + grace - now
    if left > 0:
        return Verdict(name, "wait", since, f"{name} left the scope; it is removed in {spoken(left)}")
    return Verdict(name, "remove", since, f"{name} left the scope {spoken(now - since)} ago and is removed")


def lost_tags(
    held: Iterable[str],
    listed: Iterable[str],
    since: Mapping[str, float],
    now: float,
    *,
    policy: Literal["keep", "remove"] = "keep",
    local: Iterable[str] = (),
) -> list[Verdict]:
    """A verdict for each held tag that the parent's list no longer has. `local`: tags made here, which the parent never
    had."""
    gone = sorted(set(held) - set(listed) - set(local))
    if policy == "remove":
        return [
            Verdict(tag, "remove", since.get(tag, now), f"{tag}: the parent no longer has it") for tag in gone
        ]
    return [
        Verdict(tag, "keep", since.get(tag, now), f"{tag}: the parent no longer has it; what is here is kept")
        for tag in gone
    ]
