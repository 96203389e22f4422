"""Divides the link among transfers. Pure; `now` is monotonic seconds, `wall` the time of day in seconds, UTC.

What clients wait for goes first. The moment a miss begins, synchronisation and pushes drop to their minimum share. They
grow again only into what stays unused: as long as less comes than the link can bring, its queue is empty, and the
transfer of the miss grows as fast as it can; once the link is full they give way, down to their minimum. So a miss that
its own parent keeps slow leaves the rest to the others. The capacity is the cap where one is given, and what was
measured of what came down where that is less, or no cap is given.

A reader calls `take` after each piece that came and reads on when `owed` says 0; the parent is slowed by TCP.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from holdfast.config import CapSection
from holdfast.token_bucket import TokenBucket

Work = Literal["interactive", "sync", "push"]

BYTES_PER_MBIT: Final = 125_000.0
#: a bucket holds this much time of its rate
BURST_SECONDS = 0.1
#: a lane that waits asks again after this
LOOK_SECONDS = 0.25
#: what is received is measured over this, and the rate of all but misses is set as often
MEASURE_SECONDS = 0.5
#: a miss younger than this gets everything: its transfer has only begun to grow
GRACE_SECONDS = 1.5
#: after the last miss the link stays reserved for misses for so long, or as long as they were served without a gap
#: where that is less: the next blob of the same pull comes right after, within a round trip, and no miss is shorter
#: than that
LINGER_SECONDS = 0.5
#: up to this part of the capacity the others may fill the link beside misses: the capacity is measured from what was
#: read, which a lost packet holds up and then lets through in one piece
AIM = 0.85
#: so much of what is unused they take at each look; what is over they leave at once
GROWTH = 0.2
#: a link that was never measured leaves this to synchronisation while a miss is served (bytes a second)
UNKNOWN_FLOOR = 64 * 1024.0
#: windows are made for this until a faster second was measured: an announced window cannot be taken back (bytes a
#: second)
UNKNOWN_RATE = 1e6
#: the capacity is the best rate of so many seconds in the last minute
MEASURED_SECONDS, MEMORY_SECONDS = 6, 60


_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]|24):([0-5][0-9])")
_DAY = 86400


def hours_of(text: str) -> tuple[int, int] | None:
    """Seconds of the day [from, to) of HH:MM-HH:MM; None for another text. `to` below `from` spans midnight."""
    match = _HOURS.fullmatch(text)
    if not match:
        return None
    a, b, c, d = map(int, match.groups())
    begin, end = a * 3600 + b * 60, c * 3600 + d * 60
    return None if begin == end or end > _DAY else (begin, end)


def holds_at(hours: str, wall: float) -> bool:
    """Whether a cap holds at a time (wall seconds, UTC)."""
    span = hours_of(hours) if hours else None
    if span is None:
        return True
    begin, end = span
    at = wall % _DAY
    return begin <= at < end if begin < end else at >= begin or at < end


class Meter:
    """Bytes a second between the last two calls of `measure`."""

    def __init__(self, now: float) -> None:
        self.rate, self._bytes, self._since = 0.0, 0, now

    def add(self, size: int) -> None:
        """Count bytes that were received."""
        self._bytes += size

    def measure(self, now: float) -> None:
        """Set the rate of what was counted since the last call."""
        passed = now - self._since
        if passed > 0:
            self.rate, self._bytes, self._since = self._bytes / passed, 0, now


class LinkShare:
    """The link of one node: one object for all transfers of the process that runs them."""

    def __init__(self, caps: Sequence[CapSection] = (), minimum: float = 0.05, *, now: float = 0.0) -> None:
        self._caps, self._minimum = tuple(caps), minimum
        self._buckets: dict[tuple[int, str], TokenBucket] = {}
        self._misses = self._others = 0
        self._began = self._left = self._measured = now
        self._linger = 0.0
        #: while a miss is served: what all others have together, and under a cap on the whole what is left to misses
        self._rest, self._lead = _bucket(float("inf"), now), _bucket(float("inf"), now)
        self._down, self._second = Meter(now), 0.0
        self._seconds: deque[float] = deque(maxlen=MEASURED_SECONDS)
        self._best: deque[float] = deque([0.0], maxlen=MEMORY_SECONDS)
        self._fastest: deque[float] = deque([0.0], maxlen=MEMORY_SECONDS)
        self._slot = int(now)

    @property
    def is_shared(self) -> bool:
        """Whether bytes have to be counted and waited for: misses alone on a link without caps need no arbiter."""
        return bool(self._others or self._caps)

    def began(self, work: Work, now: float, wall: float) -> None:
        """A transfer begins. The first miss takes the link at once."""
        was_shared = self.is_shared
        if work == "interactive":
            self._misses += 1
        else:
            self._others += 1
        if not was_shared:  # what misses received before was not counted
            self._down, self._measured = Meter(now), now
        first = work == "interactive" and self._misses == 1
        if first or (self._misses and not was_shared):
            self._measure(now)
            self._began = now
            self._allow(now, wall)

    def ended(self, work: Work, now: float) -> None:
        """A transfer ended."""
        if work != "interactive":
            self._others -= 1
            return
        self._misses -= 1
        self._left = now
        if not self._misses:
            self._linger = min(LINGER_SECONDS, now - self._began)

    def take(self, parent: str, work: Work, size: int, now: float, wall: float) -> float:
        """Count `size` bytes of a transfer; returns the seconds to wait before the next."""
        if work != "push":  # uploads do not use the downlink
            self._count(size, now)
        self._refresh(now, wall)
        waits = [bucket.take(size, now) for bucket in self._holding(parent, work, now, wall)]
        return max(waits, default=0.0)

    def owed(self, parent: str, work: Work, now: float, wall: float) -> float:
        """Seconds to wait before the next bytes, at the present rates."""
        self._refresh(now, wall)
        waits = [bucket.take(0, now) for bucket in self._holding(parent, work, now, wall)]
        return max(waits, default=0.0)

    def rate(self, parent: str, work: Work, now: float, wall: float) -> float:
        """Bytes a second that the window of a transfer is made for; infinite where no bound is known. All but misses
        get their part of the link's fastest second and no more, also while no miss is served: bytes within the
        announced window are on the link when a miss begins."""
        self._refresh(now, wall)
        most = min((bucket.rate for bucket in self._holding(parent, work, now, wall)), default=float("inf"))
        if work == "interactive":
            return most
        return min(most, max(UNKNOWN_RATE, *self._fastest)) / max(1, self._others)

    def is_closed(self, parent: str, work: Work, wall: float) -> bool:
        """Whether a cap of 0 holds: no such transfer may run now."""
        return any(not cap.mbit for _, cap in self._matching(parent, work, wall))

    def allowed(self) -> float:
        """Bytes a second that all but misses may use together now; infinite while no miss is served."""
        return self._rest.rate

    def lingers(self, now: float) -> float:
        """Seconds until the link is not reserved for misses any more; infinite while a miss is served."""
        return float("inf") if self._misses else max(0.0, self._left + self._linger - now)

    # ---- within

    def _matching(self, parent: str, work: Work, wall: float) -> Iterator[tuple[int, CapSection]]:
        """The caps that hold for a transfer now, by number."""
        for number, cap in enumerate(self._caps):
            if cap.parent in ("", "*", parent) and cap.work in ("", work) and holds_at(cap.hours, wall):
                yield number, cap

    def _holding(self, parent: str, work: Work, now: float, wall: float) -> list[TokenBucket]:
        """The buckets that a transfer draws from. A cap that names every parent has one for each."""
        buckets, split = [], self._is_split
        for number, cap in self._matching(parent, work, wall):
            if not cap.mbit or (split and _is_whole(cap)):
                continue  # the whole is split between misses and the rest, so that neither waits for the other's debt
            key = (number, parent if cap.parent == "*" else "")
            if key not in self._buckets:
                self._buckets[key] = _bucket(cap.mbit * BYTES_PER_MBIT, now)
            buckets.append(self._buckets[key])
        if split and (bucket := self._lead if work == "interactive" else self._rest).rate < float("inf"):
            buckets.append(bucket)
        return buckets

    @property
    def _is_split(self) -> bool:
        return self._rest.rate < float("inf")

    def _count(self, size: int, now: float) -> None:
        """Count the bytes of whole seconds: a shorter interval would take a burst for the capacity."""
        self._down.add(size)
        passed = int(now) - self._slot
        if passed > 0:
            for count in (self._second, *[0.0] * min(passed - 1, MEMORY_SECONDS)):
                self._seconds.append(count)
                self._fastest.append(count)
                self._best.append(sum(self._seconds) / MEASURED_SECONDS)
            self._second, self._slot = 0.0, int(now)
        self._second += size

    def _refresh(self, now: float, wall: float) -> None:
        if self._is_split and not self.lingers(now):
            self._rest = self._lead = _bucket(float("inf"), now)
        elif now - self._measured >= MEASURE_SECONDS:
            self._measure(now)
            if self._misses:
                self._allow(now, wall)

    def _measure(self, now: float) -> None:
        if now - self._measured >= MEASURE_SECONDS:
            self._measured = now
            self._down.measure(now)

    def _allow(self, now: float, wall: float) -> None:
        """Set the rates of misses and of all others."""
        caps = (cap.mbit for cap in self._caps if _is_whole(cap) and holds_at(cap.hours, wall))
        cap = min(caps, default=0.0) * BYTES_PER_MBIT
        measured = max(self._best)
        whole = min(cap or measured, measured or cap)
        least = whole * self._minimum or UNKNOWN_FLOOR
        rest = least
        if now - self._began >= GRACE_SECONDS:
            unused = AIM * whole - self._down.rate
            grown = self._rest.rate + unused * (GROWTH if unused > 0 else 1.0)
            rest = max(least, min(whole, grown))
        self._rest = _at_rate(self._rest, rest, now)
        kept = min(rest, least) if self._others else 0.0
        self._lead = _at_rate(self._lead, cap - kept if cap else float("inf"), now)


def _is_whole(cap: CapSection) -> bool:
    """Whether the cap bounds all transfers together."""
    return not cap.parent and not cap.work


def _bucket(rate: float, now: float) -> TokenBucket:
    return TokenBucket(rate, rate * BURST_SECONDS, now)


def _at_rate(bucket: TokenBucket, rate: float, now: float) -> TokenBucket:
    """The bucket at another rate; one without bound is replaced, because it owes nothing and holds too much."""
    if float("inf") in (bucket.rate, rate):
        return _bucket(rate, now)
    bucket.change_rate(rate, rate * BURST_SECONDS, now)
    return bucket
