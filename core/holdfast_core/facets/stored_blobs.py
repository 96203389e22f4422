"""Blobs: their bytes, which repository may show them, and what is wrong with them.

Reads are for the event loop of any process, writes for the one that writes: each returns a future that is done once the
change is committed, durably for owned content.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import MappingProxyType

from holdfast_core import format as layout
from holdfast_core.blob_files.blob_reader import BlobReader, Readers
from holdfast_core.blob_files.disk_check import DiskCheck
from holdfast_core.blob_files.file_work import Prepared
from holdfast_core.changes import change, client_changes, locks
from holdfast_core.changes.access_times import AccessTimes
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.digest import CHUNK_BYTES, Digest, chunk_hash
from holdfast_core.errors import ChunkDamaged, DigestMismatch, Mistake, NotHeld, RecordDamaged, UploadNotFound
from holdfast_core.facets.blob_placement import BlobPlacement, require_table
from holdfast_core.facets.fills import Fills
from holdfast_core.filesystem.directory import BlobSource, Directory, blob_name
from holdfast_core.index.lmdb_index import Index
from holdfast_core.index.repository_names import RepositoryNames
from holdfast_core.record import Blob, Damage
from holdfast_core.write_access import WriteAccess, told

NO_CHUNKS: Mapping[int, bytes] = MappingProxyType({})


class StoredBlobs:
    """The blobs of an open store. Identity is (repository, digest): bytes are stored once, and a link for each
    repository says which may show them. Every method may raise RecordDamaged: a record failed its checksum. Locks cost
    a hit nothing while there are none. What clients change is refused by StoreReadOnly, at once, in that mode, and its
    futures raise ContentLocked where an attribute forbids it, Exhausted when there is no room; then the store is as it
    was."""

    def __init__(
        self,
        index: Index,
        directory: Directory,
        access: WriteAccess,
        recent: AccessTimes,
        names: RepositoryNames,
        *,
        scrub_interval: float,
        clock: Callable[[], float],
        inline_bytes: int,
        boot: bytes,
    ) -> None:
        self._index = index
        self._directory = directory
        self._access = access
        self._recent = recent
        self._names = names
        self.readers = Readers(self._chunk_hash, clock, scrub_interval, table=self._table)
        self.placement = BlobPlacement(
            index,
            directory,
            access,
            row=self.anywhere,
            is_whole=self.is_whole,
            inline_bytes=inline_bytes,
            boot=boot,
        )
        self.fills = Fills(index, directory, access, self.placement)
        # bound once: the hit path calls them for every request
        self._get = index.get
        self._linked = index.linked

    def get(self, repository: str, digest: Digest) -> Blob | None:
        """The blob, if it is linked to the repository as a blob. Raises RecordDamaged, ContentLocked."""
        key = digest.key
        row, any_locks = self._linked(layout.link_key(repository, layout.AS_BLOB, key), layout.BLOB + key)
        if any_locks:
            locks.require_read(self._index, repository)
        return None if row is None else layout.decode_blob(digest, row[1])

    def anywhere(self, digest: Digest) -> Blob | None:
        """The blob, whatever repository it came by: for the keeper, never for a client."""
        payload = self._get(layout.BLOB + digest.key)
        return None if payload is None else layout.decode_blob(digest, payload)

    def open(self, blob: Blob) -> BlobReader:
        """A reader of the blob's bytes. Raises NotHeld when the file is gone, Damaged when it is not a plain
        file of the right size, Exhausted when no descriptor is left."""
        digest = blob.digest
        if blob.inline is not None:
            return BlobReader(self.readers, digest, blob.size, -1, None, blob.inline)
        if self._index.snapshot is not None:
            self._index.snapshot.note_file()
        bad = self._quarantined(digest) if blob.damaged else ()
        fd, identity = self._directory.open_blob(digest, blob.size)
        state = self.readers.verification(digest, blob.size, identity, bad)
        return BlobReader(self.readers, digest, blob.size, fd, state, None)

    def read(self, blob: Blob, chunks: Mapping[int, bytes] = NO_CHUNKS) -> bytes:
        """All bytes of the blob, checked; from `chunks`, by where they begin, what its file cannot have. Raises
        ChunkDamaged, NotHeld. Reads files: not for the writer's thread."""
        parts: list[bytes] = []
        with self.open(blob) as reader:
            for at in range(0, blob.size, CHUNK_BYTES):
                if at in chunks:
                    reader.take(at, chunks[at])
                parts.append(reader.read(at, CHUNK_BYTES))
        return b"".join(parts)

    def is_in_place(self, blob: Blob) -> bool:
        """Whether the bytes are where the row says: in the index, or in a plain file of the right size that can be
        opened. A disk that cannot be read any more still knows its names for a while."""
        if blob.inline is not None:
            return True
        if self._index.snapshot is not None:
            self._index.snapshot.note_other()
        return self._directory.can_open(blob.digest, blob.size)

    def is_whole(self, blob: Blob) -> bool:
        """Whether the blob's bytes are there, as far as is known: none was found to be bad, and its file is a plain
        file of the right size."""
        return not blob.damaged and self.is_in_place(blob)

    def bad_chunks(self, blob: Blob) -> list[int]:
        """Numbers of the chunks that were found to be bad and not written again since."""
        return self._quarantined(blob.digest) if blob.damaged else []

    def _quarantined(self, digest: Digest) -> list[int]:
        rows = self._index.scan(layout.QUARANTINE + digest.key)
        return [layout.segment_number(key) for key, _ in rows]

    def holders(self, digest: Digest, *, limit: int | None = None) -> list[str]:
        """Repositories that have a blob, at most `limit`, in no order."""
        keys = (key for key, _ in self._index.scan(layout.HOLDER + digest.key + layout.AS_BLOB, limit=limit))
        return self._names.of([key[-16:] for key in keys])

    def has_holder(self, digest: Digest, counts: Callable[[str], bool]) -> bool:
        """Whether one of the repositories that have a blob `counts`. Ends at the first."""
        keys = (key for key, _ in self._index.scan(layout.HOLDER + digest.key + layout.AS_BLOB))
        return any(counts(name) for key in keys for name in self._names.of([key[-16:]]))

    @property
    def knows_pages(self) -> bool:
        """Whether this kernel says which pages stayed in memory. Where it does not, a chunk is hashed whenever it is
        read: right, and slower."""
        return self.readers.pages.works

    def let_go(self) -> None:
        """Give up the maps of files that were not read for a while (`blob_files.page_cache`); a removed file keeps
        its space until then. To be called every few seconds in each process that reads."""
        self.readers.let_go()

    def seen(self, repository: str, digest: Digest, now: float) -> None:
        """Note an access in memory; `sync_cached` writes it within the hour. Never waits."""
        self._recent.see(layout.seen_key(repository, digest), now)

    def last_seen(self, repository: str, digest: Digest) -> float | None:
        """The last access that this process noted, or else that was written, in wall seconds."""
        key = layout.seen_key(repository, digest)
        if (noted := self._recent.last_seen(key)) is not None:
            return noted
        payload = self._get(key)
        return None if payload is None else layout.decode_seen(payload)[0]

    def _chunk_hash(self, digest: Digest, chunk: int) -> bytes:
        segment, place = divmod(chunk, layout.SEGMENT_CHUNKS)
        payload = self._get(layout.segment_key(layout.CHUNKS + digest.key, segment)) or b""
        return payload[place * 32 : place * 32 + 32]

    def _table(self, digest: Digest, chunks: int) -> bytes:
        """The hashes of all chunks; b"" where one cannot be read."""
        segments = range(-(-chunks // layout.SEGMENT_CHUNKS))
        keys = (layout.segment_key(layout.CHUNKS + digest.key, segment) for segment in segments)
        with contextlib.suppress(RecordDamaged):
            table = b"".join(self._get(key) or b"" for key in keys)
            return table if len(table) == 32 * chunks else b""
        return b""

    # --- verification ---------------------------------------------------------------------------------------

    def damage(self, *, limit: int, after: Digest | None = None) -> list[Damage]:
        """Blobs with chunks that were found to be bad, by digest, those behind `after`, at most `limit`. One whose
        record cannot be read is among them as one that was pushed here."""
        spans: list[Damage] = []
        place = b"" if after is None else _behind(after)
        while len(spans) < limit:
            row = next(self._index.scan(layout.QUARANTINE, after=place, limit=1), None)
            if row is None:
                break
            digest = layout.digest_in(row[0], 1)
            place = _behind(digest)
            try:
                blob = self.anywhere(digest)
            except RecordDamaged:
                blob = Blob(digest, 0, True, b"", None, True)
            if blob is not None:
                chunks = tuple(self._quarantined(digest))
                spans.append(Damage(digest, blob.owned, chunks, tuple(self._names.holding(digest))))
        return spans

    def quarantine(self, digest: Digest, start: int, end: int) -> Future[bool]:
        """The chunks of [start, end) are bad: no reader returns a byte of them until they are repaired, or the
        blob is pushed again. At once in this process; in others for readers opened after the commit. The future
        says whether that was new. Raises NotHeld."""
        blob = self.anywhere(digest)
        if blob is None or blob.inline is not None:
            raise NotHeld(f"{digest} is not held in a file")
        for chunk in change.chunk_span(blob, start, end):
            self.readers.mark_bad(digest, chunk)
        rows: list[IndexChange] = []

        def plan(view: IndexView) -> list[IndexChange]:
            rows[:] = change.quarantine(view, digest, change.chunk_span(blob, start, end))
            return rows

        return self._access.answered(plan, lambda: bool(rows))

    def quarantine_damaged(self, digest: Digest, start: int, end: int) -> Future[bool]:
        """The same for those of the chunks that the disk still does not have while nobody else works on the digest:
        who found the damage may have read a file that a push or a repair has replaced since. Raises NotHeld."""
        blob = self.anywhere(digest)
        if blob is None or blob.inline is not None:
            raise NotHeld(f"{digest} is not held in a file")
        span, rows = change.chunk_span(blob, start, end), list[IndexChange]()

        def prepare() -> Prepared:
            known = set(self._quarantined(digest))
            suspects = [chunk for chunk in span if chunk not in known]
            bad = DiskCheck(self._chunk_hash).damaged(self._directory, blob, suspects)
            for chunk in bad:
                self.readers.mark_bad(digest, chunk)

            def plan(view: IndexView) -> list[IndexChange]:
                rows[:] = change.quarantine(view, digest, bad) if bad else []
                return rows

            return Prepared(plan)

        return told(self._access.file_work().begin(prepare, digest), lambda: bool(rows))

    def repair_chunk(self, digest: Digest, start: int, body: bytes) -> Future[None]:
        """Write a chunk again, synced, and take it out of quarantine. `start` and the length are those of a
        whole chunk. A file that is gone or of the wrong size is begun again; its other chunks then fail their
        check until they are repaired, too. The future raises DigestMismatch when the body is not the chunk, NotHeld
        when the blob was evicted meanwhile."""
        blob = self.anywhere(digest)
        if blob is None or blob.inline is not None:
            raise NotHeld(f"{digest} is not held in a file")
        chunk = start // CHUNK_BYTES
        if (
            start % CHUNK_BYTES
            or not 0 <= start < blob.size
            or len(body) != min(CHUNK_BYTES, blob.size - start)
        ):
            raise Mistake(f"{digest}: {len(body)} bytes at {start} are not a chunk")

        def prepare() -> Prepared:
            self.check_chunk(digest, start, body)
            self._directory.repair(digest, blob.size, start, body)
            return Prepared(
                lambda view: change.repaired(view, digest, chunk),
                lambda: self.readers.mark_repaired(digest, chunk),
            )

        return self._access.file_work().begin(prepare, digest)

    def check_chunk(self, digest: Digest, start: int, body: bytes) -> None:
        """Raises DigestMismatch when the body is not the chunk that begins at `start`, NotHeld when it has
        none."""
        chunk = start // CHUNK_BYTES
        expected, actual = self._chunk_hash(digest, chunk), chunk_hash(body)
        if not expected:
            raise NotHeld(f"{digest} is not held in a file")
        if expected != actual:
            raise DigestMismatch(f"chunk {chunk} of {digest}: {expected.hex()}", actual.hex())

    def discard(self, digest: Digest) -> Future[None]:
        """Forget bytes that cannot be used (file gone or of the wrong size), with all links to them. What
        lies in their place moves to quarantine/."""
        prepared = Prepared(
            lambda view: change.discard(view, {digest}), lambda: self._directory.set_aside(digest)
        )
        return self._access.file_work().begin(lambda: prepared, digest, frees=True)

    # --- what a parent has ----------------------------------------------------------------------------------

    def put_inline(
        self, repository: str, digest: Digest, body: bytes, *, owned: bool, now: float
    ) -> Future[None]:
        """Store a small blob and link it. The future raises DigestMismatch."""
        return self.placement.put_body(
            digest, body, owned, lambda view, blob: change.arrived(view, repository, blob, now=now)
        )

    def link(self, repository: str, digest: Digest, *, now: float) -> Future[None]:
        """Link bytes that are held. The future raises NotHeld when they are not."""

        def plan(view: IndexView) -> list[IndexChange]:
            change.refuse_deleted(view, repository, "blob", str(digest))
            blob = change.blob_of(view, digest)
            if blob is None:
                raise NotHeld(f"{digest} is not held")
            return change.link(view, repository, blob, now=now)

        return self._access.submit(plan)

    # --- what clients change --------------------------------------------------------------------------------

    def push_inline(self, repository: str, digest: Digest, body: bytes, *, now: float) -> Future[None]:
        """Store a blob that came in one piece, and link it. The future raises DigestMismatch."""
        self._access.require_writable()

        def links(view: IndexView, blob: Blob) -> list[IndexChange]:
            return client_changes.pushed_blob(view, repository, blob, now=now)

        return self.placement.put_body(
            digest, body, True, links, lambda view: client_changes.require_push(view, repository)
        )

    def push_upload(
        self, repository: str, name: str, size: int, digest: Digest, table: bytes, *, now: float
    ) -> Future[None]:
        """The staging file `name`, whose digest the caller checked, becomes a blob of the repository. It takes the
        place of bytes that are held already (`BlobPlacement`). The future raises UploadNotFound when there is no
        such file, Mistake when its size is another. `table` is `ChunkHasher.table()` of the same bytes."""
        self._access.require_writable()
        require_table(digest, table, size)

        def links(view: IndexView, blob: Blob) -> list[IndexChange]:
            return client_changes.pushed_blob(view, repository, blob, now=now)

        return self.placement.put_file(
            lambda: self._staged(name, size, digest, table),
            digest,
            size,
            table,
            True,
            links,
            lambda view: client_changes.require_push(view, repository),
        )

    def _staged(self, name: str, size: int, digest: Digest, table: bytes) -> BlobSource:
        """The staging file. When it is gone because a keeper put it into the blob's place and died before the
        commit, that is where it is, as its bytes prove; the client sends its request again."""
        try:
            return self._directory.upload(name, size)
        except UploadNotFound:
            if self.placement.usable(digest, size) is None and self.placement.is_placed(digest, size, table):
                return BlobSource(self._directory.blobs_fd, blob_name(digest))
            raise

    def mount(self, repository: str, digest: Digest, *, source: str | None, now: float) -> Future[None]:
        """Link a blob that `source` (None: any repository) shows to readers; it is owned from then on. The
        future raises NotHeld when it does not."""
        self._access.require_writable()

        def check(view: IndexView) -> None:
            client_changes.require_push(view, repository)
            if not client_changes.mountable(view, digest, source):
                raise NotHeld(f"{digest} is not held in {source or 'any repository'}")

        def prepare() -> Prepared:
            with self._index.view() as view:
                check(view)
            found = self.placement.held(digest)
            self._require_sound(found)
            self.placement.make_durable(found, True)
            blob = Blob(digest, found.size, True, b"", found.inline)

            def plan(view: IndexView) -> list[IndexChange]:
                check(view)
                rows, held = change.bytes_held(view, blob, None)
                return [*rows, *client_changes.pushed_blob(view, repository, held, now=now)]

            return Prepared(plan)

        return self._access.file_work().begin(prepare, digest)

    def _require_sound(self, blob: Blob) -> None:
        """Read what was only cached before it counts as owned: a power cut may have left zeros where its bytes
        were, and a push of the bytes themselves brings them. Raises NotHeld."""
        if blob.owned or blob.inline is not None:
            return
        reader, offset = self.open(blob), 0
        try:
            while offset < blob.size:
                offset += len(reader.read(offset, CHUNK_BYTES))
        except ChunkDamaged as damage:
            raise NotHeld(f"{blob.digest} is held, but damaged") from damage
        finally:
            reader.close()

    def delete(self, repository: str, digest: Digest, *, now: float, tombstone: bool = False) -> Future[None]:
        """Take a blob out of a repository. The future raises NotHeld."""
        return self._access.change(
            lambda view: client_changes.deleted_blob(view, repository, digest, now=now, tombstone=tombstone),
            frees=True,
        )


def _behind(digest: Digest) -> bytes:
    """The last key that a quarantined chunk of a blob may have."""
    return layout.segment_key(layout.QUARANTINE + digest.key, 0xFFFFFFFF)
