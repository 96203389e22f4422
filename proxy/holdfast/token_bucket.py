"""Token bucket: a rate with a burst. Pure; `now` is monotonic seconds."""

from __future__ import annotations


class TokenBucket:
    """Holds up to `capacity` tokens, gains `rate` tokens a second, and is full at first.

    `take` never refuses: it goes into debt, and its caller waits until the debt is paid. A caller that must not go into
    debt compares with `level` first. `rate` must be above 0 where something waits.
    """

    __slots__ = ("_at", "_capacity", "_level", "rate")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self.rate, self._capacity = rate, capacity
        self._level, self._at = capacity, now

    def level(self, now: float) -> float:
        """The tokens that are there at `now`; below 0 while there is a debt."""
        elapsed, self._at = max(0.0, now - self._at), now
        self._level = min(self._capacity, self._level + elapsed * self.rate)
        return self._level

    def take(self, count: float, now: float) -> float:
        """Take `count` tokens; returns the seconds until the debt is paid, 0 when there is none."""
        self._level = self.level(now) - count
        return max(0.0, -self._level / self.rate)

    def wait(self, count: float, now: float) -> float:
        """Seconds until the bucket holds `count` tokens; with a `count` of 0, until there is no debt."""
        return max(0.0, (count - self.level(now)) / self.rate)

    def give_back(self, count: float) -> None:
        """Undo a `take` that was not used."""
        self._level += count

    def change_rate(self, rate: float, capacity: float, now: float) -> None:
        """Gain `rate` tokens a second from now on. A debt stays, and is paid at the new rate."""
        self._level = min(self.level(now), capacity)
        self.rate, self._capacity = rate, capacity
