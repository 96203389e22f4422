"""A repository goes by an operator's word: what it has is deleted as a client deletes it, so that it goes at the parent
and in the connected registries below as well."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Literal

from holdfast_core.errors import ContentLocked, NotHeld
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.log import log
from holdfast.resources.model import ResourceStruct

Delete = Callable[[str, Literal["tag", "manifest"], str], Awaitable[None]]

#: deletes at once, which share a sync, and deletes of one request at most: they take a few seconds
AT_ONCE, PART = 32, 1000


class RepositoryRemoval(ResourceStruct, frozen=True):
    """What a request deleted: so many manifests and tags. Without `gone` there is more; repeat the request."""

    name: str
    deleted: int
    gone: bool


class RepositoryDeletes:
    """Deletes whole repositories. `delete` is that of a client, `has_parent` whether a parent has the repository."""

    def __init__(self, store: Store, delete: Delete, has_parent: Callable[[str], bool], clock: Clock) -> None:
        self._store, self._delete, self._has_parent, self._clock = store, delete, has_parent, clock

    async def delete_repository(self, repository: str, shown: str, by: str) -> RepositoryRemoval:
        """Delete up to a thousand manifests and tags of it; on a node without parent the repository with the last of
        them, unless something of it can be restored. Raises ControlUnknown, and ControlConflict for a node that takes
        no deletes, or where a lock forbids it: then nothing was deleted."""
        self._require(repository, shown)
        deleted = 0
        while deleted < PART and (left := self._store.references.contents(repository, limit=AT_ONCE)):
            await asyncio.gather(*(self._gone(repository, *one) for one in left))
            deleted += len(left)
        gone = not self._store.references.contents(repository, limit=1)
        if gone and not self._has_parent(repository) and not self._store.references.deleted(repository):
            future = self._store.references.remove_repository(repository, now=self._clock.now())
            with contextlib.suppress(NotHeld):
                await asyncio.wrap_future(future)
        log.info("repository deleted", by=by, repository=repository, deleted=deleted, gone=gone)
        return RepositoryRemoval(name=shown, deleted=deleted, gone=gone)

    def _require(self, repository: str, shown: str) -> None:
        if self._store.mode == "ReadOnly":
            raise errors.ControlConflict(
                "this node is ReadOnly: its parent decides what it has; take the repository out of its scope there",
                field="repository",
            )
        if not self._store.references.has_repository(repository):
            raise errors.ControlUnknown(f"no repository {shown} here", field="repository")
        try:
            self._store.references.require_deletable(repository)
        except ContentLocked as locked:
            raise errors.ControlConflict(f"{locked} Nothing was deleted", field="repository") from None

    async def _gone(self, repository: str, kind: Literal["tag", "manifest"], name: str) -> None:
        with contextlib.suppress(errors.ManifestUnknown):
            await self._delete(repository, kind, name)
