"""Files among the blobs that no row counts on. A kill leaves them, between a rename and its commit, or between a commit
and the unlink. No account has their bytes, and hourly sweeps need a day to find them all."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged
from holdfast_core.filesystem.directory import ALGORITHMS, Directory
from holdfast_core.filesystem.disk_use import BLOCK_BYTES
from holdfast_core.index.lmdb_index import Index


class StrayFiles:
    """Those of one open store."""

    def __init__(self, index: Index, directory: Directory) -> None:
        self._index, self._directory = index, directory
        self._known: set[Digest] | None = None

    def disk_bytes(self) -> int:
        """What they take of the disk. The first call looks at each blob in the index; later ones only at what was
        stray then, because a store that is not killed leaves none. Raises OSError."""
        digests = self._blobs() if self._known is None else self._known
        sizes = {digest: size for digest in digests if (size := self._stray_bytes(digest))}
        self._known = set(sizes)
        return sum(sizes.values())

    def _blobs(self) -> Iterator[Digest]:
        for algorithm in ALGORITHMS:
            for first in range(256):
                yield from self._directory.blobs_in(algorithm, first)

    def _stray_bytes(self, digest: Digest) -> int:
        status = None if has_row(self._index, digest) else self._directory.blob_status(digest)
        return 0 if status is None else status.st_blocks * BLOCK_BYTES


def has_row(index: Index, digest: Digest) -> bool:
    """Whether a row counts on the file; one that cannot be read does."""
    key = layout.BLOB + digest.key
    try:
        payload = index.get(key)
    except RecordDamaged:
        return True
    return payload is not None and layout.decode_blob(digest, payload).inline is None
