"""Says what is wrong with a store, and changes nothing.

Every record's checksum, rows against files, links and tags against what they name, the journal's frames, and
on request the bytes themselves. Runs beside a store in use; what changes meanwhile may show as a problem.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from holdfast_core import format as layout
from holdfast_core.changes import change
from holdfast_core.changes.derived_tables import TABLES, DerivedTables
from holdfast_core.changes.resource_rows import recounted
from holdfast_core.digest import ChunkHasher, Digest, update_together
from holdfast_core.errors import REBUILD, RecordDamaged, StoreError
from holdfast_core.filesystem import directory
from holdfast_core.filesystem.store_identity import StoreIdentity, read_identity
from holdfast_core.index.lmdb_index import Index
from holdfast_core.index.page_reader import IndexPages
from holdfast_core.journal import journal_file
from holdfast_core.record import Blob
from holdfast_core.sha256 import LANES

#: of each file at a time; those of all fit into a core's cache
READ_BYTES = 256 << 10
#: repositories of a damaged blob that are named
HOLDERS = 20
#: times that a derived table is compared before it counts as wrong
LOOKS = 3
#: what to do about damage
HEAL = "a pull fetches it again from the parent; where there is none, push it again"


def _runs(numbers: Sequence[int]) -> str:
    """`0-3, 7`: numbers in rising order, for a person."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


class FsckReport(msgspec.Struct):
    """`problems` are sentences for a person; none means all is well. `counts` says how much was looked at."""

    problems: list[str] = msgspec.field(default_factory=list)
    counts: Counter[str] = msgspec.field(default_factory=Counter)


def fsck(path: str | os.PathLike[str], read_data: tuple[int, int] | None = None) -> FsckReport:
    """Check the store at `path`. `read_data` (n, m) also reads and hashes the n-th of m shares of the blobs,
    1 <= n <= m; (1, 1) is all of them. Raises ValueError for another share; never for what it finds."""
    if read_data is not None and not 1 <= read_data[0] <= read_data[1]:
        raise ValueError(f"share {read_data[0]}/{read_data[1]}; allowed: 1 <= n <= m")
    report = FsckReport()
    try:
        _check(Path(path), read_data, report)
    except StoreError as error:
        report.problems.append(str(error))
    return report


def _check(path: Path, read_data: tuple[int, int] | None, report: FsckReport) -> None:
    identity = read_identity(path)
    if identity is None:
        report.problems.append(f"{path} holds no store.json")
        return
    place = directory.Directory(path)
    try:
        if not (place.index / "data.mdb").exists():
            report.problems.append(f"{path} has no index; {REBUILD}")
            return
        index = Index(place.index, write=False)
        try:
            _Check(place, index, read_data, report).run(identity)
        finally:
            index.close()
    finally:
        place.close()


