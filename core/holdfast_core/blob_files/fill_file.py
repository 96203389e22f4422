"""The growing file of a fill, and the digests of its chunks since the last checkpoint.

The file is sparse, of its full size from the start, and written at any offset. Beside it `<part>.chunks` in fills/ has
the BLAKE3 of each whole chunk, once it is hashed: 32 bytes for each chunk of the blob, zeros where none is noted. It is
written after the bytes and never synced. A process that is killed loses nothing of it, for both files are in the page
cache; a power cut may lose either. So it only says where to look: a chunk counts once the bytes of the part have its
hash.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import StoreError
from holdfast_core.filesystem.directory import part_name
from holdfast_core.filesystem.files import os_error, write_all

if TYPE_CHECKING:
    from typing_extensions import Buffer

HASH_BYTES = 32
_NONE = bytes(HASH_BYTES)


class FillPart:
    """An open part. `fd` stays valid for readers after the part became a blob, until `close`."""

    def __init__(
        self,
        path: str,
        fd: int,
        repository: str,
        digest: Digest,
        size: int,
        on_close: Callable[[], None],
        refused: Callable[[OSError, str], StoreError],
    ) -> None:
        self.path = path
        self.fd = fd
        self.repository = repository
        self.digest = digest
        self.size = size
        self._on_close = on_close
        self._refused = refused

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`. Raises Unwritable when the disk takes it not."""
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > self.size:
            raise StoreError(
                f"{self.digest}: write of {len(view)} bytes at {offset} leaves its {self.size} bytes"
            )
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self.fd, view[done:], offset + done)
        except OSError as error:
            raise self._refused(error, str(self.digest)) from error

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`, as they are on disk now; holes read as zeros."""
        try:
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise os_error(error, str(self.digest)) from error

    def close(self) -> None:
        """Give the descriptor back. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._on_close()


def progress_name(repository: str, digest: Digest) -> str:
    """Name of the file below fills/."""
    return f"{part_name(repository, digest)}.chunks"


def write_progress(fills: int, repository: str, digest: Digest, chunks: Mapping[int, bytes]) -> None:
    """Note the hashes of chunks whose bytes were written; `fills` is the descriptor of fills/. Blocks. Raises
    OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(progress_name(repository, digest), flags, 0o600, dir_fd=fills)
    try:
        for first, hashes in _runs(chunks):
            write_all(fd, first * HASH_BYTES, hashes)
    finally:
        os.close(fd)


def _runs(chunks: Mapping[int, bytes]) -> list[tuple[int, bytes]]:
    """The hashes of neighbours together: (first chunk, hashes)."""
    runs: list[tuple[int, list[bytes]]] = []
    for index in sorted(chunks):
        if not runs or runs[-1][0] + len(runs[-1][1]) != index:
            runs.append((index, []))
        runs[-1][1].append(chunks[index])
    return [(first, b"".join(hashes)) for first, hashes in runs]


def read_progress(fills: int, repository: str, digest: Digest, size: int) -> dict[int, bytes]:
    """What is noted of a blob of `size` bytes; nothing where the file is absent or cannot be read: that costs the bytes
    a second time, and nothing else."""
    count = -(-size // CHUNK_BYTES)
    try:
        fd = os.open(
            progress_name(repository, digest),
            os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK,
            dir_fd=fills,
        )
        try:
            table = os.pread(fd, count * HASH_BYTES, 0)
        finally:
            os.close(fd)
    except OSError:
        return {}
    entries = (table[at : at + HASH_BYTES] for at in range(0, len(table) - HASH_BYTES + 1, HASH_BYTES))
    return {index: entry for index, entry in enumerate(entries) if entry != _NONE}


def drop_progress(fills: int, repository: str, digest: Digest) -> None:
    """Remove the file, if there is one. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(progress_name(repository, digest), dir_fd=fills)
