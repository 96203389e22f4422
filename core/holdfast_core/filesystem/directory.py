"""The directory of a store: its paths, the lock of its writer, and the files of blobs, fills and uploads.

    store.json          uuid, format, engine; the same uuid is in the index
    lock                held by the one process that writes
    index/              LMDB
    journal/log         copy of the changes that a rebuild needs
    blobs/<alg>/<2>/<hex>   large bytes, one plain file each
    fills/<alg>-<hex>-<repository>  growing files, by what they were begun for
    uploads/            staging files of clients' uploads (`blob_files/upload_files.py`)
    quarantine/         files set aside, never served

File names are made from raw digest bytes, and every file is opened below a directory descriptor with
O_NOFOLLOW, so neither a client's text nor a planted link decides what is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.errors import (
    Damaged,
    DiskFailed,
    FileDamaged,
    MalformedDigest,
    Mistake,
    NotHeld,
    StoreError,
    StoreRefused,
    UploadNotFound,
)
from holdfast_core.filesystem.disk_state import BROKEN, SHORTAGES, StoreCondition, Write
from holdfast_core.filesystem.files import (
    keep_private,
    os_error,
    read_page,
    require_plain,
    sync_directory,
    write_all,
)
from holdfast_core.filesystem.reserved_space import NAME as BALLAST_NAME
from holdfast_core.filesystem.reserved_space import ReservedSpace
from holdfast_core.filesystem.store_identity import refuse_copy
from holdfast_core.filesystem.syscalls import reserve, syncfs

DIRECTORIES = ("index", "journal", "blobs", "fills", "uploads", "quarantine")
#: files that are opened by name at a start, some of them by LMDB, which would wait at a FIFO
PLAIN_FILES = (
    "lock",
    *("index/data.mdb", "index/lock.mdb"),
    *("journal/log", "journal/log.new"),
    *(BALLAST_NAME, "sweep"),
)
ALGORITHMS = ("sha256", "sha512")
#: what `probe` takes and gives back
PROBE_NAME, PROBE_BYTES = "probe", 1 << 20
#: a file system that reads by way of its cache alone
CANNOT_READ_PAST = (errno.EINVAL, errno.EOPNOTSUPP)
#: the permission bit of an upload whose bytes are in doubt: a sync of them failed, or may have failed.
#: They are written again before they are synced; a second sync alone would succeed over lost bytes.
IN_DOUBT = stat.S_IXUSR
#: of the name of a session that no id leads to; what is left of one expires
NAMELESS_BYTES = 32
#: a file system that cannot set room aside
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def blob_name(digest: Digest) -> str:
    """Path of a blob's file below blobs/."""
    return f"{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def flat_name(digest: Digest) -> str:
    """A digest as the name of a file."""
    return f"{digest.algorithm}-{digest.hex}"


def part_name(repository: str, digest: Digest) -> str:
    """Name of a fill's file below fills/: as its checkpoint, by repository and digest. Bytes that two parents send for
    one digest never meet in one file."""
    return f"{flat_name(digest)}-{layout.repository_hash(repository).hex()}"


