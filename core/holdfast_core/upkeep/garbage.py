"""Gives space back: bytes that no repository links any more, files without a row, and what was kept for a while.

The unlink that left bytes without a holder noted them (UNLINKED); the next link takes the note away in its own
transaction. Here the note and the holders are looked at again in the transaction that removes the row, and only
then the file is removed. Meanwhile the digest is held (`file_work`), so no push can count on the file, or put
a new one in its place, between the two.

Kept for a while are files set aside, and an index that a rebuild replaced. The writer of the store removes them; a
rebuild, which makes some of them, cannot be at work then.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from holdfast_core import format as layout
from holdfast_core.blob_files.file_work import FileWork
from holdfast_core.changes import change
from holdfast_core.changes.change import IndexChange, IndexView, Keep
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged
from holdfast_core.filesystem import files
from holdfast_core.filesystem.directory import ALGORITHMS, Directory
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal.group_commit import Writer
from holdfast_core.upkeep.stray_files import has_row

#: digests a transaction: the writer is held for well under a millisecond, and a push waits for as many unlinks
BATCH = 32
#: directories a sweep looks at for files without a row, and the file that says where the next one goes on
DIRECTORIES, NEXT = 24, "sweep"
#: how long files are kept that were set aside, and an index that a rebuild replaced
KEPT_SECONDS = 30 * 86400.0
PRESSED_SECONDS = 86400.0  # on a full disk
#: what a rebuild or a start that was cut off leaves in the store's directory
UNFINISHED = ("index.new", "store.json.new")


class GarbageCollector:
    """One at a time; a second call waits for the first."""

    def __init__(self, index: Index, directory: Directory, writer: Writer, files: FileWork) -> None:
        self._index = index
        self._directory = directory
        self._writer = writer
        self._files = files
        self._one = threading.Lock()

    def run(self, now: float, grace: float, stray_grace: float) -> int:
        """Bytes reclaimed; `stray_grace` is that of files without a row. Raises StoreError; when the store has failed,
        at once: it is not known then which rows are on the disk."""
        reclaimed = 0
        with self._one:
            if (refusal := self._writer.refusal()) is not None:
                raise refusal
            ripe = self._ripe(now - grace)
            while (batch := list(islice(ripe, BATCH))) and not self._files.closing:
                reclaimed += self._remove(batch, now - grace)
            return reclaimed + self._strays(now - stray_grace)

    def reclaim(self, digests: Iterable[Digest]) -> int:
        """Bytes reclaimed of these, which no repository links any more, whenever that began: what was evicted. Raises
        StoreError."""
        reclaimed = 0
        with self._one:
            left = iter(digests)
            while (batch := list(islice(left, BATCH))) and not self._files.closing:
                reclaimed += self._remove(batch, math.inf)
        return reclaimed

    def _ripe(self, before: float) -> Iterator[Digest]:
        for key, value in self._index.scan(layout.UNLINKED):
            if unlinked_at(key, value) <= before:
                yield layout.digest_from(key, key[1:])

    def _remove(self, digests: list[Digest], before: float) -> int:
        """Forget and remove those that no repository links yet. One that is being worked on waits for the next
        sweep: work that links it takes it off the list."""
        held = [digest for digest in digests if self._files.try_hold(digest)]
        gone: list[tuple[Digest, int]] = []

        def plan(view: IndexView) -> list[IndexChange]:
            gone.clear()  # a batch that found no room is planned again
            changes: list[IndexChange] = []
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
        self, view: IndexView, digest: Digest, before: float, gone: list[tuple[Digest, int]]
    ) -> list[IndexChange]:
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
            number = (number + 1) % (256 * len(ALGORITHMS))
            for digest in self._directory.blobs_in(ALGORITHMS[algorithm], first):
                if self._files.closing:
                    return reclaimed
                reclaimed += self._stray(digest, before)
        with contextlib.suppress(OSError), open(place, "w", opener=files.for_owner) as file:
            file.write(str(number))
        return reclaimed

    def _stray(self, digest: Digest, before: float) -> int:
        """Remove the file unless it has a row, is young, or is being worked on; its bytes."""
        if not self._files.try_hold(digest):
            return 0
        try:
            status = self._directory.blob_status(digest)
            if (
                status is None
                or max(status.st_mtime, status.st_ctime) > before
                or has_row(self._index, digest)
            ):
                return 0
            if self._writer.refusal() is not None:
                return 0
            self._directory.remove_blob(digest)
            return status.st_size
        finally:
            self._files.release(digest)


def _number_in(place: Path) -> int:
    """The directory to go on with; the first when it is not known."""
    try:
        return int(place.read_text()) % (256 * len(ALGORITHMS))
    except (OSError, ValueError):
        return 0


def unlinked_at(key: bytes, value: bytes) -> float:
    """Since when a digest has no link; ever since, when that cannot be read."""
    try:
        return layout.decode_time(layout.unseal(key, value))
    except RecordDamaged:
        return 0.0


def remove_expired(path: Path, now: float, *, pressed: bool) -> int:
    """Take away what lies in the store at `path` for 30 days, on a full disk for a day, by the time of its last change
    of name; how many bytes that was. `now` is wall seconds. What cannot be removed stays for the next call."""
    before = now - (PRESSED_SECONDS if pressed else KEPT_SECONDS)
    return sum(_removed(place) for place in _candidates(path) if _changed_at(place) <= before)


def _candidates(path: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (path / "quarantine").iterdir()
    with contextlib.suppress(OSError):
        yield from path.glob("index.old-*")
    yield from (path / name for name in UNFINISHED)


def _changed_at(place: Path) -> float:
    try:
        return place.lstat().st_ctime
    except OSError:
        return float("inf")


def _removed(place: Path) -> int:
    try:
        if place.is_dir() and not place.is_symlink():
            size = sum(file.lstat().st_size for file in place.iterdir())
            shutil.rmtree(place)
        else:
            size = place.lstat().st_size
            os.unlink(place)
    except OSError:
        return 0
    return size
