"""What the disk has of a blob's file, past the page cache, beside what was written."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable

from holdfast_core.blob_files.uncached_read import read_past_cache
from holdfast_core.digest import CHUNK_BYTES, Digest, chunk_hash
from holdfast_core.errors import Damaged, NotHeld
from holdfast_core.filesystem.directory import Directory
from holdfast_core.record import Blob


class DiskCheck:
    """Compares chunks with their hashes, which `expected` gives by digest and number; b"" for one whose record is
    damaged, which is left to the repair of records. One call at a time, on a thread."""

    def __init__(self, expected: Callable[[Digest, int], bytes]) -> None:
        self._expected = expected
        self._memory = mmap.mmap(-1, CHUNK_BYTES)

    def is_sound(self, fd: int, blob: Blob, chunk: int) -> bool | None:
        """Whether the disk has the chunk as it was written; None when it cannot be read."""
        expected = self._expected(blob.digest, chunk)
        if not expected:
            return True
        length = min(CHUNK_BYTES, blob.size - chunk * CHUNK_BYTES)
        if not read_past_cache(fd, chunk * CHUNK_BYTES, length, self._memory):
            return None
        with memoryview(self._memory) as view:
            return chunk_hash(view[:length]) == expected

    def damaged(self, directory: Directory, blob: Blob, chunks: Iterable[int]) -> list[int]:
        """Those of the chunks that the file which has the blob's name does not have. Raises Exhausted."""
        try:
            fd, _ = directory.open_blob(blob.digest, blob.size)
        except (NotHeld, Damaged):
            return list(chunks)
        try:
            return [chunk for chunk in chunks if not self.is_sound(fd, blob, chunk)]
        finally:
            os.close(fd)
