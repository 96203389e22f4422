"""Which images of a cache go first. Pure.

An image is worth keeping by what it would cost to fetch it again, and by how likely that is: often used, and not long
ago. So the first to go has the greatest *bytes freed × age ÷ (seconds on the link × uses)*. Bytes that another image
needs as well are not freed by it, so they count for the last that has them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

#: uses count half after so long (seconds)
HALF_LIFE_SECONDS = 7 * 86400.0
#: images whose uses are remembered; each is about 200 bytes
REMEMBERED = 8192
#: nothing is younger than this (seconds): an age divides
LEAST_AGE_SECONDS = 1.0


class FetchCost(NamedTuple):
    """What a parent's own transfers took: seconds to the first byte, and bytes a second after it."""

    latency: float
    rate: float

    def seconds(self, size: int, requests: int) -> float:
        """What it takes to fetch so much again, in so many requests."""
        return requests * self.latency + size / self.rate


class Turn(IntEnum):
    """What goes only after what. Of two in one turn the better one goes."""

    #: more than its hard share
    OVER_SHARE = 0
    CACHED = 1
    #: less than its soft share
    BELOW_SHARE = 2
    #: pushed here, and confirmed by the parent
    CONFIRMED = 3
    #: its parent is offline, or configured no more
    OFFLINE = 4


class Candidate(NamedTuple):
    """An image that may go. `used_at` in wall seconds, `uses` decayed; `requests` is how many fetches bring it back."""

    repository: str
    digest: str
    freed_bytes: int
    requests: int
    used_at: float
    uses: float
    cost: FetchCost
    turn: Turn

    def score(self, now: float) -> float:
        """The greater, the sooner it goes within its turn."""
        age = max(now - self.used_at, LEAST_AGE_SECONDS)
        seconds = self.cost.seconds(self.freed_bytes, self.requests)
        return self.freed_bytes * age / (seconds * max(self.uses, 1.0)) if seconds > 0 else 0.0


def turn_of(*, offline: bool, owned: bool, evicts_offline: bool, over: bool, below: bool) -> Turn | None:
    """When an image goes; None for one that stays: what an offline parent has is not to be had again, and what was
    pushed here is given up only for a parent that answers."""
    if offline:
        return Turn.OFFLINE if evicts_offline and not owned else None
    if owned:
        return Turn.CONFIRMED
    if over:
        return Turn.OVER_SHARE
    return Turn.BELOW_SHARE if below else Turn.CACHED


def ordered(candidates: Iterable[Candidate], now: float) -> list[Candidate]:
    """The candidates in the order in which they go."""
    return sorted(
        candidates, key=lambda one: (one.turn, -one.score(now), one.used_at, one.repository, one.digest)
    )


class UseHistory:
    """How often images were used, and when last, in the memory of one process. It outlives the image, so that one that
    comes back again and again is known. The least recently used is forgotten."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._uses: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def used(self, repository: str, digest: str, now: float) -> None:
        """Count a use at `now` (wall seconds)."""
        uses, _ = self.of(repository, digest, now)
        self._uses[repository, digest] = (uses + 1.0, now)
        self._uses.move_to_end((repository, digest))
        if len(self._uses) > self._remembered:
            self._uses.popitem(last=False)

    def of(self, repository: str, digest: str, now: float) -> tuple[float, float]:
        """(uses, decayed to `now`, last use in wall seconds); zeros for what is not known."""
        uses, at = self._uses.get((repository, digest), (0.0, 0.0))
        return uses * 0.5 ** (max(0.0, now - at) / HALF_LIFE_SECONDS) if uses else 0.0, at
