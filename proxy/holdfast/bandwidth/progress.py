"""The progress of a run: bytes, images, rate, time left. Pure; times are monotonic or wall seconds of one clock."""

from __future__ import annotations

from math import exp

from msgspec import Struct

#: the rate is that of about the last half minute
MEMORY_SECONDS = 30.0
#: bytes are gathered this long before they count, so that a burst is no rate
SLICE_SECONDS = 0.5


class Progress(Struct, frozen=True):
    """For `sync status`, the API and the status that goes up. `rate` is bytes a second; `left` seconds, None while it
    is unknown. `failed` also counts those that are retried, `parked` those that an operator has to grant."""

    images_done: int
    images: int
    bytes_done: int
    bytes: int
    rate: float
    left: float | None
    retrying: int = 0
    failed: int = 0
    parked: int = 0


class Rate:
    """Bytes, or other units, a second: a mean in which older ones count less."""

    def __init__(self) -> None:
        self._value, self._slice, self._at = 0.0, 0, float("nan")
        self._known = False

    def begin(self, now: float) -> None:
        """Start to measure."""
        if self._at != self._at:
            self._at = now

    def add(self, size: int, now: float) -> None:
        """`size` bytes came at `now`, since `begin` or the last ones."""
        self._at = min(self._at, now)  # a clock that was set back
        if self._at != self._at:
            self._at = now  # it is unknown how long these took
            return
        self._slice += size
        if now - self._at >= SLICE_SECONDS:
            self._fold(now)

    def _fold(self, now: float) -> None:
        passed = now - self._at
        weight = 1.0 if not self._known else 1.0 - exp(-passed / MEMORY_SECONDS)
        self._value += (self._slice / passed - self._value) * weight
        self._known, self._slice, self._at = True, 0, now

    def at(self, now: float) -> float:
        """The rate; it sinks while nothing comes."""
        if self._known and now - self._at > 2 * SLICE_SECONDS:
            self._fold(now)
        return self._value
