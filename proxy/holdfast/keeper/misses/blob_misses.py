"""Blobs that are not here, or are damaged: their fills, their sizes by HEAD, their repair."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld, Unwritable
from holdfast_core.record import Blob
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.fill.readers import BlobAnswer, Reader
from holdfast.fill.registry import FillRegistry
from holdfast.fill.repair import UnstoredChunk, is_sound, record_damage
from holdfast.keeper.misses.parent_access import ParentAccess
from holdfast.single_flight import SingleFlight

T = TypeVar("T")

#: How long a size from a HEAD is used. A digest's size never changes; whether the repository has the blob may.
SIZE_TTL_SECONDS = 60.0
#: sizes that are remembered at most
SIZES = 10_000


class BlobMisses:
    """The part of `KeeperApi` that brings blobs."""

    def __init__(self, store: Store, access: ParentAccess, fills: FillRegistry, clock: Clock) -> None:
        self._store, self._blobs = store, store.blobs
        self._access, self._fills, self._clock = access, fills, clock
        #: by repository and digest: a size, and until when it is used (monotonic seconds)
        self._sizes: dict[tuple[str, str], tuple[int, float]] = {}
        self._heads: SingleFlight[int] = SingleFlight()

    async def close(self) -> None:
        """Cancel the HEADs that are under way."""
        await self._heads.close()

    async def blob_size(self, repository: str, digest: str) -> int:
        """See `KeeperApi.blob_size`."""
        known = self._sizes.get((repository, digest))
        if known and self._clock.monotonic() < known[1]:
            return known[0]
        if (size := self._fills.size_of(repository, digest)) is not None:
            return size
        return await self._from_parent(
            repository,
            digest,
            lambda: self._heads.result((repository, digest), lambda: self._head(repository, digest)),
        )

    async def _head(self, repository: str, digest: str) -> int:
        parent, name = self._access.required(repository, errors.BlobUnknown)
        size = await parent.head_blob(name, digest)
        if len(self._sizes) > SIZES:
            self._sizes.clear()
        self._sizes[repository, digest] = (size, self._clock.monotonic() + SIZE_TTL_SECONDS)
        return size

    async def blob(self, repository: str, digest: str, start: int, end: int, whole: bool) -> BlobAnswer:
        """See `KeeperApi.blob`."""
        held = self._blobs.get(repository, Digest.parse(digest))
        if held and not await self._is_lost_for_now(repository, held):
            return BlobAnswer(held.size)
        if not self._fills.is_coming(repository, digest, start, end):
            self._access.required(repository, errors.BlobUnknown)
        return await self._from_parent(
            repository, digest, lambda: self._fills.open(repository, digest, start, end, whole)
        )

    async def _is_lost_for_now(self, repository: str, held: Blob) -> bool:
        """Whether a file is lost that the parent has, and the disk does not take a record of that: then it is a miss
        that passes through."""
        if self._access.parent_of(repository) is None or self._blobs.is_in_place(held):
            return False
        try:
            await record_damage(self._store, held.digest, 0, held.size)
        except Unwritable:
            return True
        return False

    async def _from_parent(self, repository: str, digest: str, request: Callable[[], Awaitable[T]]) -> T:
        """The outcome of a request for a blob; a 404 is remembered, every refusal names the blob."""
        key = ("blob", repository, digest)
        self._access.refuse_missing(errors.BlobUnknown, *key)
        try:
            return await request()
        except (errors.ParentNotFound, errors.BlobUnknown) as failure:
            self._access.remember_missing(*key)
            raise errors.BlobUnknown(f"no blob {digest}", detail=failure.message) from failure
        except errors.ParentDenied as failure:
            raise errors.BlobUnknown(f"no blob {digest}", detail=failure.message) from failure
        except errors.ParentFailed as failure:
            if not isinstance(failure, errors.ParentThrottled):
                failure.code = "BLOB_UNKNOWN"
            raise

    async def follow(self, fill: int, start: int, end: int, whole: bool) -> Reader:
        """See `KeeperApi.follow`."""
        return await self._fills.attach(fill, start, end, whole)

    async def repair(self, repository: str, digest: str, start: int, end: int) -> UnstoredChunk | None:
        """See `KeeperApi.repair`."""
        try:
            return await self._repair(repository, digest, start, end)
        except NotHeld as evicted:
            raise errors.FillGone(str(evicted), code="BLOB_UNKNOWN") from evicted

    async def _repair(self, repository: str, digest: str, start: int, end: int) -> UnstoredChunk | None:
        blob = self._blobs.anywhere(Digest.parse(digest))
        if blob is None or blob.inline is not None:
            raise NotHeld(f"{digest} is not held in a file")
        end = blob.size if end < 0 else end
        has_parent = self._access.parent_of(repository) is not None
        if not (has_parent and self._blobs.is_in_place(blob)):
            loop = asyncio.get_running_loop()
            if await loop.run_in_executor(None, is_sound, self._store, blob, start, end):
                return None
            await record_damage(self._store, blob.digest, start, end)
        if not has_parent:
            raise errors.NodeFailed(f"bytes {start}-{end - 1} of {digest} are damaged")
        self._access.required(repository, errors.BlobUnknown)
        return await self._fills.repair(repository, digest, start, end)
