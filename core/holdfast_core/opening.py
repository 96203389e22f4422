"""Opening a store: refuse what is not safe, recover what a crash left, in bounded time.

Nothing here walks the blobs. What is looked at: both meta pages of the index, the journal's unsynced tail,
the rows of files that were not synced before the machine went down, and the names in fills/.
"""

from __future__ import annotations

import contextlib
import os
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path

import lmdb
import msgspec

from holdfast_core import format as layout
from holdfast_core.blob_files.fill_file import progress_name
from holdfast_core.changes import change, derived_tables, store_events
from holdfast_core.changes.transaction import commit
from holdfast_core.digest import ChunkHasher, Digest, chunk_hash, update_together
from holdfast_core.errors import REBUILD, Exhausted, RecordDamaged, StoreRefused, Unwritable
from holdfast_core.filesystem import directory, files
from holdfast_core.filesystem.directory import blob_files
from holdfast_core.filesystem.disk_state import BROKEN, CAUSES, Cause, refusal
from holdfast_core.filesystem.reserved_space import ReservedSpace, usual_bytes
from holdfast_core.filesystem.store_identity import (
    StoreIdentity,
    mark_blobs,
    read_identity,
    refuse_copy,
    require_blobs,
    require_store,
    write_identity,
)
from holdfast_core.index.lmdb_index import Index, TransactionView, errno_of
from holdfast_core.journal import replay
from holdfast_core.journal.frame import JOURNAL_HEAD_BYTES
from holdfast_core.journal.journal_file import Journal, finish_rewrite, head_of
from holdfast_core.sha256 import LANES

KNOWN_VECTOR = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # "abc", FIPS 180-4
KNOWN_CHUNK = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"  # "abc", BLAKE3
#: a few blocks of SHA-256 and a rest
SELF_TEST_SAMPLE = b"abc" * 200


class OpenedStore(msgspec.Struct, frozen=True):
    """What an open store stands on. `journal` is None for a reader, and for a writer as long as the disk refuses it
    with `refused`."""

    directory: directory.Directory
    index: Index
    journal: Journal | None
    boot: bytes
    refused: Unwritable | None = None


def open_store(
    path: Path,
    *,
    write: bool,
    map_bytes: int,
    allow_network: bool,
    or_read: bool = False,
    ballast_bytes: int | None = 0,
    restoring: bool = False,
    uuid: str = "",
) -> OpenedStore:
    """Open for reading, or as the one writer, the store of that uuid if one is given; on a full disk the reserved space
    gives way to what a start writes. With `or_read` a store on a disk that takes no writes is opened for reading, and
    `take_up` makes it a writer's later. Raises StoreRefused, Unwritable: also where the disk cannot be read."""
    self_test()
    if uuid:
        require_store(path, uuid)
    try:
        return _open_store(
            path,
            ballast_bytes,
            write=write,
            map_bytes=map_bytes,
            allow_network=allow_network,
            restoring=restoring,
        )
    except Unwritable as error:
        if not (write and or_read) or read_identity(path) is None:
            raise
        opened = _open_store(
            path, ballast_bytes, write=False, map_bytes=map_bytes, allow_network=allow_network
        )
        opened.directory.condition.set_from(error)
        return msgspec.structs.replace(opened, refused=error)


def _open_store(
    path: Path,
    ballast_bytes: int | None,
    *,
    write: bool,
    map_bytes: int,
    allow_network: bool,
    restoring: bool = False,
) -> OpenedStore:
    with _refusals(path):
        if read_identity(path) is None:
            _create_directories(path, write=write)
        place = directory.Directory(path)
        place.reserved_space = ReservedSpace(
            path, usual_bytes(path) if ballast_bytes is None else ballast_bytes
        )
        try:
            if write:
                place.lock(of_copy=restoring)
                _try(place)
            opened = _open_somehow(place, write=write, map_bytes=map_bytes, allow_network=allow_network)
            if write:
                place.fill_reserved_space()
            return opened
        except BaseException:
            place.close()
            raise


