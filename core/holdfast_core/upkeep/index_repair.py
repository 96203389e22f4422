"""Gives a record that fails its checksum its value back (docs/format.md, "What a damaged record does").

In this order: the value that the journal had last for the key; what the key itself says; for a blob's row and its
chunk table the file, which its digest proves. What is left has no copy here: `forget` makes a miss of it, so that it
comes again from the parent; the others stay as they are, an error that names them, until a write replaces them.

Nothing is ever written over a record that is intact, or that changed since it was looked at.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from holdfast_core import format as layout
from holdfast_core import space_format
from holdfast_core.changes import change, outbox_rows, resource_rows
from holdfast_core.changes.change import IndexChange, IndexView, Keep, put, remove
from holdfast_core.changes.derivation import account_of, store_account
from holdfast_core.changes.derived_tables import DerivedTables
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged, StoreError
from holdfast_core.filesystem.directory import Directory
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal import journal_file, salvage
from holdfast_core.journal.salvage import SalvagedChange
from holdfast_core.record import Blob
from holdfast_core.upkeep.fsck import hash_file

#: a planner: what to write for a damaged record, or None when it is not known
Remedy = Callable[[IndexView, bytes], "list[IndexChange] | None"]


#: the time of an event whose time is not known
UNKNOWN = 0.0


def _empty(view: IndexView, key: bytes) -> list[IndexChange]:
    """The key is all there is to it."""
    return [put(key, b"")]


def _since(view: IndexView, key: bytes) -> list[IndexChange]:
    """The key says what; only since when is not known any more."""
    return [put(key, layout.encode_time(UNKNOWN), Keep.DISK)]


def _since_unjournaled(view: IndexView, key: bytes) -> list[IndexChange]:
    return [put(key, layout.encode_time(UNKNOWN))]


def _dropped(view: IndexView, key: bytes) -> list[IndexChange]:
    """Something can do without."""
    return remove([key])


def _dropped_list(view: IndexView, key: bytes) -> list[IndexChange]:
    """A list that the parent gave is whole or none."""
    return remove(view.keys(key[:-4]), Keep.JOURNAL)


def _history(view: IndexView, key: bytes) -> list[IndexChange]:
    """The tag stays; what it named before is not known any more."""
    return remove([key], Keep.DISK)


def _pending(view: IndexView, key: bytes) -> list[IndexChange] | None:
    names = (layout.repository_name(row) for row in view.keys(layout.REPOSITORY))
    name = next((name for name in names if layout.repository_hash(name) == key[1:17]), None)
    return None if name is None else [put(key, layout.encode_pending(name, UNKNOWN), Keep.DISK)]


def _last_number(view: IndexView, key: bytes) -> list[IndexChange] | None:
    if key != layout.OUTBOX:
        return None
    return [put(key, layout.encode_number(outbox_rows.last_number(view)), Keep.DISK)]


def _counted(view: IndexView, key: bytes) -> list[IndexChange] | None:
    if key == layout.RESOURCE:
        return [put(key, layout.encode_number(resource_rows.Resources(view).revision()), Keep.DISK)]
    if key != layout.resource_prefix_of(key):
        return None
    return [put(key, layout.encode_number(len(view.keys(key)) - 1), Keep.DISK)]


def _pinned(view: IndexView, key: bytes) -> list[IndexChange]:
    """Until when it was pinned is not known: until it is unpinned."""
    return [put(key, space_format.encode_pin(UNKNOWN, math.inf, True), Keep.DISK)]


def _account(view: IndexView, key: bytes) -> list[IndexChange]:
    if repository := key[1:]:
        return [put(key, space_format.encode_repository_account(account_of(view, repository)))]
    return [put(key, space_format.encode_store_account(store_account(view)))]


#: what to do about a damaged record of which the journal has no copy; tables that are not here have no other
REMEDIES: dict[bytes, Remedy] = {
    layout.REPOSITORY: _since,
    layout.DELETED: _since,
    layout.UNLINKED: _since_unjournaled,
    **dict.fromkeys((layout.UNSYNCED, layout.QUARANTINE), _empty),
    **dict.fromkeys(layout.DERIVED_TABLES, _empty),
    **dict.fromkeys((layout.SEEN, layout.CONFIRMED, layout.FILL, layout.FILL_CHUNKS), _dropped),
    **dict.fromkeys((layout.TAG_LIST, layout.REFERRER_LIST), _dropped_list),
    layout.MOVES: _history,
    layout.PENDING: _pending,
    layout.OUTBOX: _last_number,
    layout.RESOURCE: _counted,
    **dict.fromkeys((layout.EDGE, layout.USE), _empty),
    layout.ACCOUNT: _account,
    layout.PIN: _pinned,
}
#: what the parent has, too
FORGOTTEN = frozenset((layout.LINK, layout.BLOB, layout.CHUNKS, layout.TAG, layout.REFERRER))


def digest_of(key: bytes) -> Digest | None:
    """The digest of the bytes that a record is about; None for one that is about something else."""
    try:
        if key[:1] in (layout.BLOB, layout.CHUNKS):
            return layout.digest_in(key, 1)
        if key[:1] == layout.LINK:
            return layout.digest_from(key, key[18:])
    except RecordDamaged:
        pass
    return None


def _changes_of(path: Path, frame: journal_file.Frame, name: str) -> list[SalvagedChange]:
    """The changes of a frame; of a damaged one what can be read, and that there was more."""
    if frame.changes is not None:
        return [SalvagedChange(key, value) for key, value in frame.changes]
    data = journal_file.bytes_of(path, frame, name)
    return salvage.whole(data) or list(salvage.pieces(data))


def _still_true(values: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What stays true of values that may be old: what a digest names never changes. Whether it was pushed here does:
    then it was."""
    kept = {key: value for key, value in values.items() if key[:1] == layout.CHUNKS}
    for key, value in values.items():
        digest = digest_of(key) if key[:1] == layout.BLOB and layout.is_intact(key, value) else None
        blob = None if digest is None else layout.decode_blob(digest, layout.unseal(key, value))
        if blob is not None and blob.inline is not None:
            owned = Blob(blob.digest, blob.size, True, b"", blob.inline)
            kept[key] = change.blob_row(owned, Keep.INDEX).value or b""
    return kept


