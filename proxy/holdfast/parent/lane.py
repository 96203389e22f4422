"""How one body goes over the link at the pace that `holdfast.sync.share` gives it.

Waiting is not enough: what the kernel has promised to take is under way whether it is read or not, megabytes of it once
a link was fast. So what gives way has a small window as well, also while nobody comes: no more is under way than its
part of the link brings within two round trips and a moment.
"""

from __future__ import annotations

import asyncio
from math import log2
from typing import Protocol, Self

from holdfast.clock import Clock
from holdfast.sync.share import LOOK_SECONDS, Share, Work

#: while a cap of 0 holds, it is looked at again after this (seconds)
CLOSED_SECONDS = 5.0
#: no wait is shorter: a clock ticks no finer
LEAST_SECONDS = 0.001


class Narrow(Protocol):
    """A body whose window can be set."""

    def narrow(self, rate: float) -> None:
        """Have no more under way than such a rate needs (bytes a second); 0 for no bound of ours."""
        ...


class Line:
    """The link of one node: all its transfers, from and to whatever parent."""

    def __init__(self, share: Share, clock: Clock) -> None:
        self.share, self.clock = share, clock
        self.lanes: set[Lane] = set()

    def enter(self, parent: str, work: Work) -> Lane:
        """A transfer begins; it lasts until the lane is closed."""
        return Lane(self, parent, work)

    def changed(self) -> None:
        """Who goes first may have changed: windows follow at once."""
        if self.share.is_at_work:
            for lane in self.lanes:
                lane.fit()


class Lane:
    """One transfer's part of the link. `work` may change while it is under way."""

    def __init__(self, line: Line, parent: str, work: Work) -> None:
        self._line, self._share, self._clock = line, line.share, line.clock
        self.parent, self.work = parent, work
        self._body: Narrow | None = None
        self._rate = self._fitted = 0.0
        self._rest: asyncio.Future[None] | None = None
        self._share.began(work, self._clock.monotonic(), self._clock.now())
        line.lanes.add(self)
        line.changed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def counts(self) -> bool:
        """Whether bytes have to be told and waited for. Misses alone on a link without caps pay nothing."""
        return self._share.is_at_work

    @property
    def is_closed(self) -> bool:
        """Whether a cap of 0 holds for it now."""
        return self._share.is_closed(self.parent, self.work, self._clock.now())

    def carries(self, body: Narrow) -> None:
        """The body whose window follows from now on."""
        self._body, self._rate = body, 0.0
        if self.counts:
            self.fit()

    def turn(self, work: Work) -> None:
        """Somebody began to wait for it, or nobody does any more. A rest ends at once."""
        if work == self.work or self not in self._line.lanes:
            return
        self._share.began(work, self._clock.monotonic(), self._clock.now())
        self._share.ended(self.work, self._clock.monotonic())
        self.work = work
        if self._rest is not None:
            self._rest.cancel()
        self._line.changed()

    def took(self, size: int) -> None:
        """Bytes came, or were handed on."""
        self._share.take(self.parent, self.work, size, self._clock.monotonic(), self._clock.now())
        self.fit()

    async def ready(self) -> None:
        """Wait until the next bytes may come."""
        while (seconds := self._owed()) > 0:
            await self._wait(seconds)
            self.fit()

    def fit(self) -> None:
        """Set the window to what it may have now; again and again, because the kernel makes it larger by itself."""
        if self._body is None:
            return
        now = self._clock.monotonic()
        rate = self._share.rate(self.parent, self.work, now, self._clock.now())
        rounded = 0.0 if rate == float("inf") else 2.0 ** round(log2(max(rate, 1.0)))
        if rounded != self._rate or (rounded and now - self._fitted >= LOOK_SECONDS):
            self._rate, self._fitted = rounded, now
            self._body.narrow(rounded)

    def close(self) -> None:
        """It is over, however. May be called twice."""
        if self not in self._line.lanes:
            return
        self._line.lanes.discard(self)
        self._share.ended(self.work, self._clock.monotonic())
        self._body = None

    def _owed(self) -> float:
        """Seconds until it is worth looking again, 0 to go on."""
        # the piece of an upload goes to its end; the outbox begins no other
        if self.work == "sync" and self.is_closed:
            return CLOSED_SECONDS
        owed = self._share.owed(self.parent, self.work, self._clock.monotonic(), self._clock.now())
        # a miss may end, and what is owed is paid at another rate
        return min(max(owed, LEAST_SECONDS), LOOK_SECONDS) if owed else 0.0

    async def _wait(self, seconds: float) -> None:
        self._rest = rest = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((rest,))
        finally:
            rest.cancel()
            self._rest = None
