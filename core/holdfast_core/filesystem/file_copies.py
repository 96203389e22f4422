"""A file with the bytes of another, whose digest is known, by the cheapest way that the file systems allow."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest
from holdfast_core.errors import FileDamaged
from holdfast_core.filesystem.files import write_all

#: linux/fs.h: the target shares the extents of the source until either is written
FICLONE = 0x40049409
#: what an attempt says that will say the same of the next file: another file system, none of that kind, not allowed
_NEVER = frozenset(
    (
        errno.EXDEV,
        errno.EOPNOTSUPP,
        errno.EINVAL,
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EPERM,
        errno.EMLINK,
        errno.ENOENT,
    )
)


def at_once(count: int) -> None:
    """No pace."""


class FileCopies:
    """Makes such files. `counts`: how many were "shared" (the blocks are those of the source; who writes to one gets
    others), "linked" (one file with two names: who writes to one writes to both), which takes `links`, and
    "copied"; and the bytes of those that were copied. `pace` is told how many bytes were read, and waits."""

    def __init__(self, *, links: bool, pace: Callable[[int], None] = at_once) -> None:
        self.counts: Counter[str] = Counter()
        self._ways = ["shared", *(["linked"] if links else []), "copied"]
        self._pace = pace

    def make(self, source: int, target: Path, digest: Digest, *, mode: int = 0o600) -> None:
        """Make `target` out of an open file, synced, when its bytes hash to `digest`; whatever lies there is replaced.
        A linked file keeps its own mode. Raises FileDamaged, OSError; then nothing was made."""
        fresh = target.with_name(f"{target.name}.new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        try:
            found, size = self._made(source, fresh, digest, mode)
            if found != digest:
                raise FileDamaged(f"{digest}: its file hashes to {found}")
            os.rename(fresh, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                fresh.unlink()
            raise
        self.counts += Counter({self._ways[0]: 1, "bytes copied": size if self._ways[0] == "copied" else 0})

    def _made(self, source: int, fresh: Path, digest: Digest, mode: int) -> tuple[Digest, int]:
        fd = self._begun(source, fresh, mode)
        try:
            found = self._hashed(source, digest, fd if self._ways[0] == "copied" else None)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        return found

    def _begun(self, source: int, fresh: Path, mode: int) -> int:
        """The new file, open, by the first way that is possible here; without its bytes when they are copied."""
        while self._ways[0] != "copied":
            try:
                return (_shared if self._ways[0] == "shared" else _linked)(source, fresh, mode)
            except OSError as error:
                if error.errno not in _NEVER:
                    raise
                with contextlib.suppress(FileNotFoundError):
                    fresh.unlink()
                del self._ways[0]
        return _created(fresh, mode)

    def _hashed(self, source: int, digest: Digest, target: int | None) -> tuple[Digest, int]:
        """(digest, length) of an open file, which is written to `target` on the way. Raises FileDamaged, OSError."""
        hasher, at = ChunkHasher(digest.algorithm), 0
        while data := _read(source, digest, at):
            hasher.update(data)
            if target is not None:
                write_all(target, at, data)
            at += len(data)
            self._pace(len(data))
        return hasher.digest(), at


def _created(fresh: Path, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(fresh, flags, mode)


def _shared(source: int, fresh: Path, mode: int) -> int:
    fd = _created(fresh, mode)
    try:
        fcntl.ioctl(fd, FICLONE, source)
    except OSError:
        os.close(fd)
        raise
    return fd


def _linked(source: int, fresh: Path, mode: int) -> int:
    del mode
    # with a descriptor of a directory Python calls linkat(2), which follows this name to the open file
    os.link(f"/proc/self/fd/{source}", fresh, src_dir_fd=source, follow_symlinks=True)
    return os.open(fresh, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def _read(source: int, digest: Digest, at: int) -> bytes:
    try:
        return os.pread(source, CHUNK_BYTES, at)
    except OSError as error:
        raise FileDamaged(f"{digest}: byte {at} of its file cannot be read: {error.strerror}") from error