def is_damaged(index: Index, key: bytes) -> bool:
    """Whether there is such a record and it fails its checksum."""
    try:
        index.get(key)
    except RecordDamaged:
        return True
    return False


def copies(path: Path, index: Index, keys: Collection[bytes]) -> dict[bytes, bytes]:
    """The sealed values that the journal in `path` had last for `keys`, as far as it has any. Reads all of it that
    the index knows; for a thread."""
    journaled = {key for key in keys if key[:1] in layout.JOURNALED_TABLES}
    values: dict[bytes, bytes] = {}
    try:
        payload = index.get(layout.JOURNALED) if journaled else None
        state = None if payload is None else layout.decode_journaled(payload)
    except RecordDamaged:
        return values
    name = "" if state is None else journal_file.name_of(path, state.generation)
    if state is None or not name:
        return values
    for frame in journal_file.frames(path, name=name):
        if frame.start >= state.length:
            break
        changes = _changes_of(path, frame, name)
        if not all(piece.intact for piece in changes):  # nobody knows what else was changed there
            values = _still_true(values)
        for piece in changes:
            if piece.key in journaled and (piece.value is None or not piece.intact):
                values.pop(piece.key, None)
            elif piece.key in journaled and piece.value is not None:
                values[piece.key] = piece.value
    return {key: value for key, value in values.items() if layout.is_intact(key, value)}


