"""A file system on a loop device that can lose power, fill up, turn read-only, and rot below its files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Self

import pytest
from support.pages import evict
from support.programs import program, run, wait_until

#: XFS_IOC_GOINGDOWN, which ext4 calls EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32)
SHUTDOWN = 0x8004587D
#: what is in memory is not written, and neither is the journal of the file system
NO_LOG_FLUSH = 2
#: a container that was started meanwhile has a copy of every mount, and keeps it (s)
PATIENCE = 300.0
MAKE = {
    # nothing is reserved for root, which the tests are: a node counts what everybody may write
    "ext4": (
        "mkfs.ext4",
        "-q",
        "-F",
        "-m",
        "0",
        "-b",
        "4096",
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0",
    ),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
#: as small as is of use to be filled (bytes); XFS is not made smaller than 300 MB
SMALL = {"ext4": 64 << 20, "xfs": 320 << 20}
#: FS_IOC_FIEMAP of linux/fs.h; the extent that is asked for is written out first (FIEMAP_FLAG_SYNC)
FIEMAP, FIEMAP_SYNC = 0xC020660B, 1
FIEMAP_HEAD, FIEMAP_EXTENT = struct.Struct("=QQLLLL"), struct.Struct("=QQQQQLLLL")


class Disk:
    """A sparse image of `size` bytes in `place`, with a loop device and a mount point of its own. `kind` is a key
    of MAKE. Skips the test, with the reason, where images cannot be mounted."""

    def __init__(self, place: Path, kind: str = "ext4", size: int = 2 << 30) -> None:
        if os.geteuid() != 0:
            pytest.skip(f"mounting an image needs root; this is uid {os.geteuid()}")
        self.kind, self.root = kind, place / "mount"
        self._image = place / "image"
        self.root.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(size)
        make = MAKE[kind]
        run(program(make[0]), *make[1:], self._image)
        self._device = self._attach()
        self.mount()

    def _attach(self) -> str:
        """The loop device. Skips where there is none to be had."""
        command = [program("losetup"), "--find", "--show", str(self._image)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop device here: {done.stderr.strip()}")
        return done.stdout.strip()

    def mount(self) -> None:
        """Mount, replaying the journal when the power was cut."""
        run("mount", "-t", self.kind, self._device, self.root)

    def cut(self) -> None:
        """The power goes: nothing more reaches the disk, every later write and sync fails."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def lose(self) -> None:
        """The device has nothing any more and says EIO: what memory has of its files is all there is."""
        os.truncate(self._image, 0)

    def remount(self, mode: str) -> None:
        """Change to "ro" or "rw" below whoever works there. "ro" waits until no file is open for writing there,
        which a node at work never allows; `error` is how a kernel gets there all the same."""
        run("mount", "-o", f"remount,{mode}", self.root)

    def error(self) -> None:
        """ext4 alone: the kernel found the file system broken and remounts it read-only (errors=remount-ro)."""
        run("mount", "-o", "remount,errors=remount-ro", self.root)
        Path("/sys/fs/ext4", Path(self._device).name, "trigger_fs_error").write_text("test")

    def fill_up(self, name: str = "filler") -> Path:
        """A file that takes every byte that is left, also of root's share; remove it to have them again."""
        path, end = self.root / name, 0
        wait_until(
            lambda: _is_made(path), f"room for the name of {path}"
        )  # xfs frees a file after its name is gone
        with path.open("wb", buffering=0) as filler:
            for step in (64 << 20, 1 << 20, 1 << 12):  # at once: what works there meanwhile takes its share
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(filler.fileno(), end, step)
                        end += step
            filler.seek(end)
            for step in (1 << 12, 1):  # xfs keeps some blocks from the call above, and gives them to a write
                with contextlib.suppress(OSError):
                    while filler.write(bytes(step)):
                        os.fdatasync(filler.fileno())
        return path

    def fill_up_inodes(self) -> list[Path]:
        """Files that take every inode that is left."""
        made = list[Path]()
        with contextlib.suppress(OSError):
            while True:
                path = self.root / f"inode-{len(made)}"
                path.touch()
                made.append(path)
        return made

    def flip(self, path: Path, offset: int, bit: int = 0) -> None:
        """Flip one bit of a file on the device, below the file system: inode and times stay. What memory has of
        the file is dropped, so the next read comes from the device; what another process has mapped stays."""
        place = self._on_device(path, offset)
        with self._image.open("r+b", buffering=0) as image:
            image.seek(place)
            byte = image.read(1)[0]
            image.seek(place)
            image.write(bytes([byte ^ (1 << bit)]))
        evict(path)

    def _on_device(self, path: Path, offset: int) -> int:
        """Where a byte of a file lies on the device."""
        request = bytearray(FIEMAP_HEAD.pack(offset, 1, FIEMAP_SYNC, 0, 1, 0) + bytes(FIEMAP_EXTENT.size))
        with path.open("rb") as file:
            fcntl.ioctl(file, FIEMAP, request)
        if FIEMAP_HEAD.unpack_from(request)[3] == 0:
            raise ValueError(f"{path} has no extent at {offset}")
        logical, physical = FIEMAP_EXTENT.unpack_from(request, FIEMAP_HEAD.size)[:2]
        return int(physical + offset - logical)

    def unmount(self) -> None:
        """Whoever worked there must be dead; waits until nothing of the file system is left in memory."""
        wait_until(self._let_go, f"{self.root} to be free")
        wait_until(self._unused, f"{self._device} to be free", PATIENCE)

    def _let_go(self) -> bool:
        return subprocess.run(["umount", str(self.root)], capture_output=True, check=False).returncode == 0

    def _unused(self) -> bool:
        """A device that is mounted anywhere cannot be opened alone."""
        try:
            os.close(os.open(self._device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # lazily where a process of a failed test still works there: nothing stays mounted in a folder that is removed
        for command in (
            ["umount", str(self.root)],
            ["umount", "--lazy", str(self.root)],
            ["losetup", "--detach", self._device],
        ):
            subprocess.run(command, capture_output=True, check=False)
        self._image.unlink()


def _is_made(path: Path) -> bool:
    """Whether there is an empty file of that name now; not on a disk without room for it."""
    try:
        path.open("wb").close()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True
