"""Who may have how much of the link, on the link's side. Pure; `now` is monotonic seconds, the time of day is passed
in.

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

from holdfast.config import Cap

Work = Literal["interactive", "sync", "push"]

BYTES_PER_MBIT: Final = 125_000.0
#: a bucket holds this much time of its rate
BURST_SECONDS = 0.1
#: a lane that waits looks again after this
LOOK_SECONDS = 0.25
#: what comes is measured over this, and what the others may have is decided as often
MEASURE_SECONDS = 0.5
#: a miss that began less than this ago gets everything: its transfer has only begun to grow
GRACE_SECONDS = 1.5
#: after the last miss the link stays theirs for so long: the next blob of the same pull comes right after
LINGER_SECONDS = 0.5
#: up to this part of the capacity the others may fill the link beside misses: the capacity is measured from what was
#: read, which a lost packet holds up and then lets through in one piece
AIM = 0.85
#: so much of what is unused they take at each look; what is over they leave at once
GROWTH = 0.2
#: a link that was never measured leaves this to synchronisation while a miss is served (bytes a second)
UNKNOWN_FLOOR = 64 * 1024.0
#: windows are made for this until a faster second was seen: a promise once given cannot be taken back (bytes a second)
UNKNOWN_RATE = 1e6
#: the capacity is the best rate of so many seconds in the last minute
MEASURED_SECONDS, MEMORY_SECONDS = 6, 60


_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]|24):([0-5][0-9])")
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
        return max(0.0, -self._level / self.rate)

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

    def __init__(self, caps: Sequence[Cap] = (), minimum: float = 0.05, *, now: float = 0.0) -> None:
        self._caps, self._minimum = tuple(caps), minimum
        self._buckets: dict[tuple[int, str], Bucket] = {}
        self._misses = self._others = 0
        self._began = self._left = self._looked = now
        #: while a miss is served: what all others have together, and under a cap on the whole what is left to misses
        self._rest, self._lead = Bucket(float("inf"), now), Bucket(float("inf"), now)
        self._down, self._second = Meter(now), 0.0
        self._seconds: deque[float] = deque(maxlen=MEASURED_SECONDS)
        self._best: deque[float] = deque([0.0], maxlen=MEMORY_SECONDS)
        self._fastest: deque[float] = deque([0.0], maxlen=MEMORY_SECONDS)
        self._slot = int(now)

    @property
    def is_at_work(self) -> bool:
        """Whether bytes have to be told at all: misses alone on a link without caps need no arbiter."""
        return bool(self._others or self._caps)

    def began(self, work: Work, now: float, wall: float) -> None:
        """A transfer begins. A miss among none takes the link at once."""
        worked = self.is_at_work
        if work == "interactive":
            self._misses += 1
        else:
            self._others += 1
        if not worked:  # what misses took before was not told
            self._down, self._looked = Meter(now), now
        first = work == "interactive" and self._misses == 1
        if first or (self._misses and not worked):
            self._look(now)
            self._began = now
            self._allow(now, wall)

    def ended(self, work: Work, now: float) -> None:
        """A transfer ended, however."""
        if work != "interactive":
            self._others -= 1
            return
        self._misses -= 1
        self._left = now

    def take(self, parent: str, work: Work, size: int, now: float, wall: float) -> float:
        """`size` bytes came or went for a transfer; returns the seconds to wait before the next."""
        if work != "push":  # the way up is another one
            self._count(size, now)
        self._refresh(now, wall)
        waits = [bucket.take(size, now) for bucket in self._holding(parent, work, now, wall)]
        return max(waits, default=0.0)

    def owed(self, parent: str, work: Work, now: float, wall: float) -> float:
        """Seconds to wait before the next bytes, as things stand now; they may change meanwhile."""
        self._refresh(now, wall)
        waits = [bucket.take(0, now) for bucket in self._holding(parent, work, now, wall)]
        return max(waits, default=0.0)

    def rate(self, parent: str, work: Work, now: float, wall: float) -> float:
        """Bytes a second that the window of a transfer is made for; without bound where none is known. What gives way
        gets its part of the link's fastest second and no more, also while no miss is served: what the kernel promised
        to take is under way when one begins."""
        self._refresh(now, wall)
        most = min((bucket.rate for bucket in self._holding(parent, work, now, wall)), default=float("inf"))
        if work == "interactive":
            return most
        return min(most, max(UNKNOWN_RATE, *self._fastest)) / max(1, self._others)

    def is_closed(self, parent: str, work: Work, wall: float) -> bool:
        """Whether a cap of 0 holds: none of it may run now."""
        return any(not cap.mbit for _, cap in self._matching(parent, work, wall))

    def allowed(self) -> float:
        """Bytes a second that all but misses may have together now; without bound while no miss is served."""
        return self._rest.rate

    # ---- within

    def _matching(self, parent: str, work: Work, wall: float) -> Iterator[tuple[int, Cap]]:
        """The caps that a transfer falls under now."""
        for number, cap in enumerate(self._caps):
            if cap.parent in ("", "*", parent) and cap.work in ("", work) and holds_at(cap.hours, wall):
                yield number, cap

    def _holding(self, parent: str, work: Work, now: float, wall: float) -> list[Bucket]:
        """The buckets that a transfer draws from. A cap that names every parent has one for each."""
        found, split = [], self._is_split
        for number, cap in self._matching(parent, work, wall):
            if not cap.mbit or (split and _is_whole(cap)):
                continue  # the whole is split between misses and the rest, so that neither waits for the other's debt
            key = (number, parent if cap.parent == "*" else "")
            if key not in self._buckets:
                self._buckets[key] = Bucket(cap.mbit * BYTES_PER_MBIT, now)
            found.append(self._buckets[key])
        if split and (bucket := self._lead if work == "interactive" else self._rest).rate < float("inf"):
            found.append(bucket)
        return found

    @property
    def _is_split(self) -> bool:
        return self._rest.rate < float("inf")

    def _count(self, size: int, now: float) -> None:
        """Bytes of whole seconds: shorter ones would take a burst for a capacity."""
        self._down.add(size)
        passed = int(now) - self._slot
        if passed > 0:
            for came in (self._second, *[0.0] * min(passed - 1, MEMORY_SECONDS)):
                self._seconds.append(came)
                self._fastest.append(came)
                self._best.append(sum(self._seconds) / MEASURED_SECONDS)
            self._second, self._slot = 0.0, int(now)
        self._second += size

    def _refresh(self, now: float, wall: float) -> None:
        if not self._misses and self._is_split and now - self._left >= LINGER_SECONDS:
            self._rest = self._lead = Bucket(float("inf"), now)
        elif now - self._looked >= MEASURE_SECONDS:
            self._look(now)
            if self._misses:
                self._allow(now, wall)

    def _look(self, now: float) -> None:
        if now - self._looked >= MEASURE_SECONDS:
            self._looked = now
            self._down.look(now)

    def _allow(self, now: float, wall: float) -> None:
        """What misses and all others may have from now on."""
        holding = (cap.mbit for cap in self._caps if _is_whole(cap) and holds_at(cap.hours, wall))
        given = min(holding, default=0.0) * BYTES_PER_MBIT
        known = max(self._best)
        whole = min(given or known, known or given)
        least = whole * self._minimum or UNKNOWN_FLOOR
        rest = least
        if now - self._began >= GRACE_SECONDS:
            unused = AIM * whole - self._down.rate
            grown = self._rest.rate + unused * (GROWTH if unused > 0 else 1.0)
            rest = max(least, min(whole, grown))
        self._rest = _at_rate(self._rest, rest, now)
        kept = min(rest, least) if self._others else 0.0
        self._lead = _at_rate(self._lead, given - kept if given else float("inf"), now)


def _is_whole(cap: Cap) -> bool:
    """Whether it bounds everything together."""
    return not cap.parent and not cap.work


def _at_rate(bucket: Bucket, rate: float, now: float) -> Bucket:
    """The bucket at another rate; one without bound begins anew, because it owes nothing and holds too much."""
    if float("inf") in (bucket.rate, rate):
        return Bucket(rate, now)
    bucket.set(rate, now)
    return bucket