class IndexRepair:
    """Mends records of one store. `commit` is the writer's; it waits, so this is for a thread that is not the
    writer's."""

    def __init__(
        self,
        index: Index,
        directory: Directory,
        commit: Callable[[Callable[[IndexView], Sequence[IndexChange]]], None],
    ) -> None:
        self._index = index
        self._directory = directory
        self._commit = commit

    def mend(self, keys: Iterable[bytes], forget: Collection[bytes]) -> list[bytes]:
        """Give damaged records their values back, and make a miss of those in `forget` that have no copy here; those
        that are still damaged. Raises StoreError when nothing can be written."""
        damaged = {key: raw for key in keys if (raw := self._raw(key)) is not None}
        # what a manifest names is read out of its body, whose row may be among the others
        children = {key: damaged.pop(key) for key in list(damaged) if key[:1] == layout.CHILDREN}
        left = self._mend(damaged, forget) if damaged else []
        return left + (self._mend(children, forget) if children else [])

    def _mend(self, damaged: dict[bytes, bytes], forget: Collection[bytes]) -> list[bytes]:
        values = copies(self._directory.journal, self._index, damaged)
        files = {key: self._of_file(key) for key in damaged if key not in values}
        again = {key: self._again(key) for key in damaged if key[:1] in (layout.CHILDREN, layout.LOOSE)}

        def plan(view: IndexView) -> list[IndexChange]:
            changes: list[IndexChange] = []
            for key, raw in damaged.items():
                if view.raw(key) == raw and key in again:
                    changes += again[key]
                elif view.raw(key) == raw:
                    changes += self._healed(view, key, values.get(key), files.get(key), key in forget)
            return changes

        self._commit(plan)
        return [key for key in damaged if is_damaged(self._index, key)]

    def _raw(self, key: bytes) -> bytes | None:
        """The value of a damaged record as it stands; None for one that is intact or absent."""
        with self._index.view() as view:
            raw = view.raw(key)
        return None if raw is None or layout.is_intact(key, raw) else raw

    def _healed(
        self, view: IndexView, key: bytes, copy: bytes | None, file: tuple[int, bytes] | None, forget: bool
    ) -> list[IndexChange]:
        digest = digest_of(key)
        if copy is not None:
            return [_restored(view, key, copy, digest)]
        if file is not None and digest is not None:
            return _rows_of(view, digest, *file)
        remedy = REMEDIES.get(key[:1])
        payload = None if remedy is None else remedy(view, key)
        if payload is None and forget and key[:1] in FORGOTTEN and not _is_unsent(view, key):
            payload = _miss(view, key, digest)
        if payload is None and key[:1] == layout.CHUNKS and digest is not None:
            payload = _unproven(view, digest)
        return payload or []

    def _again(self, key: bytes) -> list[IndexChange]:
        """What a manifest names, out of its body; or that something is loose, whose lease begins now."""
        if key[:1] == layout.LOOSE:
            return [put(key, layout.encode_time(self._index.written_at()))]
        return DerivedTables(self._directory, self._index).children_rows(layout.digest_in(key, 1))

    def _of_file(self, key: bytes) -> tuple[int, bytes] | None:
        """(size, chunk table) of the file of a blob whose row or table is damaged, synced; None unless its bytes are
        those of its name."""
        digest = digest_of(key) if key[:1] in (layout.BLOB, layout.CHUNKS) else None
        status = None if digest is None else self._directory.blob_status(digest)
        if digest is None or status is None:
            return None
        try:
            fd, _ = self._directory.open_blob(digest, status.st_size)
            with os.fdopen(fd, "rb", closefd=True) as file:
                os.fdatasync(file.fileno())
                hashed, table = hash_file(os.dup(file.fileno()), digest.algorithm)
            if hashed != digest:
                return None
            self._directory.sync_names(digest)
        except (StoreError, OSError):
            return None
        return status.st_size, table


def _restored(view: IndexView, key: bytes, copy: bytes, digest: Digest | None) -> IndexChange:
    """A record as the journal has it; a blob's row with what only the index knows: whether a syncfs covered the file,
    and whether chunks of it are in quarantine."""
    if key[:1] != layout.BLOB or digest is None:
        return IndexChange(key, copy, Keep.INDEX)
    blob = layout.decode_blob(digest, layout.unseal(key, copy))
    unsynced = change.present(view, layout.UNSYNCED + digest.key)
    damaged = bool(view.keys(layout.QUARANTINE + digest.key, limit=1))
    boot = blob.boot if unsynced else b""
    return change.blob_row(Blob(digest, blob.size, blob.owned, boot, blob.inline, damaged), Keep.INDEX)


def _rows_of(view: IndexView, digest: Digest, size: int, table: bytes) -> list[IndexChange]:
    """The row and the chunk table of a file that was proven and synced. Without a row it is not known whether it was
    pushed here: then it was."""
    held = change.blob_of(view, digest)
    blob = Blob(digest, size, held is None or held.owned, b"", None)
    return change.bytes_held(view, blob, table)[0]


def _is_unsent(view: IndexView, key: bytes) -> bool:
    """Whether a record is about a manifest that was pushed here and that the parent does not know."""
    if key[:1] == layout.LINK:
        return change.present(view, layout.PENDING + key[1:17] + key[18:])
    return False


def _miss(view: IndexView, key: bytes, digest: Digest | None) -> list[IndexChange]:
    """Forget what the parent has, so that it is fetched again. A chunk table takes the bytes along that it would
    prove."""
    if key[:1] == layout.CHUNKS and digest is not None:
        return change.forget_bytes(view, digest, Keep.DISK)
    return remove([key], Keep.DISK)


def _unproven(view: IndexView, digest: Digest) -> list[IndexChange]:
    """No chunk of a blob can be checked any more, and its file is not what its name says: all of it is bad."""
    held = change.blob_of(view, digest)
    if held is None or held.inline is not None:
        return []
    return change.quarantine(view, digest, change.chunk_span(held, 0, held.size))
