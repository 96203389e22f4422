"""Fills: blobs that are being fetched, each with its part, its checkpoint and the chunks that were noted since."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from concurrent.futures import Future

from holdfast_core import format as layout
from holdfast_core.blob_files.fill_file import FillPart, drop_progress, read_progress, write_progress
from holdfast_core.changes import change
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged
from holdfast_core.facets.blob_placement import BlobPlacement, require_table
from holdfast_core.filesystem.directory import Directory, part_name
from holdfast_core.index.lmdb_index import Index
from holdfast_core.record import FillState
from holdfast_core.write_access import WriteAccess


class Fills:
    """The fills of an open store. `open_parts` counts the parts that this process has open."""

    def __init__(
        self, index: Index, directory: Directory, access: WriteAccess, placement: BlobPlacement
    ) -> None:
        self._index = index
        self._directory = directory
        self._access = access
        self._placement = placement
        self.open_parts = 0

    def states(self) -> list[FillState]:
        """Checkpoints of all fills that are not finished, with the chunks that were noted since. One whose record is
        damaged claims nothing: it is left out, and the fill begins anew."""
        states = []
        for key, value in self._index.scan(layout.FILL):
            with contextlib.suppress(RecordDamaged):
                states.append(self._fill(key, layout.unseal(key, value)))
        return states

    def _fill(self, key: bytes, payload: bytes) -> FillState:
        digest, head = layout.digest_in(key, 1), layout.decode_fill(payload)
        chunks: dict[int, bytes] = {}
        for row, value in self._index.scan(layout.fill_chunks_prefix(head.repository, digest)):
            with contextlib.suppress(RecordDamaged):
                chunks |= layout.decode_fill_chunks(layout.segment_number(row), layout.unseal(row, value))
        chunks |= read_progress(self._directory.fills_fd, head.repository, digest, head.size)
        return FillState(
            head.repository, digest, head.size, head.etag, head.extents, chunks, head.whole, head.updated_at
        )

    def checkpoint(self, state: FillState) -> Future[None]:
        """Checkpoint a fill. Write the part's bytes first: the checkpoint must not claim what is not there."""
        return self._access.submit(lambda view: change.fill(view, state))

    def note_chunks(self, repository: str, digest: Digest, chunks: Mapping[int, bytes]) -> None:
        """Note the BLAKE3 of whole chunks of a fill that has a checkpoint, or soon will. Write their bytes first.
        Blocks. Raises StoreError, Unwritable where it is the disk that refuses."""
        self._access.writer()
        try:
            write_progress(self._directory.fills_fd, repository, digest, chunks)
        except OSError as error:
            raise self._directory.refused(error, f"progress of {digest}") from error

    def drop(self, repository: str, digest: Digest) -> Future[None]:
        """Forget a fill's checkpoint and its progress; its part stays until `drop_part` or the next writable open."""
        self._drop_progress(repository, digest)
        return self._access.submit(lambda view: change.drop_fill(view, repository, digest), frees=True)

    def open_part(self, repository: str, digest: Digest, size: int) -> FillPart:
        """The growing file of a fill begun for `repository`, made when absent, `size` bytes long, sparse. Raises
        StoreError, Unwritable where it is the disk that refuses."""
        self._access.writer()
        name = part_name(repository, digest)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(name, flags, 0o600, dir_fd=self._directory.fills_fd)
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
        except OSError as error:
            raise self._directory.refused(error, name) from error
        self.open_parts += 1
        path, refused = str(self._directory.fills / name), self._directory.refused
        return FillPart(path, fd, repository, digest, size, self._part_closed, refused)

    def _part_closed(self) -> None:
        self.open_parts -= 1

    def drop_part(self, repository: str, digest: Digest) -> None:
        """Remove a fill's files, if there are any."""
        self._directory.drop(self._directory.part(repository, digest))
        self._drop_progress(repository, digest)

    def _drop_progress(self, repository: str, digest: Digest) -> None:
        with contextlib.suppress(OSError):  # what stays proves nothing, and the next writable open removes it
            drop_progress(self._directory.fills_fd, repository, digest)

    def commit(
        self, part: FillPart, repository: str, digest: Digest, table: bytes, *, owned: bool, now: float
    ) -> Future[None]:
        """A finished part becomes a blob of the repository, and fills of the digest end. The caller checked
        the digest; `table` is `ChunkHasher.table()` of the same bytes. The part may be closed before or after.
        Raises Mistake when the table does not fit the size."""
        require_table(digest, table, part.size)
        done = self._placement.put_file(
            lambda: self._directory.part(part.repository, digest),
            digest,
            part.size,
            table,
            owned,
            lambda view, blob: change.arrived(view, repository, blob, now=now),
            filled=part.repository,
        )

        def forget(done: Future[None]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._drop_progress(part.repository, digest)

        done.add_done_callback(forget)
        return done
