"""What all writes of a store share: the writer, the file work, and how bytes come to their place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from holdfast_core import change, events, opening, resources
from holdfast_core import format as layout
from holdfast_core import lock as locks
from holdfast_core.change import Change, Keep, View
from holdfast_core.compaction import Compaction
from holdfast_core.condition import DiskState, StoreCondition
from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash
from holdfast_core.directory import Source
from holdfast_core.errors import (
    Damaged,
    DigestMismatch,
    Mistake,
    NotHeld,
    ReadOnly,
    RecordDamaged,
    StoreError,
    Unwritable,
)
from holdfast_core.file_work import FileWork, Prepared
from holdfast_core.lookup import Lookup
from holdfast_core.mending import Mender
from holdfast_core.record import Blob, Event, ResourceChange, Statistics
from holdfast_core.resources import ResourceView
from holdfast_core.upload import Uploads
from holdfast_core.writer import Plan, Writer

MODES = ("root", "ReadWrite", "ReadOnly")
READ_ONLY_TEXT = "This operation is not allowed on this registry."

T = TypeVar("T")
Links = Callable[[View, Blob], list[Change]]
Check = Callable[[View], None]


def _anything(view: View) -> None:
    """The check of what nothing forbids."""


def _require_mode(mode: str) -> None:
    if mode == "ReadOnly":
        raise ReadOnly(READ_ONLY_TEXT)


class Writes(Lookup):
    """An open store and its means to write. `uploads` is where clients' bytes come in; it is there in every
    process, whether it opened the store for writing or not."""

    def __init__(
        self,
        opened: opening.Opened,
        *,
        inline_bytes: int,
        scrub_interval: float,
        clock: Callable[[], float],
        mode: str,
    ) -> None:
        super().__init__(opened.index, opened.directory, scrub_interval=scrub_interval, clock=clock)
        self._mode = mode
        self.uploads = Uploads(opened.directory.uploads_fd, lambda: _require_mode(self._mode))
        self._boot = opened.boot
        self._inline_bytes = inline_bytes
        self._parts = 0
        self._writer: Writer | None = None
        self._files: FileWork | None = None
        if opened.journal is not None or opened.refused is not None:
            self._writer = Writer(
                opened.index,
                opened.journal,
                boot=opened.boot,
                clock=clock,
                condition=opened.directory.condition,
                probe=opened.directory.probe,
            )
            ballast = opened.directory.ballast
            self._writer.spare, self._writer.is_short = ballast.give, lambda: not ballast.is_whole
            self._files = files = FileWork(self._writer)
            self._compaction = Compaction(
                opened.index, opened.directory.journal, self._writer, lambda: files.closing
            )
            self._mender = Mender(self._index, self._directory, self._commit_mended)
            self._writer.mend = self._mend_first

    def close(self) -> None:
        """Commit what waits, then give everything back. May be called twice."""
        if self._directory.blobs_fd < 0:
            return
        if self._writer is not None and self._files is not None:
            self._files.close()
            if self._writer.refusal() is None:
                self._write_recent()
            self._writer.close()
        self._readers.close()
        self._index.close()
        self._directory.close()

    def probe(self) -> bool:
        """Write a file and take it away again; whether that went. With a whole ballast a full disk is writable again
        then, and a read-only one that this store was open on. Waits for the disk."""
        writes = self._writer is not None and self._writer.is_writing
        if writes:
            self._directory.ballast.take()  # first: room is wanted beside it
        try:
            self._directory.probe()
        except OSError as error:
            self._directory.refused(error, "probe")
            return False
        if self._writer is None or (writes and self._directory.fill_ballast()):
            self.condition.probed()
        return True

    def read_failure(self) -> str:
        """Why the disk of this store cannot be read; "" when it can. Waits for the disk."""
        return self._directory.read_failure()

    @property
    def is_waiting(self) -> bool:
        """Whether the store is open for reading because the disk takes no write: after `probe`, `take_up` it."""
        return self._writer is not None and not self._writer.is_writing

    def take_up(self) -> None:
        """Become the writer after all. No other thread may read meanwhile. Raises Unwritable, StoreRefused; then the
        store stays as it is."""
        try:
            journal = opening.take_up(self._directory, self._index, self._boot)
        except Unwritable as error:
            self.condition.found(error)
            raise
        self._writing().take_up(journal)
        self.condition.opened()
        self._directory.fill_ballast()

    @property
    def is_unlocked(self) -> bool:
        """Whether the index is read without LMDB's reader table, because the file system was read-only: then nobody
        writes. `lock_again` once it can be written."""
        return self._index.is_unlocked

    def lock_again(self) -> None:
        """Read with LMDB's reader table from now on, where the file system has one again. No other thread may read
        meanwhile."""
        if os.access(self._directory.path / "index", os.W_OK):
            self._index.reopen(write=False)

    def mend(self, keys: Iterable[bytes], forget: Collection[bytes] = ()) -> Future[list[bytes]]:
        """Give damaged records their values back: from the journal, from what their keys say, from a blob's file. Those
        in `forget` that have no copy here become a miss, because the parent has what they say. The future says which
        are still damaged: they count as absent in every change, and a write that replaces them heals them."""
        return self._file_work().run(lambda: self._mended(set(keys), forget))

    def damaged_records(self, after: bytes = b"") -> Future[tuple[list[bytes], bytes]]:
        """(keys of damaged records, where to go on): the next SCRUB_RECORDS of the index are looked at on a thread,
        those above `after`. b"" when there is no more."""
        return self._file_work().run(lambda: self._damaged_records(after))

    def _mended(self, keys: Collection[bytes], forget: Collection[bytes] = ()) -> list[bytes]:
        writer = self._writing()
        left = self._mender.mend(keys, forget)
        writer.lost.difference_update(keys)
        writer.lost.update(left)
        return left

    def _commit_mended(self, plan: Plan) -> None:
        self._writing().submit(plan, mends=True).result()

    def _mend_first(self, keys: Collection[bytes], following: Callable[[], None]) -> None:
        def work() -> None:
            try:
                self._mended(keys)
            except Exception:  # noqa: BLE001 - whoever waits is told why nothing can be written
                self._writing().lost.update(keys)

        self._file_work().run(work).add_done_callback(lambda _: following())

    @property
    def condition(self) -> StoreCondition:
        """What the disk lets this process write."""
        return self._directory.condition

    @property
    def mode(self) -> str:
        """What clients may do: one of MODES."""
        return self._mode

    def set_mode(self, mode: str) -> None:
        """From now on clients may do what `mode` says, their uploads under way included: a managed node learns its
        mode from its parent. In this process only. Raises Mistake for an unknown mode."""
        if mode not in MODES:
            raise Mistake(f"mode {mode!r}; allowed: {', '.join(MODES)}")
        self._mode = mode

    def require_writable(self, repository: str = "") -> None:
        """Raise ReadOnly when clients may change nothing here, Locked when nothing may be pushed to `repository`.
        Every call that changes something for a client does; an endpoint asks before it reads a body."""
        _require_mode(self._mode)
        if repository:
            with self._index.view() as view:
                locks.require(view, repository, "write")

    def statistics(self) -> Statistics:
        """Counters, as of now."""
        writer, readers = self._writer, self._readers
        return Statistics(
            open_readers=readers.open,
            open_parts=self._parts,
            descriptors=self._directory.descriptors(),
            queued=writer.queued() if writer else 0,
            committed=writer.committed if writer else 0,
            batches=writer.batches if writer else 0,
            checked_chunks=readers.checked,
            damaged_chunks=readers.damaged,
            index_bytes=self._index.bytes_used(),
            index_limit=self._index.map_bytes,
            journal_bytes=writer.journal.length if writer and writer.is_writing else 0,
            failed=self.condition.reason if self.condition.state is DiskState.FAILED else "",
            condition=self.condition.state,
            reason=self.condition.reason,
        )

    def _writing(self) -> Writer:
        if self._writer is None:
            raise StoreError("this process opened the store for reading")
        return self._writer

    @property
    def is_pressed(self) -> bool:
        """Whether room should be made now: the disk is full, or so little is said to be free that another process may
        have found it full."""
        return self.condition.state is DiskState.FULL or self.free_bytes() < self._directory.ballast.wanted

    def _submit(
        self, plan: Plan, after: Callable[[], None] | None = None, *, frees: bool = False
    ) -> Future[None]:
        return self._writing().submit(plan, after, frees=frees)

    def _file_work(self) -> FileWork:
        self._writing()
        assert self._files is not None
        return self._files

    def _write_recent(self) -> None:
        for plan in self._recent.taken():
            self._submit(plan)

    def change_resources(
        self,
        plan: Callable[[ResourceView], Sequence[ResourceChange]],
        *,
        quiet: frozenset[str],
        synced: frozenset[str] = frozenset(),
        told: Callable[[], Iterable[Event]] = tuple,
    ) -> Future[None]:
        """Change documents of the control plane, all or nothing, on disk when the future is done. `plan` decides on
        what is there, inside the transaction; what it raises the future raises, and nothing was changed. Kinds in
        `quiet` are only appended to the journal, but for those in `synced`, and do not count as a revision. `told`,
        asked after the plan, are events for the log. The operator's doing and the parent's, no client's: allowed in
        every mode."""

        def planned(view: View) -> list[Change]:
            rows = resources.changed(view, plan(resources.Resources(view)), quiet, synced)
            return [*rows, *(events.tell(event, Keep.JOURNAL) for event in told())]

        return self._submit(planned)

    def keep_events(self, keep: bool) -> Future[None]:
        """From now on log what changes here, or do not: then nobody can follow what was logged so far, and
        `trim_events` takes it away. A log that is begun again has another id."""
        return self._submit(lambda view: events.kept(view, keep))

    def trim_events(self, *, before: float, keep: int, limit: int = 1000) -> Future[int]:
        """Take up to `limit` events away: those older than `before` (wall seconds), and the oldest beyond `keep`. The
        future says how many."""
        trimmed = 0

        def plan(view: View) -> list[Change]:
            nonlocal trimmed
            rows = events.trimmed(view, before=before, keep=keep, limit=limit)
            trimmed = sum(row.value is None for row in rows)
            return rows

        return self._answered(plan, lambda: trimmed)

    def _answered(self, plan: Plan, answer: Callable[[], T]) -> Future[T]:
        """A commit whose future says what `answer` does once it is done."""
        answered: Future[T] = Future()

        def tell(done: Future[None]) -> None:
            error = done.exception()
            answered.set_result(answer()) if error is None else answered.set_exception(error)

        self._submit(plan).add_done_callback(tell)
        return answered

    # --- bytes ---------------------------------------------------------------------------------------------

    def _put_body(
        self,
        digest: Digest,
        body: bytes,
        owned: bool,
        links: Links,
        check: Check = _anything,
        ahead: Callable[[], None] | None = None,
    ) -> Future[None]:
        """Bytes in hand: into the index, or when they are too long for it into a file, synced either way. They
        are hashed on the writer's or a file thread, not on the caller's. `check` raises what `links` would
        raise, before anything is touched. `ahead` reads the files that `links` needs, after that check and on a
        file thread."""
        inline = len(body) <= self._inline_bytes
        blob = Blob(digest, len(body), owned, b"", body if inline else None)

        def rows(view: View, table: bytes | None) -> list[Change]:
            check(view)
            changes, held = change.bytes_held(view, blob, table)
            return [*changes, *links(view, held), *change.end_fills(view, digest)]

        def plan(view: View) -> list[Change]:
            require_digest(digest, body)
            return rows(view, b"")

        def prepare() -> Prepared:
            require_digest(digest, body)
            with self._index.view() as view:
                check(view)
            if ahead is not None:
                ahead()
            if inline:
                return Prepared(lambda view: rows(view, b""))
            table = table_of(body)
            if self._is_held(digest, len(body), owned) and self._is_placed(digest, len(body), table):
                return Prepared(lambda view: rows(view, None))
            self._directory.write_blob(digest, body)
            return Prepared(lambda view: rows(view, table), undo=lambda: self._unplace(digest, None))

        if inline and ahead is None:
            return self._submit(plan)
        return self._file_work().begin(prepare, digest)

    def _put_file(
        self,
        source: Callable[[], Source],
        digest: Digest,
        size: int,
        table: bytes,
        owned: bool,
        links: Links,
        check: Check = _anything,
        filled: str | None = None,
    ) -> Future[None]:
        """A file that has all of its bytes becomes a blob. When they are held already, one that was fetched is
        dropped, and one that was pushed takes their place. When anything of it is refused the file is where
        it was."""

        def prepare() -> Prepared:
            with self._index.view() as view:
                check(view)
            file = source()
            try:
                placed, known = self._place(file, digest, size, owned)
            except StoreError:
                with contextlib.suppress(OSError, StoreError):  # then it is litter, which a sweep finds
                    self._unplace(digest, file)
                raise
            replaces = known and owned and placed.inline is None

            def plan(view: View) -> list[Change]:
                check(view)
                rows, held = change.bytes_held(view, placed, None if known and not replaces else table)
                return [*rows, *links(view, held), *change.end_fills(view, digest, filled)]

            if replaces:
                self._directory.sync_file(file)  # here, so that the writer has nothing to wait for
                return Prepared(plan, after=lambda: self._replace(file, digest))
            if known or placed.inline is not None:
                return Prepared(plan, after=lambda: self._directory.drop(file))
            return Prepared(plan, undo=lambda: self._unplace(digest, file))

        return self._file_work().begin(prepare, digest)

    def _place(self, file: Source, digest: Digest, size: int, owned: bool) -> tuple[Blob, bool]:
        """Put a file's bytes where they belong, unless they are there: (blob, whether they were)."""
        found = self._usable(digest, size)
        if found is not None:
            self._make_durable(found, owned)
            return Blob(digest, size, owned, b"" if owned else found.boot, found.inline), True
        if size <= self._inline_bytes:
            body = self._directory.read(file, size)
            require_digest(digest, body)
            return Blob(digest, size, owned, b"", body), False
        owned = owned or self._is_owned(digest)
        self._directory.place_blob(file, digest, durable=owned)
        return Blob(digest, size, owned, b"" if owned else self._boot, None), False

    def _is_owned(self, digest: Digest) -> bool:
        """Whether the bytes are owned, there or not: fetched again, they are as durable as they were."""
        with contextlib.suppress(RecordDamaged):
            found = self.blob_anywhere(digest)
            return found is not None and found.owned
        return True

    def _replace(self, file: Source, digest: Digest) -> None:
        """A pushed file takes the place of the same bytes, which may have rotten since they were hashed: a year
        ago perhaps, these a moment ago. To compare them costs a read of all of them, to replace them a rename.
        After the commit, because until then the file is the uploader's."""
        self._directory.place_blob(file, digest, durable=True)

    def _unplace(self, digest: Digest, file: Source | None) -> None:
        """A file was placed and its row refused. One that replaced the bytes of an earlier row stays there."""
        if self.blob_anywhere(digest) is not None:
            return
        if file is None:
            self._directory.remove_blob(digest)
        else:
            self._directory.take_back(digest, file)

    def _is_placed(self, digest: Digest, size: int, table: bytes) -> bool:
        """Whether the file in a blob's place has the bytes of a chunk table. Reads all of it."""
        try:
            fd, _ = self._directory.open_blob(digest, size)
        except (NotHeld, Damaged):
            return False
        try:
            hashes = (chunk_hash(os.pread(fd, CHUNK_BYTES, at)) for at in range(0, size, CHUNK_BYTES))
            return b"".join(hashes) == table
        except OSError:  # a sector that cannot be read
            return False
        finally:
            os.close(fd)

    def _is_held(self, digest: Digest, size: int, owned: bool) -> bool:
        """Whether the bytes are there and sound; on the disk, when they are to be owned."""
        found = self._usable(digest, size)
        if found is not None:
            self._make_durable(found, owned)
        return found is not None

    def _make_durable(self, found: Blob, owned: bool) -> None:
        if owned and found.boot:
            self._directory.sync_blob(found.digest)

    def _usable(self, digest: Digest, size: int) -> Blob | None:
        """The blob's row, when its bytes are there and none is known to be bad."""
        with contextlib.suppress(RecordDamaged):
            found = self.blob_anywhere(digest)
            if found is not None and found.size == size and self.is_whole(found):
                return found
        return None

    def _held(self, digest: Digest) -> Blob:
        """The blob's row, when its bytes are there. Raises NotHeld."""
        found = self.blob_anywhere(digest)
        if found is None or self._usable(digest, found.size) is None:
            raise NotHeld(f"{digest} is not held")
        return found


def require_digest(digest: Digest, body: bytes) -> None:
    """Raise DigestMismatch unless the body hashes to the digest."""
    found = Digest.of(body, digest.algorithm)
    if found != digest:
        raise DigestMismatch(str(digest), str(found))


def require_table(digest: Digest, table: bytes, size: int) -> None:
    """Raise Mistake unless a chunk table fits a size."""
    if len(table) != 32 * layout.chunk_count(size):
        raise Mistake(f"{digest}: a table of {len(table)} bytes does not fit {size} bytes")


def table_of(body: bytes) -> bytes:
    """The chunk table of bytes in hand."""
    hasher = ChunkHasher()
    hasher.update(body)
    return hasher.table()
