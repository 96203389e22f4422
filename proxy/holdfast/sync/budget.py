"""How often background work may ask one parent: so many questions an hour, and never so many that the parent's own
limit (Docker Hub's `ratelimit-remaining`) leaves nothing to clients. Pure. Times are monotonic seconds.

Below the reserve one question is let through now and then, because only an answer tells how much is left.
"""

from __future__ import annotations

from msgspec import Struct

from holdfast.sync.schedule import spoken

HOUR_SECONDS = 3600.0
#: what sums of floats may lack
ROUNDING = 1e-6
#: below the reserve a question is let through this often: a share of the parent's window, within bounds (seconds)
GLANCE_SHARE, GLANCE_LEAST, GLANCE_MOST = 0.05, 60.0, 3600.0


class Limit(Struct, frozen=True):
    """What a parent said of its own limit: `remaining` of `total` requests in `window` seconds."""

    total: int
    remaining: int
    window: float


class Budget:
    """Of one parent. `requests`: at most so many in any hour, 0 without bound; a minute's worth may come at once.
    `reserve`: the share of the parent's own limit that is left to clients."""

    def __init__(self, requests: int = 0, reserve: float = 0.2) -> None:
        self._requests, self._reserve = requests, reserve
        self._burst = max(1.0, requests // 60)
        # what may come at once is part of the hour's
        self._rate = max(requests - self._burst, 0.5) / HOUR_SECONDS
        self._level, self._filled_at = self._burst, 0.0
        self._glance_at: float | None = None
        self._limit: Limit | None = None

    def wait(self, now: float, limit: Limit | None = None) -> float:
        """Seconds until it is worth asking again; 0.0: ask now, and it is counted."""
        return self._reserved(now, limit) or self._taken(now)

    def words(self, now: float) -> str:
        """A sentence while background work is held back; "" otherwise."""
        if self._glance_at is None or self._limit is None:
            paced = self._requests and (1.0 - self._filled(now)) / self._rate
            return (
                f"it is asked {self._requests} questions an hour at most (sync.requests)"
                if paced >= 1
                else ""
            )
        return (
            f"{self._limit.remaining} of {self._limit.total} requests that the parent allows in"
            f" {spoken(self._limit.window)} are left, and {self._reserve:.0%} are for clients: it is asked again in"
            f" {spoken(max(self._glance_at - now, 1.0))}"
        )

    def _reserved(self, now: float, limit: Limit | None) -> float:
        """How long the parent's own limit forbids it."""
        self._limit = limit
        if limit is None or not limit.total or limit.remaining >= self._reserve * limit.total:
            self._glance_at = None
            return 0.0
        pause = min(max(limit.window * GLANCE_SHARE, GLANCE_LEAST), GLANCE_MOST)
        if self._glance_at is None:
            self._glance_at = now + pause
        if now < self._glance_at:
            return self._glance_at - now
        self._glance_at = now + pause
        return 0.0

    def _taken(self, now: float) -> float:
        """How long the hour's questions forbid it."""
        if not self._requests:
            return 0.0
        self._level, self._filled_at = self._filled(now), now
        if self._level < 1.0 - ROUNDING:
            return (1.0 - self._level) / self._rate
        self._level -= 1.0
        return 0.0

    def _filled(self, now: float) -> float:
        """How many questions may come at once now."""
        return min(self._burst, self._level + max(0.0, now - self._filled_at) * self._rate)
