"""Which images of a cache go first. Pure.

What an image would cost the link, if it went, is the sum over its bytes of *seconds to fetch them × how often they were
used lately*. The first to go has the greatest *bytes freed × age ÷ that loss*. Bytes that another image needs as well
are not freed by it, so they count for the last that has them; their uses are those of all images together.

`benchmarks/eviction_trace.py` has the figures: 21 to 22 % fewer bytes on the link than LRU by blob, 17 to 21 % with
a restart before each eviction. Without the least age, what came just now would stay longer than what was used twenty
times until a day ago.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from holdfast_core.space_format import decayed

#: digests whose uses are remembered; each takes about 230 bytes
REMEMBERED = 16384
#: nothing counts as younger (seconds)
LEAST_AGE_SECONDS = 6 * 3600.0
#: what is not used any more loses its worth slowly
LEAST_USES = 0.01


class FetchCost(NamedTuple):
    """What a parent's own transfers took: seconds to the first byte, and bytes a second after it."""

    latency: float
    rate: float

    def loss(self, parts: Iterable[tuple[int, float]]) -> float:
        """Seconds of the link that bytes would cost which are not here: (size, uses) of each digest."""
        return sum((self.latency + size / self.rate) * uses for size, uses in parts)


class Turn(IntEnum):
    """What goes only after what. Of two in one turn the better one goes."""

    #: more than its hard share
    OVER_SHARE = 0
    CACHED = 1
    #: less than its soft share
    BELOW_SHARE = 2
    #: its parent is offline, or configured no more
    OFFLINE = 3


class Candidate(NamedTuple):
    """An image that may go. `used_at` in wall seconds; `loss` in seconds of the link (`FetchCost.loss`)."""

    repository: str
    digest: str
    freed_bytes: int
    used_at: float
    loss: float
    turn: Turn

    def score(self, now: float) -> float:
        """The greater, the sooner it goes within its turn."""
        age = max(now - self.used_at, 0.0) + LEAST_AGE_SECONDS
        return self.freed_bytes * age / self.loss if self.loss > 0 else 0.0


def turn_of(*, offline: bool, evicts_offline: bool, over: bool, below: bool) -> Turn | None:
    """When an image goes; None for one that stays: what an offline parent has is not to be had again."""
    if offline:
        return Turn.OFFLINE if evicts_offline else None
    if over:
        return Turn.OVER_SHARE
    return Turn.BELOW_SHARE if below else Turn.CACHED


def ordered(candidates: Iterable[Candidate], now: float) -> list[Candidate]:
    """The candidates in the order in which they go."""
    return sorted(
        candidates, key=lambda one: (one.turn, -one.score(now), one.used_at, one.repository, one.digest)
    )


class UseHistory:
    """How often digests were used, and when last, in the memory of one process. It outlives the content, so that what
    comes back again and again is known; the store has the uses of what is here, and they outlive the process. The least
    recently used is forgotten."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        #: (uses until then, wall seconds of the last), by a part of the digest
        self._uses: OrderedDict[int, tuple[float, float]] = OrderedDict()

    def used(self, digest: str, now: float) -> None:
        """Count a use at `now` (wall seconds)."""
        key = _key(digest)
        uses, at = self._uses.get(key, (0.0, now))
        self._uses[key] = (decayed(uses, now - at) + 1.0, now)
        self._uses.move_to_end(key)
        if len(self._uses) > self._remembered:
            self._uses.popitem(last=False)

    def uses(self, digest: str, now: float, written: float) -> float:
        """How often, decayed to `now`: as `written` in the store, or as remembered here when that is more."""
        uses, at = self._uses.get(_key(digest), (0.0, now))
        return max(decayed(uses, now - at), written, LEAST_USES)

    def last(self, digest: str) -> float:
        """When last, in wall seconds; 0 for what is not known."""
        return self._uses.get(_key(digest), (0.0, 0.0))[1]


def _key(digest: str) -> int:
    return int(digest[-16:], 16)
