"""Makes a new index from the old one, the journal and the blob files. The old one is kept aside.

Index and journal name everything (`index_merge` says what is read from which); the files are the large bytes.
Where they disagree the files decide: a row whose file is gone or of the wrong size is dropped, a file without a row is
hashed and, when it is what its name says, admitted as bytes that no repository links.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid as uuids
from pathlib import Path

from holdfast_core import format as layout
from holdfast_core.changes import change, resource_rows
from holdfast_core.changes.change import IndexChange, Keep
from holdfast_core.changes.derived_tables import derive
from holdfast_core.changes.transaction import commit
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged, StoreError, StoreNewer, StoreRefused
from holdfast_core.filesystem import directory, files
from holdfast_core.filesystem.store_identity import read_identity, require_blobs, write_identity
from holdfast_core.index.lmdb_index import Index, TransactionView
from holdfast_core.journal import journal_file
from holdfast_core.record import Blob
from holdfast_core.recovery import index_merge
from holdfast_core.recovery.lost_records import LostRecords, unheld
from holdfast_core.recovery.old_index import OldIndex
from holdfast_core.store import Store
from holdfast_core.upkeep.fsck import FsckReport, hash_file, table_in


def rebuild(path: str | os.PathLike[str]) -> FsckReport:
    """Rebuild the index of the store at `path`, which may not be open for writing. `problems` names what
    was lost; owned content first. Raises StoreRefused when it is in use or no store at all."""
    root = Path(path)
    if not (root / "blobs").is_dir() and index_merge.head_of(root / "journal") is None:
        raise StoreRefused(f"{root} holds no store: neither blobs nor a journal")
    _require_volumes(root)
    try:
        directory.create(root)
        place = directory.Directory(root)
    except OSError as error:
        raise files.os_error(error, f"{error.filename or root} is in the way") from error
    try:
        place.lock()
        report = FsckReport()
        with contextlib.ExitStack() as stack:
            former = None
            with contextlib.suppress(FileNotFoundError):
                former = stack.enter_context(OldIndex(place.index / "data.mdb"))
            _rebuild(place, former, report)
    except IsADirectoryError as error:
        raise files.os_error(error, f"{error.filename2 or root} is in the way") from error
    finally:
        place.close()
    Store.create_or_open(root, write=True, allow_network=True).close()  # writes the journal of the new index
    report.problems.sort(key=lambda problem: not problem.startswith("LOST"))
    return report


def _require_volumes(root: Path) -> None:
    """Raise StoreRefused when blobs/ is not that of store.json: all of its blobs would be found lost."""
    try:
        identity = read_identity(root)
    except StoreRefused:  # `_uuid` says what is wrong
        return
    if identity is not None:
        require_blobs(root, identity.uuid)


def _rebuild(place: directory.Directory, former: OldIndex | None, report: FsckReport) -> None:
    state = None if former is None else former.state
    head = index_merge.head_of(place.journal)
    uuid = _uuid(place.path, head, former, report)
    if state is not None:
        journal_file.finish_rewrite(place.journal, uuid, state)
        head = index_merge.head_of(place.journal)
    if former is not None and former.uuid not in (uuid, None):
        former = None  # another store's
    if head is None and former is None:
        report.problems.append("there is no journal: names, tags and small content are lost")
    fresh = place.path / "index.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(0o700)
    index = Index(fresh, write=True)
    try:
        _fill(place, index, former, head, uuid, report)
        generation = max(state.generation if state else 0, head[1] if head else 0) + 1
        written = layout.encode_journaled(layout.Journaled(generation, 0, 0, bytes(16)))
        commit(index, [change.put(layout.JOURNALED, written)])
    finally:
        index.close()
    _swap(place.path, fresh, keep_journal=bool(report.problems))
    write_identity(place.path, uuid)


def _fill(
    place: directory.Directory,
    index: Index,
    former: OldIndex | None,
    head: index_merge.Head | None,
    uuid: bytes,
    report: FsckReport,
) -> None:
    merged = index_merge.IndexMerge(index, place.journal, report)
    commit(index, [change.put(layout.IDENTITY, uuid)])
    merged.run(former, head, uuid)
    derive(place, index)
    _check_rows(place, index, report)
    _admit_files(place, index, report)
    _find_bodies(place, index, former)
    loss = LostRecords(index, report)
    loss.drop_dangling()
    loss.name(merged.lost)
    derive(place, index)
    commit(index, resource_rows.recounted(index, lost=bool(report.problems)))
    if not report.problems:
        _note_unlinked(index, report)


def _find_bodies(place: directory.Directory, index: Index, former: OldIndex | None) -> None:
    """The rows of small blobs that are linked and have none, from wherever there is a copy."""
    keys = {layout.BLOB + digest.key for digest in unheld(index)}
    if not keys:
        return
    for key, value in index_merge.bodies(former, place.journal, keys):
        with contextlib.suppress(RecordDamaged):
            blob = layout.decode_blob(layout.digest_from(key, key[1:]), layout.unseal(key, value))
            if blob.inline is not None and Digest.of(blob.inline, blob.digest.algorithm) == blob.digest:
                commit(index, [IndexChange(key, value, Keep.INDEX)])


def _uuid(path: Path, head: index_merge.Head | None, former: OldIndex | None, report: FsckReport) -> bytes:
    """The store's own, by store.json, or else the journal or the index; a new one when none has it."""
    try:
        identity = read_identity(path)
    except StoreNewer:  # it would lose what this version does not know
        raise
    except StoreRefused as error:
        report.problems.append(str(error))
        identity = None
    if identity is not None:
        return identity.uuid
    if head is not None:
        return head[0]
    return (former.uuid if former is not None else None) or uuids.uuid4().bytes