def _open_somehow(
    place: directory.Directory, *, write: bool, map_bytes: int, allow_network: bool
) -> OpenedStore:
    while True:
        try:
            return _open_locked(place, write=write, map_bytes=map_bytes, allow_network=allow_network)
        except (lmdb.Error, OSError, Exhausted):
            if not (write and place.reserved_space.give()):
                raise


#: what to do where there is no room: a disk is as full without inodes, and its error is the same
FREE = "; free space or inodes (df, df -i)"
#: what LMDB says when it has no room: nothing of the index is wrong
_NO_ROOM = (lmdb.MapFullError, lmdb.ReadersFullError, lmdb.MemoryError)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the system refuses on the way is the store's refusal."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        code = errno_of(error) if isinstance(error, lmdb.Error) else error.errno
        if code in CAUSES or code in BROKEN:
            text = error.strerror if isinstance(error, OSError) else str(error)
            todo = FREE if CAUSES.get(code) is Cause.NO_ROOM else ""
            raise refusal(code, f"the store in {path} cannot be opened: {text}{todo}") from error
        if isinstance(error, lmdb.Error) and not isinstance(error, _NO_ROOM):
            raise StoreRefused(f"the index in {path} is damaged: {error}; {REBUILD}") from error
        raise


def take_up(place: directory.Directory, index: Index, boot: bytes) -> Journal:
    """Make a store that was opened for reading, with `or_read`, a writer's. No read may be under way. Raises
    Unwritable, StoreRefused; then it is a reader's as before."""
    with _refusals(place.path):
        place.lock()
        try:
            index.reopen(write=True)
            identity = read_identity(place.path)
            uuid = None if identity is None else identity.uuid
            stored_uuid = _identity(place, index, uuid, create=False, write=True)
            return _recovered(place, index, stored_uuid, identity, boot)
        except BaseException:
            index.reopen(write=False)
            place.unlock()
            raise


def self_test() -> None:
    """Hash known vectors by OpenSSL, whose answer counts, and side by side. Raises StoreRefused: a build that cannot
    must not serve."""
    samples = [SELF_TEST_SAMPLE[lane:] for lane in range(LANES)]
    hashers = [ChunkHasher() for _ in samples]
    update_together(hashers, samples)
    right = [hasher.digest() for hasher in hashers] == [Digest.of(sample) for sample in samples]
    if not right or str(Digest.of(b"abc")) != KNOWN_VECTOR or chunk_hash(b"abc").hex() != KNOWN_CHUNK:
        raise StoreRefused("this build hashes wrongly; nothing was opened")


def _try(place: directory.Directory) -> None:
    """See whether the disk takes writes, before anything counts on it: a store whose last writer met an error that said
    nothing about the disk is not to meet it again and again. Without room the store is opened all the same. Raises
    OSError."""
    try:
        place.probe()
    except OSError as error:
        if CAUSES.get(error.errno or 0) is not Cause.NO_ROOM:
            raise
        place.refused(error, "probe")


def _create_directories(path: Path, *, write: bool) -> None:
    if not write:
        raise StoreRefused(f"{path} holds no store")
    refuse_copy(path)
    if _has_content(path):
        raise StoreRefused(f"{path} holds blobs but no store.json; {REBUILD}")
    directory.create(path)


def _open_locked(
    place: directory.Directory, *, write: bool, map_bytes: int, allow_network: bool
) -> OpenedStore:
    identity = read_identity(place.path)
    uuid = None if identity is None else identity.uuid
    data = place.index / "data.mdb"
    if uuid is not None and not (data.exists() and data.stat().st_size):
        raise StoreRefused(f"{data} is missing or empty beside a store; {REBUILD}")
    if not allow_network:
        files.refuse_network(place.index)
    index = Index(place.index, write=write, map_bytes=map_bytes)
    try:
        boot = files.boot_id()
        stored_uuid = _identity(place, index, uuid, create=uuid is None, write=write)
        if uuid is not None:
            require_blobs(place.path, uuid)
        journal = _recovered(place, index, stored_uuid, identity, boot) if write else None
    except BaseException:
        index.close()
        raise
    return OpenedStore(place, index, journal, boot)


