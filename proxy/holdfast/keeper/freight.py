"""Blobs on their way up to one parent. Each goes once, however many images want it: who comes second waits, and then
has it, or mounts it from where the first brought it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from holdfast_core.digest import Digest
from holdfast_core.errors import FileDamaged, NotHeld
from holdfast_core.reading import BlobReader
from holdfast_core.store import Store

from holdfast import errors
from holdfast.keeper.rows import Rows
from holdfast.parent.client import Parent
from holdfast.parent.push import PIECE_BYTES, SINGLE_BYTES, Session
from holdfast.repository import Repository
from holdfast.sync.ascent import Rise, UpStep
from holdfast.sync.entry import Entry, Upload

log = structlog.get_logger()

#: blobs of which it is remembered in which repository the parent has them
KNOWN = 10_000
#: blobs that are open to be sent, of all images
AT_ONCE = 16
#: repositories here that are looked at for one to mount from
HOLDERS = 8


#: is told of a blob's bytes [start, end) that are bad here
FoundDamaged = Callable[[Digest, int, int], Awaitable[None]]


async def unrecorded(digest: Digest, start: int, end: int) -> None:
    """Nobody wants to know of damage."""


class Freight:
    """The way up of blobs to one parent."""

    def __init__(self, store: Store, parent: Parent, rows: Rows, damaged: FoundDamaged = unrecorded) -> None:
        self._store, self._parent, self._rows, self._damaged = store, parent, rows, damaged
        #: by digest: what is on its way; its result is the repository that has it then, "" for none
        self._rising: dict[str, asyncio.Future[str]] = {}
        self._known: dict[str, str] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        #: whether the parent takes a whole blob in one request, as far as is known
        self._takes_single = True

    def source(self, repository: str, digest: str) -> str:
        """Another repository from which the parent may mount a blob, by its name there; "" for none. When it cannot,
        its answer begins an upload: a wrong guess costs nothing."""
        own = Repository.from_key(repository).name
        if (known := self._known.get(digest, own)) != own:
            return known
        for key in self._store.holders(Digest.parse(digest), limit=HOLDERS):
            other = Repository.from_key(key)
            if other.namespace == self._parent.name and other.name != own:
                return other.name
        return ""

    def know(self, digest: str, name: str) -> None:
        """The parent has a blob in this repository."""
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[digest] = name

    async def bring(self, entry: Entry, name: str, steps: Sequence[UpStep]) -> list[str]:
        """Bring the blobs of one image up, side by side; those of which bytes were sent. When one does not get there
        the others go on to their end, and then the first failure is raised: a ParentFailed or StoreError."""
        moves = [step for step in steps if step.rise in (Rise.MOUNT, Rise.UPLOAD)]
        tasks = [asyncio.ensure_future(self._bring(entry, name, step)) for step in moves]
        try:
            sent = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        failures = [found for found in sent if isinstance(found, BaseException)]
        if failures:
            raise failures[0]
        return [step.digest for step, found in zip(moves, sent, strict=True) if found]

    async def _bring(self, entry: Entry, name: str, step: UpStep) -> bool:
        """Bring one blob up, unless somebody else does. Whether bytes of it were sent to this repository."""
        source = step.source
        while (other := self._rising.get(step.digest)) is not None:
            place = await asyncio.shield(other)
            if place == name:
                return True
            source = place or source
        mine = self._rising[step.digest] = asyncio.get_running_loop().create_future()
        place = ""
        try:
            async with self._room:
                sent = await self._send(entry, name, step.digest, source)
            place = name
            self.know(step.digest, name)
            return sent
        finally:
            del self._rising[step.digest]
            mine.set_result(place)

    async def _send(self, entry: Entry, name: str, digest: str, source: str) -> bool:
        """False when the parent took it from another of its repositories."""
        blob = self._store.blob(entry.repository, Digest.parse(digest))
        if blob is None:
            raise NotHeld(f"blob {digest} is neither here nor at the parent")
        try:
            reader = self._store.open_blob(blob)
        except (NotHeld, FileDamaged):
            await self._damaged(blob.digest, 0, blob.size)
            raise
        try:
            found = await self._resumed(entry, name, digest)
            if found is None:
                session = await self._begun(name, digest, source, reader)
                if session is None:
                    return not source
                found = session, 0
            await self._pieces(entry, name, digest, reader, *found)
        finally:
            reader.close()
        return True

    async def _begun(self, name: str, digest: str, source: str, reader: BlobReader) -> Session | None:
        """An upload to go on with; None when the blob is there already."""
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
        self, entry: Entry, name: str, digest: str, reader: BlobReader, session: Session, at: int
    ) -> None:
        """Send what the parent has not yet. Where an upload goes on is on disk before what a kill would lose of it is
        sent."""
        up = self._parent.up
        while reader.size - at > (size := max(PIECE_BYTES, session.least)):
            await self._remember(entry, Upload(digest, str(session.url)))
            session = await up.piece(name, session, reader, at, at + size)
            at += size
        if reader.size > SINGLE_BYTES:
            await self._remember(entry, Upload(digest, str(session.url)))
        await up.finish(name, session, digest, reader if at < reader.size else None, at)

    async def _resumed(self, entry: Entry, name: str, digest: str) -> tuple[Session, int] | None:
        """The upload of a blob that stopped, and how far it is; None when there is none to go on with."""
        current = self._rows.queue.get(entry.seq)
        kept = next((u for u in current.uploads if u.digest == digest), None) if current is not None else None
        if kept is None:
            return None
        try:
            return await self._parent.up.offset(name, self._parent.up.session_at(kept.url))
        except (errors.ParentNotFound, errors.ParentBroken) as failure:
            log.info("upload begun anew", digest=digest, reason=failure.message)
            await self._rows.change(self._rows.queue.ended(entry.seq, digest))
            return None

    async def _remember(self, entry: Entry, upload: Upload) -> None:
        if self._rows.queue.get(entry.seq) is not None:
            await self._rows.change(self._rows.queue.began(entry.seq, upload))
