"""A store mended in place, while nobody writes to it: what the keeper mends when it meets it, and what only a look at
all of it finds.

Damaged records get their values back from their own seal, the journal or the file; the journal is written again from
the index where a frame is damaged; what is derived is made again. Nothing goes that a client pushed: a record without a
copy stays what it is, an error that names it, and a file that is nobody's is set aside. Each step is one transaction or
one rename, and finds by itself whether it is due: a repair that is cut short is run again.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from holdfast_core import format as layout
from holdfast_core.changes import change, resource_rows
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.changes.derived_tables import TABLES, derive
from holdfast_core.changes.transaction import commit, commit_alone
from holdfast_core.digest import Digest
from holdfast_core.errors import REBUILD, Damaged, RecordDamaged, StoreError, StoreRefused
from holdfast_core.filesystem import directory, files
from holdfast_core.filesystem.store_identity import StoreIdentity, read_identity, require_blobs
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal import journal_file, replay, salvage
from holdfast_core.record import Blob
from holdfast_core.recovery.compact import DATA, require_whole
from holdfast_core.recovery.rebuild import rows_of
from holdfast_core.store import Store
from holdfast_core.upkeep.fsck import (
    FsckReport,
    differences,
    events_fit,
    fsck,
    hash_file,
    is_in_share,
    table_in,
)
from holdfast_core.upkeep.index_repair import IndexRepair


def repair(path: str | os.PathLike[str], read_data: tuple[int, int] | None = None) -> FsckReport:
    """Mend the store at `path`, then check it as `fsck` does: `problems` is what is left, `counts` says what was mended
    as well. With `read_data` the bytes of that share of the blobs are read, and bad ones put into quarantine. Raises
    StoreRefused when a process writes to it, for no store, and when only a rebuild helps; Unwritable."""
    root = Path(path)
    identity = read_identity(root)
    if identity is None:
        raise StoreRefused(f"{root} holds no store")
    place = directory.Directory(root)
    try:
        place.lock()
        require_blobs(root, identity.uuid)
        mended = _mended(place, identity, read_data)
    except OSError as error:
        raise files.os_error(error, f"{root} cannot be repaired") from error
    finally:
        place.close()
    Store.create_or_open(root, write=True, allow_network=True).close()  # writes the journal again
    report = fsck(root, read_data)
    report.counts += mended
    return report


def _mended(
    place: directory.Directory, identity: StoreIdentity, read_data: tuple[int, int] | None
) -> Counter[str]:
    try:
        require_whole(place.index / DATA)
    except FileNotFoundError as error:
        raise StoreRefused(f"{place.path} has no index; {REBUILD}") from error
    except Damaged as error:
        raise StoreRefused(str(error)) from error
    index = Index(place.index, write=True)
    try:
        work = StoreRepair(place, index, identity.uuid)
        work.run(read_data)
    finally:
        index.close()
    return work.counts


class StoreRepair:
    """The repair of one store, whose index is open for writing and whole. `counts`: what was mended."""

    def __init__(self, place: directory.Directory, index: Index, uuid: bytes) -> None:
        self.counts: Counter[str] = Counter()
        self._place, self._index, self._uuid = place, index, uuid

    def run(self, read_data: tuple[int, int] | None) -> None:
        """All of it. Raises StoreError, OSError."""
        self._turn_back_flips()
        self._require_identity()
        journal_file.finish_rewrite(self._place.journal, self._uuid, replay.journaled(self._index))
        replay.replay(self._place, self._index, self._uuid)
        self._mend_records()
        self._take_in_files()
        for blob in list(self._blobs()):
            self._check_blob(blob, read=read_data is not None and is_in_share(blob.digest, read_data))
        self._drop_orphans()
        self._derive()
        self._mend_events()
        self._renew_journal()

    # --- records

    def _turn_back_flips(self) -> None:
        """A record in which one bit was flipped, in its key or its value, is what it was: its seal says which."""
        rows: list[IndexChange] = []
        for key, value in self._damaged():
            if (again := salvage.mended(key, value)) is None or self._is_intact(again[0]):
                continue
            self.counts["records mended"] += 1
            rows += change.remove([key]) if again[0] != key else []
            rows.append(IndexChange(*again, change.Keep.INDEX))
        commit_alone(self._index, rows)

    def _damaged(self) -> Iterator[tuple[bytes, bytes]]:
        return (row for row in self._index.scan(b"") if not layout.is_intact(*row))

    def _is_intact(self, key: bytes) -> bool:
        with contextlib.suppress(RecordDamaged):
            return self._index.get(key) is not None
        return False

    def _require_identity(self) -> None:
        """Raise StoreRefused unless the index is that of store.json."""
        try:
            found = self._index.get(layout.IDENTITY)
        except RecordDamaged as error:
            head = journal_file.head_of(self._place.journal)
            if head is None or head[0] != self._uuid:
                raise StoreRefused(f"{error}; {REBUILD}") from error
            commit_alone(self._index, [change.put(layout.IDENTITY, self._uuid)])
            return
        if found != self._uuid:
            raise StoreRefused(f"the index and store.json name different stores; {REBUILD}")

    def _mend_records(self) -> None:
        damaged = [key for key, _ in self._damaged() if layout.is_mendable(key)]
        left = IndexRepair(self._index, self._place, self._commit).mend(damaged, ())
        gone = sum(not self._is_there(key) for key in damaged)
        self.counts["records given up"] += gone
        self.counts["records mended"] += len(damaged) - len(left) - gone

    def _is_there(self, key: bytes) -> bool:
        with self._index.view() as view:
            return change.present(view, key)

    def _commit(self, plan: Callable[[IndexView], Sequence[IndexChange]]) -> None:
        with self._index.view() as view:
            rows = list(plan(view))
        self._write(rows)

    def _write(self, rows: Iterable[IndexChange]) -> None:
        """One transaction. Where it changes what the journal has as well, that is to be written again, also if this
        process ends before it comes to it."""
        rows = list(rows)
        if any(row.key[:1] in layout.JOURNALED_TABLES for row in rows):
            rows.append(self._journal_due())
        if rows:
            commit(self._index, rows)

    def _journal_due(self) -> IndexChange:
        """The note by which the next start writes the journal again from the index."""
        state = replay.journaled(self._index)
        head = journal_file.head_of(self._place.journal)
        generation = max(state.generation if state else 0, head[1] if head else 0)
        if state is not None and not state.length:
            return change.put(layout.JOURNALED, layout.encode_journaled(state))
        boot = bytes(16) if state is None else state.boot
        return change.put(
            layout.JOURNALED, layout.encode_journaled(layout.Journaled(generation + 1, 0, 0, boot))
        )

    # --- files

    def _blobs(self) -> Iterator[Blob]:
        for key, value in self._index.scan(layout.BLOB):
            with contextlib.suppress(RecordDamaged):
                blob = layout.decode_blob(layout.digest_from(key, key[1:]), layout.unseal(key, value))
                if blob.inline is None:
                    yield blob

    def _take_in_files(self) -> None:
        """Files without a row: what a repository links and is what its name says is held again, as if pushed here; the
        rest is set aside."""
        linked = {key[18:] for key, _ in self._index.scan(layout.LINK)}
        for file in list(directory.blob_files(self._place.path)):
            digest = directory.digest_of_file(file)
            if digest is not None and self._is_known(digest):
                continue
            rows = None if digest is None or digest.key not in linked else self._rows_of(digest, file)
            if rows is None:
                self._set_aside(file)
                self.counts["files set aside"] += 1
            else:
                self._write(rows)
                self.counts["files taken in"] += 1

    def _is_known(self, digest: Digest) -> bool:
        return self._is_there(layout.BLOB + digest.key)

    def _rows_of(self, digest: Digest, file: Path) -> list[IndexChange] | None:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            return None
        fd, _ = self._place.open_blob(digest, status.st_size)
        os.fdatasync(fd)
        found, table = hash_file(fd, digest.algorithm)
        self._place.sync_names(digest)
        return rows_of(Blob(digest, status.st_size, True, b"", None), table) if found == digest else None

    def _set_aside(self, file: Path) -> None:
        name = f"{file.parent.parent.name}-{file.name}"
        os.rename(file, self._free_name(name))
        files.sync_directory(file.parent)

    def _free_name(self, name: str) -> Path:
        """A name in quarantine/ that nothing has."""
        aside = self._place.path / "quarantine"
        names = (name, *(f"{name}.{number}" for number in range(1, 1_000_000)))
        return next(aside / free for free in names if not os.path.lexists(aside / free))

    def _check_blob(self, blob: Blob, *, read: bool) -> None:
        """A file that is not there, or not what it should be, is damage: its row and its links stay, and a push or the
        parent mends it. A chunk table that does not fit a sound file is made again."""
        table = table_in(self._index, blob.digest)
        whole = len(table) == 32 * layout.chunk_count(blob.size)
        try:
            fd, _ = self._place.open_blob(blob.digest, blob.size)
        except StoreError:
            self._quarantine(blob, range(layout.chunk_count(blob.size)))
            return
        if whole and not read:
            os.close(fd)
            return
        found, fresh = hash_file(fd, blob.digest.algorithm)
        if found != blob.digest:
            self._quarantine(blob, _differing(table, fresh))
        elif fresh != table:
            self._write([*self._without_table(blob.digest), *rows_of(blob, fresh)])
            self.counts["chunk tables made again"] += 1

    def _without_table(self, digest: Digest) -> list[IndexChange]:
        return change.remove(key for key, _ in self._index.scan(layout.CHUNKS + digest.key))

    def _quarantine(self, blob: Blob, chunks: Iterable[int]) -> None:
        with self._index.view() as view:
            rows = change.quarantine(view, blob.digest, chunks)
        if rows:
            self._write(rows)
            self.counts["blobs found damaged"] += 1

    def _drop_orphans(self) -> None:
        """What says something about bytes that are not here."""
        rows: list[IndexChange] = []
        for table in (layout.CHUNKS, layout.QUARANTINE, layout.UNSYNCED):
            keys = [key for key, _ in self._index.scan(table)]
            rows += change.remove(key for key in keys if not self._is_known(layout.digest_in(key, 1)))
        self.counts["records of nothing removed"] += len(rows)
        self._write(rows)

    # --- what follows from the rest

    def _derive(self) -> None:
        wrong = [table for table in TABLES if differences(self._place, self._index, table)]
        self.counts["derived tables made again"] += len(wrong)
        if wrong:
            derive(self._place, self._index)
        self._write(resource_rows.recounted(self._index))

    def _mend_events(self) -> None:
        """A log of events with a gap begins anew: its readers compare everything, where they would miss some."""
        keys = [key for key, _ in self._index.scan(layout.EVENT)]
        if all(self._is_intact(key) for key in keys) and events_fit(self._index):
            return
        commit_alone(self._index, change.remove(keys))
        self.counts["events given up"] += len(keys)

    def _renew_journal(self) -> None:
        """A journal with a damaged frame, or of another state, is written again from the index; it is kept aside, too.
        So is it after a change that it has not."""
        journal, state = self._place.journal, replay.journaled(self._index)
        head = journal_file.head_of(journal)
        known = state is not None and head == (self._uuid, state.generation)
        frames = journal_file.frames(journal) if head is not None else ()
        if known and all(frame.changes is not None for frame in frames):
            return
        self.counts["journals written again"] += 1
        if (journal / journal_file.NAME).exists():
            os.link(journal / journal_file.NAME, self._free_name("journal.log"))
        commit_alone(self._index, [self._journal_due()])


def _differing(table: bytes, fresh: bytes) -> list[int]:
    """The chunks whose hashes differ; all of them when none does, because the table is then as wrong as the file."""
    count = len(fresh) // 32
    bad = [n for n in range(count) if table[32 * n : 32 * n + 32] != fresh[32 * n : 32 * n + 32]]
    return bad or list(range(count))
