"""The scrub: what the disk has of the blob files, and of the journal, is compared with its hashes, a slice at a time.

A place to go on at is opaque to callers: the digest key and the chunk to read next of a blob, or an offset of the
journal with its generation.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from holdfast_core import format as layout
from holdfast_core.blob_files.disk_check import DiskCheck
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import Damaged, NotHeld, RecordDamaged, StoreError
from holdfast_core.filesystem.directory import Directory
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal import journal_file
from holdfast_core.journal.frame import JOURNAL_HEAD_BYTES
from holdfast_core.journal.journal_file import Journal
from holdfast_core.record import Blob, ScrubbedSlice

#: rows that one slice looks at
ROWS = 1000
#: what a file that has to be looked for costs a slice, so that lost and small files are not all looked for at once
FILE_BYTES = 4096

#: chunks that could not be read, and none that could, before other files say whether it is the disk
UNREAD = 4
#: files that are asked then; where digests lie on a disk has no order, so that a scratch is not below all of them
OTHERS = 16

Found = tuple[Digest, int, int]


class BlobScrub:
    """Of one open store. One call at a time, on a thread."""

    def __init__(self, index: Index, directory: Directory) -> None:
        self._index, self._directory = index, directory
        self._check = DiskCheck(self._expected)
        #: chunks of a slice that could not be read, and whether the disk gave any other
        self._unread, self._gives = 0, False

    def run(self, after: bytes, limit: int) -> ScrubbedSlice:
        """Read the next `limit` bytes of blob files, in whole chunks and at least one. A blob whose record is damaged
        is left to the repair of records. Raises StoreError, also when it is the disk that cannot be read, and not
        sectors of it; then nothing was found. What a push, a repair or a sweep replaced meanwhile is found as well:
        `StoredBlobs.quarantine_damaged` looks once more."""
        done, spent, found, on = 0, 0, list[Found](), after
        self._unread, self._gives = 0, False
        for key, first in self._rows(after):
            on = key + _number(0xFFFFFFFF)
            blob = self._blob(key)
            if blob is None or blob.inline is not None:
                continue
            try:
                chunk, read = self._read(blob, first, max(limit - spent, 1), found)
            except RecordDamaged:
                continue
            done, spent = done + read, spent + read + FILE_BYTES
            if chunk < layout.chunk_count(blob.size):
                return ScrubbedSlice(done, tuple(found), key + _number(chunk))
            if spent >= limit:
                return ScrubbedSlice(done, tuple(found), on)
        return ScrubbedSlice(done, tuple(found), b"" if on == after else on)

    def _rows(self, after: bytes) -> Iterator[tuple[bytes, int]]:
        """(digest key, first chunk), ROWS at most: the blob that was begun, then those behind it."""
        begun, chunk = after[:-4], layout.segment_number(after) if after else 0
        if begun and chunk != 0xFFFFFFFF:
            yield begun, chunk
        last = layout.BLOB + begun if begun else b""
        for key, _ in self._index.scan(layout.BLOB, after=last, limit=ROWS):
            yield key[1:], 0

    def _blob(self, key: bytes) -> Blob | None:
        try:
            payload = self._index.get(layout.BLOB + key)
        except RecordDamaged:
            return None
        return None if payload is None else layout.decode_blob(Digest.from_key(key), payload)

    def _read(self, blob: Blob, first: int, limit: int, found: list[Found]) -> tuple[int, int]:
        """(the chunk to go on at, bytes read). What is damaged is added to `found`."""
        count, known, read = layout.chunk_count(blob.size), self._known(blob), 0
        try:
            fd, _ = self._directory.open_blob(blob.digest, blob.size)
        except (NotHeld, Damaged) as damage:
            _require_opened(damage)
            if len(known) < count and not self._is_there(blob):
                found.append((blob.digest, 0, blob.size))
            return count, 0
        try:
            chunk = first
            while chunk < count and read < limit:
                start, end = chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, blob.size)
                if chunk not in known:
                    read += end - start
                    if not self._is_sound(fd, blob, chunk):
                        found.append((blob.digest, start, end))
                chunk += 1
            return chunk, read
        finally:
            os.close(fd)

    def _known(self, blob: Blob) -> set[int]:
        """Chunks that are known to be bad."""
        if not blob.damaged:
            return set()
        rows = self._index.scan(layout.QUARANTINE + blob.digest.key)
        return {layout.segment_number(key) for key, _ in rows}

    def _is_there(self, blob: Blob) -> bool:
        """Whether the file is there after all, or its row gone with it."""
        return self._blob(blob.digest.key) is None or self._directory.can_open(blob.digest, blob.size)

    def _is_sound(self, fd: int, blob: Blob, chunk: int) -> bool:
        sound = self._check.is_sound(fd, blob, chunk)
        self._gives |= sound is not None
        self._unread += sound is None
        if self._unread > UNREAD and not self._gives and not self._gives_others(blob):
            raise StoreError(
                f"{self._unread} reads of blob files failed, and none went; see the kernel's log"
            )
        return bool(sound)

    def _gives_others(self, unread: Blob) -> bool:
        """Whether the disk gives the beginning of any other file: then it is sectors that it does not give."""
        for key, _ in self._index.scan(layout.BLOB, limit=OTHERS):
            blob = self._blob(key[1:])
            if blob is None or blob.inline is not None or blob.digest == unread.digest:
                continue
            try:
                fd, _ = self._directory.open_blob(blob.digest, blob.size)
            except (NotHeld, Damaged):
                continue
            try:
                self._gives |= self._check.is_sound(fd, blob, 0) is not None
            finally:
                os.close(fd)
            if self._gives:
                break
        return self._gives

    def _expected(self, digest: Digest, chunk: int) -> bytes:
        segment, place = divmod(chunk, layout.SEGMENT_CHUNKS)
        payload = self._index.get(layout.segment_key(layout.CHUNKS + digest.key, segment)) or b""
        return payload[place * 32 : place * 32 + 32]


def scrub_journal(
    journal: Journal, directory: Directory, after: bytes, limit: int
) -> tuple[ScrubbedSlice, int]:
    """Look at the frames of the next `limit` bytes; (the slice, damaged frames). The journal that was written again
    meanwhile is new, and its slices end. Raises OSError."""
    generation, end = journal.generation, journal.length
    start = _offset(after, generation) if after else JOURNAL_HEAD_BYTES
    if start is None or start >= end:
        return ScrubbedSlice(0, (), b""), 0
    _forget(directory)
    damaged, at = 0, start
    for frame in journal_file.frames(directory.journal, start):
        if frame.start >= end:
            break
        damaged, at = damaged + (frame.changes is None), frame.end
        if at - start >= limit:
            break
    _forget(directory)
    is_over = at >= end or at == start
    return ScrubbedSlice(at - start, (), b"" if is_over else _number(generation) + at.to_bytes(8)), damaged


def _require_opened(damage: Exception) -> None:
    """Raise StoreError when a file could not be opened for another reason than what it is: a link is damage, a disk
    that gives errors is not."""
    cause = damage.__cause__
    if isinstance(cause, OSError) and cause.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
        raise StoreError(f"{damage}; nothing is noted as damaged") from damage


def _forget(directory: Directory) -> None:
    """Have the frames read from the disk; nobody but a start and a scrub reads them."""
    fd = os.open(
        directory.journal / journal_file.NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    )
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _offset(place: bytes, generation: int) -> int | None:
    return int.from_bytes(place[4:]) if int.from_bytes(place[:4]) == generation else None


def _number(value: int) -> bytes:
    return value.to_bytes(4)
