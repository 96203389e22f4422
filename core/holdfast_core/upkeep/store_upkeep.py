"""What is done to an open store from time to time, by its writer: give space back, bring to the disk what was cached,
write the journal again, mend records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future

from holdfast_core import format as layout
from holdfast_core.blob_files.file_work import Prepared
from holdfast_core.changes import change
from holdfast_core.changes.access_times import AccessTimes
from holdfast_core.digest import Digest
from holdfast_core.filesystem.directory import Directory
from holdfast_core.filesystem.disk_state import DiskState
from holdfast_core.index.lmdb_index import Index
from holdfast_core.index.repository_names import RepositoryNames
from holdfast_core.journal.compaction import Compaction
from holdfast_core.journal.group_commit import Plan
from holdfast_core.record import ScrubbedSlice
from holdfast_core.upkeep import garbage
from holdfast_core.upkeep.disk_scrub import BlobScrub, scrub_journal
from holdfast_core.upkeep.garbage import GarbageCollector
from holdfast_core.upkeep.index_repair import IndexRepair, digest_of, is_damaged
from holdfast_core.write_access import WriteAccess

#: records that are looked at in one go (2.6 ms, measured beside other load)
SCRUB_RECORDS = 1000


class Upkeep:
    """The upkeep of an open store. `probe` writes a file to the disk and says whether that went. No client's doing, so
    allowed in every mode; what changes something raises StoreError in a process that opened the store for reading."""

    def __init__(
        self,
        index: Index,
        directory: Directory,
        access: WriteAccess,
        recent: AccessTimes,
        names: RepositoryNames,
        probe: Callable[[], bool],
    ) -> None:
        self._index = index
        self._directory = directory
        self._access = access
        self._recent = recent
        self._names = names
        self._probe = probe
        self._repair = IndexRepair(index, directory, self._commit_mended)
        self._scrub = BlobScrub(index, directory)
        if access.has_writer:
            writer, files = access.writer(), access.file_work()
            self._compaction = Compaction(index, directory.journal, writer, lambda: files.closing)
            self._collector = GarbageCollector(index, directory, writer, files)
            writer.mend = self._mend_first

    # --- space ----------------------------------------------------------------------------------------------

    def sweep(self, *, now: float, grace: float) -> Future[int]:
        """Give the space of bytes back that no repository has linked for `grace` seconds, on a full disk at once, and
        of files without a row that are older than that, 24 directories of them a call. The future says how many bytes.
        No client's doing, so allowed in every mode."""
        files = self._access.file_work()
        return files.run(lambda: self._swept(now, grace))

    def reclaim(self, digests: Collection[Digest]) -> Future[int]:
        """Give the space of these back at once, unless a repository links them: what was evicted needs no grace,
        because a parent has it. Who has their files open reads on. The future says how many bytes."""
        return self._access.file_work().run(lambda: self._collector.reclaim(digests))

    def _swept(self, now: float, grace: float) -> int:
        """Under pressure what no repository links goes at once; what was set free fills the reserved space first."""
        reclaimed = self._collector.run(now, 0.0 if self.is_pressed else grace, grace)
        reclaimed += garbage.remove_expired(self._directory.path, now, pressed=self.is_pressed)
        if self._directory.condition.state is DiskState.FULL:
            self._probe()
        return reclaimed

    @property
    def is_pressed(self) -> bool:
        """Whether room should be made now: the disk is full, or so little is reported free that another process may
        have found it full."""
        return (
            self._directory.condition.state is DiskState.FULL
            or self._directory.free_bytes() < self._directory.reserved_space.size
        )

    def sync_cached(self) -> Future[None]:
        """One syncfs, then mark what was placed before it as on disk; once an hour write access times and
        confirmations; free the reader slots of dead processes, which would pin old pages. Every ~5 s; nothing is
        written when nothing is new."""
        writer = self._access.writer()
        self._index.reader_check()
        if self._recent.is_due:
            self.write_recent()

        def prepare() -> Prepared:
            rows = [key for key, _ in self._index.scan(layout.UNSYNCED)]
            if rows:
                self._directory.sync_all()
            return Prepared(lambda view: change.synced(view, rows))

        if writer.settled() and next(self._index.scan(layout.UNSYNCED), None) is None:
            return writer.submit(lambda view: ())
        return self._access.file_work().begin(prepare, settle=True)

    def write_recent(self) -> None:
        """Write the access times and confirmations that this process noted."""
        for plan in self._recent.taken():
            self._access.submit(plan)

    # --- journal --------------------------------------------------------------------------------------------

    @property
    def journal_is_long(self) -> bool:
        """Whether `compact_journal` should be called; cheap."""
        self._access.writer()
        return self._compaction.is_due

    def compact_journal(self) -> Future[bool]:
        """Write the journal again, as short as the index allows; commits go on meanwhile. The future says whether it
        was done: not while a record of the index is damaged, another call is under way or the store is being closed. It
        raises OSError or StoreError; then the journal is as it was."""
        return self._access.file_work().run(self._compaction.run)

    def scrub_journal(self, after: bytes, limit: int) -> Future[tuple[ScrubbedSlice, int]]:
        """Look at the frames of the next `limit` bytes of the journal on a thread; how many are damaged. As long as the
        index is sound, `compact_journal` heals them. The future raises OSError."""
        journal = self._access.writer().journal
        return self._access.file_work().run(lambda: scrub_journal(journal, self._directory, after, limit))

    # --- bytes ----------------------------------------------------------------------------------------------

    def scrub_blobs(self, after: bytes, limit: int) -> Future[ScrubbedSlice]:
        """Read the next `limit` bytes of blob files from the disk on a thread, past the page cache, and compare them
        with their hashes. `after` is where the last slice says to go on, b"" for the beginning. What it found is not
        in quarantine yet. One call at a time."""
        return self._access.file_work().run(lambda: self._scrub.run(after, limit))

    # --- records --------------------------------------------------------------------------------------------

    def mend(self, keys: Iterable[bytes], forget: Collection[bytes] = ()) -> Future[list[bytes]]:
        """Give damaged records their values back: from the journal, from what their keys say, from a blob's file. Those
        in `forget` that have no copy here become a miss, because the parent has what they say. The future says which
        are still damaged: they count as absent in every change, and a write that replaces them heals them."""
        return self._access.file_work().run(lambda: self._mended(set(keys), forget))

    def damaged_records(self, after: bytes = b"") -> Future[tuple[list[bytes], bytes]]:
        """(keys of damaged records, where to go on): the next SCRUB_RECORDS of the index are looked at on a thread,
        those above `after`. b"" when there is no more."""
        return self._access.file_work().run(lambda: self._damaged_records(after))

    def _mended(self, keys: Collection[bytes], forget: Collection[bytes] = ()) -> list[bytes]:
        writer = self._access.writer()
        left = self._repair.mend(keys, forget)
        writer.lost.difference_update(keys)
        writer.lost.update(left)
        return left

    def _commit_mended(self, plan: Plan) -> None:
        self._access.writer().submit(plan, mends=True).result()

    def _mend_first(self, keys: Collection[bytes], following: Callable[[], None]) -> None:
        def work() -> None:
            try:
                self._mended(keys)
            except Exception:  # noqa: BLE001 - the future says why nothing can be written
                self._access.writer().lost.update(keys)

        self._access.file_work().run(work).add_done_callback(lambda _: following())

    def is_damaged(self, key: bytes) -> bool:
        """Whether there is such a record and it fails its checksum."""
        return is_damaged(self._index, key)

    def _damaged_records(self, after: bytes) -> tuple[list[bytes], bytes]:
        rows = list(self._index.scan(b"", after=after, limit=SCRUB_RECORDS))
        damaged = [key for key, value in rows if layout.is_mendable(key) and not layout.is_intact(key, value)]
        return damaged, rows[-1][0] if len(rows) == SCRUB_RECORDS else b""

    def repositories_of(self, key: bytes) -> list[str]:
        """Names of the repositories that a record is about, as far as they are known."""
        if key[:1] in (layout.BLOB, layout.CHUNKS):
            digest = digest_of(key)
            return [] if digest is None else self._names.holding(digest)
        return list(self._names.of([key[1:17]])) if key[:1] in layout.REPOSITORY_TABLES else []

    def reader_check(self) -> int:
        """Free what dead processes left in the index's reader table; how many. `sync_cached` does it, too."""
        return self._index.reader_check()