def _swap(path: Path, fresh: Path, *, keep_journal: bool) -> None:
    """Put the new index in place. Its record of a journal is of one that is not there, so the next writable open writes
    the journal again from it; until then the old journal stays, and a crash here leads to another rebuild. When
    something was lost, the journal stays aside for good, too: an operator may want to look into it."""
    old = path / "index"
    if any(old.iterdir()):
        number = next(n for n in range(1, 1_000_000) if not (path / f"index.old-{n}").exists())
        aside = path / f"index.old-{number}"
        os.rename(old, aside)
        if keep_journal and (path / "journal" / journal_file.NAME).exists():
            os.link(path / "journal" / journal_file.NAME, aside / "journal.log")
    else:
        old.rmdir()
    os.rename(fresh, old)
    files.sync_directory(path)


def _check_rows(place: directory.Directory, index: Index, report: FsckReport) -> None:
    """Rows whose bytes are not there are dropped, with their links."""
    lost: set[Digest] = set()
    changes: list[IndexChange] = []
    for key, value in index.scan(layout.BLOB):
        blob = layout.decode_blob(layout.digest_from(key, key[1:]), layout.unseal(key, value))
        kept = _checked_row(place, index, blob)
        if kept is None:
            lost.add(blob.digest)
            _report_lost(blob, report)
        else:
            report.counts["blobs kept"] += 1
            changes += kept
    with index.begin() as txn:
        changes += change.discard(TransactionView(txn), lost) if lost else []
    commit(index, changes)


def _report_lost(blob: Blob, report: FsckReport) -> None:
    report.counts["owned blobs lost" if blob.owned else "cached blobs lost"] += 1
    if blob.owned:
        report.problems.append(f"LOST: {blob.digest}, {blob.size} bytes, which was pushed here")


def _checked_row(place: directory.Directory, index: Index, blob: Blob) -> list[IndexChange] | None:
    """What to change about a row, or None when its bytes are not there. A row with a wrong chunk table gets a
    new one from the file."""
    if blob.inline is not None:
        return [] if Digest.of(blob.inline, blob.digest.algorithm) == blob.digest else None
    try:
        fd, _ = place.open_blob(blob.digest, blob.size)
    except StoreError:
        return None
    settled = Blob(blob.digest, blob.size, blob.owned, b"", None)
    if len(table_in(index, blob.digest)) == 32 * layout.chunk_count(blob.size):
        os.close(fd)
        return [change.blob_row(settled, Keep.INDEX)]
    digest, table = hash_file(fd, blob.digest.algorithm)
    return rows_of(settled, table) if digest == blob.digest else None


def rows_of(blob: Blob, table: bytes) -> list[IndexChange]:
    """The row and the chunk table of a blob in a file."""
    prefix = layout.CHUNKS + blob.digest.key
    segments = enumerate(layout.encode_table(table))
    return [
        change.blob_row(blob, Keep.INDEX),
        *(change.put(layout.segment_key(prefix, number), part) for number, part in segments),
    ]


def _admit_files(place: directory.Directory, index: Index, report: FsckReport) -> None:
    """Files without a row: hashed, and admitted or set aside."""
    for file in directory.blob_files(place.path):
        digest = directory.digest_of_file(file)
        if digest is not None and index.get(layout.BLOB + digest.key) is not None:
            continue
        rows = None if digest is None else _rows_of_file(place, digest, file)
        if rows is None:
            os.rename(file, place.path / "quarantine" / f"{file.parent.parent.name}-{file.name}")
            report.problems.append(f"{file.name} is not what its name says; moved to quarantine/")
        else:
            report.counts["files admitted"] += 1
            commit(index, rows)


def _note_unlinked(index: Index, report: FsckReport) -> None:
    """Bytes that no repository links are for the sweep to take, after its grace. Only when nothing was lost
    on the way: otherwise they may be what an operator looks for, and they stay."""
    with index.view() as view:
        free = [
            key[1:] for key, _ in index.scan(layout.BLOB) if not view.keys(layout.HOLDER + key[1:], limit=1)
        ]
    report.counts["unlinked blobs"] += len(free)
    commit(index, [change.put(layout.UNLINKED + raw, layout.encode_time(0.0)) for raw in free])


def _rows_of_file(place: directory.Directory, digest: Digest, file: Path) -> list[IndexChange] | None:
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        return None
    fd, _ = place.open_blob(digest, status.st_size)
    hashed, table = hash_file(fd, digest.algorithm)
    return rows_of(Blob(digest, status.st_size, False, b"", None), table) if hashed == digest else None
