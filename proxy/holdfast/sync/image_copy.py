"""Copies one image from its parent: reads, fetches or links everything that it needs, and sets its tag last. Blobs are
fetched side by side, because one after the other leaves a long link idle most of the time. `kind_of` and `reason_of`
say what a failure means for the image."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from holdfast_core.digest import Digest
from holdfast_core.errors import Exhausted
from holdfast_core.record import Descriptor

from holdfast import errors
from holdfast.backoff import Kind
from holdfast.fill.fill import DiskFull
from holdfast.http.health import State
from holdfast.oci.image import facts_of
from holdfast.oci.manifest import ManifestUnreadable
from holdfast.routing import Repository
from holdfast.sync.holdings import Holdings, ImageGraph, ManifestReader
from holdfast.sync.plan import Image, PlannedAction, Planner, PlanStep, SyncTarget
from holdfast.sync.source.selection import Rule

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext

#: levels of nested indexes and of referrers of referrers that are read; no image has more
LEVELS = 24

Count = Callable[[int], None]
BLOBS = frozenset({PlanStep.LINK_BLOB, PlanStep.FETCH_BLOB})


class TooDeep(Exception):
    """An image with more levels of manifests than are followed."""


_DENIED = (errors.ParentDenied,)
#: kinds of failures by exception; the first row that matches counts
_KINDS: tuple[tuple[tuple[type[Exception], ...], Kind], ...] = (
    # an expired certificate or a captive portal: it ends when the real parent answers again
    ((errors.ParentUntrusted,), "transient"),
    ((errors.SchemaOne,), "unsupported"),
    ((errors.ParentNotFound, errors.BlobUnknown, errors.ManifestUnknown), "gone"),
    ((errors.ParentBroken, ManifestUnreadable, TooDeep), "wrong"),
)


class ImageCopy:
    """Plans and fetches the images of one run. Lists of referrers that are older than `every` seconds, with `anew` all
    of them, are requested again."""

    def __init__(
        self,
        context: SyncContext,
        reading: ManifestReader,
        *,
        anew: bool = False,
        every: float = float("inf"),
    ) -> None:
        self._context, self._store, self._reading = context, context.store, reading
        self._since = float("inf") if anew else context.clock.now() - every
        self._holdings = Holdings(context.store)

    def plan_known(self, rule: Rule, target: SyncTarget) -> Image | None:
        """Returns the plan of an image as far as its manifests are here, None when it is complete. Sends no request.
        Raises StoreError and ManifestInvalid."""
        graph = ImageGraph(self._store, self._reading, self._since)
        image = Planner(self._holdings, graph).image(rule, target)
        return image if image.actions or graph.missing else None

    async def full_plan(self, rule: Rule, target: SyncTarget, graph: ImageGraph | None = None) -> Image:
        """Returns the complete plan of an image: reads manifests and lists of referrers from the parent, and writes
        nothing. Raises ParentFailed, ManifestInvalid, StoreError and TooDeep."""
        graph = graph or ImageGraph(self._store, self._reading, self._since)
        for _ in range(LEVELS):
            graph.missing.clear()
            image = Planner(self._holdings, graph).image(rule, target)
            unread = [action.digest for action in image.actions if action.step is PlanStep.READ_MANIFEST]
            for digest in unread:
                await graph.read(target.repository, digest)
            for repository, digest in [] if unread else list(graph.missing):
                graph.listed[repository, digest] = await self._referrers(repository, digest)
            if not unread and not graph.missing:
                return image
        raise TooDeep(f"it names manifests over {LEVELS} levels deep")

    async def _referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...]:
        where = Repository.from_key(repository)
        rows = await self._context.background[where.namespace].referrers(where.name, digest)
        return tuple(Descriptor(**row) for row in rows)

    async def fetch(
        self,
        rule: Rule,
        target: SyncTarget,
        grown: Callable[[Image, set[str]], None],
        landed: Count,
    ) -> bool:
        """Fetches all of an image. Returns whether its tag, if it has one, names it now: a client may have moved
        the tag meanwhile. Calls `grown` with the complete plan and the digests of all that the image needs,
        and `landed` with the bytes that arrive. Raises as `full_plan`, and Refusal. When it is cancelled,
        the bytes that have arrived stay."""
        before = self._holdings.tag(target.repository, target.tag)
        graph = ImageGraph(self._store, self._reading, self._since)
        image = await self.full_plan(rule, target, graph)
        pieces = {
            piece.digest
            for fetched in graph.manifests.values()
            for piece in facts_of(fetched.inspected, len(fetched.body)).pieces
        }
        grown(image, pieces.union(digest for _, digest in graph.manifests))
        self._mark_used(graph)
        await self._carry_out(image.actions, graph, before, landed)
        for (repository, digest), rows in graph.listed.items():
            now = self._context.clock.now()
            future = self._store.references.lists.put_referrers(
                repository, Digest.parse(digest), rows, now=now
            )
            await asyncio.wrap_future(future)
        return not target.tag or self._holdings.tag(target.repository, target.tag) == target.digest

    def _mark_used(self, graph: ImageGraph) -> None:
        """Notes a use of the blobs that are here already. Nothing names them before the manifest is here, which may
        take many nights, and a collection takes what nothing names and nobody used."""
        now = self._context.clock.now()
        for (repository, _), fetched in graph.manifests.items():
            for piece in facts_of(fetched.inspected, len(fetched.body)).pieces:
                if self._holdings.linked(repository, piece.digest):
                    self._store.blobs.seen(repository, Digest.parse(piece.digest), now)

    async def _carry_out(
        self, actions: Sequence[PlannedAction], graph: ImageGraph, before: str, landed: Count
    ) -> None:
        """Carries out the actions, in an order in which clients only see complete images. The failure of a blob is
        raised at its turn, once the other blobs under way have arrived: the next try finds them."""
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
                    await self._do(action, following, graph, before, landed)
        except Exception:
            await asyncio.gather(*blobs.values(), return_exceptions=True)
            raise
        finally:
            for task in blobs.values():
                task.cancel()
            await asyncio.gather(*blobs.values(), return_exceptions=True)

    async def _blob(self, action: PlannedAction, landed: Count) -> None:
        """Fetches a blob. While a cap of 0 stops it, it holds no room and no connection; afterwards it goes on at its
        byte."""
        parent = self._context.parents[Repository.from_key(action.repository).namespace]
        is_here = False
        while not is_here:
            await parent.until("sync", closed=False)
            async with parent.bulk("sync"):
                fetch = self._context.fills.fetch(action.repository, action.digest, landed)
                is_here = await _finishes_before(fetch, parent.until("sync", closed=True))

    async def _do(
        self,
        action: PlannedAction,
        following: PlannedAction | None,
        graph: ImageGraph,
        before: str,
        landed: Count,
    ) -> None:
        repository, digest = action.repository, action.digest
        if action.step in (PlanStep.LINK_MANIFEST, PlanStep.FETCH_MANIFEST):
            fetched = graph.manifests[repository, digest]
            is_tagged = (
                following is not None and following.digest == digest and self._is_due(following, before)
            )
            # with its tag in one commit, so that children of this node get one event for one image
            await self._context.keep(
                repository, following.tag if following and is_tagged else digest, fetched
            )
            landed(len(fetched.body))
        elif self._is_due(action, before):
            now = self._context.clock.now()
            future = self._store.references.put_tag(repository, action.tag, Digest.parse(digest), now=now)
            await asyncio.wrap_future(future)

    def _is_due(self, action: PlannedAction, before: str) -> bool:
        """Whether a tag has to be moved: a client's request may have moved it to something newer meanwhile."""
        return action.step is PlanStep.TAG and self._holdings.tag(action.repository, action.tag) == before


async def _finishes_before(work: Coroutine[Any, Any, None], end: Coroutine[Any, Any, None]) -> bool:
    """Runs `work` until it ends or `end` does. Returns False when `end` came first and `work` was cancelled. Raises
    what `work` raises."""
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


def kind_of(error: Exception, parent: State) -> Kind:
    """Returns the kind of a failure (`holdfast.backoff`); `parent` is the state of the parent now."""
    if isinstance(error, Exhausted | DiskFull):
        return "full"
    if parent == "offline":
        return "offline"
    if isinstance(error, _DENIED) or isinstance(error.__cause__, _DENIED):
        return "denied"
    return next((kind for kinds, kind in _KINDS if isinstance(error, kinds)), "transient")


def reason_of(error: Exception) -> str:
    """Returns the reason of a failure as a sentence."""
    if isinstance(error, errors.Refusal):
        return error.message
    return str(error) or type(error).__name__