def _identity(
    place: directory.Directory, index: Index, uuid: bytes | None, *, create: bool, write: bool
) -> bytes:
    """The uuid that the index and store.json agree on. Raises StoreRefused when they do not."""
    try:
        indexed = index.get(layout.IDENTITY)
    except RecordDamaged as error:
        indexed = _identity_again(place, index, uuid, error, write=write)
    if create and indexed is None:
        indexed = uuids.uuid4().bytes
        commit(index, [change.put(layout.IDENTITY, indexed)])
    if indexed is None or (uuid is not None and indexed != uuid):
        what = "is empty" if indexed is None else "belongs to another store"
        raise StoreRefused(f"the index {what}, store.json says {uuids.UUID(bytes=uuid)}; {REBUILD}")
    return indexed


def _identity_again(
    place: directory.Directory, index: Index, uuid: bytes | None, error: RecordDamaged, *, write: bool
) -> bytes:
    """The uuid of an index whose record of it is damaged: that of store.json, when the journal has it, too."""
    head = head_of(place.journal)
    if uuid is None or head is None or head[0] != uuid:
        raise StoreRefused(f"{error}; {REBUILD}") from error
    if write:
        commit(index, [change.put(layout.IDENTITY, uuid)])
    return uuid


# --- recovery --------------------------------------------------------------------------------------------


def _recovered(
    place: directory.Directory, index: Index, uuid: bytes, identity: StoreIdentity | None, boot: bytes
) -> Journal:
    """The journal of a store that was made ready for its writer. store.json is written when all of it is
    there: for a new store, and for one of an earlier format."""
    format_number = layout.FORMAT if identity is None else identity.format
    if format_number < 2:
        place.prepare_uploads()
    if format_number < 4:
        derived_tables.derive(place, index)
    journal = _recover(place, index, uuid, boot)
    if skipped := store_events.reopened(index):
        commit(index, skipped)
    with contextlib.suppress(OSError):  # on a full disk the next start does it
        mark_blobs(place.path, uuid, anew=identity is None)
    if identity is None or format_number != layout.FORMAT:
        write_identity(place.path, uuid)
    return journal


def _recover(place: directory.Directory, index: Index, uuid: bytes, boot: bytes) -> Journal:
    rebooted = _last_boot(index) != boot
    if rebooted:
        _drop_uploads(place)
    journal = _open_journal(place, index, uuid, boot)
    try:
        if rebooted:
            commit(index, [change.put(layout.JOURNALED, layout.encode_journaled(journal.state(boot)))])
        _settle_unsynced(place, index, boot)
        _tidy_fills(place, index)
    except BaseException:
        journal.close()
        raise
    return journal


def _open_journal(place: directory.Directory, index: Index, uuid: bytes, boot: bytes) -> Journal:
    """The journal of this index, once the index has all that it holds: as it is, or written again from the index when
    it was lost or torn before its recorded end. A long one waits for `Compaction`, which commits do not wait for."""
    finish_rewrite(place.journal, uuid, replay.journaled(index))
    replay.replay(place, index, uuid)
    state = replay.journaled(index)
    journal = Journal.open(place.journal, uuid, state)
    if journal is not None:
        return journal
    head = head_of(place.journal)
    generation = max(state.generation if state else 0, head[1] if head else 0) + 1
    return rewrite_journal(place.journal, index, uuid, generation, boot)


