"""Times as text: RFC 3339 in UTC, in whole seconds for resources ("2026-11-26T22:00:00Z"); and ISO 8601 durations."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_DURATION_LETTERS = re.compile(r"P[0-9WDTHMSY.,]{1,30}")


def stamp(now: float) -> str:
    """Wall seconds as text, to the second."""
    return _text(int(now))


@lru_cache(16)
def _text(now: int) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stamp_milliseconds(now: float) -> str:
    """Wall seconds as text, to the millisecond: of what happened to a tag or an entry."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: str) -> float:
    """The whole wall seconds that a text of RFC 3339 names, in whatever zone. Raises ValueError for another text and
    for one without a zone."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} names no zone")
    return time.replace(microsecond=0).timestamp()


def is_past(text: str | None, now: float) -> bool:
    """Whether a time is over; None never is, and a text that is no time always is."""
    if text is None:
        return False
    try:
        return seconds(text) <= now
    except ValueError:
        return True


def spoken(length: float) -> str:
    """A length of time in its two largest units."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, length = divmod(int(length), size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def duration(text: str) -> timedelta | None:
    """An ISO 8601 duration of weeks, days, hours, minutes, seconds. None for another text, and for months and years,
    whose length depends on when they begin."""
    from isodate import ISO8601Error, parse_duration  # type: ignore[import-untyped]

    if not _DURATION_LETTERS.fullmatch(text):  # isodate lets a trailing newline by
        return None
    try:
        parsed = parse_duration(text)
    except (ISO8601Error, ValueError, OverflowError, ArithmeticError):
        return None
    return parsed if isinstance(parsed, timedelta) else None
