"""The Store: bytes, and what they are called, on one machine.

Reads (lookup.py) are for the event loop of any process. Writes are for one process: each returns a future
that is done once the change is committed, durably for owned content.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from holdfast_core import change, opening
from holdfast_core import format as layout
from holdfast_core.change import View
from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash
from holdfast_core.directory import os_error, part_name
from holdfast_core.errors import (
    DigestMismatch,
    Mistake,
    NotHeld,
    RecordDamaged,
    StoreError,
    SyncFailed,
)
from holdfast_core.filesystem import since_boot
from holdfast_core.index import MAP_BYTES
from holdfast_core.lookup import Lookup
from holdfast_core.part import FillPart
from holdfast_core.record import (
    Blob,
    Descriptor,
    FillState,
    Statistics,
)
from holdfast_core.writer import Plan, Writer

SEEN_LIMIT = 10_000  # access times kept in memory at most, until sync_cached writes them
FILE_THREADS = 2  # one for a long fdatasync, one so that others need not wait for it


class Store(Lookup):
    """An open store. Make one with `create_or_open`; close it when done."""

    def __init__(
        self, opened: opening.Opened, *, inline_bytes: int, scrub_interval: float, clock: Callable[[], float]
    ):
        super().__init__(opened.index, opened.directory, scrub_interval=scrub_interval, clock=clock)
        self._boot = opened.boot
        self._inline_bytes = inline_bytes
        self._parts = 0
        self._seen: dict[bytes, float] = {}
        self._writer: Writer | None = None
        self._files: ThreadPoolExecutor | None = None
        if opened.journal is not None:
            self._writer = Writer(
                opened.index,
                opened.journal,
                boot=opened.boot,
                clock=clock,
                free_bytes=opened.directory.free_bytes,
            )
            self._files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="holdfast-files")

    @classmethod
    def create_or_open(
        cls,
        path: str | os.PathLike[str],
        *,
        write: bool,
        inline_bytes: int = 16384,
        scrub_interval: float = 604800.0,
        clock: Callable[[], float] = since_boot,
        allow_network: bool = False,
        map_bytes: int = MAP_BYTES,
    ) -> Store:
        """Open the store at `path`; with `write` as its one writer, created when absent, recovered when its
        last writer or the machine died. `clock` gives seconds that never step. Raises StoreRefused."""
        opened = opening.open_store(Path(path), write=write, map_bytes=map_bytes, allow_network=allow_network)
        return cls(opened, inline_bytes=inline_bytes, scrub_interval=scrub_interval, clock=clock)

    def close(self) -> None:
        """Commit what waits, then give everything back. May be called twice."""
        if self._directory.blobs_fd < 0:
            return
        if self._writer is not None and self._files is not None:
            self._files.shutdown()
            if self._seen and self._writer.failed is None:
                self._flush_seen()
            self._writer.close()
        self._index.close()
        self._directory.close()

    def statistics(self) -> Statistics:
        """Counters, as of now."""
        writer, readers = self._writer, self._readers
        return Statistics(
            open_readers=readers.open,
            open_parts=self._parts,
            descriptors=self._directory.descriptors(),
            queued=writer.queued() if writer else 0,
            committed=writer.committed if writer else 0,
            batches=writer.batches if writer else 0,
            checked_chunks=readers.checked,
            damaged_chunks=readers.damaged,
            index_bytes=self._index.bytes_used(),
            index_limit=self._index.map_bytes,
            journal_bytes=writer.journal.length if writer else 0,
            failed=str(writer.failed or "") if writer else "",
        )

    # --- writes --------------------------------------------------------------------------------------------

    def _submit(self, plan: Plan, after: Callable[[], None] | None = None) -> Future[None]:
        return self._writing().submit(plan, after)

    def _writing(self) -> Writer:
        if self._writer is None:
            raise StoreError("this process opened the store for reading")
        return self._writer

    def _prepared(
        self, prepare: Callable[[], tuple[Plan, Callable[[], None] | None]], *, settle: bool = False
    ) -> Future[None]:
        """Do file work on a thread, then commit what it planned."""
        writer, future = self._writing(), Future[None]()

        def work() -> None:
            try:
                if writer.failed is not None:
                    raise writer.failed
                plan, after = prepare()
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the future
                if isinstance(error, SyncFailed):
                    writer.fail(error)
                future.set_exception(error)
            else:
                writer.submit(plan, after, future, settle=settle)

        assert self._files is not None
        try:
            self._files.submit(work)
        except RuntimeError:
            future.set_exception(StoreError("the store is closed"))
        return future

    def put_manifest(
        self,
        repository: str,
        digest: Digest,
        media_type: str,
        body: bytes,
        *,
        owned: bool,
        now: float,
        subject: Digest | None = None,
        artifact_type: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> Future[None]:
        """Store a manifest and link it. With `subject` it becomes a referrer of it in the same commit.
        The future raises DigestMismatch when the body does not hash to `digest`."""
        descriptor = Descriptor(media_type, str(digest), len(body), artifact_type, dict(annotations or {}))

        def links(view: View, blob: Blob) -> list[change.Change]:
            rows = change.link(view, repository, blob, now=now, media_type=media_type)
            if subject is not None:
                rows.append(change.referrer(repository, subject, descriptor, change.durability(blob.owned)))
            return rows

        return self._put_body(digest, body, owned, links)

    def put_inline_blob(
        self, repository: str, digest: Digest, body: bytes, *, owned: bool, now: float
    ) -> Future[None]:
        """Store a small blob and link it. The future raises DigestMismatch."""
        return self._put_body(
            digest, body, owned, lambda view, blob: change.link(view, repository, blob, now=now)
        )

    def _put_body(
        self, digest: Digest, body: bytes, owned: bool, links: Callable[[View, Blob], list[change.Change]]
    ) -> Future[None]:
        """Bytes in hand: into the index, or when they are too long for it into a file, synced either way. They
        are hashed on the writer's or a file thread, not on the caller's."""
        inline = len(body) <= self._inline_bytes
        blob = Blob(digest, len(body), owned, b"", body if inline else None)

        def rows(view: View, table: bytes) -> list[change.Change]:
            changes, held = change.bytes_held(view, blob, table)
            return [*changes, *links(view, held), *change.end_fills(view, digest)]

        def plan(view: View) -> list[change.Change]:
            require_digest(digest, body)
            return rows(view, b"")

        def prepare() -> tuple[Plan, None]:
            require_digest(digest, body)
            table = table_of(body)
            self._directory.write_blob(digest, body)
            return lambda view: rows(view, table), None

        return self._submit(plan) if inline else self._prepared(prepare)

    def link_blob(self, repository: str, digest: Digest, *, now: float) -> Future[None]:
        """Link bytes that are held. The future raises NotHeld when they are not."""

        def plan(view: View) -> list[change.Change]:
            blob = change.blob_of(view, digest)
            if blob is None:
                raise NotHeld(f"{digest} is not held")
            return change.link(view, repository, blob, now=now)

        return self._submit(plan)

    def put_tag(
        self, repository: str, name: str, digest: Digest, *, now: float, origin: str = "parent"
    ) -> Future[None]:
        """Point a tag at a digest, or confirm that it does. `origin` "local" makes it owned."""
        return self._submit(lambda view: change.tag(view, repository, name, digest, now=now, origin=origin))

    def drop_tag(self, repository: str, name: str) -> Future[None]:
        """Forget a tag."""
        return self._submit(lambda view: change.drop_tag(view, repository, name))

    def put_tag_list(self, repository: str, tags: Iterable[str], *, now: float) -> Future[None]:
        """Replace the parent's tag list."""
        items = [tag.encode() for tag in tags]
        prefix = layout.tag_list_prefix(repository)
        return self._submit(lambda view: change.fetched_list(view, repository, prefix, items, now))

    def put_referrers(
        self, repository: str, subject: Digest, descriptors: Iterable[Descriptor], *, now: float
    ) -> Future[None]:
        """Replace the parent's list of referrers."""
        items = [layout.encode_descriptor(d) for d in descriptors]
        prefix = layout.referrer_list_prefix(repository, subject)
        return self._submit(lambda view: change.fetched_list(view, repository, prefix, items, now))

    def put_fill(self, state: FillState) -> Future[None]:
        """Checkpoint a fill. Write the part's bytes first: the checkpoint must not claim what is not there."""
        return self._submit(lambda view: change.fill(view, state))

    def drop_fill(self, repository: str, digest: Digest) -> Future[None]:
        """Forget a fill's checkpoint; its part stays until `drop_part` or the next writable open."""
        return self._submit(lambda view: change.drop_fill(view, repository, digest))

    def open_part(self, digest: Digest, size: int) -> FillPart:
        """The growing file of a fill, made when absent, `size` bytes long, sparse. Raises Exhausted."""
        self._writing()
        name = part_name(digest)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(name, flags, 0o644, dir_fd=self._directory.fills_fd)
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
        except OSError as error:
            raise os_error(error, name) from error
        self._parts += 1
        return FillPart(str(self._directory.fills / name), fd, digest, size, self._part_closed)

    def _part_closed(self) -> None:
        self._parts -= 1

    def drop_part(self, digest: Digest) -> None:
        """Remove a fill's file, if there is one."""
        self._directory.drop_part(digest)

    def commit_fill(
        self, part: FillPart, repository: str, digest: Digest, table: bytes, *, owned: bool, now: float
    ) -> Future[None]:
        """A finished part becomes a blob of the repository, and fills of the digest end. The caller checked
        the digest; `table` is `ChunkHasher.table()` of the same bytes. The part may be closed before or after.
        Raises Mistake when the table does not fit the size."""
        size = part.size
        if len(table) != 32 * layout.chunk_count(size):
            raise Mistake(f"{digest}: a table of {len(table)} bytes does not fit {size} bytes")

        def prepare() -> tuple[Plan, Callable[[], None] | None]:
            placed, known = self._place(digest, size, owned)

            def plan(view: View) -> list[change.Change]:
                rows, held = change.bytes_held(view, placed, None if known else table)
                return [*rows, *change.link(view, repository, held, now=now), *change.end_fills(view, digest)]

            leftover = known or placed.inline is not None
            return plan, (lambda: self._directory.drop_part(digest)) if leftover else None

        return self._prepared(prepare)

    def _place(self, digest: Digest, size: int, owned: bool) -> tuple[Blob, bool]:
        """Put a part's bytes where they belong, unless they are there: (blob, whether they were)."""
        found = self._usable(digest, size)
        if found is not None:
            if owned and found.boot:
                self._directory.sync_blob(digest)
            return Blob(digest, size, owned, found.boot, found.inline), True
        if size <= self._inline_bytes:
            body = self._directory.read_part(digest, size)
            require_digest(digest, body)
            return Blob(digest, size, owned, b"", body), False
        self._directory.place_blob(part_name(digest), digest, durable=owned)
        return Blob(digest, size, owned, b"" if owned else self._boot, None), False

    def _usable(self, digest: Digest, size: int) -> Blob | None:
        """The blob's row, when its bytes are there and none is known to be bad."""
        with contextlib.suppress(RecordDamaged):
            found = self.blob_anywhere(digest)
            if found is None or found.damaged or found.size != size:
                return None
            if found.inline is not None or self._directory.has_blob(digest, size):
                return found
        return None

    def sync_cached(self) -> Future[None]:
        """One syncfs, then mark what was placed before it as on disk; write access times; free the reader slots
        of dead processes, which would pin old pages. Every ~5 s; nothing is written when nothing is new."""
        writer = self._writing()
        self._index.reader_check()
        self._flush_seen()

        def prepare() -> tuple[Plan, None]:
            rows = [key for key, _ in self._index.scan(layout.UNSYNCED)]
            if rows:
                self._directory.sync_all()
            return lambda view: change.synced(view, rows), None

        if writer.settled() and next(self._index.scan(layout.UNSYNCED), None) is None:
            return writer.submit(lambda view: ())
        return self._prepared(prepare, settle=True)

    def seen(self, repository: str, digest: Digest, now: float) -> None:
        """Note an access in memory; `sync_cached` writes it. Never waits."""
        if len(self._seen) < SEEN_LIMIT:
            self._seen[layout.seen_key(repository, digest)] = now

    def _flush_seen(self) -> None:
        seen, self._seen = self._seen, {}
        if seen:
            self._submit(lambda view: [change.put(key, layout.encode_time(now)) for key, now in seen.items()])

    def quarantine(self, digest: Digest, start: int, end: int) -> Future[None]:
        """The chunks of [start, end) are bad: no reader returns a byte of them until they are repaired.
        At once in this process; in others for readers opened after the commit."""
        blob = self.blob_anywhere(digest)
        if blob is None or blob.inline is not None:
            raise NotHeld(f"{digest} is not held in a file")
        for chunk in change.chunk_span(blob, start, end):
            self._readers.mark_bad(digest, chunk)
        return self._submit(lambda view: change.quarantine(view, digest, start, end))

    def repair_chunk(self, digest: Digest, start: int, body: bytes) -> Future[None]:
        """Write a chunk again, synced, and take it out of quarantine. `start` and the length are those of a
        whole chunk. A file that is gone or of the wrong size is begun again; its other chunks then fail their
        check until they are repaired, too. The future raises DigestMismatch when the body is not the chunk."""
        blob = self.blob_anywhere(digest)
        if blob is None or blob.inline is not None:
            raise NotHeld(f"{digest} is not held in a file")
        chunk = start // CHUNK_BYTES
        if (
            start % CHUNK_BYTES
            or not 0 <= start < blob.size
            or len(body) != min(CHUNK_BYTES, blob.size - start)
        ):
            raise Mistake(f"{digest}: {len(body)} bytes at {start} are not a chunk")

        def prepare() -> tuple[Plan, Callable[[], None]]:
            expected, found = self._chunk_hash(digest, chunk), chunk_hash(body)
            if expected != found:
                raise DigestMismatch(f"chunk {chunk} of {digest}: {expected.hex()}", found.hex())
            self._directory.repair(digest, blob.size, start, body)
            return (
                lambda view: change.repaired(view, digest, chunk),
                lambda: self._readers.mark_repaired(digest, chunk),
            )

        return self._prepared(prepare)

    def discard(self, digest: Digest) -> Future[None]:
        """Forget bytes that cannot be used (file gone or of the wrong size), with all links to them. What
        lies in their place moves to quarantine/."""
        return self._submit(
            lambda view: change.discard(view, {digest}), lambda: self._directory.set_aside(digest)
        )


def require_digest(digest: Digest, body: bytes) -> None:
    """Raise DigestMismatch unless the body hashes to the digest."""
    found = Digest.of(body, digest.algorithm)
    if found != digest:
        raise DigestMismatch(str(digest), str(found))


def table_of(body: bytes) -> bytes:
    """The chunk table of bytes in hand."""
    hasher = ChunkHasher()
    hasher.update(body)
    return hasher.table()
