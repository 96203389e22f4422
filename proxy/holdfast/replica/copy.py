"""One image, whole: what it needs is read, fetched or linked, and named last. Its blobs come side by side: over a long
link one after the other leaves it empty most of the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from holdfast_core.digest import Digest
from holdfast_core.record import Descriptor

from holdfast.replica.holdings import Holdings, Knowledge, Reading
from holdfast.repository import Repository
from holdfast.sync.plan import Action, Image, Planner, Step, Target
from holdfast.sync.wanted import Rule

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

#: an index within indexes and referrers of referrers are read level by level; no image has more
LEVELS = 24

Count = Callable[[int], None]
BLOBS = frozenset({Step.LINK_BLOB, Step.FETCH_BLOB})


class TooDeep(Exception):
    """An image that names ever more manifests."""


class Copy:
    """What one run does to an image. The parent is asked again for referrers that were asked for over `every` seconds
    ago, with `anew` for all of them."""

    def __init__(
        self, keeper: Keeper, reading: Reading, *, anew: bool = False, every: float = float("inf")
    ) -> None:
        self._keeper, self._store, self._reading = keeper, keeper.store, reading
        self._since = float("inf") if anew else keeper.clock.now() - every
        self._holdings = Holdings(keeper.store)

    def lacks(self, rule: Rule, target: Target) -> Image | None:
        """The image as far as it is known, None when nothing of it is missing. Asks nobody. Raises StoreError and
        ManifestInvalid."""
        known = Knowledge(self._store, self._reading, self._since)
        image = Planner(self._holdings, known).image(rule, target)
        return image if image.actions or known.missing else None

    async def understood(self, rule: Rule, target: Target, known: Knowledge | None = None) -> Image:
        """The image with everything it needs: manifests are read, referrers are asked for, nothing is kept. Raises
        ParentFailed, ManifestInvalid, StoreError and TooDeep."""
        known = known or Knowledge(self._store, self._reading, self._since)
        for _ in range(LEVELS):
            known.missing.clear()
            image = Planner(self._holdings, known).image(rule, target)
            unread = [action.digest for action in image.actions if action.step is Step.READ_MANIFEST]
            for digest in unread:
                await known.read(target.repository, digest)
            for repository, digest in [] if unread else list(known.missing):
                known.listed[repository, digest] = await self._referrers(repository, digest)
            if not unread and not known.missing:
                return image
        raise TooDeep(f"it names manifests over {LEVELS} levels deep")

    async def _referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...]:
        where = Repository.from_key(repository)
        rows = await self._keeper.background[where.namespace].referrers(where.name, digest)
        return tuple(Descriptor(**row) for row in rows)

    async def bring(self, rule: Rule, target: Target, grown: Callable[[Image], None], landed: Count) -> bool:
        """Have all of it here; whether its tag, if it has one, names it now: a client may have moved the tag meanwhile.
        `grown` is told what it comes to, `landed` of bytes that came. Raises as `understood`, and Refusal. Cancelled it
        stops at the byte, and what is here stays."""
        before = self._holdings.tag(target.repository, target.tag)
        known = Knowledge(self._store, self._reading, self._since)
        image = await self.understood(rule, target, known)
        grown(image)
        await self._have(image.actions, known, before, landed)
        for (repository, digest), rows in known.listed.items():
            now = self._keeper.clock.now()
            future = self._store.put_referrers(repository, Digest.parse(digest), rows, now=now)
            await asyncio.wrap_future(future)
        return not target.tag or self._holdings.tag(target.repository, target.tag) == target.digest

    async def _have(self, actions: Sequence[Action], known: Knowledge, before: str, landed: Count) -> None:
        """Every action, in an order that a client may see. A blob that fails is told when its turn comes, and once
        those that are under way are here: the next try finds them."""
        blobs = {
            place: asyncio.ensure_future(self._blob(action, landed))
            for place, action in enumerate(actions)
            if action.step in BLOBS
        }
        try:
            for place, (action, following) in enumerate(zip_longest(actions, actions[1:])):
                if place in blobs:
                    await blobs[place]
                else:
                    await self._do(action, following, known, before, landed)
        except Exception:
            await asyncio.gather(*blobs.values(), return_exceptions=True)
            raise
        finally:
            for task in blobs.values():
                task.cancel()
            await asyncio.gather(*blobs.values(), return_exceptions=True)

    async def _blob(self, action: Action, landed: Count) -> None:
        """A blob that a cap of 0 stops has no room and no connection meanwhile, and goes on at its byte afterwards."""
        parent = self._keeper.parents[Repository.from_key(action.repository).namespace]
        is_here = False
        while not is_here:
            await parent.until("sync", closed=False)
            async with parent.bulk("sync"):
                fetch = self._keeper.fills.fetch(action.repository, action.digest, landed)
                is_here = await _before(fetch, parent.until("sync", closed=True))

    async def _do(
        self, action: Action, following: Action | None, known: Knowledge, before: str, landed: Count
    ) -> None:
        repository, digest = action.repository, action.digest
        if action.step in (Step.LINK_MANIFEST, Step.FETCH_MANIFEST):
            fetched = known.manifests[repository, digest]
            names_it = (
                following is not None and following.digest == digest and self._is_due(following, before)
            )
            # with its tag in one commit: who follows this node hears of one image once
            await self._keeper.keep(repository, following.tag if following and names_it else digest, fetched)
            landed(len(fetched.body))
        elif self._is_due(action, before):
            now = self._keeper.clock.now()
            future = self._store.put_tag(repository, action.tag, Digest.parse(digest), now=now)
            await asyncio.wrap_future(future)

    def _is_due(self, action: Action, before: str) -> bool:
        """Whether a tag is to be moved: a client's question may have moved it to something newer meanwhile."""
        return action.step is Step.TAG and self._holdings.tag(action.repository, action.tag) == before


async def _before(work: Coroutine[Any, Any, None], end: Coroutine[Any, Any, None]) -> bool:
    """Do what is to end before something else does; False when it did not, and was stopped. Raises what it raised."""
    tasks = [asyncio.ensure_future(one) for one in (work, end)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if is_done := tasks[0].done():
            tasks[0].result()
        return is_done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
