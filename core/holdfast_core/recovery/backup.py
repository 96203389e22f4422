"""A copy of a store, made beside the node that serves it, and a store made of such a copy.

A backup is laid out as a store is, so `fsck` reads it; `copy.json` keeps every process from writing to it. Blobs come
first, most of them before the state of the index is taken that the copy will have: a commit puts the files of its blobs
in place before it, so whatever was acknowledged until then has its files. Then the index takes its place by one
rename, the journal after it (a journal that does not fit is written again from its index), and in the end goes what the
former state alone had. So a kill leaves the former copy, with more files, or the new one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.errors import REBUILD, Damaged, NotHeld, RecordDamaged, StoreError, StoreRefused
from holdfast_core.filesystem import directory
from holdfast_core.filesystem.file_copies import FileCopies, at_once
from holdfast_core.filesystem.files import for_owner, os_error, sync_directory, write_all
from holdfast_core.filesystem.store_identity import (
    COPY,
    StoreCopyMark,
    read_identity,
    read_mark,
    write_document,
    write_mark,
)
from holdfast_core.filesystem.syscalls import syncfs
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal import frame as framing
from holdfast_core.journal import journal_file
from holdfast_core.journal.replay import journaled
from holdfast_core.record import Blob
from holdfast_core.recovery.compact import DATA, settle_copy
from holdfast_core.store import Store
from holdfast_core.upkeep.fsck import HEAL, FsckReport, structure_problems

#: states that are taken: another one when blobs of the last, or its journal, went before they were copied
STATES = 20
_PIECE_BYTES = 1 << 20


def backup(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    beside: Sequence[str] = (),
    pace: Callable[[int], None] = at_once,
) -> FsckReport:
    """Bring the backup in `target` to the state of the store at `path`, of which an earlier one has only what is new
    copied. `beside`: small files of the store's directory that go along. `problems` names what is damaged: it is not in
    the backup. `pace` is told of the bytes of blobs that were read, and waits. Raises StoreRefused for a directory that
    is no backup of this store, Unwritable when the disk does not
    take it; then the backup is the former one."""
    root, kept = Path(path), Path(target)
    identity = read_identity(root)
    if identity is None or read_mark(root) is not None:
        raise StoreRefused(f"{root} holds no store")
    mark = StoreCopyMark(identity.uuid, "backup")
    _require_place(root, kept, mark)
    return _copied(root, kept, mark, beside, pace)


def restore(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    beside: Sequence[str] = (),
    settle: Callable[[Store], None] = lambda store: None,
) -> FsckReport:
    """Make a store in `target`, which is empty or not there, of the backup at `path`; one that was cut off goes on.
    `settle` changes what the store that was copied may have done by now. `problems` names what is damaged; it is not in
    the store. Numbers of events go on elsewhere than in the store that was lost. Raises StoreRefused, Unwritable."""
    kept, root = Path(path), Path(target)
    mark = read_mark(kept)
    if mark is None or mark.purpose != "backup":
        raise StoreRefused(f"{kept} is no backup; allowed: what `holdfast backup` made")
    if read_identity(kept) is None:
        raise StoreRefused(f"{kept} is a backup that never came to its end; make it again")
    mark = mark._replace(purpose="restore")
    _require_place(kept, root, mark)
    report = _copied(kept, root, mark, beside, at_once)
    store = Store.create_or_open(root, write=True, allow_network=True, restoring=True)
    try:
        settle(store)
    finally:
        store.close()
    (root / COPY).unlink()
    sync_directory(root)
    return report


def _require_place(source: Path, target: Path, mark: StoreCopyMark) -> None:
    """Raise StoreRefused unless `target` is empty, not there, or has a copy of the same store for the same purpose."""
    if target.resolve().is_relative_to(source.resolve()):
        raise StoreRefused(f"{target} lies in {source}; allowed: a directory outside of it")
    if target.exists() and not target.is_dir():
        raise StoreRefused(f"{target} is no directory")
    if target.exists() and any(target.iterdir()) and (found := read_mark(target)) != mark:
        what = "is no copy of a store" if found is None else f"has the {found.purpose} of another store"
        if found is not None and found.uuid == mark.uuid:
            what = f"has a {found.purpose}"
        raise StoreRefused(f"{target} is not empty and {what}; allowed: an empty directory")


def _copied(
    source: Path, target: Path, mark: StoreCopyMark, beside: Sequence[str], pace: Callable[[int], None]
) -> FsckReport:
    try:
        directory.create(target)
        write_mark(target, mark)
        copy = StoreCopy(source, target, pace)
        try:
            copy.run()
        finally:
            copy.close()
        for name in beside:
            if (source / name).is_file():
                write_document(target, name, (source / name).read_bytes())
    except OSError as error:
        raise os_error(error, f"{source} cannot be copied to {target}") from error
    return copy.report


class StoreCopy:
    """The copying of a store at `source` to a directory of its own that has the directories of a store."""

    def __init__(self, source: Path, target: Path, pace: Callable[[int], None] = at_once) -> None:
        """Raises StoreRefused when somebody else writes to the target."""
        self.report = FsckReport()
        self._copies = FileCopies(links=True, pace=pace)
        self._damaged: dict[Digest, str] = {}
        self._source, self._target = directory.Directory(source), directory.Directory(target)
        self._fresh = target / "index.new"
        self._inode = 0
        try:
            self._target.lock(of_copy=True)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptors and the lock back."""
        self._source.close()
        self._target.close()

    def run(self) -> None:
        """All of it. Raises Damaged for an index that LMDB could not read, StoreError, OSError."""
        index = Index(self._source.index, write=False)
        self._inode = (self._source.index / DATA).stat().st_ino
        try:
            if problems := structure_problems(index, self._source.index):
                raise Damaged(f"the index is damaged: {problems[0]}; {REBUILD}")
            self._copy_blobs(index, index)
            for left in reversed(range(STATES)):
                if self._take_state(index, is_last=not left):
                    return
        finally:
            index.close()
            shutil.rmtree(self._fresh, ignore_errors=True)
        raise StoreError(f"{STATES} times blobs went before they were copied; try again when less is deleted")

    def _take_state(self, index: Index, *, is_last: bool) -> bool:
        """Make the copy that of the index as it is now; False when something of it went before it was copied. The last
        goes without a journal: then that is lost, and its index has all that it has."""
        if (self._source.index / DATA).stat().st_ino != self._inode:
            raise StoreError(
                "the node compacted its index meanwhile; make the backup again, which has only to go on"
            )
        shutil.rmtree(self._fresh, ignore_errors=True)
        self._fresh.mkdir(0o700)
        index.copy_to(self._fresh)
        settle_copy(self._fresh)
        state = Index(self._fresh, write=False)
        try:
            if not (self._copy_journal(state) or is_last) or not self._copy_blobs(state, index):
                return False
            self._name_damage(state)
            held = {blob.digest for blob in _blobs_in_files(state)}
        finally:
            state.close()
        self._place()
        self._remove_others(held)
        self.report.counts["blobs"] = len(held)
        self.report.counts += self._copies.counts
        return True

    # --- blobs

    def _copy_blobs(self, rows: Index, live: Index) -> bool:
        """Copy the files of blobs that the target has not; False when one went meanwhile, with its row in `live`."""
        self._damaged.clear()
        went = False
        for blob in _blobs_in_files(rows):
            if not self._target.has_blob(blob.digest, blob.size):
                went = not self._copy_blob(blob, live) or went
        return not went

    def _copy_blob(self, blob: Blob, live: Index) -> bool:
        try:
            fd, _ = self._source.open_blob(blob.digest, blob.size)
            try:
                place = self._target.path / "blobs" / directory.blob_name(blob.digest)
                self._copies.make(fd, place, blob.digest)
            finally:
                os.close(fd)
        except (NotHeld, Damaged) as error:
            self._damaged[blob.digest] = f"{error}; {HEAL}"
            return _has_row(live, blob.digest)
        return True

    def _remove_others(self, held: set[Digest]) -> None:
        for file in directory.blob_files(self._target.path):
            digest = directory.digest_of_file(file)
            if digest is None or digest not in held:
                file.unlink()
                self.report.counts["removed"] += 1

    # --- index and journal

    def _copy_journal(self, state: Index) -> bool:
        """Copy the journal as far as `state` knows it; False when it is not there any more."""
        fresh = self._target.journal / journal_file.FRESH
        fresh.unlink(missing_ok=True)
        known = journaled(state)
        fd = None if known is None else self._open_journal(known)
        if fd is None or known is None:
            return False
        try:
            with open(fresh, "wb", opener=for_owner) as file:
                for at in range(0, known.length, _PIECE_BYTES):
                    piece = os.pread(fd, min(_PIECE_BYTES, known.length - at), at)
                    write_all(file.fileno(), at, piece)
                os.fsync(file.fileno())
        finally:
            os.close(fd)
        return True

    def _open_journal(self, known: layout.Journaled) -> int | None:
        """The journal of that generation, which has its name after the index knows it."""
        for name in (journal_file.NAME, journal_file.FRESH):
            try:
                fd = os.open(self._source.journal / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            head = framing.decode_journal_head(os.pread(fd, framing.JOURNAL_HEAD_BYTES, 0))
            if head is not None and head[1] == known.generation and os.fstat(fd).st_size >= known.length:
                return fd
            os.close(fd)
        return None

    def _name_damage(self, state: Index) -> None:
        rows = state.scan(b"")
        problems = [f"{layout.describe(key)} is damaged" for key, value in rows if not _sound(key, value)]
        if not (self._target.journal / journal_file.FRESH).exists():
            problems.append(
                "the journal is lost; the first start of what is restored writes it again from the index"
            )
        else:
            for frame in journal_file.frames(self._target.journal, name=journal_file.FRESH):
                if frame.changes is None:
                    problems.append(f"the journal is damaged from byte {frame.start} to {frame.end}")
        self.report.problems = [*self._damaged.values(), *problems]

    def _place(self) -> None:
        """The files are on the disk; then index, journal and store.json take their places, in this order. Where a
        process has the former index open, its lock file fits the new one: a compact copy has one state, the first."""
        index, journal = self._target.index, self._target.journal
        syncfs(self._target.blobs_fd)
        os.rename(self._fresh / DATA, index / DATA)
        sync_directory(index)
        with contextlib.suppress(FileNotFoundError):
            os.rename(journal / journal_file.FRESH, journal / journal_file.NAME)
        sync_directory(journal)
        write_document(self._target.path, "store.json", (self._source.path / "store.json").read_bytes())


def _blobs_in_files(index: Index) -> Iterator[Blob]:
    """The blobs that have files, by their rows; damaged rows are named elsewhere."""
    for key, value in index.scan(layout.BLOB):
        try:
            blob = layout.decode_blob(layout.digest_from(key, key[1:]), layout.unseal(key, value))
        except RecordDamaged:
            continue
        if blob.inline is None:
            yield blob


def _has_row(index: Index, digest: Digest) -> bool:
    try:
        return index.get(layout.BLOB + digest.key) is not None
    except RecordDamaged:
        return True


def _sound(key: bytes, value: bytes) -> bool:
    """Whether a record passes its seal and, for an inline blob, its bytes are those of its digest."""
    if not layout.is_intact(key, value):
        return False
    if key[:1] != layout.BLOB:
        return True
    blob = layout.decode_blob(layout.digest_from(key, key[1:]), layout.unseal(key, value))
    return blob.inline is None or Digest.of(blob.inline, blob.digest.algorithm) == blob.digest