class _Check:
    def __init__(
        self, place: directory.Directory, index: Index, read_data: tuple[int, int] | None, report: FsckReport
    ) -> None:
        self._place = place
        self._index = index
        self._share = read_data
        self._report = report
        self._blobs: set[bytes] = set()
        #: whose bytes are to be read, together
        self._unread: list[Blob] = []
        self._names: dict[bytes, str] = {}
        self._manifests: set[bytes] = set()

    def run(self, identity: StoreIdentity) -> None:
        uuid = identity.uuid
        if not self._structure():
            return
        if self._index.get(layout.IDENTITY) != uuid:
            self._problem(f"the index and store.json name different stores; {REBUILD}")
        self._records()
        for key, payload in self._rows(layout.REPOSITORY):
            del payload
            name = layout.repository_name(key)
            self._names[layout.repository_hash(name)] = name
        for key, payload in self._rows(layout.BLOB):
            self._blob(layout.decode_blob(layout.digest_from(key, key[1:]), payload))
        self._read_files()
        for key, _ in self._rows(layout.LINK):
            self._link(key)
        for key, payload in self._rows(layout.TAG):
            self._tag(key, payload)
        for key, _ in self._rows(layout.CONFIRMED):
            self._confirmed(key)
        for table in (layout.CHUNKS, layout.QUARANTINE, layout.UNSYNCED):
            self._orphans(table)
        if identity.format >= 2:
            self._derived(TABLES if identity.format >= 4 else layout.DERIVED_TABLES)
        self._counts()
        self._events()
        self._strays()
        self._journal(uuid)

    def _problem(self, sentence: str) -> None:
        self._report.problems.append(sentence)

    def _rows(self, table: bytes) -> list[tuple[bytes, bytes]]:
        """Intact records of a table; the damaged ones were reported by `_records`."""
        rows = []
        for key, value in self._index.scan(table):
            try:
                rows.append((key, layout.unseal(key, value)))
            except RecordDamaged:
                continue
        return rows

    def _structure(self) -> bool:
        """Whether every page of the index is what leads to it. Beyond that LMDB itself cannot be trusted to read it."""
        problems = structure_problems(self._index, self._place.index)
        for problem in problems[:10]:
            self._problem(f"the index is damaged: {problem}; {REBUILD}")
        return not problems

    def _records(self) -> None:
        """Every record of every table against its checksum."""
        for table, name in layout.TABLES.items():
            for key, value in self._index.scan(table):
                self._report.counts[f"{name} records"] += 1
                try:
                    layout.unseal(key, value)
                except RecordDamaged as error:
                    self._problem(f"{error}; {REBUILD}")
        unknown = self._index.entries() - sum(self._report.counts.values())
        if unknown > 0:
            self._problem(f"the index holds {unknown} records of no known table")

    def _blob(self, blob: Blob) -> None:
        self._blobs.add(blob.digest.key)
        if blob.damaged:
            bad = [layout.segment_number(k) for k, _ in self._index.scan(layout.QUARANTINE + blob.digest.key)]
            self._problem(
                f"{blob.digest}: chunks {_runs(bad)} of {layout.chunk_count(blob.size)} are quarantined, "
                f"in {self._holders(blob.digest)}; {HEAL}"
            )
        if blob.inline is None:
            self._file(blob)
        if self._share is None or not is_in_share(blob.digest, self._share):
            return
        self._report.counts["blobs read"] += 1
        self._report.counts["bytes read"] += blob.size
        if blob.inline is None:
            self._unread.append(blob)
            if len(self._unread) == LANES:
                self._read_files()
        elif Digest.of(blob.inline, blob.digest.algorithm) != blob.digest:
            self._problem(f"{blob.digest}: its bytes in the index do not hash to it")

    def _file(self, blob: Blob) -> None:
        self._report.counts["blob files"] += 1
        if not self._place.has_blob(blob.digest, blob.size):
            self._problem(
                f"{blob.digest}: its file is missing or not a plain file of {blob.size} bytes, "
                f"in {self._holders(blob.digest)}; {HEAL}"
            )
        if len(table_in(self._index, blob.digest)) != 32 * layout.chunk_count(blob.size):
            self._problem(f"{blob.digest}: its chunk table is incomplete; {REBUILD}")

    def _read_files(self) -> None:
        opened = []
        for blob in self._unread:
            with contextlib.suppress(StoreError):  # reported by _file
                opened.append((blob.digest, self._place.open_blob(blob.digest, blob.size)[0]))
        hashed = hash_files([(fd, digest.algorithm) for digest, fd in opened])
        for (digest, _), (actual, table) in zip(opened, hashed, strict=True):
            if actual != digest:
                self._problem(f"{digest}: its file hashes to {actual}")
            elif table != table_in(self._index, digest):
                self._problem(f"{digest}: its chunk table does not match its file; {REBUILD}")
        self._unread.clear()

    def _holders(self, digest: Digest) -> str:
        """The repositories that have a blob, those that are named, for a person."""
        keys = self._index.scan(layout.HOLDER + digest.key, limit=HOLDERS)
        return ", ".join(sorted({self._repository(key[-16:]) for key, _ in keys})) or "no repository"

    def _repository(self, raw: bytes) -> str:
        return self._names.get(raw, f"unnamed repository {raw.hex()}")

    def _link(self, key: bytes) -> None:
        repository, digest = self._repository(key[1:17]), layout.digest_from(key, key[18:])
        if key[17:18] == layout.AS_MANIFEST:
            self._manifests.add(key[1:17] + digest.key)
        if key[1:17] not in self._names:
            self._problem(f"{repository} has links but no name")
        if digest.key not in self._blobs:
            self._problem(f"{repository} links {digest}, whose bytes are not held")

    def _tag(self, key: bytes, payload: bytes) -> None:
        tag = layout.decode_tag(key[17:].decode(), payload)
        if key[1:17] + tag.digest.key not in self._manifests:
            self._problem(
                f"{self._repository(key[1:17])}:{tag.name} points to {tag.digest}, which is not held there"
            )

    def _confirmed(self, key: bytes) -> None:
        with self._index.view() as view:
            is_linked = change.is_linked(view, key[1:17], key[17:])
        if not is_linked:
            digest = layout.digest_from(key, key[17:])
            self._problem(f"{self._repository(key[1:17])} does not have {digest}, which its parent confirmed")

    def _orphans(self, table: bytes) -> None:
        orphans = {layout.digest_in(key, 1) for key, _ in self._rows(table)}
        for digest in sorted(d for d in orphans if d.key not in self._blobs):
            self._problem(f"{digest}: {layout.TABLES[table]} records without a blob")

    def _derived(self, tables: Iterable[bytes]) -> None:
        """The derived tables against those they are derived from. A delete or a sweep would go wrong by them."""
        for table in tables:
            found: list[str] = []
            for _ in range(LOOKS):
                if not (found := differences(self._place, self._index, table)):
                    break
            for difference in found:
                self._problem(f"the {layout.TABLES[table]} table {difference}; {REBUILD}")
        held = {layout.digest_in(key, 1).key for key, _ in self._index.scan(layout.HOLDER)}
        self._report.counts["unlinked blobs"] = len(self._blobs - held)

    def _counts(self) -> None:
        """Numbers of documents of the control plane against the documents."""
        for row in recounted(self._index):
            kind = row.key[1:-1].decode("utf-8", "replace")
            self._problem(f"the number of {kind} records is not that of the records; {REBUILD}")

    def _events(self) -> None:
        if not events_fit(self._index):
            self._problem(f"the head of the log of events does not fit its events; {REBUILD}")

    def _strays(self) -> None:
        """Files without a row are garbage: never served, counted, not a problem."""
        for file in directory.blob_files(self._place.path):
            digest = directory.digest_of_file(file)
            if digest is None or digest.key not in self._blobs:
                self._report.counts["stray files"] += 1

    def _journal(self, uuid: bytes) -> None:
        """The journal's frames, and the end that the index knows, which is read after them: beside a store in use at
        most one frame lies behind it."""
        head = journal_file.head_of(self._place.journal)
        frames = [] if head is None else list(journal_file.frames(self._place.journal))
        self._report.counts["journal frames"] += len(frames)
        state = self._journaled()
        if state is None or head != (uuid, state.generation):
            older = state is not None and head is not None and head > (uuid, state.generation)
            what = f"the index is older; {REBUILD}" if older else "it is written again at the next start"
            self._problem(f"the journal is not that of this index; {what}")
            return
        for frame in frames:
            if frame.changes is None and frame.start < state.length:
                self._problem(
                    f"the journal is damaged from byte {frame.start} to {frame.end}; while the index is sound, "
                    "remove journal/log and it is written again at the next start"
                )
        behind = [frame for frame in frames if frame.start >= state.length]
        if any(frame.changes is None for frame in behind[:-1]):
            self._problem(f"the journal is damaged behind the end that the index knows; {REBUILD}")
        elif len(behind) > 1:
            self._problem(
                f"the index is older than the journal: the next start does {len(behind)} commits again"
            )

    def _journaled(self) -> layout.Journaled | None:
        try:
            payload = self._index.get(layout.JOURNALED)
        except RecordDamaged:  # reported by _records
            return None
        return None if payload is None else layout.decode_journaled(payload)