class Directory:
    """An open store directory. Descriptors of blobs/, fills/ and uploads/ are held while it is open;
    `uploads_fd` is -1 for a reader of a store of format 1, which has none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = path / "index"
        self.journal = path / "journal"
        self.fills = path / "fills"
        self.condition = StoreCondition()
        self.reserved_space = ReservedSpace(path, 0)
        self.blobs_fd = self.fills_fd = self.uploads_fd = self._lock = -1
        self._probing = threading.Lock()
        self._mark: DoubtMark | None = None
        for name in PLAIN_FILES:
            require_plain(path / name)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.blobs_fd = os.open(path / "blobs", flags)
            self.fills_fd = os.open(path / "fills", flags)
            if (path / "uploads").exists():
                self.uploads_fd = os.open(path / "uploads", flags)
        except OSError as error:
            self.close()
            if error.errno in BROKEN:
                raise DiskFailed(f"the disk cannot be read: {path}: {error.strerror}") from error
            raise StoreRefused(f"{path} is not a store: {error}") from error

    def lock(self, *, of_copy: bool = False) -> None:
        """Become the one writer, until close or the end of the process; with `of_copy` also of a backup, and of a
        restore under way. Raises StoreRefused."""
        if not of_copy:
            refuse_copy(self.path)
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StoreRefused(f"{self.path} is written by another process") from error
        self._lock = fd

    def unlock(self) -> None:
        """Be the one writer no longer."""
        os.close(self._lock)
        self._lock = -1

    def close(self) -> None:
        """Give the descriptors and the lock back."""
        for fd in self._held():
            os.close(fd)
        self.blobs_fd = self.fills_fd = self.uploads_fd = self._lock = -1

    def descriptors(self) -> int:
        """Descriptors held here."""
        return len(self._held())

    def _held(self) -> list[int]:
        return [fd for fd in (self.blobs_fd, self.fills_fd, self.uploads_fd, self._lock) if fd >= 0]

    def prepare_uploads(self) -> None:
        """Make uploads/ in a store of format 1."""
        if self.uploads_fd < 0:
            (self.path / "uploads").mkdir(0o700, exist_ok=True)
            sync_directory(self.path)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
            self.uploads_fd = os.open(self.path / "uploads", flags)

    def open_blob(self, digest: Digest, size: int, *, write: bool = False) -> tuple[int, tuple[int, ...]]:
        """(descriptor, identity) of a blob's file. Raises NotHeld when it is absent, Damaged when it is not a
        plain file of `size` bytes. Never waits, whatever lies there (O_NONBLOCK: a FIFO has no writer)."""
        flags = os.O_RDWR if write else os.O_RDONLY
        try:
            fd = os.open(
                blob_name(digest),
                flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY,
                dir_fd=self.blobs_fd,
            )
        except FileNotFoundError as error:
            raise NotHeld(f"{digest}: its file is gone") from error
        except OSError as error:
            if error.errno in SHORTAGES:
                raise os_error(error, "open") from error
            raise FileDamaged(f"{digest}: its file cannot be opened: {error.strerror}") from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            os.close(fd)
            raise FileDamaged(f"{digest}: its file is not a plain file of {size} bytes")
        return fd, (status.st_dev, status.st_ino, status.st_ctime_ns)

    def can_open(self, digest: Digest, size: int) -> bool:
        """Whether a plain file of that size is there and can be opened. Without descriptors its name counts."""
        try:
            os.close(self.open_blob(digest, size)[0])
        except (NotHeld, Damaged):
            return False
        except StoreError:
            return self.has_blob(digest, size)
        return True

    def has_blob(self, digest: Digest, size: int) -> bool:
        """Whether a plain file of that size is there."""
        return _plain_file(self.blobs_fd, blob_name(digest), size)

    def has_part(self, repository: str, digest: Digest, size: int) -> bool:
        """The same for a part."""
        return _plain_file(self.fills_fd, part_name(repository, digest), size)

    def place_blob(self, source: BlobSource, digest: Digest, *, durable: bool) -> None:
        """Move a file to its place. With `durable` in the order that survives a power cut: the bytes, the
        name, then (by the caller) the index row. Raises SyncFailed, or StoreError."""
        if durable:
            self.sync_file(source)
        try:
            self._move(source, digest)
        except OSError as error:
            raise self.refused(error, str(digest)) from error
        if durable:
            self.sync_names(digest)

    def _move(self, source: BlobSource, digest: Digest) -> None:
        """Raises OSError. A directory in the place, which no rename replaces, is set aside."""
        for _ in range(2):
            try:
                return os.rename(
                    source.name, blob_name(digest), src_dir_fd=source.directory, dst_dir_fd=self.blobs_fd
                )
            except IsADirectoryError:
                self.set_aside(digest)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), blob_name(digest))

    def take_back(self, digest: Digest, source: BlobSource) -> None:
        """Undo `place_blob` that failed half-way or whose commit was refused: the file is where it was. One that did
        not leave stays. Raises StoreError."""
        try:
            if _exists(source):
                return
            os.rename(blob_name(digest), source.name, src_dir_fd=self.blobs_fd, dst_dir_fd=source.directory)
        except OSError as error:
            raise self.refused(error, str(digest)) from error

    def remove_blob(self, digest: Digest) -> None:
        """Remove a blob's file, if there is one. Raises StoreError."""
        try:
            os.unlink(blob_name(digest), dir_fd=self.blobs_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self.refused(error, str(digest)) from error

    def write_blob(self, digest: Digest, body: bytes) -> None:
        """Put a body in hand into its place, always durably. Raises SyncFailed, Exhausted, StoreError."""
        name = "put-" + flat_name(digest)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=self.fills_fd)
            try:
                write_all(fd, 0, body)
            finally:
                os.close(fd)
        except OSError as error:
            with contextlib.suppress(OSError):  # what came of it takes room from others
                self.drop(BlobSource(self.fills_fd, name))
            raise self.refused(error, str(digest)) from error
        self.place_blob(BlobSource(self.fills_fd, name), digest, durable=True)

    def blobs_in(self, algorithm: str, first: int) -> list[Digest]:
        """The digests that files of one of the 256 directories are named by. Other names are left out."""
        places = (Path(algorithm) / f"{first:02x}" / name for name in self._names(f"{algorithm}/{first:02x}"))
        return [digest for path in places if (digest := digest_of_file(path)) is not None]

    def _names(self, name: str) -> list[str]:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.blobs_fd)
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def blob_status(self, digest: Digest) -> os.stat_result | None:
        """What lies in a blob's place, if it is a plain file."""
        try:
            status = os.stat(blob_name(digest), dir_fd=self.blobs_fd, follow_symlinks=False)
        except OSError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def sync_blob(self, digest: Digest) -> None:
        """fdatasync of a blob in its place, and its name. One that fails may have lost bytes, which no second sync
        would tell: the file is set aside, so it must be one that can be fetched again. Raises SyncFailed, Exhausted,
        DiskReadOnly."""
        try:
            self._sync(self.blobs_fd, blob_name(digest), os.fdatasync, Write.FILE)
        except StoreError:
            with contextlib.suppress(StoreError):
                self.set_aside(digest)
            raise
        self.sync_names(digest)

    def sync_file(self, source: BlobSource) -> None:
        """fdatasync of a file that may become a blob. One that fails may have lost bytes, which no second sync would
        tell: an upload is in doubt from then on, what can be fetched again is removed. Raises DiskFailed, Exhausted,
        DiskReadOnly."""
        try:
            self._sync(source.directory, source.name, os.fdatasync, Write.FILE)
        except StoreError:
            with contextlib.suppress(OSError):
                if source.directory != self.uploads_fd or not self._doubt(source):
                    self.drop(source)
            raise

    def _doubt(self, source: BlobSource) -> bool:
        """Mark an upload, so that it is not committed as it is; whether that could be done."""
        if self._doubt_mark().fails():
            return False
        try:
            status = os.stat(source.name, dir_fd=source.directory, follow_symlinks=False)
            os.chmod(source.name, stat.S_IMODE(status.st_mode) | IN_DOUBT, dir_fd=source.directory)
        except OSError:
            return False
        return True

    def _doubt_mark(self) -> DoubtMark:
        if self._mark is None:
            self._mark = DoubtMark(self.uploads_fd)
        return self._mark

    def sync_names(self, digest: Digest) -> None:
        """fsync of the directory a blob lies in. Raises SyncFailed, Exhausted, DiskReadOnly."""
        self._sync(self.blobs_fd, f"{digest.algorithm}/{digest.hex[:2]}", os.fsync, Write.NAMES)

    def _sync(self, parent: int, name: str, sync: Callable[[int], None], write: Write) -> None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
            try:
                sync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise self.refused(error, name, write) from error

    def sync_all(self) -> None:
        """One syncfs over the blobs. Raises SyncFailed, Exhausted, DiskReadOnly."""
        try:
            syncfs(self.blobs_fd)
        except OSError as error:
            raise self.refused(error, "syncfs", Write.NAMES) from error

    def refused(self, error: OSError, what: str, write: Write = Write.FILE) -> StoreError:
        """The store's word for a write that the system refused; its condition follows."""
        return self.condition.met(write, error.errno, f"{what}: {error.strerror or error}")

    def probe(self) -> None:
        """Write a file, sync it and take it away again, to see whether the disk takes writes and has room. Threads
        come one after another: one that found the other's file gone would take that for a broken disk. Raises
        OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._probing:
            fd = os.open(PROBE_NAME, flags, 0o600, dir_fd=self.fills_fd)
            try:
                self._take_room(fd)
                os.fdatasync(fd)
            finally:
                os.close(fd)
                os.unlink(PROBE_NAME, dir_fd=self.fills_fd)

    def fill_reserved_space(self) -> bool:
        """Give the reserved space what it lacks; whether it has all of it. Until it has, nothing is committed but what
        makes room: the disk is full."""
        if self.reserved_space.take():
            return True
        self.condition.met(Write.FILE, errno.ENOSPC, f"{BALLAST_NAME}: {os.strerror(errno.ENOSPC)}")
        return False

    def read_failure(self) -> str:
        """Why the disk below the index cannot be read; "" when it can, or when something else is wrong with the file,
        which a fresh start finds and says. Past the page cache where the file system has a way past it, because what
        memory has of a file says nothing of the disk. Waits for the disk."""
        path = self.index / "data.mdb"
        for past_cache in (os.O_DIRECT, 0):
            try:
                read_page(path, past_cache)
            except OSError as error:
                if error.errno in CANNOT_READ_PAST and past_cache:
                    continue
                return f"{path}: {error.strerror or error}" if error.errno in BROKEN else ""
            break
        return ""

    def _take_room(self, fd: int) -> None:
        try:
            reserve(fd, 0, PROBE_BYTES)
        except OSError as error:
            if error.errno not in CANNOT_RESERVE:
                raise
            write_all(fd, 0, bytes(PROBE_BYTES))

    def set_aside(self, digest: Digest) -> None:
        """Move whatever lies in a blob's place to quarantine/. Raises StoreError."""
        try:
            os.rename(self.path / "blobs" / blob_name(digest), self._aside(digest))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self.refused(error, "quarantine") from error

    def keep_aside(self, digest: Digest) -> bool:
        """Have whatever lies in a blob's place in quarantine/ as well, so that it can come back after another took its
        place; whether anything lies there. Raises StoreError."""
        try:
            self._aside(digest).unlink(missing_ok=True)
            os.link(self.path / "blobs" / blob_name(digest), self._aside(digest), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except PermissionError:  # a directory, or a file system without links
            self.set_aside(digest)
        except OSError as error:
            raise self.refused(error, "quarantine") from error
        return True

    def bring_back(self, digest: Digest) -> None:
        """Undo `keep_aside`, once the place is empty. Raises StoreError."""
        try:
            os.rename(self._aside(digest), self.path / "blobs" / blob_name(digest))
        except OSError as error:
            raise self.refused(error, "quarantine") from error

    def drop_aside(self, digest: Digest) -> None:
        """Remove what was kept aside. Raises OSError."""
        self._aside(digest).unlink()

    def _aside(self, digest: Digest) -> Path:
        return self.path / "quarantine" / flat_name(digest)

    def repair(self, digest: Digest, size: int, start: int, body: bytes) -> None:
        """Write bytes into a blob's file, synced. A file that is gone, or is not a plain file of `size` bytes,
        is set aside and begun again with holes, which no chunk check passes. Raises Unwritable; then the chunks stay
        as bad as they were."""
        try:
            fd, _ = self.open_blob(digest, size, write=True)
        except (NotHeld, Damaged):
            self.set_aside(digest)
            fd = self._begin_again(digest, size)
        try:
            write_all(fd, start, body)
            os.fdatasync(fd)
        except OSError as error:
            raise self.refused(error, str(digest)) from error
        finally:
            os.close(fd)

    def _begin_again(self, digest: Digest, size: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(blob_name(digest), flags, 0o600, dir_fd=self.blobs_fd)
            os.ftruncate(fd, size)
        except OSError as error:
            raise self.refused(error, str(digest)) from error
        self.sync_names(digest)
        return fd

    def part(self, repository: str, digest: Digest) -> BlobSource:
        """The growing file of a fill."""
        return BlobSource(self.fills_fd, part_name(repository, digest))

    def upload(self, name: str, size: int) -> BlobSource:
        """A staging file that has all of its bytes. Raises UploadNotFound when it is gone, Mistake when it is
        not a plain file of `size` bytes, DiskFailed when they are in doubt."""
        if "/" in name:
            raise UploadNotFound(f"no upload {name!r}")
        try:
            status = os.stat(name, dir_fd=self.uploads_fd, follow_symlinks=False)
        except OSError as error:
            raise UploadNotFound(f"no upload {name}") from error
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise Mistake(f"upload {name} is not a plain file of {size} bytes, but of {status.st_size}")
        if status.st_mode & IN_DOUBT and not self._doubt_mark().fails():
            raise DiskFailed(f"upload {name}: a sync of it failed, and it was not written again since")
        return BlobSource(self.uploads_fd, name)

    def read(self, source: BlobSource, size: int) -> bytes:
        """All of a small file. Raises StoreError when it is absent or shorter."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(source.name, flags, dir_fd=source.directory)
            try:
                body = os.pread(fd, size, 0) if size else b""
            finally:
                os.close(fd)
        except OSError as error:
            raise os_error(error, source.name) from error
        if len(body) != size:
            raise StoreError(f"{source.name} has {len(body)} bytes, not {size}")
        return body

    def drop(self, source: BlobSource) -> None:
        """Remove a part or an upload, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(source.name, dir_fd=source.directory)

    def free_bytes(self) -> int:
        """Bytes that are free on the file system of the store: a hint, which decides nothing."""
        status = os.statvfs(self.path)
        return status.f_frsize * status.f_bavail


class DoubtMark:
    """Whether the files of a directory carry `IN_DOUBT`. A file system without permissions (vfat, exfat) shows the same
    bits of every file. There every upload is in doubt, and one whose sync failed is removed."""

    def __init__(self, directory_fd: int) -> None:
        self._directory = directory_fd
        self._works: bool | None = None

    def works(self) -> bool:
        """Whether they are known to."""
        return self._known() is True

    def fails(self) -> bool:
        """Whether they are known not to."""
        return self._known() is False

    def _known(self) -> bool | None:
        """Tried once, with a file of its own. None where none can be made now."""
        if self._works is None:
            with contextlib.suppress(OSError):
                self._works = self._tried()
        return self._works

    def _tried(self) -> bool:
        name = secrets.token_hex(NAMELESS_BYTES)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._directory)
        try:
            before = os.fstat(fd).st_mode
            with contextlib.suppress(PermissionError):
                os.fchmod(fd, 0o600 | IN_DOUBT)
            return not before & IN_DOUBT and bool(os.fstat(fd).st_mode & IN_DOUBT)
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=self._directory)


