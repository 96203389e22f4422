"""The pace of one body, as `holdfast.bandwidth.share` gives it.

Waiting is not enough: the kernel has announced a window, and bytes within it are on the link whether they are read or
not, megabytes of it once a link was fast. So a body that gives way has a small window as well, also while no miss is
served: no more is on the link than its part of it carries within two round trips and a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import log2
from typing import Self

from holdfast.bandwidth.share import LOOK_SECONDS, LinkShare, Work
from holdfast.clock import Clock

#: while a cap of 0 holds, it is examined again after this (seconds)
CLOSED_SECONDS = 5.0
#: no wait is shorter: a clock ticks no finer
LEAST_SECONDS = 0.001


class SharedLink:
    """The link of one node: all its transfers, from and to all parents."""

    def __init__(self, share: LinkShare, clock: Clock) -> None:
        self.share, self.clock = share, clock
        self.lanes: set[Lane] = set()

    def enter(self, parent: str, work: Work) -> Lane:
        """A lane for a transfer that begins; it lasts until the lane is closed."""
        return Lane(self, parent, work)

    def priorities_changed(self) -> None:
        """Fit all windows at once."""
        if self.share.is_shared:
            for lane in self.lanes:
                lane.fit()

    def work_ended(self, work: Work) -> None:
        """A transfer ended, or is of another kind now. Lanes that gave way to the last miss wait no longer than
        needed."""
        self.share.ended(work, self.clock.monotonic())
        if work == "interactive" and self.share.lingers(self.clock.monotonic()) < LOOK_SECONDS:
            for lane in self.lanes:
                lane.end_rest()


class Lane:
    """One transfer's part of the link. Its `work` may change while it runs."""

    def __init__(self, link: SharedLink, parent: str, work: Work) -> None:
        self._link, self._share, self._clock = link, link.share, link.clock
        self.parent, self.work = parent, work
        self._narrow: Callable[[float], None] | None = None
        self._rate = self._fitted = 0.0
        self._rest: asyncio.Future[None] | None = None
        self._share.began(work, self._clock.monotonic(), self._clock.now())
        link.lanes.add(self)
        link.priorities_changed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_metered(self) -> bool:
        """Whether bytes have to be counted and waited for. Misses alone on a link without caps cost nothing."""
        return self._share.is_shared

    @property
    def is_closed(self) -> bool:
        """Whether a cap of 0 holds for it now."""
        return self._share.is_closed(self.parent, self.work, self._clock.now())

    def set_window(self, narrow: Callable[[float], None]) -> None:
        """Call `narrow` from now on with the rate that the body's window is to be made for (bytes a second); 0 is no
        bound."""
        self._narrow, self._rate = narrow, 0.0
        if self.is_metered:
            self.fit()

    def change_work(self, work: Work) -> None:
        """A client waits for it from now on, or none does. A rest ends at once."""
        if work == self.work or self not in self._link.lanes:
            return
        self._share.began(work, self._clock.monotonic(), self._clock.now())
        self._link.work_ended(self.work)
        self.work = work
        self.end_rest()
        self._link.priorities_changed()

    def count(self, size: int) -> None:
        """Count bytes that were received or sent."""
        self._share.take(self.parent, self.work, size, self._clock.monotonic(), self._clock.now())
        self.fit()

    async def ready(self) -> None:
        """Wait until the next bytes may be received or sent."""
        while (seconds := self._until_ready()) > 0:
            await self._wait(seconds)
            self.fit()

    def fit(self) -> None:
        """Set the window to the present rate; again and again, because the kernel makes it larger by itself."""
        if self._narrow is None:
            return
        now = self._clock.monotonic()
        rate = self._share.rate(self.parent, self.work, now, self._clock.now())
        rounded = 0.0 if rate == float("inf") else 2.0 ** round(log2(max(rate, 1.0)))
        if rounded != self._rate or (rounded and now - self._fitted >= LOOK_SECONDS):
            self._rate, self._fitted = rounded, now
            self._narrow(rounded)

    def close(self) -> None:
        """End the transfer. May be called twice."""
        if self not in self._link.lanes:
            return
        self._link.lanes.discard(self)
        self._link.work_ended(self.work)
        self._narrow = None

    def end_rest(self) -> None:
        """End a wait: the debt may be another one now."""
        if self._rest is not None:
            self._rest.cancel()

    def _until_ready(self) -> float:
        """Seconds until it is worth asking again, 0 to go on."""
        # the piece of an upload goes to its end; the outbox begins no other
        if self.work == "sync" and self.is_closed:
            return CLOSED_SECONDS
        now = self._clock.monotonic()
        owed = self._share.owed(self.parent, self.work, now, self._clock.now())
        # a miss may end, and then the debt is paid at another rate
        until = min(owed, self._share.lingers(now) or LOOK_SECONDS, LOOK_SECONDS)
        return max(until, LEAST_SECONDS) if owed else 0.0

    async def _wait(self, seconds: float) -> None:
        self._rest = rest = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((rest,))
        finally:
            rest.cancel()
            self._rest = None