def is_in_share(digest: Digest, share: tuple[int, int]) -> bool:
    """Whether a blob belongs to the n-th of m shares."""
    return int.from_bytes(digest.raw[:8]) % share[1] == share[0] - 1


def differences(place: directory.Directory, index: Index, table: bytes) -> list[str]:
    """What differs between a derived table and what it should be. Beside a store in use both move on, so what only one
    look finds is none."""
    rows = {row.key: row.value for row in DerivedTables(place, index).rows(table)}
    present = dict(index.scan(table))
    found = []
    if lacking := len(rows.keys() - present.keys()):
        found.append(f"lacks {lacking} records")
    if more := len(present.keys() - rows.keys()):
        found.append(f"has too many: {more} records")
    if table == layout.ACCOUNT:
        wrong = sum(present[key] != rows[key] for key in present.keys() & rows.keys())
        found += [f"has {wrong} wrong records"] if wrong else []
    return found


def events_fit(index: Index) -> bool:
    """The head of the log against its events. A reader of them would miss some, or wait for what never comes."""
    before = _log_head(index)
    numbers = [layout.event_number(key) for key, _ in index.scan(layout.EVENT, after=layout.EVENT)]
    head = _log_head(index)
    if head is None or head != before or not head.log:
        return True  # none is kept, or it moved meanwhile
    kept = [number for number in numbers if number > head.floor]
    return (len(kept), max(kept, default=head.floor)) == (head.count, head.last)


