"""Uploads blobs to one parent. Each is sent once, however many images need it: the second waits for the first, and then
has it, or mounts it from the repository of the first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from holdfast_core.blob_files.blob_reader import BlobReader
from holdfast_core.digest import Digest
from holdfast_core.errors import FileDamaged, NotHeld
from holdfast_core.store import Store

from holdfast import errors
from holdfast.log import log
from holdfast.outbox.entry import OutboxEntry, Upload
from holdfast.outbox.stored_queue import StoredQueue
from holdfast.outbox.upload_plan import UploadStep, UploadStepKind
from holdfast.parent.client import Parent
from holdfast.parent.push_client import PIECE_BYTES, SINGLE_BYTES, ParentUpload
from holdfast.routing import Repository

#: blobs whose repository at the parent is remembered
KNOWN = 10_000
#: blobs that are open to be sent, of all images
AT_ONCE = 16
#: repositories here that are searched for one to mount from
HOLDERS = 8

#: is called with the bytes [start, end) of a blob that are damaged here
FoundDamaged = Callable[[Digest, int, int], Awaitable[object]]


async def unrecorded(digest: Digest, start: int, end: int) -> None:
    """Does not record damage."""


class NotYetHeld(NotHeld):
    """A blob that a client left out, because it is further up, is on its way here, and not at the parent either."""


class BlobUploads:
    """The uploads of blobs to one parent."""

    def __init__(
        self, store: Store, parent: Parent, rows: StoredQueue, damaged: FoundDamaged = unrecorded
    ) -> None:
        self._store, self._parent, self._rows, self._damaged = store, parent, rows, damaged
        #: by digest: running uploads; the result is the repository that has the blob then, "" for none
        self._uploads: dict[str, asyncio.Future[str]] = {}
        self._known: dict[str, str] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        #: whether the parent takes a whole blob in one request, as far as is known
        self._takes_single = True

    def source(self, repository: str, digest: str) -> str:
        """The name of another repository from which the parent may mount a blob, "" for none. When it cannot, its
        answer begins an upload: a wrong guess costs nothing."""
        own = Repository.from_key(repository).name
        if (known := self._known.get(digest, own)) != own:
            return known
        for key in self._store.blobs.holders(Digest.parse(digest), limit=HOLDERS):
            other = Repository.from_key(key)
            if other.namespace == self._parent.name and other.name != own:
                return other.name
        return ""

    def know(self, digest: str, name: str) -> None:
        """Remember that the parent has a blob in this repository."""
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[digest] = name

    async def upload(self, entry: OutboxEntry, name: str, steps: Sequence[UploadStep]) -> list[str]:
        """Upload the blobs of one image, side by side; returns the digests of which bytes were sent. When one fails the
        others go on to their end, and then the first failure is raised: a ParentFailed or StoreError."""
        moves = [step for step in steps if step.kind in (UploadStepKind.MOUNT, UploadStepKind.UPLOAD)]
        tasks = [asyncio.ensure_future(self._upload(entry, name, step)) for step in moves]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            raise failures[0]
        return [step.digest for step, was_sent in zip(moves, results, strict=True) if was_sent]

    async def _upload(self, entry: OutboxEntry, name: str, step: UploadStep) -> bool:
        """Upload one blob, or wait for another upload of it; returns whether its bytes were sent to this repository."""
        source = step.source
        while (other := self._uploads.get(step.digest)) is not None:
            place = await asyncio.shield(other)
            if place == name:
                return True
            source = place or source
        mine = self._uploads[step.digest] = asyncio.get_running_loop().create_future()
        place = ""
        try:
            async with self._room:
                sent = await self._send(entry, name, step.digest, source)
            place = name
            self.know(step.digest, name)
            return sent
        finally:
            del self._uploads[step.digest]
            mine.set_result(place)

    async def _send(self, entry: OutboxEntry, name: str, digest: str, source: str) -> bool:
        """Send one blob; returns False when the parent mounted it instead."""
        blob = self._store.blobs.get(entry.repository, Digest.parse(digest))
        if blob is None:
            raise NotYetHeld(f"blob {digest} is neither here nor at the parent yet")
        try:
            reader = self._store.blobs.open(blob)
        except (NotHeld, FileDamaged):
            await self._damaged(blob.digest, 0, blob.size)
            raise
        try:
            resumed = await self._resumed(entry, name, digest)
            if resumed is None or not await self._goes_on(entry, name, digest, reader, *resumed):
                session = await self._begun(name, digest, source, reader)
                if session is None:
                    return not source
                await self._pieces(entry, name, digest, reader, session, 0)
        finally:
            reader.close()
        return True

    async def _goes_on(
        self, entry: OutboxEntry, name: str, digest: str, reader: BlobReader, session: ParentUpload, at: int
    ) -> bool:
        """Send the rest of a blob to an open upload; returns False when the parent refuses it, because what it has of
        it is not what was sent, say. Then it begins anew."""
        try:
            await self._pieces(entry, name, digest, reader, session, at)
        except (errors.ParentNotFound, errors.ParentBroken) as failure:
            await self._restarts(entry, digest, failure)
            return False
        return True

    async def _begun(self, name: str, digest: str, source: str, reader: BlobReader) -> ParentUpload | None:
        """A new upload; None when the parent has the blob now."""
        up = self._parent.up
        if source or reader.size > SINGLE_BYTES or not self._takes_single:
            return await up.begin(name, digest, source)
        try:
            session = await up.single(name, digest, reader)
        except errors.ParentBroken as failure:
            log.info("the parent takes no blob in one request", reason=failure.message)
            session = await up.begin(name, digest)
        self._takes_single = session is None
        return session

    async def _pieces(
        self, entry: OutboxEntry, name: str, digest: str, reader: BlobReader, session: ParentUpload, at: int
    ) -> None:
        """Send the rest of a blob. The URL of the upload is on disk before bytes are sent that a kill would lose
        otherwise."""
        up = self._parent.up
        while reader.size - at > (size := max(PIECE_BYTES, session.least)):
            await self._remember(entry, Upload(digest, str(session.url)))
            session = await up.piece(name, session, reader, at, at + size)
            at += size
        if reader.size > SINGLE_BYTES:
            await self._remember(entry, Upload(digest, str(session.url)))
        await up.finish(name, session, digest, reader if at < reader.size else None, at)

    async def _resumed(self, entry: OutboxEntry, name: str, digest: str) -> tuple[ParentUpload, int] | None:
        """The open upload of a blob and its offset; None when there is none."""
        current = self._rows.queue.get(entry.seq)
        kept = next((u for u in current.uploads if u.digest == digest), None) if current is not None else None
        if kept is None:
            return None
        try:
            return await self._parent.up.offset(name, self._parent.up.session_at(kept.url))
        except (errors.ParentNotFound, errors.ParentBroken) as failure:
            await self._restarts(entry, digest, failure)
            return None

    async def _restarts(self, entry: OutboxEntry, digest: str, failure: errors.ParentFailed) -> None:
        """An open upload is of no use. Raises `failure` when it says nothing of the upload."""
        if isinstance(failure, errors.ParentUntrusted):
            raise failure
        log.info("upload restarted", digest=digest, reason=failure.message)
        if self._rows.queue.get(entry.seq) is not None:
            await self._rows.change(self._rows.queue.ended(entry.seq, digest))

    async def _remember(self, entry: OutboxEntry, upload: Upload) -> None:
        if self._rows.queue.get(entry.seq) is not None:
            await self._rows.change(self._rows.queue.began(entry.seq, upload))