class BlobSource(NamedTuple):
    """A file that may become a blob: its name below a directory's descriptor."""

    directory: int
    name: str


def _exists(source: BlobSource) -> bool:
    try:
        os.stat(source.name, dir_fd=source.directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _plain_file(parent: int, name: str, size: int) -> bool:
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def create(path: Path) -> None:
    """Make the directories of a store; nothing is lost when they are there. The 256 directories of each
    algorithm are made at once, so that a commit never has to make a directory durable."""
    path.mkdir(0o700, parents=True, exist_ok=True)
    keep_private(path)
    for name in DIRECTORIES:
        (path / name).mkdir(0o700, exist_ok=True)
    for algorithm in ALGORITHMS:
        parent = path / "blobs" / algorithm
        parent.mkdir(0o700, exist_ok=True)
        for first in range(256):
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{parent}/{first:02x}", 0o700)
        sync_directory(parent)
    sync_directory(path / "blobs")
    sync_directory(path)


def blob_files(path: Path) -> Iterator[Path]:
    """Every entry in the place of a blob, in directory order."""
    return (path / "blobs").glob("*/*/*")


def digest_of_file(path: Path) -> Digest | None:
    """The digest that a file's place and name say, or None when they say none."""
    try:
        digest = Digest.parse(f"{path.parent.parent.name}:{path.name}")
    except MalformedDigest:
        return None
    return digest if digest.hex[:2] == path.parent.name else None
