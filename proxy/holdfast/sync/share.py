"""Who may have how much of the link, on the link's side. Pure; `now` is monotonic seconds, the time of day is passed
in.

What clients wait for goes first. The moment a miss begins, synchronisation and pushes drop to their minimum share; a
second later they get what the misses leave: the link's capacity less 1.25 times what the misses take. A miss that takes
all it can get grows by that quarter each time it is looked at, until nothing but the minimum share is left to the rest;
one that its own parent keeps slow leaves the rest to the others. The capacity is the cap where one is given, and what
was measured where none is.

A reader calls `take` after each piece that came and waits as long as it says before it reads on; the parent is slowed
by TCP.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

Work = Literal["interactive", "sync", "push"]

BYTES_PER_MBIT: Final = 125_000.0
#: a bucket holds this much time of its rate
BURST_SECONDS = 0.1
#: what the misses take is measured over this, and looked at as often
LOOK_SECONDS = 0.25
#: a miss that began less than this ago gets everything
GRACE_SECONDS = 0.75
#: room that is left to the misses to grow into
HEADROOM = 1.25
#: a link that was never measured leaves this to synchronisation while a miss is served (bytes a second)
UNKNOWN_FLOOR = 64 * 1024.0
#: the capacity is the best rate of so many seconds
MEMORY_SECONDS = 60
#: while a cap of 0 holds, the reader looks again after this (seconds)
CLOSED_SECONDS = 5.0


class Cap(Struct, frozen=True, kw_only=True):
    """An upper bound on the link; all that match hold at once. `mbit` 0: none of it may run. `parent` "" is all
    together, "*" each with a cap of its own; `work` "" is all; `hours` HH:MM-HH:MM in UTC, "" always."""

    mbit: float
    parent: str = ""
    work: Literal["", "interactive", "sync", "push"] = ""
    hours: str = ""


_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]|24):([0-5]\d)")
_DAY = 86400


def hours_of(text: str) -> tuple[int, int] | None:
    """Seconds of the day [from, to) of HH:MM-HH:MM; None for another text. `to` below `from` spans midnight."""
    found = _HOURS.fullmatch(text)
    if not found:
        return None
    a, b, c, d = map(int, found.groups())
    begin, end = a * 3600 + b * 60, c * 3600 + d * 60
    return None if begin == end or end > _DAY else (begin, end)


def holds_at(hours: str, wall: float) -> bool:
    """Whether a cap counts at a moment (wall seconds, UTC)."""
    found = hours_of(hours) if hours else None
    if found is None:
        return True
    begin, end = found
    at = wall % _DAY
    return begin <= at < end if begin < end else at >= begin or at < end


class Bucket:
    """Tokens at a rate. `take` always takes, into debt if need be, and says how long to wait until it is paid."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate, self._at, self._level = rate, now, rate * BURST_SECONDS

    def set(self, rate: float, now: float) -> None:
        """From now on at another rate; a debt stays, and is paid at the new one."""
        self._fill(now)
        self.rate = rate
        self._level = min(self._level, rate * BURST_SECONDS)

    def take(self, size: int, now: float) -> float:
        """Seconds to wait after `size` bytes."""
        self._fill(now)
        self._level -= size
        return self.owed()

    def owed(self) -> float:
        """Seconds until the debt is paid."""
        if self._level >= 0:
            return 0.0
        return -self._level / self.rate if self.rate > 0 else CLOSED_SECONDS

    def _fill(self, now: float) -> None:
        passed, self._at = max(0.0, now - self._at), now
        self._level = min(self.rate * BURST_SECONDS, self._level + passed * self.rate)


class Meter:
    """Bytes a second over the last look."""

    def __init__(self, now: float) -> None:
        self.rate, self._bytes, self._since = 0.0, 0, now

    def add(self, size: int) -> None:
        """Bytes came."""
        self._bytes += size

    def look(self, now: float) -> None:
        """Fold what came since the last look."""
        passed = now - self._since
        if passed > 0:
            self.rate, self._bytes, self._since = self._bytes / passed, 0, now


