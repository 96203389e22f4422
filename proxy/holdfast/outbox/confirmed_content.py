"""What was pushed here and its parent has: whose word counts when it is evicted, and whether the parent still stands by
it.

The parent's word is a note in the store, written with the end of the outbox entry. Right before an eviction the parent
is asked once more for each digest, so that one that lost content since keeps it here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdfast_core import format as layout
from holdfast_core.record import ImageHolding
from holdfast_core.store import Store

from holdfast.errors import ParentFailed
from holdfast.log import log
from holdfast.routing import Repository

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent


_NOUNS = {layout.AS_MANIFEST: "manifests", layout.AS_BLOB: "blobs"}


class ConfirmedContent:
    """Of one keeper. `parents` by namespace; without `is_evicted` nobody's word counts."""

    def __init__(self, store: Store, parents: Mapping[str, Parent], *, is_evicted: bool) -> None:
        self._store, self._parents, self._is_evicted = store, parents, is_evicted

    def parent_of(self, repository: str) -> bytes:
        """The mark of the parent whose word counts for a repository; b"" while it cannot be reached, and where there is
        none."""
        parent = self._parents.get(Repository.from_key(repository).namespace)
        return b"" if parent is None or not parent.is_proven or not self._is_evicted else parent.mark

    async def is_at_parent(self, image: ImageHolding) -> bool:
        """Whether the parent says now that it has all that was pushed here of an image. What it says that it has not is
        not confirmed any more. Raises StoreError."""
        route = Repository.from_key(image.repository)
        parent = self._parents.get(route.namespace)
        if not image.pushed or parent is None:
            return not image.pushed
        tails = [f"{_NOUNS[one.kind]}/{one.digest}" for one in image.pushed]
        try:
            found = await asyncio.gather(*(parent.up.has(route.name, tail) for tail in tails))
        except ParentFailed as failure:
            log.info("image stays", repository=image.repository, reason=failure.message)
            return False
        lost = [one.digest for one, is_there in zip(image.pushed, found, strict=True) if not is_there]
        if lost:
            digests = list(map(str, lost))
            log.warning("parent lost what it confirmed", repository=image.repository, digests=digests)
            withdrawn = self._store.references.outbox.withdraw(image.repository, lost)
            await asyncio.shield(asyncio.wrap_future(withdrawn))
        return not lost
