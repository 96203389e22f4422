"""The LMDB environment: opened once a process, refused when it is not safe to map, read without waiting.

Rules kept here, with what was measured when they were broken:
- no read transaction outlives the call: a pinned one grew the file 68 times;
- full sync, never a writable map: a full disk kills a process with a writable map by SIGBUS;
- a file shorter than its meta pages say is never mapped: the first read past its end is SIGBUS;
- an environment that came through a fork is never used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import lmdb
from lmdb.verify import VerifyError, verify

from holdfast_core import format as layout
from holdfast_core.errors import Damaged, DiskReadOnly, Exhausted, RecordDamaged, StoreError, StoreRefused
from holdfast_core.filesystem.disk_state import BROKEN, CAUSES, refusal
from holdfast_core.filesystem.syscalls import reserve
from holdfast_core.index.row_snapshot import RowSnapshot

MAP_BYTES = 64 << 30  # address space, not memory: a new index takes 8 KiB
MAX_READERS = 1024
LOCK_BYTES = (MAX_READERS + 2) * 64  # lock.mdb: a header of two cache lines, and one for each reader
SCAN_KEYS = 1000  # a scan takes a new transaction after so many, so that none lives long

_META_OFFSET = 16  # page header
_META = struct.Struct("<IIQQ48s48sQQ")
_META_MAGIC, _META_VERSION = 0xBEEFC0DE, 1

# buffers=False throughout: values are copied out, so none can outlive its transaction
Transaction: TypeAlias = "lmdb.Transaction[bytes]"

_open: weakref.WeakSet[Index] = weakref.WeakSet()


def _refuse_in_child(*_: object, **__: object) -> Transaction:
    raise StoreError("this store was opened before a fork; open it again in the new process")


def _refuse_closed(*_: object, **__: object) -> Transaction:
    raise StoreError("the store is closed")


def _mark_forked() -> None:
    for index in _open:
        index.begin = _refuse_in_child


os.register_at_fork(after_in_child=_mark_forked)


class TransactionView:
    """The index as planners see it, inside a transaction. `met`: keys of the damaged records that were looked at."""

    def __init__(self, txn: Transaction, snapshot: RowSnapshot | None = None) -> None:
        self._txn, self._snapshot = txn, snapshot
        self.met: set[bytes] = set()

    def get(self, key: bytes) -> bytes | None:
        """The payload, or None when it is absent or damaged."""
        value = self.raw(key)
        try:
            return None if value is None else layout.unseal(key, value)
        except RecordDamaged:
            self.met.add(key)
            return None

    def raw(self, key: bytes) -> bytes | None:
        """The sealed value, be it damaged; None when it is absent."""
        value = self._txn.get(key)
        if self._snapshot is not None:
            self._snapshot.note(key, value)
        return value

    def keys(self, prefix: bytes, limit: int | None = None) -> list[bytes]:
        """All keys below a prefix, or the first `limit` of them."""
        keys: list[bytes] = []
        with self._txn.cursor() as cursor:
            if cursor.set_range(prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if not key.startswith(prefix) or len(keys) == limit:
                        break
                    keys.append(key)
        if self._snapshot is not None:
            self._snapshot.note_keys(prefix, limit, keys)
        return keys

    def rows(self, prefix: bytes, *, after: bytes, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        """(key, payload) of the records below a prefix with keys above `after`, in order, at most `limit`; damaged
        ones are left out."""
        rows: list[tuple[bytes, bytes]] = []
        if self._snapshot is not None:
            self._snapshot.note_other()
        with self._txn.cursor() as cursor:
            if not cursor.set_range(after):
                return rows
            for key, value in cursor:
                if not key.startswith(prefix) or len(rows) == limit:
                    break
                if key != after:
                    try:
                        rows.append((key, layout.unseal(key, value)))
                    except RecordDamaged:
                        self.met.add(key)
        return rows


class Index:
    """An open environment. `begin` starts a transaction; the caller ends it before it does anything else."""

    begin: Callable[..., Transaction]

    def __init__(self, path: Path, *, write: bool, map_bytes: int = MAP_BYTES) -> None:
        """Open `path`; with `write` it is created when absent. Raises StoreRefused, Unwritable."""
        self._path, self.map_bytes = path, map_bytes
        self._unlocked = -1
        #: where the reads of a thread are noted; see `row_snapshot`
        self.snapshot: RowSnapshot | None = None
        self._open(write)
        _open.add(self)

    def _open(self, write: bool) -> None:
        """Raises StoreRefused, Unwritable."""
        check_meta(self._path / "data.mdb")
        try:
            self._lock_for(write)
            self._env = self._environment(write)
        except lmdb.MemoryError as error:
            raise StoreRefused(
                f"{self._path} cannot be opened: {self.map_bytes} bytes of address space were not given ({error}); give"
                " the process more (`ulimit -v`, or the service's LimitAS), or set a smaller map_bytes, which the index"
                " cannot outgrow"
            ) from error
        except (lmdb.Error, OSError) as error:
            code = errno_of(error) if isinstance(error, lmdb.Error) else error.errno
            if code in CAUSES or code in BROKEN:
                raise refusal(code, f"index: {error}") from error
            raise StoreRefused(f"{self._path} cannot be opened: {error}") from error
        if self._env.lib_version()[:2] != (0, 9):
            raise StoreRefused(
                f"{self._path} has the format of LMDB {self._env.lib_version()}; this code reads 0.9"
            )
        self.begin = self._env.begin
        self._locks = (-1, False)
        self.reader_check()

    def _environment(self, write: bool) -> lmdb.Environment:
        """A reader waits while the index is compacted (`recovery/compact.py`), and may have opened one of the former
        files by then, whose lock file says nothing of the new one."""
        while True:
            before = self._inodes()
            env = lmdb.open(
                str(self._path),
                map_size=self.map_bytes,
                max_readers=MAX_READERS,
                readonly=not write,
                lock=not self.is_unlocked,
                create=write,
                max_spare_txns=8,
                lib_version=0,
                mode=0o600,
            )
            if write or self._inodes() == before:
                return env
            env.close()

    def _inodes(self) -> list[int]:
        files = (self._path / name for name in ("data.mdb", "lock.mdb"))
        return [file.stat().st_ino if file.exists() else 0 for file in files]

    def _lock_for(self, write: bool) -> None:
        """Give the reader table all its blocks: processes write to it by their maps, and a disk that has none left
        would kill them. A reader goes on without that table where the file system is read-only, or has no room for it;
        a lock of the directory then says to the next writer that there is a reader."""
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if write:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._reserve_readers()
        except BlockingIOError as error:
            os.close(directory)
            raise DiskReadOnly(f"{self._path} is still read by processes that began read-only") from error
        except OSError as error:
            if not write and error.errno in CAUSES:
                fcntl.flock(directory, fcntl.LOCK_SH)
                self._unlocked = directory
                return
            os.close(directory)
            raise
        else:
            os.close(directory)

    def _reserve_readers(self) -> None:
        """Raises OSError where there is no room for the reader table; one that has all its blocks needs none."""
        fd = os.open(self._path / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            reserve(fd, 0, LOCK_BYTES)
        except OSError as error:
            if error.errno in CAUSES and os.fstat(fd).st_blocks * 512 < LOCK_BYTES:
                raise
        finally:
            os.close(fd)

    @property
    def is_unlocked(self) -> bool:
        """Whether this reads without LMDB's reader table, because the file system was read-only."""
        return self._unlocked >= 0

    def reopen(self, *, write: bool) -> None:
        """Open the same index again. No read may be under way. Raises as the opening; then it is closed."""
        self.close()
        self._open(write)

    def close(self) -> None:
        """Unmap. No read may be under way; later ones raise StoreError."""
        self.begin = _refuse_closed
        self._env.close()
        if self._unlocked >= 0:
            os.close(self._unlocked)
            self._unlocked = -1

    def is_poisoned(self) -> bool:
        """Whether LMDB refuses everything since a meta page could not be written."""
        try:
            self.begin().abort()
        except lmdb.PanicError:
            return True
        return False

    def reader_check(self) -> int:
        """Free the slots of readers that died; how many there were."""
        try:
            return self._env.reader_check()
        except lmdb.Error as error:
            raise StoreError(f"index: {error}") from error

    def copy_to(self, path: Path) -> None:
        """Write one state of the index, its live pages alone, into an empty directory; not synced. Waits for the disk.
        Raises StoreError."""
        try:
            self._env.copy(str(path), compact=True)
        except lmdb.Error as error:
            raise refusal(errno_of(error), f"the index cannot be copied: {error}") from error

    def bytes_used(self) -> int:
        """Pages in use or free in the file, in bytes."""
        return int((self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"])

    def live_bytes(self) -> int:
        """Pages of the tree, in bytes: what a compacted copy would hold, about."""
        s = self._env.stat()
        return int((s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"]) * s["psize"])

    def entries(self) -> int:
        """Records in the index."""
        return int(self._env.stat()["entries"])

    def read_transaction(self) -> Transaction:
        """A read transaction for a few gets. Frees dead readers' slots when none is left."""
        try:
            return self.begin()
        except lmdb.ReadersFullError:
            self.reader_check()
        except lmdb.Error as error:
            raise index_error(error) from error
        try:
            return self.begin()
        except lmdb.Error as error:
            raise index_error(error) from error

    def get(self, key: bytes) -> bytes | None:
        """The payload under `key`. Raises RecordDamaged."""
        txn = self.read_transaction()
        try:
            value = txn.get(key)
        except lmdb.Error as error:
            raise index_error(error) from error
        finally:
            txn.abort()
        if self.snapshot is not None:
            self.snapshot.note(key, value)
        return None if value is None else layout.unseal(key, value)

    def get_and_locks(self, key: bytes) -> tuple[bytes | None, bool]:
        """`get`, and whether there are any locks at all, out of one transaction. Raises RecordDamaged."""
        txn = self.read_transaction()
        try:
            value, locks = txn.get(key), self._any_locks(txn)
        except lmdb.Error as error:
            raise index_error(error) from error
        finally:
            txn.abort()
        if self.snapshot is not None:
            self.snapshot.note(key, value)
            self.snapshot.note_locks(locks)
        return None if value is None else layout.unseal(key, value), locks

    def linked(self, link: bytes, target: bytes) -> tuple[tuple[bytes, bytes] | None, bool]:
        """Both payloads, or None when either is absent, and whether there are any locks at all, out of one
        transaction. Raises RecordDamaged."""
        txn = self.read_transaction()
        try:
            locks = self._any_locks(txn)
            first = txn.get(link)
            second = None if first is None else txn.get(target)
        except lmdb.Error as error:
            raise index_error(error) from error
        finally:
            txn.abort()
        if self.snapshot is not None:
            self.snapshot.note(link, first)
            self.snapshot.note_locks(locks)
            if first is not None:
                self.snapshot.note(target, second)
        if first is None or second is None:
            return None, locks
        return (layout.unseal(link, first), layout.unseal(target, second)), locks

    def _any_locks(self, txn: Transaction) -> bool:
        """Whether the lock table has a record in this state of the index. Looked at once a state, so that a
        hit pays for a comparison and not for a search (0.3 µs instead of 1)."""
        state = txn.id()
        seen, locks = self._locks
        if seen != state:
            with txn.cursor() as cursor:
                locks = cursor.set_range(layout.LOCK) and cursor.key()[:1] == layout.LOCK
            self._locks = (state, locks)
        return locks

    def is_same(self, snapshot: RowSnapshot) -> bool:
        """Whether what a snapshot noted is still so."""
        txn = self.read_transaction()
        try:
            return snapshot.is_same(txn.get, TransactionView(txn).keys, lambda: self._any_locks(txn))
        except lmdb.Error as error:
            raise index_error(error) from error
        finally:
            txn.abort()

    @contextlib.contextmanager
    def view(self) -> Iterator[TransactionView]:
        """One state of the index, for a few looks of a planner."""
        txn = self.read_transaction()
        try:
            yield TransactionView(txn, self.snapshot)
        except lmdb.Error as error:
            raise index_error(error) from error
        finally:
            txn.abort()

    def written_at(self) -> float:
        """When the index was written last, in wall seconds: now, as far as a store knows, which reads no clock for
        that."""
        return (self._path / "data.mdb").stat().st_mtime

    def scan(
        self, prefix: bytes, *, after: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, sealed value) of all records below `prefix`, keys above `after`, in order, at most `limit`. Takes a
        new transaction every 1,000 records, and holds none while the caller works."""
        if self.snapshot is not None:
            self.snapshot.note_other()
        start, left = after or prefix, sys.maxsize if limit is None else limit
        while left > 0:
            batch = min(left, SCAN_KEYS)
            part = self._slice(prefix, start, start if after else b"", batch)
            yield from part
            if len(part) < batch:
                return
            start = after = part[-1][0]
            left -= batch

    def _slice(self, prefix: bytes, start: bytes, skip: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        txn = self.read_transaction()
        try:
            return collect(txn, prefix, start, skip, limit)
        except lmdb.Error as error:
            raise index_error(error) from error
        finally:
            txn.abort()


def collect(
    txn: Transaction, prefix: bytes, start: bytes, skip: bytes, limit: int = SCAN_KEYS
) -> list[tuple[bytes, bytes]]:
    """Up to `limit` records below `prefix` from `start` on, `skip` left out."""
    part: list[tuple[bytes, bytes]] = []
    with txn.cursor() as cursor:
        if not cursor.set_range(start):
            return part
        for key, value in cursor:
            if not key.startswith(prefix) or len(part) == limit:
                break
            if key != skip:
                part.append((key, value))
    return part


#: error numbers by the words that LMDB ends its message with
_WORDS = {os.strerror(code): code for code in (*CAUSES, *BROKEN)}


def errno_of(error: lmdb.Error) -> int | None:
    """The error number of a system call that failed in LMDB; None for an error of its own. A write that was cut short
    is EIO there, whatever cut it."""
    return _WORDS.get(str(error).rpartition(": ")[2])


def index_error(error: lmdb.Error) -> StoreError:
    """The store's word for an LMDB error met while reading."""
    if isinstance(error, lmdb.ReadersFullError):
        return Exhausted(f"index: {error}")
    return Damaged(f"index: {error}")


def check_meta(path: Path) -> None:
    """Refuse a data file that is shorter than its newest meta page says, or has no intact meta page.

    A file may end before the last page ever allocated when that page was freed in the same transaction, so
    a short file is walked page by page before it is refused. Absent is fine: that is a new index.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            metas = [m for m in (_meta(file.read(4096)), _meta(file.read(4096))) if m]
    except FileNotFoundError:
        return
    if not metas:
        raise StoreRefused(f"{path} is empty or has no intact meta page; run `holdfast rebuild`")
    _, last_page, page_bytes = max(metas)
    if size >= (last_page + 1) * page_bytes:
        return
    _walk(path, size)


def _meta(page: bytes) -> tuple[int, int, int] | None:
    """(transaction, last page, page size) of a meta page."""
    if len(page) < _META_OFFSET + _META.size:
        return None
    magic, version, _, _, free, _, last_page, txnid = _META.unpack_from(page, _META_OFFSET)
    if magic != _META_MAGIC or version != _META_VERSION:
        return None
    return txnid, last_page, int.from_bytes(free[:4], "little")


def _walk(path: Path, size: int) -> None:
    try:
        problems: list[str] = verify(str(path))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    if problems:
        raise StoreRefused(
            f"{path} ends at byte {size}, before pages in use ({problems[0]}); run `holdfast rebuild`"
        )
