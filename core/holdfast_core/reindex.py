"""Makes a new index from the old one, the journal and the blob files. The old one is kept aside.

Index and journal name everything (`merge` says which of them is asked for what); the files are the large bytes. Where
they disagree the files decide: a row whose file is gone or of the wrong size is dropped, a file without a row is hashed
and, when it is what its name says, admitted as bytes that no repository links.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid as uuids
from pathlib import Path

from holdfast_core import change, directory, journal, merge, opening, resources
from holdfast_core import format as layout
from holdfast_core.change import Change, Keep
from holdfast_core.check import Report, hash_file, table_in
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged, StoreError, StoreRefused
from holdfast_core.former import Former
from holdfast_core.index import Index, Inside
from holdfast_core.loss import Loss, unheld
from holdfast_core.record import Blob
from holdfast_core.store import Store


def rebuild(path: str | os.PathLike[str]) -> Report:
    """Rebuild the index of the store at `path`, which nobody may have open for writing. `problems` names what
    was lost; owned content first. Raises StoreRefused when it is in use or no store at all."""
    root = Path(path)
    if not (root / "blobs").is_dir() and merge.head_of(root / "journal") is None:
        raise StoreRefused(f"{root} holds no store: neither blobs nor a journal")
    directory.create(root)
    place = directory.Directory(root)
    try:
        place.lock()
        report = Report()
        with contextlib.ExitStack() as stack:
            former = None
            with contextlib.suppress(FileNotFoundError):
                former = stack.enter_context(Former(place.index / "data.mdb"))
            _rebuild(place, former, report)
    finally:
        place.close()
    Store.create_or_open(root, write=True, allow_network=True).close()  # writes the journal of the new index
    report.problems.sort(key=lambda problem: not problem.startswith("LOST"))
    return report


def _rebuild(place: directory.Directory, former: Former | None, report: Report) -> None:
    state = None if former is None else former.state
    head = merge.head_of(place.journal)
    uuid = _uuid(place.path, head, former, report)
    if state is not None:
        journal.finish_rewrite(place.journal, uuid, state)
        head = merge.head_of(place.journal)
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
        opening.commit(index, [change.put(layout.JOURNALED, written)])
    finally:
        index.close()
    _swap(place.path, fresh, keep_journal=bool(report.problems))
    directory.write_identity(place.path, uuid)


def _fill(
    place: directory.Directory,
    index: Index,
    former: Former | None,
    head: merge.Head | None,
    uuid: bytes,
    report: Report,
) -> None:
    merged = merge.Merge(index, place.journal, report)
    opening.commit(index, [change.put(layout.IDENTITY, uuid)])
    merged.run(former, head, uuid)
    opening.derive(index)
    _check_rows(place, index, report)
    _admit_files(place, index, report)
    _find_bodies(place, index, former)
    loss = Loss(index, report)
    loss.drop_dangling()
    loss.name(merged.lost)
    opening.derive(index)
    opening.commit(index, resources.recounted(index, lost=bool(report.problems)))
    if not report.problems:
        _note_unlinked(index, report)


def _find_bodies(place: directory.Directory, index: Index, former: Former | None) -> None:
    """The rows of small blobs that are linked and have none, from wherever there is a copy."""
    wanted = {layout.BLOB + digest.key for digest in unheld(index)}
    if not wanted:
        return
    for key, value in merge.bodies(former, place.journal, wanted):
        with contextlib.suppress(RecordDamaged):
            blob = layout.decode_blob(layout.digest_from(key, key[1:]), layout.unseal(key, value))
            if blob.inline is not None and Digest.of(blob.inline, blob.digest.algorithm) == blob.digest:
                opening.commit(index, [Change(key, value, Keep.INDEX)])


def _uuid(path: Path, head: merge.Head | None, former: Former | None, report: Report) -> bytes:
    """The store's own, by store.json, or else the journal or the index; a new one when none tells."""
    try:
        found = directory.read_identity(path)
    except StoreRefused as error:
        report.problems.append(str(error))
        found = None
    if found is not None:
        return found.uuid
    if head is not None:
        return head[0]
    return (former.uuid if former is not None else None) or uuids.uuid4().bytes


def _swap(path: Path, fresh: Path, *, keep_journal: bool) -> None:
    """Put the new index in place. Its record of a journal is of one that is not there, so the next writable open writes
    the journal again from it; until then the old journal stays, and a crash here leads to another rebuild. When
    something was lost, the journal stays aside for good, too: somebody may want to look for it."""
    old = path / "index"
    if any(old.iterdir()):
        number = next(n for n in range(1, 1_000_000) if not (path / f"index.old-{n}").exists())
        aside = path / f"index.old-{number}"
        os.rename(old, aside)
        if keep_journal and (path / "journal" / journal.NAME).exists():
            os.link(path / "journal" / journal.NAME, aside / "journal.log")
    else:
        old.rmdir()
    os.rename(fresh, old)
    journal.sync_directory(path)


def _check_rows(place: directory.Directory, index: Index, report: Report) -> None:
    """Rows whose bytes are not there are dropped, with their links."""
    lost: set[Digest] = set()
    changes: list[Change] = []
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
        changes += change.discard(Inside(txn), lost) if lost else []
    opening.commit(index, changes)


def _report_lost(blob: Blob, report: Report) -> None:
    report.counts["owned blobs lost" if blob.owned else "cached blobs lost"] += 1
    if blob.owned:
        report.problems.append(f"LOST: {blob.digest}, {blob.size} bytes, which was pushed here")


def _checked_row(place: directory.Directory, index: Index, blob: Blob) -> list[Change] | None:
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
    found, table = hash_file(fd, blob.digest.algorithm)
    return rows_of(settled, table) if found == blob.digest else None


def rows_of(blob: Blob, table: bytes) -> list[Change]:
    """The row and the chunk table of a blob in a file."""
    prefix = layout.CHUNKS + blob.digest.key
    segments = enumerate(layout.encode_table(table))
    return [
        change.blob_row(blob, Keep.INDEX),
        *(change.put(layout.segment_key(prefix, number), part) for number, part in segments),
    ]


def _admit_files(place: directory.Directory, index: Index, report: Report) -> None:
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
            opening.commit(index, rows)


def _note_unlinked(index: Index, report: Report) -> None:
    """Bytes that no repository links are for the sweep to take, after its grace. Only when nothing was lost
    on the way: otherwise they may be what somebody looks for, and they stay."""
    with index.view() as view:
        free = [
            key[1:] for key, _ in index.scan(layout.BLOB) if not view.keys(layout.HOLDER + key[1:], limit=1)
        ]
    report.counts["unlinked blobs"] += len(free)
    opening.commit(index, [change.put(layout.UNLINKED + raw, layout.encode_time(0.0)) for raw in free])


def _rows_of_file(place: directory.Directory, digest: Digest, file: Path) -> list[Change] | None:
    found = file.lstat()
    if not stat.S_ISREG(found.st_mode):
        return None
    fd, _ = place.open_blob(digest, found.st_size)
    hashed, table = hash_file(fd, digest.algorithm)
    return rows_of(Blob(digest, found.st_size, False, b"", None), table) if hashed == digest else None
