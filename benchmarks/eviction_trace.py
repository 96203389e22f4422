"""A trace of pulls through caches of several sizes: the eviction policy beside LRU by blob and the clairvoyant bound.
Prints the share of pulls without a byte from the parent, and the bytes that crossed the link.

    python -m benchmarks.eviction_trace [--pulls N]

Images are pulled with Zipf popularity (exponent 0.9), one a minute. They have a base that repositories share, layers
that the versions of a repository share, and layers of their own. Every blob is asked for with its image, as by clients
that have nothing.
"""

from __future__ import annotations

import argparse
import random
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from heapq import heappop, heappush
from itertools import accumulate
from typing import NamedTuple, Protocol

from holdfast.config import StoreSection
from holdfast.storage.eviction_policy import Candidate, FetchCost, Turn, UseHistory, ordered
from holdfast.storage.eviction_survey import SAMPLE
from holdfast_core.changes.access_times import used_again
from holdfast_core.space_format import decayed

SEED, EXPONENT = 13, 0.9
BASES, REPOSITORIES, VERSIONS = 20, 150, 12
MB, MINUTE, HOUR = 1_000_000, 60.0, 3600.0
#: a link of 100 Mbit/s
COST = FetchCost(0.15, 12.5e6)
#: of all bytes that there are
CACHES = (0.05, 0.1, 0.2)
#: of a cache: where eviction begins and ends
HIGH, LOW = StoreSection().high_water, StoreSection().low_water


@cache
def traced_digest(name: str) -> str:
    """The digest of what has this name in a trace."""
    return f"sha256:{sha256(name.encode()).hexdigest()}"


class TracedImage(NamedTuple):
    """An image: its repository, its name there, and its blobs."""

    repository: str
    name: str
    blobs: tuple[int, ...]


class TracedCache(Protocol):
    """A cache of some bytes. `pull` returns what crosses the link."""

    def pull(self, image: TracedImage, now: float) -> int: ...


class World:
    """The images, and the size of each blob."""

    def __init__(self, chance: random.Random) -> None:
        self.sizes: list[int] = []
        self.images: list[TracedImage] = []
        bases = [[self._blob(chance, 40)] for _ in range(BASES)]
        for r in range(REPOSITORIES):
            base = bases[min(int(chance.paretovariate(0.8)) - 1, BASES - 1)]
            shared = [self._blob(chance, 20) for _ in range(2)]
            for v in range(VERSIONS):
                own = [self._blob(chance, 6) for _ in range(3)]
                self.images.append(TracedImage(f"r{r}", f"v{v}", (*base, *shared, *own)))

    def _blob(self, chance: random.Random, median: int) -> int:
        self.sizes.append(int(median * MB * chance.lognormvariate(0, 1)))
        return len(self.sizes) - 1

    def trace(self, chance: random.Random, pulls: int) -> list[TracedImage]:
        """The images in the order in which they are pulled."""
        order = chance.sample(self.images, len(self.images))
        weights = list(accumulate(rank**-EXPONENT for rank in range(1, len(order) + 1)))
        return [order[bisect_left(weights, chance.random() * weights[-1])] for _ in range(pulls)]


class LruByBlob:
    """Evicts the blob that was not used for longest."""

    def __init__(self, sizes: Sequence[int], room: int) -> None:
        self._sizes, self._room, self._used = sizes, room, 0
        self._held: OrderedDict[int, None] = OrderedDict()

    def pull(self, image: TracedImage, now: float) -> int:
        """See `TracedCache`."""
        fetched = 0
        for blob in image.blobs:
            if blob in self._held:
                self._held.move_to_end(blob)
                continue
            fetched += self._sizes[blob]
            self._held[blob] = None
            self._used += self._sizes[blob]
            while self._used > self._room:
                gone, _ = self._held.popitem(last=False)
                self._used -= self._sizes[gone]
        return fetched


class Clairvoyant:
    """Evicts the blob whose next use is farthest, knowing the whole trace."""

    def __init__(self, sizes: Sequence[int], room: int, trace: Sequence[TracedImage]) -> None:
        self._sizes, self._room, self._used, self._at = sizes, room, 0, 0
        self._next: dict[int, list[int]] = {}
        for at in range(len(trace) - 1, -1, -1):
            for blob in trace[at].blobs:
                self._next.setdefault(blob, []).append(at)
        self._held: dict[int, int] = {}
        self._line: list[tuple[int, int]] = []

    def pull(self, image: TracedImage, now: float) -> int:
        """See `TracedCache`."""
        fetched = 0
        for blob in image.blobs:
            self._next[blob].pop()
            following = self._next[blob][-1] if self._next[blob] else 1 << 60
            if blob not in self._held:
                fetched += self._sizes[blob]
                self._used += self._sizes[blob]
            self._held[blob] = following
            heappush(self._line, (-following, blob))
        while self._used > self._room:
            following, blob = heappop(self._line)
            if self._held.get(blob) == -following:
                del self._held[blob]
                self._used -= self._sizes[blob]
        return fetched


