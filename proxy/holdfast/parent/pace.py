"""When a body comes too slowly to go on: one rule for a stall and for a drip. Pure."""

from __future__ import annotations

from holdfast.errors import TimedOut

#: reliability.md P9: abort below 1 KiB/s
FLOOR_BYTES_PER_SECOND = 1024


class Pace:
    """Counts bytes against the time spent waiting for them. Time in which nobody asked for bytes (a full
    disk queue, a slow follower) does not count, so back-pressure is never taken for a slow parent."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._waited, self._bytes = 0.0, 0

    def left(self) -> float:
        """Seconds of waiting until the window must have brought enough."""
        return self._window - self._waited

    def add(self, size: int, waited: float) -> None:
        """`size` bytes came after `waited` seconds. Raises TimedOut when a whole window brought too few."""
        self._waited += waited
        self._bytes += size
        if self._waited < self._window:
            return
        if self._bytes < self._window * FLOOR_BYTES_PER_SECOND:
            raise TimedOut(f"the parent sent {self._bytes} bytes in {self._window:g} s")
        self._waited, self._bytes = 0.0, 0
