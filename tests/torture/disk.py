"""A file system on a loop device that loses power: what was not synced is gone, then its journal is replayed."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Self

import pytest
from support.programs import program, run, wait_until

#: XFS_IOC_GOINGDOWN, which ext4 calls EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32)
SHUTDOWN = 0x8004587D
#: what is in memory is not written, and neither is the journal of the file system
NO_LOG_FLUSH = 2
#: a container that was started meanwhile has a copy of every mount, and keeps it (s)
PATIENCE = 300.0
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}


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
        subprocess.run(["umount", str(self.root)], capture_output=True, check=False)
        subprocess.run(["losetup", "--detach", self._device], capture_output=True, check=False)
        self._image.unlink()