class ByPolicy:
    """The policy of this project, with the sample and the hours that its rounds have. With `remembers` the keeper was
    never restarted; without it was before each eviction, and knows the uses that the store has of what is here."""

    def __init__(self, sizes: Sequence[int], room: int, *, remembers: bool = True) -> None:
        self._sizes, self._room, self._remembers, self._used = sizes, room, remembers, 0
        self._held: dict[tuple[str, str], TracedImage] = {}
        self._hours: dict[tuple[str, str], int] = {}
        #: how many images of one repository name a blob, and how many repositories have it
        self._named: Counter[tuple[str, int]] = Counter()
        self._linked: Counter[int] = Counter()
        self._history = UseHistory()
        #: what the store says of a digest while it is here: when it was used last, and how often
        self._written: dict[str, tuple[float, float]] = {}

    def pull(self, image: TracedImage, now: float) -> int:
        """See `TracedCache`."""
        key = image[:2]
        self._hours.pop(key, None)
        self._hours[key] = int(now // HOUR)
        for name in (f"{image.repository}/{image.name}", *map(str, image.blobs)):
            digest = traced_digest(name)
            if self._remembers:
                self._history.used(digest, now)
            self._written[digest] = used_again(self._written.get(digest), now)
        fetched = 0
        if key not in self._held:
            self._held[key] = image
            for blob in image.blobs:
                if not self._linked[blob]:
                    fetched += self._sizes[blob]
                self._named[image.repository, blob] += 1
                self._linked[blob] += self._named[image.repository, blob] == 1
        self._used += fetched
        if self._used > HIGH * self._room:
            self._make_room(image, now)
        return fetched

    def _make_room(self, pulled: TracedImage, now: float) -> None:
        while self._used > LOW * self._room:
            oldest = sorted(self._held, key=lambda one: (self._hours[one], one))[: SAMPLE + 1]
            candidates = [self._candidate(self._held[key], now) for key in oldest if key != pulled[:2]]
            first = ordered(candidates, now)[0]
            self._evict(self._held[first.repository, first.digest])

    def _alone(self, image: TracedImage) -> list[int]:
        return [blob for blob in image.blobs if self._named[image.repository, blob] == 1]

    def _candidate(self, image: TracedImage, now: float) -> Candidate:
        freed = [blob for blob in self._alone(image) if self._linked[blob] == 1]
        root = traced_digest(f"{image.repository}/{image.name}")
        fetched = [(0, root), *((self._sizes[blob], traced_digest(str(blob))) for blob in freed)]
        loss = COST.loss((size, self._uses(digest, now)) for size, digest in fetched)
        at = max(self._history.last(root), min(now, self._hours[image[:2]] * HOUR))
        return Candidate(*image[:2], sum(size for size, _ in fetched), at, loss, Turn.CACHED)

    def _uses(self, digest: str, now: float) -> float:
        at, uses = self._written[digest]
        return self._history.uses(digest, now, decayed(uses, now - at))

    def _evict(self, image: TracedImage) -> None:
        del self._written[traced_digest(f"{image.repository}/{image.name}")]
        for blob in image.blobs:
            self._named[image.repository, blob] -= 1
            if not self._named[image.repository, blob]:
                self._linked[blob] -= 1
                if not self._linked[blob]:
                    self._used -= self._sizes[blob]
                    del self._written[traced_digest(str(blob))]
        del self._held[image[:2]]


class Outcome(NamedTuple):
    """What a cache did with a trace: shares of pulls and of bytes that came from it, and bytes of the link."""

    hits: float
    bytes_hit: float
    link: int


def replayed(cache: TracedCache, trace: Iterable[TracedImage], sizes: Sequence[int]) -> Outcome:
    """Pull all images of a trace."""
    hits = pulls = link = asked = 0
    for minute, image in enumerate(trace):
        fetched = cache.pull(image, minute * MINUTE)
        pulls, hits, link = pulls + 1, hits + (fetched == 0), link + fetched
        asked += sum(sizes[blob] for blob in image.blobs)
    return Outcome(hits / pulls, 1 - link / asked, link)


def main() -> None:
    """Replay, and print a row for each cache and policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pulls", type=int, default=20_000)
    pulls = parser.parse_args().pulls
    world = World(random.Random(SEED))
    trace, total = world.trace(random.Random(SEED), pulls), sum(world.sizes)
    print(f"{len(world.images)} images, {len(world.sizes)} blobs, {total / 1e9:.0f} GB, {pulls} pulls")
    for share in CACHES:
        room = int(share * total)
        policies: dict[str, TracedCache] = {
            "LRU by blob": LruByBlob(world.sizes, room),
            "policy": ByPolicy(world.sizes, room),
            "policy, with restarts": ByPolicy(world.sizes, room, remembers=False),
            "clairvoyant": Clairvoyant(world.sizes, room, trace),
        }
        outcomes = {name: replayed(cache, trace, world.sizes) for name, cache in policies.items()}
        lru = outcomes["LRU by blob"].link
        for name, outcome in outcomes.items():
            print(
                f"cache {share:.0%}  {name:24} hits {outcome.hits:6.1%}  bytes {outcome.bytes_hit:6.1%}"
                f"  link {outcome.link / 1e9:8.1f} GB  {outcome.link / lru:.2f} of LRU"
            )


if __name__ == "__main__":
    main()
