"""Retries of requests: how often, how long to wait, and the one loop that waits.

Five tries, exponential backoff with full jitter, Retry-After honoured up to 300 s (reliability.md P1, P2),
and never past the caller's budget: an interactive request must be answered while its client still waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import ceil
from typing import TypeVar

from holdfast.backoff import Backoff
from holdfast.clock import Clock
from holdfast.errors import (
    ConnectTimedOut,
    KnownOffline,
    ParentErred,
    ParentFailed,
    ParentThrottled,
    ParentUnreachable,
    SlotsTaken,
    StillErring,
)

T = TypeVar("T")

TRIES = 5
BETWEEN_TRIES = Backoff(0.5, 8.0)
RETRY_AFTER_CAP_SECONDS = 300
#: the budget of a request that a client waits for
INTERACTIVE_SECONDS = 20.0

#: failures that no retry within the same budget can help
_FINAL = (ConnectTimedOut, KnownOffline, StillErring, SlotsTaken)


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment, on the monotonic clock, at which a request must have ended."""

    clock: Clock
    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """`seconds` from now."""
        return cls(clock, clock.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - self.clock.monotonic())


def wait_before_next(failure: ParentFailed, tried: int, jitter: Callable[[float], float]) -> float | None:
    """Seconds to wait after the failure of try number `tried` (from 1), or None to give up now."""
    if failure.permanent or isinstance(failure, _FINAL) or tried >= TRIES:
        return None
    if not isinstance(failure, (ParentThrottled, ParentErred, ParentUnreachable)):
        return None
    if failure.retry_after is not None:
        return min(failure.retry_after, RETRY_AFTER_CAP_SECONDS) + jitter(1.0)
    return BETWEEN_TRIES.delay(tried, jitter(1.0))


async def persist(
    attempt: Callable[[], Awaitable[T]], deadline: Deadline, may_retry: Callable[[], bool]
) -> T:
    """Run `attempt` until it succeeds, cannot be helped, or the next wait would miss the deadline.

    `may_retry` is called before each wait. Raises the last failure; its `retry_after` then says when another
    request makes sense.
    """
    tried = 0
    while True:
        tried += 1
        try:
            return await attempt()
        except ParentFailed as failure:
            wait = wait_before_next(failure, tried, deadline.clock.jitter)
            if wait is None:
                raise
            if wait > deadline.remaining():
                failure.retry_after = failure.retry_after or ceil(wait)
                raise
            if not may_retry():
                raise
        await deadline.clock.sleep(wait)


def retry_after(value: str | None, now: float) -> int | None:
    """A Retry-After header as seconds from `now` (wall time), from 0 to 300; None when it is absent or invalid.

    RFC 9110, 10.2.3: a number of seconds, or an HTTP date.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return RETRY_AFTER_CAP_SECONDS if len(text) > 9 else min(int(text), RETRY_AFTER_CAP_SECONDS)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return max(0, min(ceil(moment - now), RETRY_AFTER_CAP_SECONDS))
