"""The reads of a store: safe on an event loop, a few microseconds each, no transaction left open.

Identity is (repository, digest). Bytes are stored once; a link a repository says who may see them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from holdfast_core import format as layout
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.directory import Directory
from holdfast_core.errors import RecordDamaged
from holdfast_core.index import Index
from holdfast_core.reading import BlobReader, Readers
from holdfast_core.record import Blob, FillState, Manifest, ReferrersList, Tag, TagList, TagMove


class Lookup:
    """What an open store answers. Every method may raise RecordDamaged: a record failed its checksum."""

    def __init__(
        self, index: Index, directory: Directory, *, scrub_interval: float, clock: Callable[[], float]
    ) -> None:
        self._index = index
        self._directory = directory
        self._readers = Readers(self._chunk_hash, clock, scrub_interval)
        # bound once: the hit path calls them for every request
        self._get = index.get
        self._linked = index.linked

    def blob(self, repository: str, digest: Digest) -> Blob | None:
        """The blob, if it is linked to the repository as a blob. Raises RecordDamaged."""
        key = digest.key
        found = self._linked(layout.link_key(repository, layout.AS_BLOB, key), layout.BLOB + key)
        return None if found is None else layout.decode_blob(digest, found[1])

    def blob_anywhere(self, digest: Digest) -> Blob | None:
        """The blob, whatever repository it came by: for the keeper, never for a client."""
        payload = self._get(layout.BLOB + digest.key)
        return None if payload is None else layout.decode_blob(digest, payload)

    def manifest(self, repository: str, digest: Digest) -> Manifest | None:
        """The manifest, if it is linked to the repository as a manifest. One larger than the inline limit is
        read from its file, checked. Raises RecordDamaged, ChunkDamaged, NotHeld."""
        key = digest.key
        found = self._linked(layout.link_key(repository, layout.AS_MANIFEST, key), layout.BLOB + key)
        if found is None:
            return None
        blob = layout.decode_blob(digest, found[1])
        body = self._whole(blob) if blob.inline is None else blob.inline
        return Manifest(digest, layout.decode_media_type(found[0]), body, blob.owned)

    def _whole(self, blob: Blob) -> bytes:
        with self.open_blob(blob) as reader:
            return b"".join(reader.read(at, CHUNK_BYTES) for at in range(0, blob.size, CHUNK_BYTES))

    def tag(self, repository: str, name: str) -> Tag | None:
        """Where a tag points. Raises RecordDamaged."""
        payload = self._get(layout.tag_key(repository, name))
        return None if payload is None else layout.decode_tag(name, payload)

    def tag_moves(self, repository: str, name: str) -> list[TagMove]:
        """The last 16 targets of a tag, newest first."""
        payload = self._get(layout.moves_key(repository, name))
        return [] if payload is None else layout.decode_moves(payload)

    def tags(self, repository: str, *, last: str = "", limit: int | None = None) -> list[str]:
        """Tags held, bytewise sorted, those above `last`, at most `limit`."""
        prefix = layout.TAG + layout.repository_hash(repository)
        return [key[17:].decode() for key in self._keys(prefix, last, limit)]

    def repositories(self, *, last: str = "", limit: int | None = None) -> list[str]:
        """Repositories of which anything is known, bytewise sorted, those above `last`, at most `limit`."""
        return [layout.repository_name(key) for key in self._keys(layout.REPOSITORY, last, limit)]

    def _keys(self, prefix: bytes, last: str, limit: int | None) -> list[bytes]:
        after = prefix + last.encode("utf-8", "surrogatepass") if last else b""
        found: list[bytes] = []
        for key, value in self._index.scan(prefix, after=after[:511]):
            if limit is not None and len(found) >= limit:
                break
            layout.unseal(key, value)
            found.append(key)
        return found

    def tag_list(self, repository: str) -> TagList | None:
        """The parent's tags as last fetched."""
        found = self._list(layout.tag_list_prefix(repository))
        return None if found is None else TagList(tuple(item.decode() for item in found[0]), found[1])

    def has_repository(self, repository: str) -> bool:
        """Whether anything of the repository was ever recorded."""
        return self._get(layout.repository_key(repository)) is not None

    def referrers(self, repository: str, subject: Digest) -> ReferrersList | None:
        """The parent's referrers as last fetched, and after them the manifests held here that name the
        subject; each digest once. None when neither is known."""
        fetched = self._list(layout.referrer_list_prefix(repository, subject))
        rows = self._index.scan(layout.referrer_prefix(repository, subject))
        local = [layout.decode_descriptor(layout.unseal(key, value)) for key, value in rows]
        if fetched is None and not local:
            return None
        items, fetched_at = fetched or ([], 0.0)
        merged = {d.digest: d for d in [*local, *map(layout.decode_descriptor, items)]}
        order = dict.fromkeys(
            [*(layout.decode_descriptor(i).digest for i in items), *(d.digest for d in local)]
        )
        return ReferrersList(tuple(merged[digest] for digest in order), fetched_at)

    def _list(self, prefix: bytes) -> tuple[list[bytes], float] | None:
        rows = [layout.unseal(key, value) for key, value in self._index.scan(prefix)]
        return layout.decode_list(rows) if rows else None

    def fills(self) -> list[FillState]:
        """Checkpoints of all fills that are not finished. One whose record is damaged claims nothing: it is
        left out, and the fill begins anew."""
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
        return FillState(
            head.repository, digest, head.size, head.etag, head.extents, chunks, head.whole, head.updated_at
        )

    def last_seen(self, repository: str, digest: Digest) -> float | None:
        """The last access that was written, in wall seconds."""
        payload = self._get(layout.seen_key(repository, digest))
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

    def _quarantined(self, digest: Digest) -> list[int]:
        rows = self._index.scan(layout.QUARANTINE + digest.key)
        return [layout.segment_number(key) for key, _ in rows]

    def _chunk_hash(self, digest: Digest, chunk: int) -> bytes:
        segment, place = divmod(chunk, layout.SEGMENT_CHUNKS)
        payload = self._get(layout.segment_key(layout.CHUNKS + digest.key, segment)) or b""
        return payload[place * 32 : place * 32 + 32]

    def free_bytes(self) -> int:
        """Bytes that may still be written to the file system of the store."""
        return self._directory.free_bytes()

    def reader_check(self) -> int:
        """Free what dead processes left in the index's reader table; how many. `sync_cached` does it, too."""
        return self._index.reader_check()