def _log_head(index: Index) -> layout.LogHead | None:
    try:
        payload = index.get(layout.EVENT)
    except RecordDamaged:  # named among the records
        return None
    return None if payload is None else layout.decode_log_head(payload)


def structure_problems(index: Index, path: Path) -> list[str]:
    """What is wrong with the pages of an open index in `path`; LMDB has no checksums of them."""
    while True:
        txn = index.read_transaction()  # keeps the pages of its state from being written over
        try:
            with IndexPages(path / "data.mdb") as pages:
                meta = next((m for m in pages.metas if m.transaction == txn.id()), None)
                if meta is None:
                    continue  # the writer went on between the two looks
                pages.is_whole(meta)
                return pages.problems
        finally:
            txn.abort()


def table_in(index: Index, digest: Digest) -> bytes:
    """A blob's chunk table as the index holds it; damaged segments are left out."""
    parts = []
    for key, value in index.scan(layout.CHUNKS + digest.key):
        try:
            parts.append(layout.unseal(key, value))
        except RecordDamaged:
            continue
    return b"".join(parts)


def hash_file(fd: int, algorithm: str) -> tuple[Digest, bytes]:
    """(digest, chunk table) of an open file, which is closed."""
    return hash_files([(fd, algorithm)])[0]


def hash_files(files: list[tuple[int, str]]) -> list[tuple[Digest, bytes]]:
    """The same of several (open file, algorithm), hashed side by side."""
    hashers = [ChunkHasher(algorithm) for _, algorithm in files]
    with contextlib.ExitStack() as closed:
        opened = [closed.enter_context(os.fdopen(fd, "rb", buffering=0)) for fd, _ in files]
        left = [(*each, memoryview(bytearray(READ_BYTES))) for each in zip(hashers, opened, strict=True)]
        while left:
            pieces = {hasher: room[: file.readinto(room)] for hasher, file, room in left}
            left = [each for each in left if pieces[each[0]]]
            update_together([hasher for hasher, _, _ in left], [pieces[hasher] for hasher, _, _ in left])
    return [(hasher.digest(), hasher.table()) for hasher in hashers]
