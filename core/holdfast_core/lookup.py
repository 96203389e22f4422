"""The reads of a store: safe on an event loop, a few microseconds each, no transaction left open.

Identity is (repository, digest). Bytes are stored once; a link a repository says who may see them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from holdfast_core import format as layout
from holdfast_core import listing
from holdfast_core import lock as locks
from holdfast_core.change import present
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.directory import Directory, read_identity
from holdfast_core.errors import RecordDamaged
from holdfast_core.index import Index
from holdfast_core.mending import digest_of, is_damaged
from holdfast_core.progress import read_progress
from holdfast_core.reading import BlobReader, Readers
from holdfast_core.recent import Recent
from holdfast_core.record import (
    Blob,
    Damage,
    Event,
    EventHead,
    FillState,
    Lock,
    Manifest,
    Members,
    ReferrersList,
    Resource,
    Tag,
    TagList,
    TagMove,
    Target,
)

#: records that are looked at in one go (2.6 ms, measured beside other load)
SCRUB_RECORDS = 1000
#: repositories of a damaged blob that are named
HOLDERS = 20
NO_CHUNKS: Mapping[int, bytes] = MappingProxyType({})


def _passing(unstored: Sequence[bytes] | None) -> tuple[list[bytes], float] | None:
    """A list that was not stored, as one that was."""
    return None if unstored is None else (list(unstored), 0.0)


class Lookup:
    """What an open store answers. Every method may raise RecordDamaged: a record failed its checksum. Blobs,
    manifests and tags whose attributes forbid reading raise Locked, held or not; other reads leave that to
    `require_read`. Lists leave out what their attributes forbid to list. Locks cost a hit nothing while there
    are none."""

    def __init__(
        self, index: Index, directory: Directory, *, scrub_interval: float, clock: Callable[[], float]
    ) -> None:
        self._index = index
        self._directory = directory
        self._readers = Readers(self._chunk_hash, clock, scrub_interval)
        self._recent = Recent(clock)
        #: names of repositories by their hash, as far as somebody asked for them
        self._names: dict[bytes, str] = {}
        # bound once: the hit path calls them for every request
        self._get = index.get
        self._get_and_locks = index.get_and_locks
        self._linked = index.linked

    def blob(self, repository: str, digest: Digest) -> Blob | None:
        """The blob, if it is linked to the repository as a blob. Raises RecordDamaged, Locked."""
        key = digest.key
        found, locks = self._linked(layout.link_key(repository, layout.AS_BLOB, key), layout.BLOB + key)
        if locks:
            self.require_read(repository)
        return None if found is None else layout.decode_blob(digest, found[1])

    def blob_anywhere(self, digest: Digest) -> Blob | None:
        """The blob, whatever repository it came by: for the keeper, never for a client."""
        payload = self._get(layout.BLOB + digest.key)
        return None if payload is None else layout.decode_blob(digest, payload)

    def manifest(
        self, repository: str, digest: Digest, chunks: Mapping[int, bytes] = NO_CHUNKS
    ) -> Manifest | None:
        """The manifest, if it is linked to the repository as a manifest. One larger than the inline limit is
        read from its file, checked; from `chunks`, by where they begin, what the file cannot have. Raises
        RecordDamaged, ChunkDamaged, NotHeld, Locked."""
        key = digest.key
        found, locks = self._linked(layout.link_key(repository, layout.AS_MANIFEST, key), layout.BLOB + key)
        if locks:
            self.require_read(repository, Target("manifest", str(digest)))
        if found is None:
            return None
        blob = layout.decode_blob(digest, found[1])
        body = self._whole(blob, chunks) if blob.inline is None else blob.inline
        return Manifest(digest, layout.decode_media_type(found[0]), body, blob.owned)

    def _whole(self, blob: Blob, chunks: Mapping[int, bytes] = NO_CHUNKS) -> bytes:
        parts: list[bytes] = []
        with self.open_blob(blob) as reader:
            for at in range(0, blob.size, CHUNK_BYTES):
                if at in chunks:
                    reader.take(at, chunks[at])
                parts.append(reader.read(at, CHUNK_BYTES))
        return b"".join(parts)

    def tag(self, repository: str, name: str) -> Tag | None:
        """Where a tag points. Raises RecordDamaged, Locked."""
        key = layout.tag_key(repository, name)
        payload, locks = self._get_and_locks(key)
        if locks:
            self.require_read(repository, Target("tag", name))
        return None if payload is None else layout.decode_tag(name, self._recent.newest(key, payload))

    def confirm_tag(self, repository: str, name: str, digest: Digest, now: float) -> None:
        """Note that the parent, or the keeper for it, named this digest for a held tag at `now` (wall seconds). In this
        process, and never waits. Nothing for a tag that names something else by now."""
        key = layout.tag_key(repository, name)
        with contextlib.suppress(RecordDamaged):
            payload = self._get(key)
            if payload is not None and layout.decode_tag(name, payload).digest == digest:
                self._recent.confirm(key, payload, now)

    def confirm_tag_list(self, repository: str, now: float) -> None:
        """The same for the list of the parent's tags."""
        self._confirm_list(layout.tag_list_prefix(repository), now)

    def confirm_referrers(self, repository: str, subject: Digest, now: float) -> None:
        """The same for the parent's list of referrers."""
        self._confirm_list(layout.referrer_list_prefix(repository, subject), now)

    def _confirm_list(self, prefix: bytes, now: float) -> None:
        key = layout.segment_key(prefix, 0)
        with contextlib.suppress(RecordDamaged):
            if (payload := self._get(key)) is not None:
                self._recent.confirm(key, payload, now)

    def tag_moves(self, repository: str, name: str) -> list[TagMove]:
        """The last 16 moves of a tag, newest first, its deletions among them. They outlive the tag."""
        payload = self._get(layout.moves_key(repository, name))
        return [] if payload is None else layout.decode_moves(payload)

    def lock(self, repository: str, target: Target) -> Lock:
        """What is allowed on a repository, manifest or tag."""
        payload = self._get(layout.lock_key(repository, target))
        return Lock() if payload is None else layout.decode_lock(payload)

    def require_read(self, repository: str, *targets: Target) -> None:
        """Raise Locked unless the repository and every one of `targets` may be read; RecordDamaged for a lock
        that cannot be read."""
        with self._index.view() as view:
            locks.require(view, repository, "read", targets)

    def hides(self, repository: str, *targets: Target) -> bool:
        """Whether a lock forbids to list or to read the repository or one of `targets`. One that cannot be read
        does."""
        keys = [layout.lock_key(repository, target) for target in (locks.REPOSITORY, *targets)]
        try:
            if not self._get_and_locks(keys[0])[1]:
                return False
            found = [layout.decode_lock(row) for key in keys if (row := self._get(key)) is not None]
        except RecordDamaged:
            return True
        return not all(lock.list and lock.read for lock in found)

    def is_deleted(self, repository: str, kind: str, name: str) -> bool:
        """Whether a "tag", "manifest" or "blob" was deleted here and not pushed again: it is not to be brought
        back from a parent. `name` is the tag or the digest."""
        return self._get(layout.deleted_key(repository, kind, name)) is not None

    def is_pending(self, repository: str, digest: Digest) -> bool:
        """Whether a manifest was pushed here and the parent does not know it yet."""
        return self._get(layout.pending_key(repository, digest)) is not None

    def pending(self) -> list[tuple[str, Digest]]:
        """(repository, digest) of all of these; a damaged row is left out."""
        rows = self._index.scan(layout.PENDING)
        found = []
        for key, value in rows:
            with contextlib.suppress(RecordDamaged):
                name = layout.decode_pending(layout.unseal(key, value))
                found.append((name, layout.digest_from(key, key[17:])))
        return found

    def outbox(self, *, after: int = 0, limit: int | None = None) -> list[tuple[int, bytes]]:
        """(number, body) of what is still to go up to the parent, in order, those above `after`, at most `limit`. A
        damaged row is left out."""
        found = []
        start = layout.outbox_key(after) if after else layout.OUTBOX
        for key, value in self._index.scan(layout.OUTBOX, after=start, limit=limit):
            with contextlib.suppress(RecordDamaged):
                found.append((layout.outbox_number(key), layout.unseal(key, value)))
        return found

    def outbox_row(self, number: int) -> bytes | None:
        """One of these. Raises RecordDamaged."""
        return self._get(layout.outbox_key(number))

    def outbox_last(self) -> int:
        """The number that was given last; cheap. Raises RecordDamaged."""
        return layout.decode_number(self._get(layout.OUTBOX))

    def event_head(self) -> EventHead | None:
        """Where the log of events stands; None when nobody reads it, so that it is not kept. Raises RecordDamaged."""
        payload = self._get(layout.EVENT)
        head = None if payload is None else layout.decode_log_head(payload)
        if head is None or not head.log:
            return None
        return EventHead(head.log.hex(), head.last, head.floor, head.count)

    def events(self, after: int, limit: int) -> list[Event]:
        """Events with numbers above `after`, in order, at most `limit`; what is left of an ended log among them. Raises
        RecordDamaged: it is not known what happened."""
        rows = self._index.scan(layout.EVENT, after=layout.event_key(after), limit=limit)
        return [layout.decode_event(key, layout.unseal(key, value)) for key, value in rows]

    def events_since(self, log: str, after: int, limit: int) -> list[Event] | None:
        """All that happened since a point of a log, in order, at most `limit`. None when nobody can tell: it is another
        log now, or what followed was trimmed, or `after` is no point of it: the event of that number was lost with a
        power cut, so who saw it saw what is not. Raises RecordDamaged."""
        found = self.events(after, limit)
        # looked at after the rows: what is a point now was one before, and nothing above it had been trimmed
        head = self.event_head()
        if head is None or head.log != log:
            return None
        if after < head.floor:
            return None
        with self._index.view() as view:
            is_point = after == head.floor or present(view, layout.event_key(after))
        return found if is_point else None

    def holders(self, digest: Digest, *, limit: int | None = None) -> list[str]:
        """Repositories that have a blob, at most `limit`, in no order."""
        keys = (key for key, _ in self._index.scan(layout.HOLDER + digest.key + layout.AS_BLOB, limit=limit))
        return self._names_of([key[-16:] for key in keys])

    def has_holder(self, digest: Digest, wanted: Callable[[str], bool]) -> bool:
        """Whether one of the repositories that have a blob is `wanted`. Ends at the first."""
        keys = (key for key, _ in self._index.scan(layout.HOLDER + digest.key + layout.AS_BLOB))
        return any(wanted(name) for key in keys for name in self._names_of([key[-16:]]))

    def _names_of(self, hashes: Collection[bytes]) -> list[str]:
        if any(raw not in self._names for raw in hashes):
            every = (layout.repository_name(key) for key, _ in self._index.scan(layout.REPOSITORY))
            self._names = {layout.repository_hash(name): name for name in every}
        return [self._names[raw] for raw in hashes if raw in self._names]

    def tags(self, repository: str, *, last: str = "", limit: int | None = None) -> list[str]:
        """Tags held, bytewise sorted, those above `last`, at most `limit`."""
        prefix = layout.TAG + layout.repository_hash(repository)
        hidden = self._hidden(repository, "tag")
        names = (key[17:] for key in self._keys(prefix, last))
        return [name.decode() for name in islice((n for n in names if n not in hidden), limit)]

    def members(self, repository: str, *, after: bytes = listing.FIRST, limit: int) -> Members:
        """What a repository has, from the place `after` on (that of an earlier call): manifests that no tag names, by
        digest, then tags, by name. Looks at `limit` records at most, 1 at least. What a lock forbids to list or to read
        is left out."""
        return listing.members(self._index, repository, after=after, limit=limit)

    def repositories(self, *, last: str = "", limit: int | None = None) -> list[str]:
        """Repositories of which anything is known, bytewise sorted, those above `last`, at most `limit`. One
        that was emptied stays: its locks and the moves of its tags are still there to be asked for."""
        any_locks = next(self._index.scan(layout.LOCK), None) is not None
        names = map(layout.repository_name, self._keys(layout.REPOSITORY, last))
        shown = (n for n in names if not any_locks or self.lock(n, locks.REPOSITORY).list)
        return list(islice(shown, limit))

    def _keys(self, prefix: bytes, last: str) -> Iterator[bytes]:
        after = prefix + last.encode("utf-8", "surrogatepass") if last else b""
        for key, value in self._index.scan(prefix, after=after[:511]):
            layout.unseal(key, value)
            yield key

    def _hidden(self, repository: str, kind: str) -> set[bytes]:
        """Ends of the keys of tags or manifests that lists leave out."""
        prefix = layout.LOCK + layout.repository_hash(repository) + layout.NOUNS[kind]
        rows = self._index.scan(prefix)
        return {
            key[len(prefix) :]
            for key, value in rows
            if not layout.decode_lock(layout.unseal(key, value)).list
        }

    def _left_out(self, repository: str, kind: str) -> set[bytes]:
        """The same, and those that were deleted here: of lists that the parent gave."""
        prefix = layout.DELETED + layout.repository_hash(repository) + layout.NOUNS[kind]
        return self._hidden(repository, kind) | {key[len(prefix) :] for key, _ in self._index.scan(prefix)}

    def tag_list(self, repository: str, unstored: Sequence[bytes] | None = None) -> TagList | None:
        """The parent's tags as last fetched, or those of its list that was not stored, without those deleted here."""
        found = _passing(unstored) or self._list(layout.tag_list_prefix(repository))
        if found is None:
            return None
        hidden = self._left_out(repository, "tag")
        return TagList(tuple(item.decode() for item in found[0] if item not in hidden), found[1])

    def has_repository(self, repository: str) -> bool:
        """Whether anything of the repository was ever recorded."""
        return self._get(layout.repository_key(repository)) is not None

    def is_there(self, repository: str, target: Target) -> bool:
        """Whether a repository, manifest or tag is here, whatever its lock says: who may lock may unlock."""
        keys = {
            "repository": lambda: layout.repository_key(repository),
            "manifest": lambda: layout.link_key(
                repository, layout.AS_MANIFEST, Digest.parse(target.name).key
            ),
            "tag": lambda: layout.tag_key(repository, target.name),
        }
        return self._get(keys[target.kind]()) is not None

    def referrers(
        self, repository: str, subject: Digest, unstored: Sequence[bytes] | None = None
    ) -> ReferrersList | None:
        """The parent's referrers as last fetched, or those of its list that was not stored, and after them the
        manifests held here that name the subject; each digest once, without those deleted here. None when neither is
        known."""
        fetched = _passing(unstored) or self._list(layout.referrer_list_prefix(repository, subject))
        rows = self._index.scan(layout.referrer_prefix(repository, subject))
        local = [layout.decode_descriptor(layout.unseal(key, value)) for key, value in rows]
        if fetched is None and not local:
            return None
        items, fetched_at = fetched or ([], 0.0)
        hidden = {str(Digest.from_key(raw)) for raw in self._left_out(repository, "manifest")}
        every = [*map(layout.decode_descriptor, items), *local]
        merged = {d.digest: d for d in reversed(every)}
        order = dict.fromkeys(d.digest for d in every if d.digest not in hidden)
        return ReferrersList(tuple(merged[digest] for digest in order), fetched_at)

    def _list(self, prefix: bytes) -> tuple[list[bytes], float] | None:
        rows = [layout.unseal(key, value) for key, value in self._index.scan(prefix)]
        if not rows:
            return None
        first = layout.segment_key(prefix, 0)
        try:
            return layout.decode_list([self._recent.newest(first, rows[0]), *rows[1:]])
        except RecordDamaged as error:
            raise RecordDamaged(str(error), first) from error

    def fills(self) -> list[FillState]:
        """Checkpoints of all fills that are not finished, with the chunks that were noted since. One whose record is
        damaged claims nothing: it is left out, and the fill begins anew."""
        found = []
        for key, value in self._index.scan(layout.FILL):
            with contextlib.suppress(RecordDamaged):
                found.append(self._fill(key, layout.unseal(key, value)))
        return found

    def _fill(self, key: bytes, payload: bytes) -> FillState:
        digest, head = layout.digest_in(key, 1), layout.decode_fill(payload)
        chunks: dict[int, bytes] = {}
        for row, value in self._index.scan(layout.fill_chunks_prefix(head.repository, digest)):
            with contextlib.suppress(RecordDamaged):
                chunks |= layout.decode_fill_chunks(layout.segment_number(row), layout.unseal(row, value))
        chunks |= read_progress(self._directory.fills_fd, head.repository, digest, head.size)
        return FillState(
            head.repository, digest, head.size, head.etag, head.extents, chunks, head.whole, head.updated_at
        )

    def resource(self, kind: str, name: str) -> Resource | None:
        """A document of the control plane by its name, whatever its casing. Raises RecordDamaged, Mistake."""
        payload = self._get(layout.resource_key(kind, name))
        return None if payload is None else layout.decode_resource(kind, payload)

    def resources(
        self, kind: str, *, after: str = "", limit: int | None = None, prefix: str = ""
    ) -> list[Resource]:
        """Documents of a kind by lower-cased name: those above `after` whose name begins with `prefix`, at most
        `limit`. Raises RecordDamaged."""
        below, start = layout.resource_range(kind, prefix, after)
        rows = self._index.scan(below, after=start, limit=limit)
        return [layout.decode_resource(kind, layout.unseal(key, value)) for key, value in rows]

    def resource_count(self, kind: str) -> int:
        """How many documents of a kind there are. Raises RecordDamaged."""
        return layout.decode_number(self._get(layout.resource_prefix(kind)))

    def control_revision(self) -> int:
        """Counts the transactions that changed a document of a kind that is not quiet; 0 before the first. Raises
        RecordDamaged."""
        return layout.decode_number(self._get(layout.RESOURCE))

    def last_seen(self, repository: str, digest: Digest) -> float | None:
        """The last access that this process noted, or else that was written, in wall seconds."""
        key = layout.seen_key(repository, digest)
        if (noted := self._recent.last_seen(key)) is not None:
            return noted
        payload = self._get(key)
        return None if payload is None else layout.decode_time(payload)

    def open_blob(self, blob: Blob) -> BlobReader:
        """A reader of the blob's bytes. Raises NotHeld when the file is gone, Damaged when it is not a plain
        file of the right size, Exhausted when no descriptor is left."""
        digest = blob.digest
        if blob.inline is not None:
            return BlobReader(self._readers, digest, blob.size, -1, None, blob.inline)
        bad = self._quarantined(digest) if blob.damaged else ()
        fd, identity = self._directory.open_blob(digest, blob.size)
        state = self._readers.verification(digest, blob.size, identity, bad)
        return BlobReader(self._readers, digest, blob.size, fd, state, None)

    def is_in_place(self, blob: Blob) -> bool:
        """Whether the bytes are where the row says: in the index, or in a plain file of the right size that can be
        opened. A disk that cannot be read any more still knows its names for a while."""
        return blob.inline is not None or self._directory.can_open(blob.digest, blob.size)

    def let_go(self) -> None:
        """Give up the maps of files that nobody read for a while (`holdfast_core.pages`); a removed file keeps its
        space until then. To be called every few seconds in each process that reads."""
        self._readers.let_go()

    @property
    def knows_pages(self) -> bool:
        """Whether this kernel says which pages stayed in memory. Where it does not, a chunk is hashed whenever it is
        read: right, and slower."""
        return self._readers.pages.works

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

    def damage(self, *, limit: int) -> list[Damage]:
        """Blobs with chunks that were found to be bad, by digest, at most `limit`. One whose record cannot be read
        is among them as one that was pushed here."""
        found: list[Damage] = []
        after = b""
        while len(found) < limit:
            row = next(self._index.scan(layout.QUARANTINE, after=after, limit=1), None)
            if row is None:
                break
            digest = layout.digest_in(row[0], 1)
            after = layout.segment_key(layout.QUARANTINE + digest.key, 0xFFFFFFFF)
            try:
                blob = self.blob_anywhere(digest)
            except RecordDamaged:
                blob = Blob(digest, 0, True, b"", None, True)
            if blob is not None:
                chunks = tuple(self._quarantined(digest))
                found.append(Damage(digest, blob.owned, chunks, tuple(self._repositories(digest))))
        return found

    def is_damaged(self, key: bytes) -> bool:
        """Whether there is such a record and it fails its checksum."""
        return is_damaged(self._index, key)

    def _damaged_records(self, after: bytes) -> tuple[list[bytes], bytes]:
        rows = list(self._index.scan(b"", after=after, limit=SCRUB_RECORDS))
        damaged = [key for key, value in rows if layout.is_mendable(key) and not layout.is_intact(key, value)]
        return damaged, rows[-1][0] if len(rows) == SCRUB_RECORDS else b""

    def repositories_of(self, key: bytes) -> list[str]:
        """Names of the repositories that a record is about, as far as they are known."""
        if key[:1] in (layout.BLOB, layout.CHUNKS):
            digest = digest_of(key)
            return [] if digest is None else self._repositories(digest)
        return list(self._names_of([key[1:17]])) if key[:1] in layout.REPOSITORY_TABLES else []

    def _repositories(self, digest: Digest) -> list[str]:
        """Repositories that have the bytes, as a blob or as a manifest, sorted."""
        hashes = {key[-16:] for key, _ in self._index.scan(layout.HOLDER + digest.key, limit=HOLDERS)}
        return sorted(self._names_of(hashes))

    def _chunk_hash(self, digest: Digest, chunk: int) -> bytes:
        segment, place = divmod(chunk, layout.SEGMENT_CHUNKS)
        payload = self._get(layout.segment_key(layout.CHUNKS + digest.key, segment)) or b""
        return payload[place * 32 : place * 32 + 32]

    @property
    def path(self) -> Path:
        """The directory of the store."""
        return self._directory.path

    @property
    def uuid(self) -> str:
        """What tells this store from every other, as text."""
        identity = read_identity(self._directory.path)
        assert identity is not None  # it is open
        return str(UUID(bytes=identity.uuid))

    def free_bytes(self) -> int:
        """Bytes that may still be written to the file system of the store."""
        return self._directory.free_bytes()

    def reader_check(self) -> int:
        """Free what dead processes left in the index's reader table; how many. `sync_cached` does it, too."""
        return self._index.reader_check()
