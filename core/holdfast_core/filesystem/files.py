"""Small pieces of work on files that several parts of the store do the same way."""

from __future__ import annotations

import mmap
import os
import stat
import uuid as uuids
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast_core.errors import StoreError, StoreRefused
from holdfast_core.filesystem.disk_state import BROKEN, CAUSES, SHORTAGES, refusal
from holdfast_core.filesystem.syscalls import filesystem_type

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: statfs(2) numbers of file systems on which LMDB's locks and maps are not to be trusted (lmdb.h, caveats)
NETWORK = {
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x517B: "SMB",
    0x01021997: "9p",
    0x65735546: "FUSE or virtiofs",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x0BD00BD0: "Lustre",
}


def os_error(error: OSError, what: str) -> StoreError:
    """The store's word for an operating system error."""
    return refusal(error.errno, f"{what}: {error.strerror or error}")


def has_descriptors(count: int) -> bool:
    """Whether this process gets so many file descriptors now. They are given back at once."""
    opened: list[int] = []
    try:
        for _ in range(count):
            opened.append(os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in SHORTAGES
    finally:
        for fd in opened:
            os.close(fd)
    return True


def write_all(fd: int, offset: int, data: Buffer) -> int:
    """Write all of `data` at `offset`; its length. Raises OSError."""
    view, done = memoryview(data).cast("B"), 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
    return done


def read_plain(path: Path) -> bytes:
    """All of a small plain file; never waits, as for the writer of a FIFO. Raises OSError, StoreRefused for what is no
    plain file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise not_plain(path)
    with open(fd, "rb") as file:
        return file.read()


def require_plain(path: Path) -> None:
    """Raise StoreRefused for a link, a FIFO, a directory or the like in the place of a file; absent is fine."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        raise not_plain(path)


def not_plain(path: Path) -> StoreRefused:
    """The refusal of such a thing."""
    return StoreRefused(
        f"{path} was replaced by something that is no plain file (`ls -l` says what); put the file back, or remove what"
        " is there and run `holdfast fsck --repair`, or `holdfast rebuild` where that is refused"
    )


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_page(path: Path, flags: int) -> None:
    """Read the first page of a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags)
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            os.preadv(fd, [page], 0)
    finally:
        os.close(fd)


def for_owner(name: str, flags: int) -> int:
    """An opener of files that their owner alone may read, whatever the umask."""
    return os.open(name, flags | os.O_CLOEXEC, 0o600)


def keep_private(path: Path) -> int:
    """Close the data directory to all but its owner; the mode that it had, where others had access, or 0. All
    that lies in it is shut off by this, so nothing is walked. Raises StoreRefused where it cannot be, and Unwritable
    where the disk takes no writes."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    try:
        if not mode & 0o077:
            return 0
        os.fchmod(fd, mode & ~0o077)
    except OSError as error:
        if error.errno in CAUSES or error.errno in BROKEN:
            raise os_error(error, f"{path} cannot be closed to others") from error
        raise StoreRefused(
            f"{path}: found mode {mode:04o}, and this user may not change it ({error.strerror}); allowed: 0700, because"
            " images and passwords' verifiers lie there; let its owner chmod it, or name a directory below it as data"
        ) from error
    finally:
        os.close(fd)
    return mode


def refuse_network(path: Path) -> None:
    """Raise StoreRefused when the index would lie on a network file system."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kind = NETWORK.get(filesystem_type(fd))
    finally:
        os.close(fd)
    if kind:
        raise StoreRefused(f"{path} is on {kind}: the index needs a local file system")


def boot_id() -> bytes:
    """16 bytes that change with every start of the machine; new ones when the kernel has none, which
    makes every start of the process count as a start of the machine."""
    try:
        return uuids.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except (OSError, ValueError):
        return uuids.uuid4().bytes
