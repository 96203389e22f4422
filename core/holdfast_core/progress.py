"""How far a fill has come since its checkpoint: the BLAKE3 of each whole chunk, beside the part, once it is hashed.

`<part>.chunks` in fills/ has 32 bytes for each chunk of the blob, zeros where none is noted. It is written
after the bytes and never synced. A process that is killed loses nothing of it, for both files are in the page cache; a
power cut may lose either. So it only says where to look: a chunk counts once the bytes of the part have its hash.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.directory import part_name
from holdfast_core.journal import write_all

HASH_BYTES = 32
_NONE = bytes(HASH_BYTES)


def progress_name(repository: str, digest: Digest) -> str:
    """Name of the file below fills/."""
    return f"{part_name(repository, digest)}.chunks"


def write_progress(fills: int, repository: str, digest: Digest, chunks: Mapping[int, bytes]) -> None:
    """Note the hashes of chunks whose bytes were written; `fills` is the descriptor of fills/. Blocks. Raises
    OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
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
            progress_name(repository, digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=fills
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
