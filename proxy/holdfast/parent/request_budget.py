"""The budget of background work at one parent: so many requests an hour, and never so many that the parent's own limit
(Docker Hub's `ratelimit-remaining`) leaves none to clients.

Below the reserve one request is sent now and then, because only an answer tells how many are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast_core.digest import Digest
from msgspec import Struct

from holdfast.clock import Clock
from holdfast.config import SyncSection
from holdfast.errors import ParentBroken
from holdfast.timestamps import spoken
from holdfast.token_bucket import TokenBucket

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import FetchedManifest, ManifestHead, Parent

#: a limit without a window is taken for one of this many seconds
WINDOW_SECONDS = 21600
#: a caller that waits checks this often whether another answer raised the limit (seconds)
LOOK_SECONDS = 60.0
HOUR_SECONDS = 3600.0
#: what sums of floats may lack
ROUNDING = 1e-6
#: below the reserve a request is sent this often: a share of the parent's window, within bounds (seconds)
GLANCE_SHARE, GLANCE_LEAST, GLANCE_MOST = 0.05, 60.0, 3600.0


class Limit(Struct, frozen=True):
    """The limit that a parent names: `remaining` of `total` requests in `window` seconds."""

    total: int
    remaining: int
    window: float


class RequestBudget:
    """The budget at one parent. Pure; times are monotonic seconds. `requests`: at most so many in any hour, 0 for no
    bound; those of a minute may be sent at once. `reserve`: the share of the parent's own limit that is left to
    clients."""

    def __init__(self, requests: int = 0, reserve: float = 0.2) -> None:
        self._requests, self._reserve = requests, reserve
        burst = max(1.0, requests // 60)
        # the burst is part of the hour's requests
        self._bucket = TokenBucket(max(requests - burst, 0.5) / HOUR_SECONDS, burst, 0.0)
        self._glance_at: float | None = None
        self._limit: Limit | None = None

    def wait(self, now: float, limit: Limit | None = None) -> float:
        """Seconds until it is worth calling again; 0.0: send the request now, it was counted."""
        return self._reserved(now, limit) or self._taken(now)

    def words(self, now: float) -> str:
        """A sentence while background work is held back; "" otherwise."""
        if self._glance_at is None or self._limit is None:
            paced = self._requests and self._bucket.wait(1.0, now)
            return f"it gets {self._requests} requests an hour at most (sync.requests)" if paced >= 1 else ""
        return (
            f"{self._limit.remaining} of {self._limit.total} requests that the parent allows in"
            f" {spoken(self._limit.window)} are left, and {self._reserve:.0%} are for clients: the next request is in"
            f" {spoken(max(self._glance_at - now, 1.0))}"
        )

    def _reserved(self, now: float, limit: Limit | None) -> float:
        """How long the parent's own limit forbids a request (seconds)."""
        self._limit = limit
        if limit is None or not limit.total or limit.remaining >= self._reserve * limit.total:
            self._glance_at = None
            return 0.0
        pause = min(max(limit.window * GLANCE_SHARE, GLANCE_LEAST), GLANCE_MOST)
        if self._glance_at is None:
            self._glance_at = now + pause
        if now < self._glance_at:
            return self._glance_at - now
        self._glance_at = now + pause
        return 0.0

    def _taken(self, now: float) -> float:
        """How long the requests of the hour forbid another (seconds)."""
        if not self._requests:
            return 0.0
        if self._bucket.level(now) < 1.0 - ROUNDING:
            return self._bucket.wait(1.0, now)
        self._bucket.take(1.0, now)
        return 0.0


class BudgetedParent:
    """A parent for background work: each request waits until the budget allows it. Raises as `Parent` does. Blobs of an
    image do not count: they follow a manifest that did."""

    def __init__(self, parent: Parent, sync: SyncSection, clock: Clock) -> None:
        self._parent, self._clock = parent, clock
        self._budget = RequestBudget(sync.requests, sync.reserve)

    async def catalogue(self) -> list[str]:
        """See `Parent.catalogue`."""
        await self._allowed()
        return await self._parent.catalogue()

    async def tags(self, name: str) -> list[str]:
        """See `Parent.tags`."""
        await self._allowed()
        return await self._parent.tags(name)

    async def head_manifest(self, name: str, reference: str) -> ManifestHead:
        """See `Parent.head_manifest`."""
        await self._allowed()
        return await self._parent.head_manifest(name, reference)

    async def get_manifest(self, name: str, reference: str) -> FetchedManifest:
        """See `Parent.get_manifest`."""
        await self._allowed()
        return await self._parent.get_manifest(name, reference)

    async def referrers(self, name: str, digest: str) -> list[dict[str, Any]]:
        """See `Parent.referrers`."""
        await self._allowed()
        return await self._parent.referrers(name, digest)

    async def blob(self, name: str, digest: str, most: int) -> bytes:
        """A blob of at most `most` bytes, verified. Raises ParentBroken for a longer one, or other bytes."""
        await self._allowed()
        body = bytearray()
        async with self._parent.get_blob(name, digest, lane=self._parent.enter("sync")) as stream:
            if stream.size > most:
                raise ParentBroken(f"the parent's {digest} has {stream.size} bytes; allowed here: {most}")
            async for piece in stream:
                body += piece
        if str(Digest.of(bytes(body), digest.partition(":")[0])) != digest:
            raise ParentBroken(f"the parent's {digest} has other bytes")
        return bytes(body)

    def words(self) -> str:
        """Why background work waits for this parent, "" when it does not."""
        words = self._budget.words(self._clock.monotonic())
        return words and f"parent {self._parent.name or 'default'}: {words}"

    async def _allowed(self) -> None:
        while seconds := self._budget.wait(self._clock.monotonic(), self._limit()):
            await self._clock.sleep(min(seconds, LOOK_SECONDS))

    def _limit(self) -> Limit | None:
        counters = self._parent.counters
        if "ratelimit_limit" not in counters or "ratelimit_remaining" not in counters:
            return None
        window = counters.get("ratelimit_window") or WINDOW_SECONDS
        return Limit(counters["ratelimit_limit"], counters["ratelimit_remaining"], float(window))
