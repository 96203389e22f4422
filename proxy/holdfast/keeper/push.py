"""The keeper's side of what clients change: pushes, mounts, deletes, locks.

The store decides (modes, locks, durability, one transaction a call). Here a request becomes a store call, and
a store's refusal becomes one of `holdfast.errors`. Under a parent a push is recorded as not yet known there,
and a delete leaves a tombstone, so that a later miss does not bring back what was deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld, RecordDamaged, StoreError
from holdfast_core.outbox import Notes, nothing
from holdfast_core.record import LockChange, Target
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.keeper.condition import NO_CONDITION, Condition, require
from holdfast.keeper.outgoing import of_delete, of_push, of_untag
from holdfast.keeper.port import Allowed, Kind, Lockable, ManifestAnswer
from holdfast.keeper.records import mending
from holdfast.keeper.turns import Turns
from holdfast.manifest import Inspected, ManifestInvalid, parse_aside
from holdfast.repository import Repository

if TYPE_CHECKING:
    from holdfast.keeper.climb import Climb
    from holdfast.parent.client import Parent

log = structlog.get_logger()
T = TypeVar("T")

#: The first sweep after a start, so that a node that is often restarted sweeps at all; a clock without a
#: battery is right by then.
FIRST_SWEEP_SECONDS = 60.0
#: Images that were pushed and lack blobs are looked at this often (seconds).
BRING_SECONDS = 60.0
#: Between two of them, so that a long list holds up nobody who asks (seconds).
PAUSE_SECONDS = 0.001


class Pushes:
    """The part of `KeeperPort` that changes what this node owns."""

    store: Store
    clock: Clock
    config: Configuration
    parents: Mapping[str, Parent]
    turns: Turns
    #: what brings the parents what was pushed here
    climbs: Sequence[Climb] = ()
    _chores: set[asyncio.Task[None]]
    #: (repository, digest) of images that were pushed here and of which blobs may be only at the parent
    _incomplete: set[tuple[str, Digest]]

    async def manifest(self, repository: str, reference: str) -> ManifestAnswer:
        """See `KeeperPort.manifest`."""
        raise NotImplementedError

    async def mend(self, record: bytes) -> None:
        """See `KeeperPort.mend`."""
        raise errors.RecordLost(layout.describe(record))

    async def bring_blob(self, repository: str, digest: str) -> None:
        """Begin to bring a blob of the parent that nobody reads yet."""
        raise NotImplementedError

    @mending
    async def put_manifest(
        self,
        repository: str,
        digest: str,
        tags: tuple[str, ...],
        media_type: str,
        body: bytes,
        condition: Condition = NO_CONDITION,
    ) -> None:
        """See `KeeperPort.put_manifest`."""
        content = await _read(body, media_type)
        async with self._turn(repository, condition), self._healing(Digest.parse(digest)):
            future = self.store.push_manifest(
                repository,
                Digest.parse(digest),
                content.media_type,
                body,
                tags=tuple(tags),
                now=self.clock.now(),
                subject=Digest.parse(content.subject) if content.subject else None,
                artifact_type=content.artifact_type,
                annotations=content.annotations,
                pending=self._has_parent(repository),
                notes=self._notes(repository, lambda now: of_push(repository, digest, tags, content, now)),
            )
            await stored(future, errors.ManifestUnknown)
        if self._has_parent(repository) and not content.is_index:
            image = (repository, Digest.parse(digest))
            self._incomplete.add(image)
            self._chore(self._complete(image))

    async def _bring_round(self) -> None:
        """Bring what the last keeper had not brought when it ended, and what the parent was away for."""
        self._incomplete.update(self.store.pending())
        while True:
            for image in list(self._incomplete):
                await self._complete(image)
                await self.clock.sleep(PAUSE_SECONDS)
            await self.clock.sleep(BRING_SECONDS)

    async def _complete(self, image: tuple[str, Digest]) -> None:
        """What a pusher did not send because HEAD found it at the parent comes over: a site that pushed an image
        has all of it when the link is down. Done when all blobs are here, or cannot be had; what is on its way is
        looked at again."""
        repository, digest = image
        parent = self.parents.get(Repository.from_key(repository).namespace)
        if parent is not None and parent.state == "offline":
            return
        try:
            lacking = await self._lacking(repository, digest) if parent is not None else []
        except (
            errors.Refusal,
            StoreError,
        ) as error:  # a lock, or a record that is damaged: the next start may
            log.warning("pushed image not read", repository=repository, digest=str(digest), reason=str(error))
            lacking = []
        coming = [await self._is_coming(repository, text) for text in lacking]
        if not any(coming):
            self._incomplete.discard(image)
            for climb in self.climbs:
                self._chore(climb.arrived(repository, digest))

    async def _is_coming(self, repository: str, text: str) -> bool:
        """Begin to bring a blob. False when there is no use in another try."""
        try:
            await self.bring_blob(repository, text)
        except (errors.Refusal, StoreError) as error:
            log.warning("pushed image incomplete", repository=repository, digest=text, reason=str(error))
            final = isinstance(error, errors.ClientMistake)
            return not (final or (isinstance(error, errors.ParentFailed) and error.permanent))
        return True

    async def _lacking(self, repository: str, digest: Digest) -> list[str]:
        """The blobs of an image that are not here and were not deleted here."""
        held = self.store.manifest(repository, digest)
        content = await _read(held.body, held.media_type) if held is not None else None
        if content is None or content.is_index:
            return []
        wanted = dict.fromkeys(child.digest for child in content.children if not child.is_foreign)
        return [
            text
            for text in wanted
            if self.store.blob(repository, Digest.parse(text)) is None
            and not self.store.is_deleted(repository, "blob", text)
        ]

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    @asynccontextmanager
    async def _turn(self, repository: str, condition: Condition) -> AsyncIterator[None]:
        """Beside other changes, or alone once the condition holds. Fills do not ask: what a parent says moves no
        tag that was pushed here. What it leaves in the outbox goes up at once. Raises `PreconditionFailed`."""
        try:
            if tuple(condition) == NO_CONDITION:
                async with self.turns.beside(repository):
                    yield
            else:
                async with self.turns.alone(repository):
                    require(condition, present(self.store, repository, condition[0]))
                    yield
        finally:
            for climb in self.climbs:
                climb.came()

    @mending
    async def put_blob(self, repository: str, digest: str, body: bytes) -> None:
        """See `KeeperPort.put_blob`."""
        parsed = Digest.parse(digest)
        async with self._healing(parsed):
            future = self.store.push_inline_blob(repository, parsed, body, now=self.clock.now())
            await stored(future, errors.BlobUnknown)

    @mending
    async def commit_upload(self, repository: str, name: str, size: int, digest: str, table: bytes) -> None:
        """See `KeeperPort.commit_upload`."""
        parsed = Digest.parse(digest)
        async with self._healing(parsed):
            future = self.store.push_upload(repository, name, size, parsed, table, now=self.clock.now())
            try:
                await stored(future, errors.UploadUnknown)
            except errors.UploadUnknown:
                # asked again after a keeper that committed and died before it could say so
                held = self.store.blob(repository, parsed)
                if held is None or not held.owned or not self.store.is_whole(held):
                    raise

    @asynccontextmanager
    async def _healing(self, digest: Digest) -> AsyncIterator[None]:
        """A push of a digest. When what was here was damaged it is whole afterwards, and what waits to go up with it
        is tried again."""
        was_whole = self._is_whole(digest)
        yield
        if not was_whole:
            log.info("damage healed by a push", digest=str(digest))
            for climb in self.climbs:
                self._chore(climb.mended())

    def _is_whole(self, digest: Digest) -> bool:
        """Whether nothing that is here of a digest is known to be damaged."""
        try:
            held = self.store.blob_anywhere(digest)
        except RecordDamaged:
            return False
        return held is None or self.store.is_whole(held)

    async def found_damaged(self, digest: Digest, start: int, end: int) -> None:
        """Write down that bytes [start, end) of a blob are bad, and say so once."""
        if await asyncio.wrap_future(self.store.quarantine(digest, start, end)):
            log.error("blob damaged", digest=str(digest), start=start, end=end)

    @mending
    async def mount(self, repository: str, digest: str, source: str) -> bool:
        """See `KeeperPort.mount`."""
        now = self.clock.now()
        future = self.store.mount_blob(repository, Digest.parse(digest), source=source or None, now=now)
        try:
            await stored(future, errors.BlobUnknown)
        except errors.BlobUnknown:
            return False
        return True

    @mending
    async def delete(
        self, repository: str, kind: Kind, name: str, condition: Condition = NO_CONDITION
    ) -> None:
        """See `KeeperPort.delete`. A manifest that only the parent has is brought in first: it is served here, so
        it can be deleted here."""
        async with self._turn(repository, condition):
            if kind == "blob":
                return await stored(self._delete(repository, kind, name), errors.BlobUnknown)
            try:
                return await stored(self._delete(repository, kind, name), errors.ManifestUnknown)
            except errors.ManifestUnknown:
                if not self._has_parent(repository):
                    raise
            await self.manifest(repository, name)
            return await stored(self._delete(repository, kind, name), errors.ManifestUnknown)

    def _delete(self, repository: str, kind: Kind, name: str) -> Future[None]:
        store, now, tombstone = self.store, self.clock.now(), self._has_parent(repository)
        if kind == "tag":
            notes = self._notes(repository, lambda now: of_untag(repository, name, now))
            return store.delete_tag(repository, name, now=now, tombstone=tombstone, notes=notes)
        digest = Digest.parse(name)
        if kind == "blob":
            return store.delete_blob(repository, digest, now=now, tombstone=tombstone)
        notes = self._notes(repository, lambda now: of_delete(repository, name, now))
        return store.delete_manifest(repository, digest, now=now, tombstone=tombstone, notes=notes)

    def _notes(self, repository: str, notes: Callable[[float], Notes]) -> Notes:
        """What a change tells the parent; nothing where there is none."""
        return notes(self.clock.now()) if self._has_parent(repository) else nothing

    async def retry_outbox(self, number: int) -> None:
        """See `KeeperPort.retry_outbox`."""
        for climb in self.climbs:
            if await climb.retry(number):
                return
        raise errors.ControlUnknown(f"nothing is to go up under number {number}", field="name")

    def _is_complete(self, repository: str, digest: Digest) -> bool:
        """Whether no blob of a pushed image is still to come from the parent."""
        return (repository, digest) not in self._incomplete

    @mending
    async def set_lock(self, repository: str, kind: Lockable, name: str, change: Allowed) -> None:
        """See `KeeperPort.set_lock`."""
        target, now = Target(kind, name), self.clock.now()
        unknown = errors.NameUnknown if kind == "repository" else errors.ManifestUnknown
        await stored(self.store.set_lock(repository, target, LockChange(*change), now=now), unknown)

    async def _sweep_round(self) -> None:
        """Upload sessions that nobody goes on with, and bytes that no repository has, go now and then."""
        push = self.config.push
        wait = min(FIRST_SWEEP_SECONDS, push.sweep_interval)
        while True:
            await self.clock.sleep(wait)
            wait = push.sweep_interval
            try:
                await self.tidy(push.expiry, push.sweep_grace)
            except (StoreError, OSError) as error:
                log.error("sweep failed", reason=str(error))

    async def tidy(self, expiry: float, grace: float) -> None:
        """Remove upload sessions that nobody wrote to for `expiry` seconds, and bytes that no repository has
        had for `grace` seconds."""
        now = self.clock.now()
        loop = asyncio.get_running_loop()
        expiring = loop.run_in_executor(None, self.store.uploads.expire, now - expiry)
        try:
            expired = await asyncio.shield(expiring)
        except asyncio.CancelledError:
            await expiring  # the store is closed after this: no thread may be using it then
            raise
        reclaimed = await asyncio.wrap_future(self.store.sweep(now=now, grace=grace))
        if expired or reclaimed:
            log.info("store swept", expired_uploads=expired, reclaimed_bytes=reclaimed)

    def _refuse_deleted(self, repository: str, kind: Kind, name: str) -> None:
        """What was deleted here does not come back from the parent."""
        if self.store.is_deleted(repository, kind, name):
            raise errors.ManifestUnknown(f"this {kind} was deleted here", detail=name)

    def _has_parent(self, repository: str) -> bool:
        return Repository.from_key(repository).namespace in self.parents


def present(store: Store, repository: str, reference: str) -> str:
    """The digest that a tag or a digest leads to here, "" for none."""
    if ":" in reference:
        held = store.manifest(repository, Digest.parse(reference))
        return str(held.digest) if held is not None else ""
    tag = store.tag(repository, reference)
    return str(tag.digest) if tag is not None else ""


async def stored(future: Future[T], unknown: type[errors.Refusal]) -> T:
    """What the store answers, its refusals as this server's; `unknown` stands for what is not held."""
    committed = asyncio.wrap_future(future)
    try:
        # an asker that is cancelled cancels no commit: what was begun is finished
        return await asyncio.shield(committed)
    except asyncio.CancelledError:
        committed.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise
    except NotHeld as missing:
        raise unknown("no such object here") from missing
    except errors.TRANSLATED as refused:
        raise errors.of_store(refused) from refused


async def _read(body: bytes, media_type: str) -> Inspected:
    try:
        return await parse_aside(body, media_type)
    except ManifestInvalid as refused:
        raise errors.ManifestInvalid(str(refused)) from refused
