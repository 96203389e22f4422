"""Rate limits of each connected registry below for requests to this node and writes on it, so that one registry cannot
slow down the others. Pure: takes `now` (monotonic seconds).

Each registry has a token bucket for each kind of request. The cost of a request is known only after it was read or
answered, so a bucket may go below zero; the next request waits until it is above zero again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from holdfast.token_bucket import TokenBucket

#: kinds of requests. Reports and notices cost the bytes of their body, questions the events that are read for them
REPORTS, NOTICES, QUESTIONS = "reports", "notices", "questions"
#: notices that are stored, each an entry of the log that all registries share
KEPT = "kept"
DAY_SECONDS = 86400.0


class BucketRate(NamedTuple):
    """A bucket of size `burst` that fills by `second` each second; `least` is the lowest cost of a request."""

    burst: float
    second: float
    least: float = 0.0


#: a request that would wait longer is refused (seconds)
PATIENCE_SECONDS = 2.0

#: of one connected registry at one process, whose time is limited. The least cost of a report is that of writing it to
#: the disk, of a question that of checking the credentials.
PROCESS_RATES = {
    REPORTS: BucketRate(4 << 20, 64 << 10, 32 << 10),
    NOTICES: BucketRate(8 << 20, 256 << 10, 4 << 10),
    QUESTIONS: BucketRate(600_000, 60_000, 150),
}


def node_rates(messages: int) -> dict[str, BucketRate]:
    """The rates of one connected registry for writes, which all processes of a node share. Of a log with room for
    `messages` notices it may fill a tenth at once, and then a tenth a day."""
    return {
        KEPT: BucketRate(messages / 10, messages / 10 / DAY_SECONDS),
        REPORTS: PROCESS_RATES[REPORTS],
        NOTICES: PROCESS_RATES[NOTICES],
    }


class Rates:
    """The buckets of all connected registries below, by name and kind."""

    def __init__(self, rates: Mapping[str, BucketRate]) -> None:
        self._rates = rates
        self._buckets: dict[tuple[str, str], TokenBucket] = {}

    def least(self, kind: str) -> float:
        """The lowest cost of a request of this kind."""
        return self._rates[kind].least

    def wait(self, child: str, kind: str, now: float) -> float:
        """Seconds until a registry's next request of this kind is allowed; 0 when it is now."""
        bucket = self._buckets.get((child.lower(), kind))
        return 0.0 if bucket is None else bucket.wait(0.0, now)

    def spend(self, child: str, kind: str, cost: float, now: float) -> None:
        """Take the cost of a request, at least the lowest, from the bucket."""
        self.take(child, kind, max(cost, self._rates[kind].least), now)

    def take(self, child: str, kind: str, cost: float, now: float) -> None:
        """Take exactly `cost` from the bucket."""
        rate, key = self._rates[kind], (child.lower(), kind)
        if key not in self._buckets:
            self._buckets[key] = TokenBucket(rate.second, rate.burst, now)
        self._buckets[key].take(cost, now)
