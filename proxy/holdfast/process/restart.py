"""When a child that died is started again. Pure: takes `now`, returns the delay."""

from __future__ import annotations

#: A child that lived this long (seconds) was well; the next start is immediate.
HEALTHY_SECONDS = 5.0
FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 5.0


class RestartDelay:
    """Doubles while a child keeps dying young, starts over once it lived."""

    def __init__(self) -> None:
        self._delay = 0.0
        self._started_at = 0.0

    def started(self, now: float) -> None:
        """The child was started at `now` (monotonic seconds)."""
        self._started_at = now

    def after_death(self, now: float) -> float:
        """Seconds to wait before the next start."""
        if now - self._started_at >= HEALTHY_SECONDS:
            self._delay = 0.0
        else:
            self._delay = min(LONGEST_DELAY_SECONDS, max(FIRST_DELAY_SECONDS, self._delay * 2))
        return self._delay
