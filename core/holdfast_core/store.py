"""The Store: bytes, and what they are called, on one machine.

A caller asks the facet that has what it needs:

    blobs        bytes: reading, verification, pushes; `blobs.fills` those that are being fetched
    references   repositories, manifests, tags, locks; `references.lists` what a parent listed, `references.outbox` what
                 is still to go up to it
    uploads      sessions of clients whose bytes are on their way in
    documents    the control plane's documents
    events       the log of what changed
    space        where the bytes are, who needs them, what can go
    upkeep       what its writer does from time to time: garbage, journal, repair

The store itself opens and closes, and says what its disk and its mode allow.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from holdfast_core import opening
from holdfast_core.blob_files.file_work import FileWork
from holdfast_core.blob_files.upload_files import Uploads
from holdfast_core.changes.access_times import AccessTimes
from holdfast_core.errors import Unwritable
from holdfast_core.facets.control_documents import ControlDocuments
from holdfast_core.facets.events import StoredEvents
from holdfast_core.facets.references import References
from holdfast_core.facets.repeated_reads import RepeatedReads
from holdfast_core.facets.space import Space
from holdfast_core.facets.stored_blobs import StoredBlobs
from holdfast_core.filesystem.disk_state import DiskState, StoreCondition
from holdfast_core.filesystem.store_identity import read_identity
from holdfast_core.filesystem.syscalls import since_boot
from holdfast_core.index.lmdb_index import MAP_BYTES
from holdfast_core.index.repository_names import RepositoryNames
from holdfast_core.journal.group_commit import Writer
from holdfast_core.record import StoreStatistics
from holdfast_core.upkeep.store_upkeep import Upkeep
from holdfast_core.write_access import WriteAccess, require_known


class Store:
    """An open store. Make one with `create_or_open`; close it when done. Reads are safe on an event loop, a few
    microseconds each, with no transaction left open."""

    def __init__(
        self,
        opened: opening.OpenedStore,
        *,
        inline_bytes: int,
        scrub_interval: float,
        clock: Callable[[], float],
        mode: str,
    ) -> None:
        index, directory = opened.index, opened.directory
        self._index = index
        self._directory = directory
        self._boot = opened.boot
        self._writer = _writer_of(opened, clock)
        self._files = None if self._writer is None else FileWork(self._writer)
        self._access = access = WriteAccess(index, self._writer, self._files, mode)
        recent, names = AccessTimes(clock), RepositoryNames(index)
        self.blobs = StoredBlobs(
            index,
            directory,
            access,
            recent,
            names,
            scrub_interval=scrub_interval,
            clock=clock,
            inline_bytes=inline_bytes,
            boot=opened.boot,
        )
        self.references = References(index, access, recent, self.blobs)
        self.uploads = Uploads(directory.uploads_fd, access.require_mode)
        self.documents = ControlDocuments(index, access)
        self.events = StoredEvents(index, access)
        self.repeated_reads = RepeatedReads(index, recent, access)
        self.space = Space(index, directory, access, names)
        self.upkeep = Upkeep(index, directory, access, recent, names, self.probe)

    @classmethod
    def create_or_open(
        cls,
        path: str | os.PathLike[str],
        *,
        write: bool,
        mode: str = "root",
        inline_bytes: int = 16384,
        scrub_interval: float = 604800.0,
        clock: Callable[[], float] = since_boot,
        allow_network: bool = False,
        map_bytes: int = MAP_BYTES,
        or_read: bool = False,
        ballast_bytes: int | None = 0,
        restoring: bool = False,
        uuid: str = "",
    ) -> Store:
        """Open the store at `path`; with `write` as its one writer, created when absent, recovered when its
        last writer or the machine died. `mode`: what clients may do, "root" and "ReadWrite" everything,
        "ReadOnly" no change. `ballast_bytes` are kept for deletes on a full disk (`reserved_space.py`), None: a
        hundredth of the file system, 4 to 16 MiB. `clock` gives seconds that never step. With `or_read` a store that
        the disk lets no process write is open all the same: it serves, and refuses every write (`is_waiting`).
        `restoring`: a restore opens what is no store for others yet. `uuid`: only the store of that uuid, which is
        not created.
        Raises StoreRefused, Unwritable, Mistake for an unknown mode."""
        require_known(mode)
        opened = opening.open_store(
            Path(path),
            write=write,
            map_bytes=map_bytes,
            allow_network=allow_network,
            or_read=or_read,
            ballast_bytes=ballast_bytes,
            restoring=restoring,
            uuid=uuid,
        )
        return cls(opened, inline_bytes=inline_bytes, scrub_interval=scrub_interval, clock=clock, mode=mode)

    def close(self) -> None:
        """Commit what waits, then give everything back. May be called twice."""
        if self._directory.blobs_fd < 0:
            return
        if self._writer is not None and self._files is not None:
            self._files.close()
            if self._writer.refusal() is None:
                self.upkeep.write_recent()
            self._writer.close()
        self.blobs.readers.close()
        self._index.close()
        self._directory.close()

    @property
    def path(self) -> Path:
        """The directory of the store."""
        return self._directory.path

    @property
    def uuid(self) -> str:
        """The uuid of the store, as text."""
        identity = read_identity(self._directory.path)
        assert identity is not None  # it is open
        return str(UUID(bytes=identity.uuid))

    # --- what may be written --------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """What clients may do: one of MODES."""
        return self._access.mode

    def set_mode(self, mode: str) -> None:
        """From now on clients may do what `mode` says, their uploads under way included: a managed node learns its
        mode from its parent. In this process only. Raises Mistake for an unknown mode."""
        self._access.set_mode(mode)

    def require_writable(self, repository: str = "") -> None:
        """Raise StoreReadOnly when clients may change nothing here, ContentLocked when nothing may be pushed to
        `repository`. Every call that changes something for a client does; an endpoint calls this before it reads a
        body."""
        self._access.require_writable(repository)

    # --- the disk -------------------------------------------------------------------------------------------

    @property
    def condition(self) -> StoreCondition:
        """What the disk lets this process write."""
        return self._directory.condition

    def probe(self) -> bool:
        """Write a file and take it away again; whether that went. With the reserved space whole a full disk is writable
        again then, and a read-only one that this store was open on. Waits for the disk."""
        writes = self._writer is not None and self._writer.is_writing
        if writes:
            self._directory.reserved_space.take()  # first: the probe needs room beside it
        try:
            self._directory.probe()
        except OSError as error:
            self._directory.refused(error, "probe")
            return False
        if self._writer is None or (writes and self._directory.fill_reserved_space()):
            self.condition.probed()
        return True

    def read_failure(self) -> str:
        """Why the disk of this store cannot be read; "" when it can. Waits for the disk."""
        return self._directory.read_failure()

    def free_bytes(self) -> int:
        """Bytes that may still be written to the file system of the store."""
        return self._directory.free_bytes()

    def disk_bytes(self) -> int:
        """Size of that file system."""
        status = os.statvfs(self.path)
        return status.f_frsize * status.f_blocks

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
            self.condition.set_from(error)
            raise
        self._access.writer().take_up(journal)
        self.condition.opened()
        self._directory.fill_reserved_space()

    @property
    def is_unlocked(self) -> bool:
        """Whether the index is read without LMDB's reader table, because the file system was read-only: then no process
        writes. `lock_again` once it can be written."""
        return self._index.is_unlocked

    def lock_again(self) -> None:
        """Read with LMDB's reader table from now on, where the file system has one again. No other thread may read
        meanwhile."""
        if os.access(self._directory.path / "index", os.W_OK):
            self._index.reopen(write=False)

    def statistics(self) -> StoreStatistics:
        """Counters, as of now."""
        writer, readers = self._writer, self.blobs.readers
        return StoreStatistics(
            open_readers=readers.open,
            open_parts=self.blobs.fills.open_parts,
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


def _writer_of(opened: opening.OpenedStore, clock: Callable[[], float]) -> Writer | None:
    """The thread that commits; None where the store was opened for reading."""
    if opened.journal is None and opened.refused is None:
        return None
    directory = opened.directory
    writer = Writer(
        opened.index,
        opened.journal,
        boot=opened.boot,
        clock=clock,
        condition=directory.condition,
        probe=directory.probe,
    )
    space = directory.reserved_space
    writer.spare, writer.is_short = space.give, lambda: not space.is_whole
    return writer