def rewrite_journal(path: Path, index: Index, uuid: bytes, generation: int, boot: bytes) -> Journal:
    """A journal of exactly what the index holds, and the index's note of it. Damaged records are left out. The note
    comes before the rename: so a journal is never of a later generation than its index, unless that is an older one."""
    journal = Journal.rewrite(path, uuid, generation, _journaled_records(index))
    commit(index, [change.put(layout.JOURNALED, layout.encode_journaled(journal.state(boot)))])
    journal.replace()
    return journal


def _journaled_records(index: Index) -> Iterator[tuple[bytes, bytes]]:
    for table in sorted(layout.JOURNALED_TABLES):
        for key, value in index.scan(table):
            with contextlib.suppress(RecordDamaged):
                layout.unseal(key, value)
                yield key, value


def _last_boot(index: Index) -> bytes:
    """The boot in which the store was last open for writing; empty when it is not known."""
    state = replay.journaled(index)
    return b"" if state is None else state.boot


def _drop_uploads(place: directory.Directory) -> None:
    """After a start of the machine no upload goes on. Nothing of a session was synced, and the length of its file
    proves nothing: ext4 and XFS record it before the last bytes are there. After simulated power cuts under long
    uploads 14 of 17 sessions that had a length ended in zeros, inside a written block too, where no hole shows."""
    for name in os.listdir(place.uploads_fd):
        with contextlib.suppress(IsADirectoryError):
            os.unlink(name, dir_fd=place.uploads_fd)


def _settle_unsynced(place: directory.Directory, index: Index, boot: bytes) -> None:
    """Cached files that no syncfs covered before the machine went down: gone or cut short ones are forgotten
    with their links; the rest is checked chunk by chunk when it is first read, like everything."""
    with index.begin(write=True) as txn:
        view = TransactionView(txn)
        lost, kept = set(), []
        for key in view.keys(layout.UNSYNCED):
            digest = layout.digest_from(key, key[1:])
            blob = change.blob_of(view, digest)
            if blob is None or blob.boot == boot:
                continue
            if place.has_blob(digest, blob.size):
                kept.append(key)
            else:
                lost.add(digest)
        changes = [*change.synced(view, kept), *(change.discard(view, lost) if lost else ())]
    if changes:
        commit(index, changes)


def _tidy_fills(place: directory.Directory, index: Index) -> None:
    """A checkpoint without its part is forgotten; a part, or progress, without a checkpoint is removed."""
    known, changes = set(), []
    with index.begin() as txn:
        view = TransactionView(txn)
        for key in view.keys(layout.FILL):
            digest, payload = layout.digest_in(key, 1), view.get(key)
            head = None if payload is None else layout.decode_fill(payload)
            if head is not None:
                _name_part(place, head.repository, digest)
            if head is not None and place.has_part(head.repository, digest, head.size):
                of = head.repository, digest
                known |= {directory.part_name(*of), progress_name(*of)}
            else:
                changes += change.remove([key, *view.keys(layout.FILL_CHUNKS + key[1:])])
    if changes:
        commit(index, changes)
    for name in set(os.listdir(place.fills_fd)) - known:
        with contextlib.suppress(IsADirectoryError):
            os.unlink(name, dir_fd=place.fills_fd)


def _name_part(place: directory.Directory, repository: str, digest: Digest) -> None:
    """Earlier versions named a part by its digest alone: what came of a blob does not cross the link again because of
    an update."""
    former = f"{digest.algorithm}-{digest.hex}"
    names = {
        former: directory.part_name(repository, digest),
        f"{former}.chunks": progress_name(repository, digest),
    }
    for old, new in names.items():
        with contextlib.suppress(FileNotFoundError):
            os.rename(old, new, src_dir_fd=place.fills_fd, dst_dir_fd=place.fills_fd)


def _has_content(path: Path) -> bool:
    """Whether blobs or journal entries lie in the directory. Stops at the first."""
    log = path / "journal" / "log"
    if log.exists() and log.stat().st_size > JOURNAL_HEAD_BYTES:
        return True
    return any(True for _ in blob_files(path))
