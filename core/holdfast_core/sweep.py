"""Gives space back: bytes that no repository links any more, and files without a row.

The unlink that left bytes without a holder noted them (UNLINKED); the next link takes the note away in its own
transaction. Here the note and the holders are looked at again in the transaction that removes the row, and only
then the file is removed. Meanwhile the digest is held (`file_work`), so no push can count on the file, or put
a new one in its place, between the two.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from holdfast_core import change
from holdfast_core import directory as directories
from holdfast_core import format as layout
from holdfast_core.change import Change, Keep, View
from holdfast_core.digest import Digest
from holdfast_core.directory import Directory
from holdfast_core.errors import RecordDamaged
from holdfast_core.file_work import FileWork
from holdfast_core.index import Index
from holdfast_core.writer import Writer

#: digests a transaction: the writer is held for well under a millisecond, and a push waits for as many unlinks
BATCH = 32
#: directories a sweep looks at for files without a row, and the file that says where the next one goes on
DIRECTORIES, NEXT = 24, "sweep"


class Sweep:
    """One at a time; a second call waits for the first."""

    def __init__(self, index: Index, directory: Directory, writer: Writer, files: FileWork) -> None:
        self._index = index
        self._directory = directory
        self._writer = writer
        self._files = files
        self._one = threading.Lock()

    def run(self, now: float, grace: float, stray_grace: float) -> int:
        """Bytes reclaimed; `stray_grace` is that of files without a row. Raises StoreError; when the store has failed,
        at once: nobody knows then which rows are on the disk."""
        reclaimed = 0
        with self._one:
            if (refusal := self._writer.refusal()) is not None:
                raise refusal
            ripe = self._ripe(now - grace)
            while (batch := list(islice(ripe, BATCH))) and not self._files.closing:
                reclaimed += self._remove(batch, now - grace)
            return reclaimed + self._strays(now - stray_grace)

    def _ripe(self, before: float) -> Iterator[Digest]:
        for key, value in self._index.scan(layout.UNLINKED):
            if unlinked_at(key, value) <= before:
                yield layout.digest_from(key, key[1:])

    def _remove(self, digests: list[Digest], before: float) -> int:
        """Forget and remove those that are still nobody's. One that is being worked on waits for the next
        sweep: work that links it takes it off the list."""
        held = [digest for digest in digests if self._files.try_hold(digest)]
        gone: list[tuple[Digest, int]] = []

        def plan(view: View) -> list[Change]:
            gone.clear()  # a batch that found no room is planned again
            changes: list[Change] = []
            for digest in held:
                changes += self._forgotten(view, digest, before, gone)
            return changes

        try:
            self._writer.submit(plan, frees=True).result()
            for digest, _ in gone:
                self._directory.remove_blob(digest)
        finally:
            for digest in held:
                self._files.release(digest)
        return sum(size for _, size in gone)

    def _forgotten(
        self, view: View, digest: Digest, before: float, gone: list[tuple[Digest, int]]
    ) -> list[Change]:
        note = layout.UNLINKED + digest.key
        payload = view.get(note)
        if payload is not None and layout.decode_time(payload) > before:
            return []
        if not change.present(view, note):
            return []
        if view.keys(layout.HOLDER + digest.key, limit=1):
            return change.remove([note])
        blob = change.blob_of(view, digest)
        gone.append((digest, 0 if blob is None else blob.size))
        return change.forget_bytes(view, digest, Keep.DISK)

    def _strays(self, before: float) -> int:
        """Files without a row in the next 24 of the 512 directories: all of them within a day of hourly sweeps. Where
        it goes on is kept in a file, so that a node that is restarted every day gets round as well."""
        place = self._directory.path / NEXT
        reclaimed, number = 0, _number_in(place)
        for _ in range(DIRECTORIES):
            algorithm, first = divmod(number, 256)
            number = (number + 1) % (256 * len(directories.ALGORITHMS))
            for digest in self._directory.blobs_in(directories.ALGORITHMS[algorithm], first):
                if self._files.closing:
                    return reclaimed
                reclaimed += self._stray(digest, before)
        with contextlib.suppress(OSError), open(place, "w", opener=directories.for_owner) as file:
            file.write(str(number))
        return reclaimed

    def _stray(self, digest: Digest, before: float) -> int:
        """Remove the file unless it has a row, is young, or is being worked on; its bytes."""
        if not self._files.try_hold(digest):
            return 0
        try:
            found = self._directory.blob_status(digest)
            if found is None or max(found.st_mtime, found.st_ctime) > before or self._has_row(digest):
                return 0
            if self._writer.refusal() is not None:
                return 0
            self._directory.remove_blob(digest)
            return found.st_size
        finally:
            self._files.release(digest)

    def _has_row(self, digest: Digest) -> bool:
        """Whether a row counts on the file; one that cannot be read does."""
        key = layout.BLOB + digest.key
        try:
            payload = self._index.get(key)
        except RecordDamaged:
            return True
        return payload is not None and layout.decode_blob(digest, payload).inline is None


def _number_in(place: Path) -> int:
    """The directory to go on with; the first when nobody knows."""
    try:
        return int(place.read_text()) % (256 * len(directories.ALGORITHMS))
    except (OSError, ValueError):
        return 0


def unlinked_at(key: bytes, value: bytes) -> float:
    """Since when a digest has no link; ever since, when that cannot be read."""
    try:
        return layout.decode_time(layout.unseal(key, value))
    except RecordDamaged:
        return 0.0
