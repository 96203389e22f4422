"""Times as resources have them: RFC 3339 in UTC, whole seconds ("2026-11-26T22:00:00Z")."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def stamp(now: float) -> str:
    """Wall seconds as text."""
    return _text(int(now))


@lru_cache(16)
def _text(now: int) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """The whole wall seconds that a text of RFC 3339 names, in whatever zone. Raises ValueError for another text and
    for one without a zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no zone")
    return moment.replace(microsecond=0).timestamp()


def is_past(text: str | None, now: float) -> bool:
    """Whether a time is over; None never is, and a text that is no time always is."""
    if text is None:
        return False
    try:
        return seconds(text) <= now
    except ValueError:
        return True
