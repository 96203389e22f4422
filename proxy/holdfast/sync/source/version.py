"""Versions in tags and ranges of them: semver 2.0 with a leading `v` and missing parts allowed, ranges as npm writes
them.

    range      = set *( "||" set )
    set        = comparator *( " " comparator )
    comparator = [ "<" | "<=" | ">" | ">=" | "=" | "^" | "~" ] version      ; a part may be x or *

A pre-release is in a range only when a comparator names a pre-release of the same version.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: a `+` cannot stand in a tag; what tools write for it is `_`
_TAG = re.compile(
    r"v?([0-9]{1,18})(?:\.([0-9]{1,18}))?(?:\.([0-9]{1,18}))?(?:-([0-9A-Za-z.-]+))?(?:[+_][0-9A-Za-z._-]+)?"
)
_COMPARATOR = re.compile(
    r"(<=|>=|<|>|=|\^|~)?v?([0-9]{1,18}|[xX*])(?:\.([0-9]{1,18}|[xX*]))?(?:\.([0-9]{1,18}|[xX*]))?(?:-([0-9A-Za-z.-]+))?"
)
#: sorts after every pre-release of the same numbers
_RELEASE = ((2, 0, ""),)


class Version(NamedTuple):
    """Compares by semver's precedence (semver 2.0, 11)."""

    numbers: tuple[int, int, int]
    pre: tuple[tuple[int, int, str], ...] = _RELEASE

    @property
    def is_release(self) -> bool:
        """Whether it has no pre-release part."""
        return self.pre == _RELEASE


class RangeInvalid(ValueError):
    """A text that is not a range of versions."""


def version_of(tag: str) -> Version | None:
    """Returns the version that a tag names, missing parts as 0; None for a tag that names none."""
    match = _TAG.fullmatch(tag)
    if not match:
        return None
    return Version((int(match[1]), int(match[2] or 0), int(match[3] or 0)), _pre(match[4]))


def _pre(text: str | None) -> tuple[tuple[int, int, str], ...]:
    """Returns a pre-release as a sort key: numbers come before identifiers with letters."""
    if not text:
        return _RELEASE
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in text.split("."))


class Bound(NamedTuple):
    """One side of a range; `low` bounds from below. `named`: the range itself names a pre-release of this version."""

    low: bool
    inclusive: bool
    version: Version
    named: bool

    def admits(self, version: Version) -> bool:
        """Whether a version is inside the bound."""
        if version == self.version:
            return self.inclusive
        return (version > self.version) == self.low


class Range:
    """A parsed range. Raises RangeInvalid."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._sets = [
            [bound for comparator in part.split() for bound in _bounds(comparator, text)]
            for part in text.split("||")
        ]
        if not all(part.strip() for part in text.split("||")):
            raise RangeInvalid(f"{text[:80]!r} has an empty part; write * for every version")

    def admits(self, version: Version) -> bool:
        """Whether a version is in the range."""
        return any(self._in(bounds, version) for bounds in self._sets)

    @staticmethod
    def _in(bounds: list[Bound], version: Version) -> bool:
        if not all(bound.admits(version) for bound in bounds):
            return False
        return version.is_release or any(
            bound.named and bound.version.numbers == version.numbers for bound in bounds
        )


def _bounds(comparator: str, text: str) -> list[Bound]:
    match = _COMPARATOR.fullmatch(comparator)
    if not match:
        raise RangeInvalid(
            f"{comparator[:40]!r} in {text[:80]!r} is no comparator; allowed: < <= > >= = ^ ~ and a version, no space"
            " between them"
        )
    given = [int(part) for part in match.groups()[1:4] if part and part.isdigit()]
    numbers = [*given, 0, 0, 0][:3]
    low = Version((numbers[0], numbers[1], numbers[2]), _pre(match[5]))
    return _between(match[1] or "", low, _above(match[1] or "", numbers, len(given)), len(given))


def _between(sign: str, low: Version, above: Version | None, given: int) -> list[Bound]:
    """Returns the bounds of a comparator. `above` is the first version after all that a partial version, `^` or `~`
    includes; None without an end."""
    named = not low.is_release
    if sign == "<":
        return [Bound(False, False, low if named or given == 3 else _floor(low), named)]
    if sign == ">=":
        return [Bound(True, True, low, named)]
    if sign == ">" and given < 3 and above is not None:
        return [Bound(True, True, above, False)]
    if sign in ("<=", ">"):
        partial = sign == "<=" and given < 3 and above is not None
        return (
            [Bound(False, False, above, False)]
            if partial and above
            else [Bound(sign == ">", sign == "<=", low, named)]
        )
    if not sign.strip("=") and given == 3:
        return [Bound(True, True, low, named), Bound(False, True, low, named)]
    end = [] if above is None else [Bound(False, False, above, False)]
    return [Bound(True, True, low, named), *end]


def _floor(version: Version) -> Version:
    """Returns a version before every pre-release of these numbers."""
    return Version(version.numbers, ())


def _above(sign: str, numbers: list[int], given: int) -> Version | None:
    """Returns the first version after those that a comparator includes: the part that may not change is raised by
    one."""
    if given == 0:
        return None
    place = given - 1
    if sign == "~":
        place = min(given - 1, 1)
    elif sign == "^":
        place = next((n for n in range(given) if numbers[n]), given - 1)
    elif given == 3:
        return None
    raised = [*numbers[:place], numbers[place] + 1, 0, 0][:3]
    return _floor(Version((raised[0], raised[1], raised[2])))
