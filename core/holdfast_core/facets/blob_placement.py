"""How the bytes of a blob or manifest come to their place, and what becomes of those that were there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from holdfast_core import format as layout
from holdfast_core.blob_files.file_work import Prepared
from holdfast_core.changes import change
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.changes.manifest_children import children_of
from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash
from holdfast_core.errors import Damaged, DigestMismatch, Mistake, NotHeld, RecordDamaged, StoreError
from holdfast_core.filesystem.directory import BlobSource, Directory
from holdfast_core.index.lmdb_index import Index
from holdfast_core.record import Blob
from holdfast_core.write_access import WriteAccess

Links = Callable[[IndexView, Blob], list[IndexChange]]
Check = Callable[[IndexView], None]


def _anything(view: IndexView) -> None:
    """The check of what nothing forbids."""


class BlobPlacement:
    """Puts bytes into the index or into their file. `row` reads the record of a digest, `is_whole` says whether a
    blob's bytes are there. Bodies of at most `inline_bytes` are kept in the index."""

    def __init__(
        self,
        index: Index,
        directory: Directory,
        access: WriteAccess,
        *,
        row: Callable[[Digest], Blob | None],
        is_whole: Callable[[Blob], bool],
        inline_bytes: int,
        boot: bytes,
    ) -> None:
        self._index = index
        self._directory = directory
        self._access = access
        self._row = row
        self._is_whole = is_whole
        self._inline_bytes = inline_bytes
        self._boot = boot

    def put_body(
        self,
        digest: Digest,
        body: bytes,
        owned: bool,
        links: Links,
        check: Check = _anything,
        ahead: Callable[[], None] | None = None,
        *,
        manifest: bool = False,
    ) -> Future[None]:
        """Bytes in hand: into the index, or when they are too long for it into a file, synced either way. They
        are hashed on the writer's or a file thread, not on the caller's. `check` raises what `links` would
        raise, before anything is touched. `ahead` reads the files that `links` needs, after that check and on a
        file thread. What a `manifest` names is noted with its bytes."""
        inline = len(body) <= self._inline_bytes
        blob = Blob(digest, len(body), owned, b"", body if inline else None)
        children: list[IndexChange] = []

        def read() -> None:
            require_digest(digest, body)
            if manifest:
                children[:] = change.children_rows(digest, children_of(body))

        def rows(view: IndexView, table: bytes | None) -> list[IndexChange]:
            check(view)
            changes, held = change.bytes_held(view, blob, table)
            return [*changes, *children, *links(view, held), *change.end_fills(view, digest)]

        def plan(view: IndexView) -> list[IndexChange]:
            read()
            return rows(view, b"")

        def prepare() -> Prepared:
            read()
            with self._index.view() as view:
                check(view)
            if ahead is not None:
                ahead()
            if inline:
                return Prepared(lambda view: rows(view, b""))
            table = table_of(body)
            if self._is_held(digest, len(body), owned) and self.is_placed(digest, len(body), table):
                return Prepared(lambda view: rows(view, None))
            self._directory.write_blob(digest, body)
            return Prepared(lambda view: rows(view, table), undo=partial(self._unplace, digest))

        if inline and ahead is None:
            return self._access.submit(plan)
        return self._access.file_work().begin(prepare, digest)

    def put_file(
        self,
        source: Callable[[], BlobSource],
        digest: Digest,
        size: int,
        table: bytes,
        owned: bool,
        links: Links,
        check: Check = _anything,
        filled: str | None = None,
    ) -> Future[None]:
        """A file that has all of its bytes becomes a blob. When they are held already, one that was fetched is
        dropped, and one that was pushed takes their place. When anything of it is refused the file is where
        it was."""

        def prepare() -> Prepared:
            with self._index.view() as view:
                check(view)
            file = source()
            former = self._keep_former(file, digest, size)
            undo = partial(self._take_back, digest, file, former)
            try:
                placed, known = self._place(file, digest, size, owned)
            except StoreError:
                with contextlib.suppress(
                    OSError, StoreError
                ):  # then it has no row, and garbage collection finds it
                    undo()
                raise
            replaces = known and owned and placed.inline is None

            def plan(view: IndexView) -> list[IndexChange]:
                check(view)
                rows, held = change.bytes_held(view, placed, None if known and not replaces else table)
                return [*rows, *links(view, held), *change.end_fills(view, digest, filled)]

            if replaces:
                self._directory.sync_file(file)  # here, so that the writer has nothing to wait for
                return Prepared(plan, after=lambda: self._replace(file, digest))
            if known or placed.inline is not None:
                return Prepared(plan, after=lambda: self._directory.drop(file))
            after = partial(self._directory.drop_aside, digest) if former else None
            return Prepared(plan, after=after, undo=undo)

        return self._access.file_work().begin(prepare, digest)

    def _keep_former(self, file: BlobSource, digest: Digest, size: int) -> bool:
        """Keep the damaged file of a blob that has a row, in case its successor is refused; whether there is one."""
        with contextlib.suppress(RecordDamaged):
            if self._row(digest) is None:
                return False
        if size <= self._inline_bytes or file.directory == self._directory.blobs_fd:
            return False
        return self.usable(digest, size) is None and self._directory.keep_aside(digest)

    def _place(self, file: BlobSource, digest: Digest, size: int, owned: bool) -> tuple[Blob, bool]:
        """Put a file's bytes where they belong, unless they are there: (blob, whether they were)."""
        held = self.usable(digest, size)
        if held is not None:
            self.make_durable(held, owned)
            return Blob(digest, size, owned, b"" if owned else held.boot, held.inline), True
        if size <= self._inline_bytes:
            body = self._directory.read(file, size)
            require_digest(digest, body)
            return Blob(digest, size, owned, b"", body), False
        owned = owned or self._is_owned(digest)
        self._directory.place_blob(file, digest, durable=owned)
        return Blob(digest, size, owned, b"" if owned else self._boot, None), False

    def _is_owned(self, digest: Digest) -> bool:
        """Whether the bytes are owned, there or not: fetched again, they are as durable as they were."""
        with contextlib.suppress(RecordDamaged):
            blob = self._row(digest)
            return blob is not None and blob.owned
        return True

    def _replace(self, file: BlobSource, digest: Digest) -> None:
        """A pushed file takes the place of the same bytes, which may have rotten since they were hashed: a year
        ago perhaps, these a moment ago. To compare them costs a read of all of them, to replace them a rename.
        After the commit, because until then the file is the uploader's."""
        self._directory.place_blob(file, digest, durable=True)

    def _unplace(self, digest: Digest) -> None:
        """A body was placed and its row refused. One that replaced the bytes of an earlier row stays there."""
        if self._row(digest) is None:
            self._directory.remove_blob(digest)

    def _take_back(self, digest: Digest, file: BlobSource, former: bool) -> None:
        """A file was placed, or not even that, and its row refused: it goes where it was, and so does the `former` one,
        whose row is still there."""
        self._directory.take_back(digest, file)
        if former:
            self._directory.bring_back(digest)

    def is_placed(self, digest: Digest, size: int, table: bytes) -> bool:
        """Whether the file in a blob's place has the bytes of a chunk table. Reads all of it."""
        try:
            fd, _ = self._directory.open_blob(digest, size)
        except (NotHeld, Damaged):
            return False
        try:
            hashes = (chunk_hash(os.pread(fd, CHUNK_BYTES, at)) for at in range(0, size, CHUNK_BYTES))
            return b"".join(hashes) == table
        except OSError:  # a sector that cannot be read
            return False
        finally:
            os.close(fd)

    def _is_held(self, digest: Digest, size: int, owned: bool) -> bool:
        """Whether the bytes are there and sound; on the disk, when they are to be owned."""
        blob = self.usable(digest, size)
        if blob is not None:
            self.make_durable(blob, owned)
        return blob is not None

    def make_durable(self, blob: Blob, owned: bool) -> None:
        """Sync a cached file that is to be owned."""
        if owned and blob.boot:
            self._directory.sync_blob(blob.digest)

    def usable(self, digest: Digest, size: int) -> Blob | None:
        """The blob's row, when its bytes are there and none is known to be bad."""
        with contextlib.suppress(RecordDamaged):
            blob = self._row(digest)
            if blob is not None and blob.size == size and self._is_whole(blob):
                return blob
        return None

    def held(self, digest: Digest) -> Blob:
        """The blob's row, when its bytes are there. Raises NotHeld."""
        blob = self._row(digest)
        if blob is None or self.usable(digest, blob.size) is None:
            raise NotHeld(f"{digest} is not held")
        return blob


def require_digest(digest: Digest, body: bytes) -> None:
    """Raise DigestMismatch unless the body hashes to the digest."""
    actual = Digest.of(body, digest.algorithm)
    if actual != digest:
        raise DigestMismatch(str(digest), str(actual))


def require_table(digest: Digest, table: bytes, size: int) -> None:
    """Raise Mistake unless a chunk table fits a size."""
    if len(table) != 32 * layout.chunk_count(size):
        raise Mistake(f"{digest}: a table of {len(table)} bytes does not fit {size} bytes")


def table_of(body: bytes) -> bytes:
    """The chunk table of bytes in hand."""
    hasher = ChunkHasher()
    hasher.update(body)
    return hasher.table()
