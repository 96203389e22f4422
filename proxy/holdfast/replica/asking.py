"""A parent, as background work asks it: what can be asked at the parent, within a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast_core.digest import Digest

from holdfast.clock import Clock
from holdfast.config import Sync
from holdfast.errors import ParentBroken
from holdfast.sync.budget import Budget, Limit

if TYPE_CHECKING:
    from holdfast.parent.client import FetchedManifest, ManifestHead, Parent

#: a limit without a window is taken for one of this many seconds
WINDOW_SECONDS = 21600
#: who waits looks this often whether an answer to somebody else said that there is more (seconds)
LOOK_SECONDS = 60.0


class Asking:
    """Each question waits until the budget of this parent allows it. Raises as `Parent` does. Blobs that an image needs
    are no questions: they follow a manifest that was one."""

    def __init__(self, parent: Parent, sync: Sync, clock: Clock) -> None:
        self._parent, self._clock = parent, clock
        self._budget = Budget(sync.requests, sync.reserve)

    async def catalogue(self) -> list[str]:
        """See `Parent.catalogue`."""
        await self._turn()
        return await self._parent.catalogue()

    async def tags(self, name: str) -> list[str]:
        """See `Parent.tags`."""
        await self._turn()
        return await self._parent.tags(name)

    async def head_manifest(self, name: str, reference: str) -> ManifestHead:
        """See `Parent.head_manifest`."""
        await self._turn()
        return await self._parent.head_manifest(name, reference)

    async def get_manifest(self, name: str, reference: str) -> FetchedManifest:
        """See `Parent.get_manifest`."""
        await self._turn()
        return await self._parent.get_manifest(name, reference)

    async def referrers(self, name: str, digest: str) -> list[dict[str, Any]]:
        """See `Parent.referrers`."""
        await self._turn()
        return await self._parent.referrers(name, digest)

    async def blob(self, name: str, digest: str, most: int) -> bytes:
        """A blob of at most so many bytes, hashed. Raises ParentBroken for a longer one, or another."""
        await self._turn()
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
        told = self._budget.words(self._clock.monotonic())
        return told and f"parent {self._parent.name or 'default'}: {told}"

    async def _turn(self) -> None:
        while seconds := self._budget.wait(self._clock.monotonic(), self._limit()):
            await self._clock.sleep(min(seconds, LOOK_SECONDS))

    def _limit(self) -> Limit | None:
        said = self._parent.counters
        if "ratelimit_limit" not in said or "ratelimit_remaining" not in said:
            return None
        window = said.get("ratelimit_window") or WINDOW_SECONDS
        return Limit(said["ratelimit_limit"], said["ratelimit_remaining"], float(window))