class Share:
    """The link of one node. One object for all transfers of the process that makes them."""

    def __init__(self, caps: Sequence[Cap] = (), minimum: float = 0.08, *, now: float = 0.0) -> None:
        self._caps, self._minimum = tuple(caps), minimum
        self._buckets: dict[tuple[int, str], Bucket] = {}
        self._misses, self._given = 0, 0.0
        self._began = self._looked = now
        #: while a miss is served: what all others have together, and under a cap on the whole what is left to misses
        self._rest, self._lead = Bucket(float("inf"), now), Bucket(float("inf"), now)
        self._interactive, self._second = Meter(now), 0.0
        self._best: deque[float] = deque([0.0], maxlen=MEMORY_SECONDS)
        self._slot = int(now)

    def began(self, work: Work, now: float) -> None:
        """A transfer begins. A miss among none takes the link at once."""
        if work != "interactive":
            return
        self._misses += 1
        if self._misses == 1:
            self._look(now)
            self._began = now
            self._allow(now)

    def ended(self, work: Work, now: float) -> None:
        """A transfer ended, however."""
        if work == "interactive":
            self._misses -= 1
            if self._misses == 0:
                self._allow(now)

    def take(self, parent: str, work: Work, size: int, now: float, wall: float) -> float:
        """`size` bytes came or went for a transfer; returns the seconds to wait before the next."""
        self._count(size, now)
        if work == "interactive":
            self._interactive.add(size)
        if now - self._looked >= LOOK_SECONDS:
            self._look(now)
            self._allow(now)
        waits = [bucket.take(size, now) for bucket in self._holding(parent, work, now, wall)]
        if self._misses:
            waits.append((self._lead if work == "interactive" else self._rest).take(size, now))
        return max(waits, default=0.0)

    def allowed(self) -> float:
        """Bytes a second that all but misses may have together now; without bound while no miss is served."""
        return self._rest.rate

    # ---- within

    def _holding(self, parent: str, work: Work, now: float, wall: float) -> list[Bucket]:
        """The buckets of the caps that this transfer falls under. One that names every parent has one for each."""
        found, given = [], float("inf")
        for number, cap in enumerate(self._caps):
            if not holds_at(cap.hours, wall):
                continue
            if not cap.parent and not cap.work:
                given = min(given, cap.mbit * BYTES_PER_MBIT)
                if self._misses:
                    continue  # split between misses and the rest, so that neither waits for the other's debt
            if cap.parent not in ("", "*", parent) or cap.work not in ("", work):
                continue
            key = (number, parent if cap.parent == "*" else "")
            if key not in self._buckets:
                self._buckets[key] = Bucket(cap.mbit * BYTES_PER_MBIT, now)
            found.append(self._buckets[key])
        self._given = 0.0 if given == float("inf") else given
        return found

    def _count(self, size: int, now: float) -> None:
        """Bytes of whole seconds: shorter ones would take a burst for a capacity."""
        passed = int(now) - self._slot
        if passed > 0:
            self._best.append(self._second)
            self._best.extend([0.0] * min(passed - 1, MEMORY_SECONDS))
            self._second, self._slot = 0.0, int(now)
        self._second += size

    def _look(self, now: float) -> None:
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._interactive.look(now)

    def _allow(self, now: float) -> None:
        """What misses and all others may have from now on."""
        if not self._misses:
            self._rest = self._lead = Bucket(float("inf"), now)
            return
        whole = self._given or max(self._best)
        least = whole * self._minimum or UNKNOWN_FLOOR
        left = 0.0 if now - self._began < GRACE_SECONDS else whole - HEADROOM * self._interactive.rate
        rest = max(least, left)
        self._rest = _at_rate(self._rest, rest, now)
        self._lead = _at_rate(
            self._lead, self._given - min(rest, least) if self._given else float("inf"), now
        )


def _at_rate(bucket: Bucket, rate: float, now: float) -> Bucket:
    """The bucket at another rate; one without bound begins anew, because it owes nothing and holds too much."""
    if float("inf") in (bucket.rate, rate):
        return Bucket(rate, now)
    bucket.set(rate, now)
    return bucket
