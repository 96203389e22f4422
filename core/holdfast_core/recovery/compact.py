"""The index written again without its free pages, while no process has it open.

LMDB never makes its file shorter: what once held many records keeps their pages. A copy has the pages in use alone. It
is made beside the index, compared with it record by record, synced, and renamed over it, which is one step: a process
that is killed at any moment leaves one of two files with the same records. The journal is that of both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import lmdb

from holdfast_core.errors import REBUILD, Damaged, StoreRefused
from holdfast_core.filesystem.directory import Directory
from holdfast_core.filesystem.disk_state import refusal
from holdfast_core.filesystem.files import os_error, sync_directory
from holdfast_core.filesystem.store_identity import read_identity
from holdfast_core.index.lmdb_index import MAP_BYTES, errno_of
from holdfast_core.index.page_reader import IndexPages

#: a start compacts an index that is longer than so many times its live pages, and so many bytes
DUE_TIMES, SLACK_BYTES = 4, 16 << 20
DATA, LOCK = "data.mdb", "lock.mdb"
#: fcntl(2), struct flock. LMDB holds a read lock of the first byte of its lock file in each process that has the index
#: open (mdb.c, mdb_env_excl_lock)
_FLOCK = struct.Struct("hhqqi4x")
_FIRST_BYTE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)


class CompactedIndex(NamedTuple):
    """Bytes of the file before and after."""

    before: int
    after: int


def is_due(length: int, live: int) -> bool:
    """Whether a start compacts an index of `length` bytes whose live pages have `live`."""
    return length > DUE_TIMES * live + SLACK_BYTES


def compact(path: str | os.PathLike[str], *, beside_readers: bool = False) -> CompactedIndex:
    """Compact the index of the store at `path`. With `beside_readers` also while others read it, who go on with the
    former file: they have to be gone before anybody writes again. Raises StoreRefused when a process writes to it, or
    has it open without that; for a damaged one Damaged; Unwritable when the disk does not take the copy. Then the index
    is as it was."""
    root = Path(path)
    if read_identity(root) is None:
        raise StoreRefused(f"{root} holds no store")
    place = Directory(root)
    try:
        place.lock()
        with contextlib.nullcontext() if beside_readers else _nobody_reads(place.index):
            return _compacted(place)
    except OSError as error:
        raise os_error(error, "the index cannot be compacted") from error
    finally:
        place.close()


def is_long(path: str | os.PathLike[str]) -> bool:
    """Whether the index is long for what it holds; False for one that cannot be read. Safe beside a writer."""
    data = Path(path) / "index" / DATA
    try:
        with IndexPages(data) as pages:
            live = max((meta.pages * meta.page_bytes for meta in pages.metas[:1]), default=None)
        return live is not None and is_due(data.stat().st_size, live)
    except OSError:  # who opens it says what is wrong
        return False


def compact_if_due(path: str | os.PathLike[str], *, beside_readers: bool = False) -> CompactedIndex | None:
    """The same when the index is long for what it holds; None when it is not, or there is no store. For a start: one
    that finds its index open elsewhere goes on with it. Raises StoreError; then the index is as it was."""
    return compact(path, beside_readers=beside_readers) if is_long(path) else None


@contextlib.contextmanager
def _nobody_reads(index: Path) -> Iterator[None]:
    """Keep every process from opening the index. Who tries meanwhile waits for LMDB's lock, and opens it once more when
    the files have changed by then (`Index`). Raises StoreRefused when a process has it open."""
    with contextlib.ExitStack() as stack:
        directory = os.open(index, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        lock = os.open(index / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _FIRST_BYTE)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise StoreRefused(f"{index} is read by another process; stop it, then compact") from error
        yield


def _compacted(place: Directory) -> CompactedIndex:
    data, fresh = place.index / DATA, place.path / "index.new"
    require_whole(data)
    before = data.stat().st_size
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(0o700)
        write_copy(place.index, fresh)
        _require_same(data, fresh / DATA)
        after = (fresh / DATA).stat().st_size
        os.rename(fresh / DATA, data)
        # it says which state of the former file is the newest; the next to open the index makes one that fits
        os.unlink(place.index / LOCK)
        sync_directory(place.index)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return CompactedIndex(before, after)


def write_copy(index: Path, target: Path) -> None:
    """A compact copy of an index that no process changes meanwhile, synced, in the empty directory `target`. Raises
    StoreError, OSError."""
    try:
        with lmdb.open(str(index), readonly=True, lock=False, map_size=MAP_BYTES, lib_version=0) as env:
            env.copy(str(target), compact=True)
    except lmdb.Error as error:
        code = errno_of(error)
        if code is None:
            raise Damaged(f"{index} cannot be copied: {error}; {REBUILD}") from error
        raise refusal(code, f"{index} cannot be copied: {error}") from error
    settle_copy(target)


def settle_copy(target: Path) -> None:
    """Bring a copy of an index to the disk, for its owner alone. Raises OSError."""
    fd = os.open(target / DATA, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fchmod(fd, 0o600)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(target)


def require_whole(data: Path) -> None:
    """Raise Damaged unless every page of an index is what leads to it: LMDB, which has no checksum of a page, ends the
    process at one that is not."""
    with IndexPages(data) as pages:
        if not (pages.metas and pages.is_whole(pages.metas[0])):
            what = next(iter(pages.problems), "no meta page is intact")
            raise Damaged(f"the index is damaged: {what}; {REBUILD}")


def _require_same(data: Path, copy: Path) -> None:
    """Raise Damaged unless both have the same records."""
    with IndexPages(data) as present, IndexPages(copy) as fresh:
        rows = [pages.rows(pages.metas[0]) for pages in (present, fresh)]
        if not all(one == other for one, other in zip_longest(*rows)) or fresh.problems:
            raise Damaged(
                "the copy of the index has other records than it; nothing was changed; check the disk"
            )
