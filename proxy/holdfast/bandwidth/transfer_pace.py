"""What one parent's transfers took so far: seconds to the first byte, bytes a second after it. Pure."""

from __future__ import annotations

#: until a transfer was measured (seconds, bytes a second)
UNKNOWN_LATENCY, UNKNOWN_RATE = 0.1, 10e6
#: a shorter body says nothing about the rate (bytes)
LEAST_BYTES = 64 << 10
#: how much of a measurement the latest transfer is
WEIGHT = 0.2


class TransferPace:
    """A moving mean of whole transfers."""

    def __init__(self) -> None:
        self.latency, self.rate = UNKNOWN_LATENCY, UNKNOWN_RATE
        self._begun = self._brought = False

    def began(self, seconds: float) -> None:
        """The answer of a request came after so long."""
        self.latency = _mean(self.latency, max(seconds, 0.0), self._begun)
        self._begun = True

    def brought(self, size: int, seconds: float) -> None:
        """So many bytes of its body came in so long."""
        if size < LEAST_BYTES or seconds <= 0:
            return
        self.rate = _mean(self.rate, size / seconds, self._brought)
        self._brought = True


def _mean(former: float, latest: float, known: bool) -> float:
    return former + WEIGHT * (latest - former) if known else latest
