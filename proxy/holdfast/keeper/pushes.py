"""The keeper's side of what clients change: pushes, mounts, deletes, locks.

The store decides (modes, locks, durability, one transaction a call). Here a request becomes a store call, and
a store's refusal becomes one of `holdfast.errors`. Under a parent a push is recorded as not yet known there,
and a delete leaves a tombstone, so that a later miss does not bring back what was deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from holdfast_core.changes.outbox_rows import Notes, nothing
from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld, RecordDamaged
from holdfast_core.record import LockChange, LockTarget
from holdfast_core.store import Store

from holdfast import errors
from holdfast.background import BackgroundTasks
from holdfast.clock import Clock
from holdfast.keeper.api import NO_CONDITION, Allowed, Condition, Kind, Lockable, require
from holdfast.keeper.pushed_images import PushedImages, read_manifest
from holdfast.keeper.repository_locks import RepositoryLocks
from holdfast.log import log
from holdfast.oci.manifest import Inspected
from holdfast.outbox.node_outbox import NodeOutbox
from holdfast.outbox.records import of_delete, of_push, of_untag
from holdfast.routing import Repository

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent

T = TypeVar("T")


class Pushes:
    """The part of `KeeperApi` that changes what this node owns. `fetch_manifest` brings a manifest from the
    parent; `pushed` hears of each upload that became a blob, by its size. `restorable`: what clients delete is kept for
    `restore`."""

    def __init__(
        self,
        store: Store,
        parents: Mapping[str, Parent],
        outbox: NodeOutbox,
        images: PushedImages,
        fetch_manifest: Callable[[str, str], Awaitable[object]],
        pushed: Callable[[int], None],
        clock: Clock,
        tasks: BackgroundTasks,
        *,
        restorable: bool = False,
    ) -> None:
        self._store, self._parents, self._outbox, self._images = store, parents, outbox, images
        self._restorable = restorable
        self._fetch_manifest, self._pushed = fetch_manifest, pushed
        self._clock, self._tasks = clock, tasks
        self._locks = RepositoryLocks()

    async def put_manifest(
        self,
        repository: str,
        digest: str,
        tags: tuple[str, ...],
        media_type: str,
        body: bytes,
        condition: Condition = NO_CONDITION,
        blobs: tuple[str, ...] = (),
    ) -> None:
        """See `KeeperApi.put_manifest`."""
        content = await read_manifest(body, media_type)
        async with self._changing(repository, condition):
            await self._own(repository, digest, tags, content, body, blobs)

    async def restore(self, repository: str, digest: str, tags: tuple[str, ...]) -> tuple[str, ...]:
        """A manifest that was deleted is as if it were pushed again, with those of `tags` that name nothing, which are
        returned; one that is here gets these tags. Raises `ManifestUnknown`, and what a push is refused with."""
        references = self._store.references
        async with self._locks.alone(repository):
            try:
                if (deleted := references.deleted_manifest(repository, Digest.parse(digest))) is not None:
                    media_type, body = deleted[0].media_type, deleted[1]
                elif (held := references.manifest(repository, Digest.parse(digest))) is not None:
                    media_type, body = held.media_type, held.body
                else:
                    raise errors.ManifestUnknown("that manifest is not kept here any more")
                free = tuple(tag for tag in tags if references.tag(repository, tag) is None)
            except errors.TRANSLATED as refused:
                raise errors.of_store(refused) from refused
            content = await read_manifest(body, media_type)
            await self._own(repository, digest, free, content, body)
        self._outbox.wake_senders()
        return free

    async def _own(
        self,
        repository: str,
        digest: str,
        tags: tuple[str, ...],
        content: Inspected,
        body: bytes,
        blobs: tuple[str, ...] = (),
    ) -> None:
        async with self._healing(Digest.parse(digest)):
            future = self._store.references.push_manifest(
                repository,
                Digest.parse(digest),
                content.media_type,
                body,
                tags=tuple(tags),
                now=self._clock.now(),
                subject=Digest.parse(content.subject) if content.subject else None,
                artifact_type=content.artifact_type,
                annotations=content.annotations,
                pending=self.has_parent(repository),
                notes=self._rows(repository, lambda now: of_push(repository, digest, tags, content, now)),
                blobs=[Digest.parse(blob) for blob in blobs],
            )
            await stored(future, errors.ManifestBlobUnknown)
        if self.has_parent(repository) and not content.is_index:
            self._images.add(repository, Digest.parse(digest))

    @asynccontextmanager
    async def _changing(self, repository: str, condition: Condition) -> AsyncIterator[None]:
        """Beside other changes of the repository, or alone once the condition holds. Fills take no lock: a parent's
        answer moves no tag that was pushed here. The senders wake afterwards. Raises `PreconditionFailed`."""
        try:
            if tuple(condition) == NO_CONDITION:
                async with self._locks.beside(repository):
                    yield
            else:
                async with self._locks.alone(repository):
                    require(condition, present(self._store, repository, condition[0]))
                    yield
        finally:
            self._outbox.wake_senders()

    async def put_blob(self, repository: str, digest: str, body: bytes) -> None:
        """See `KeeperApi.put_blob`."""
        parsed = Digest.parse(digest)
        async with self._healing(parsed):
            future = self._store.blobs.push_inline(repository, parsed, body, now=self._clock.now())
            await stored(future, errors.BlobUnknown)

    async def commit_upload(self, repository: str, name: str, size: int, digest: str, table: bytes) -> None:
        """See `KeeperApi.commit_upload`."""
        parsed = Digest.parse(digest)
        async with self._healing(parsed):
            future = self._store.blobs.push_upload(
                repository, name, size, parsed, table, now=self._clock.now()
            )
            try:
                await stored(future, errors.UploadUnknown)
                self._pushed(size)
            except errors.UploadUnknown:
                # repeated after a keeper that committed and died before it could answer
                held = self._store.blobs.get(repository, parsed)
                if held is None or not held.owned or not self._store.blobs.is_whole(held):
                    raise

    @asynccontextmanager
    async def _healing(self, digest: Digest) -> AsyncIterator[None]:
        """A push of a digest. When its content here was damaged it is whole afterwards, and the entries of the outbox
        that need it are tried again."""
        was_whole = self._is_whole(digest)
        yield
        if not was_whole:
            log.info("damage healed by a push", digest=str(digest))
            self._tasks.begin(self._outbox.retry_damaged())

    def _is_whole(self, digest: Digest) -> bool:
        """Whether no content of a digest here is known to be damaged."""
        try:
            held = self._store.blobs.anywhere(digest)
        except RecordDamaged:
            return False
        return held is None or self._store.blobs.is_whole(held)

    async def mount(self, repository: str, digest: str, source: str) -> bool:
        """See `KeeperApi.mount`."""
        now = self._clock.now()
        future = self._store.blobs.mount(repository, Digest.parse(digest), source=source or None, now=now)
        try:
            await stored(future, errors.BlobUnknown)
        except errors.BlobUnknown:
            return False
        return True

    async def delete(
        self, repository: str, kind: Kind, name: str, condition: Condition = NO_CONDITION
    ) -> None:
        """See `KeeperApi.delete`. A manifest that only the parent has is fetched first: it is served here, so it can be
        deleted here."""
        async with self._changing(repository, condition):
            if kind == "blob":
                return await stored(self._delete(repository, kind, name), errors.BlobUnknown)
            try:
                return await stored(self._delete(repository, kind, name), errors.ManifestUnknown)
            except errors.ManifestUnknown:
                if not self.has_parent(repository):
                    raise
            await self._fetch_manifest(repository, name)
            return await stored(self._delete(repository, kind, name), errors.ManifestUnknown)

    def _delete(self, repository: str, kind: Kind, name: str) -> Future[None]:
        store, now, tombstone = self._store, self._clock.now(), self.has_parent(repository)
        if kind == "tag":
            rows = self._rows(repository, lambda now: of_untag(repository, name, now))
            return store.references.delete_tag(repository, name, now=now, tombstone=tombstone, notes=rows)
        digest = Digest.parse(name)
        if kind == "blob":
            return store.blobs.delete(repository, digest, now=now, tombstone=tombstone)
        rows = self._rows(repository, lambda now: of_delete(repository, name, now))
        return store.references.delete_manifest(
            repository, digest, now=now, tombstone=tombstone, notes=rows, restorable=self._restorable
        )

    def _rows(self, repository: str, rows: Callable[[float], Notes]) -> Notes:
        """The rows that a change adds to the outbox; none without a parent."""
        return rows(self._clock.now()) if self.has_parent(repository) else nothing

    async def retry_outbox(self, number: int) -> None:
        """See `KeeperApi.retry_outbox`."""
        if not await self._outbox.retry(number):
            raise errors.ControlUnknown(f"nothing is to go up under number {number}", field="name")

    async def set_lock(self, repository: str, kind: Lockable, name: str, change: Allowed) -> None:
        """See `KeeperApi.set_lock`."""
        target, now = LockTarget(kind, name), self._clock.now()
        unknown = errors.NameUnknown if kind == "repository" else errors.ManifestUnknown
        await stored(
            self._store.references.set_lock(repository, target, LockChange(*change), now=now), unknown
        )

    def has_parent(self, repository: str) -> bool:
        """Whether a parent of this node has the repository, or may have it."""
        return Repository.from_key(repository).namespace in self._parents


def present(store: Store, repository: str, reference: str) -> str:
    """The digest that a tag or a digest leads to here, "" for none."""
    if ":" in reference:
        held = store.references.manifest(repository, Digest.parse(reference))
        return str(held.digest) if held is not None else ""
    tag = store.references.tag(repository, reference)
    return str(tag.digest) if tag is not None else ""


async def stored(future: Future[T], unknown: type[errors.Refusal]) -> T:
    """The result of a change in the store. Raises the store's refusals as this server's; `unknown` stands for what is
    not held."""
    committed = asyncio.wrap_future(future)
    try:
        # a caller that is cancelled cancels no commit: it is finished
        return await asyncio.shield(committed)
    except asyncio.CancelledError:
        committed.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise
    except NotHeld as missing:
        raise unknown("no such object here", detail=str(missing)) from missing
    except errors.TRANSLATED as refused:
        raise errors.of_store(refused) from refused
