"""The Store: bytes, and what they are called, on one machine.

Reads (lookup.py) are for the event loop of any process. Writes are for one process: each returns a future
that is done once the change is committed, durably for owned content. Here are those that bring in what a parent
has; those of clients are in pushing.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path

from holdfast_core import change, events, opening, removal
from holdfast_core import format as layout
from holdfast_core.change import View
from holdfast_core.digest import CHUNK_BYTES, Digest, chunk_hash
from holdfast_core.directory import part_name
from holdfast_core.errors import DigestMismatch, Mistake, NotHeld
from holdfast_core.file_work import Prepared
from holdfast_core.filesystem import since_boot
from holdfast_core.index import MAP_BYTES
from holdfast_core.part import FillPart
from holdfast_core.progress import drop_progress, write_progress
from holdfast_core.pushing import Pushes
from holdfast_core.record import Blob, Descriptor, FillState
from holdfast_core.writes import MODES, require_table


class Store(Pushes):
    """An open store. Make one with `create_or_open`; close it when done."""

    @classmethod
    def create_or_open(
        cls,
        path: str | os.PathLike[str],
        *,
        write: bool,
        mode: str = "root",
        inline_bytes: int = 16384,
        scrub_interval: float = 604800.0,
        clock: Callable[[], float] = since_boot,
        allow_network: bool = False,
        map_bytes: int = MAP_BYTES,
        or_read: bool = False,
        ballast_bytes: int | None = 0,
    ) -> Store:
        """Open the store at `path`; with `write` as its one writer, created when absent, recovered when its
        last writer or the machine died. `mode`: what clients may do, "root" and "ReadWrite" everything,
        "ReadOnly" no change. `ballast_bytes` are kept for deletes on a full disk (`ballast.py`), None: a hundredth of
        the file system, 4 to 16 MiB. `clock` gives seconds that never step. With `or_read` a store that the disk does
        not let anybody write is open all the same: it serves, and refuses every write (`is_waiting`). Raises
        StoreRefused, Unwritable, Mistake for an unknown mode."""
        if mode not in MODES:
            raise Mistake(f"mode {mode!r}; allowed: {', '.join(MODES)}")
        opened = opening.open_store(
            Path(path),
            write=write,
            map_bytes=map_bytes,
            allow_network=allow_network,
            or_read=or_read,
            ballast_bytes=ballast_bytes,
        )
        return cls(opened, inline_bytes=inline_bytes, scrub_interval=scrub_interval, clock=clock, mode=mode)

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
        tag: str = "",
    ) -> Future[None]:
        """Store a manifest and link it. In the same commit it becomes a referrer of `subject`, and what the parent's
        `tag` names, unless that was pushed here. The future raises DigestMismatch when the body does not hash to
        `digest`, NotHeld for a manifest or tag that was deleted here."""
        descriptor = Descriptor(media_type, str(digest), len(body), artifact_type, dict(annotations or {}))
        event = events.of_push(
            repository, descriptor, subject, now=now, origin="local" if owned else "parent"
        )

        def links(view: View, blob: Blob) -> list[change.Change]:
            change.refuse_deleted(view, repository, "manifest", str(digest))
            rows = change.link(view, repository, blob, now=now, media_type=media_type)
            joined = bool(rows)
            if subject is not None:
                rows += change.referrer(repository, subject, descriptor, change.durability(blob.owned))
            named, moved = self._named(view, repository, tag, digest, now) if tag else ([], [])
            return [*rows, *named, *events.pushed(event, moved, joined=joined)]

        return self._put_body(digest, body, owned, links)

    def put_inline_blob(
        self, repository: str, digest: Digest, body: bytes, *, owned: bool, now: float
    ) -> Future[None]:
        """Store a small blob and link it. The future raises DigestMismatch."""
        return self._put_body(
            digest, body, owned, lambda view, blob: change.arrived(view, repository, blob, now=now)
        )

    def link_blob(self, repository: str, digest: Digest, *, now: float) -> Future[None]:
        """Link bytes that are held. The future raises NotHeld when they are not."""

        def plan(view: View) -> list[change.Change]:
            change.refuse_deleted(view, repository, "blob", str(digest))
            blob = change.blob_of(view, digest)
            if blob is None:
                raise NotHeld(f"{digest} is not held")
            return change.link(view, repository, blob, now=now)

        return self._submit(plan)

    def put_tag(
        self, repository: str, name: str, digest: Digest, *, now: float, origin: str = "parent"
    ) -> Future[None]:
        """Point a tag at a digest, or confirm that it does, which writes nothing (`recent.py`). `origin` "local" makes
        it owned; such a tag is not moved by "parent". The future raises NotHeld for a tag that was deleted here."""

        def plan(view: View) -> list[change.Change]:
            rows, moved = self._named(view, repository, name, digest, now, origin)
            if not moved:
                return rows
            event = events.of_manifest(view, "push", repository, digest, now=now, origin=origin)
            return [*rows, *events.pushed(event, moved, joined=False)]

        return self._submit(plan)

    def _named(
        self, view: View, repository: str, name: str, digest: Digest, now: float, origin: str = "parent"
    ) -> tuple[list[change.Change], list[str]]:
        """What a tag becomes, and the tag when it moves. Raises NotHeld for one that was deleted here."""
        change.refuse_deleted(view, repository, "tag", name)
        rows = change.tag(view, repository, name, digest, now=now, origin=origin)
        if rows:
            return rows, events.moves(view, repository, [name], digest)
        self.confirm_tag(repository, name, digest, now)
        return [], []

    def drop_tag(self, repository: str, name: str, *, now: float) -> Future[None]:
        """Forget a tag."""

        def plan(view: View) -> list[change.Change]:
            rows = change.drop_tag(view, repository, name)
            return [*rows, *events.untagged(view, repository, [name], now=now, origin="parent")]

        return self._submit(plan, frees=True)

    def remove_tag(self, repository: str, name: str, *, now: float) -> Future[None]:
        """A tag goes, its manifest stays: the parent has it no longer. This and the next two are no client's doing, so
        allowed in every mode. Their futures raise NotHeld, Locked, and Unsent for what is still to go up."""
        return self._submit(lambda view: removal.removed_tag(view, repository, name, now=now), frees=True)

    def remove_manifest(self, repository: str, digest: Digest, *, now: float) -> Future[None]:
        """A manifest goes, with every tag that points to it and its place among the referrers."""
        return self._submit(
            lambda view: removal.removed_manifest(view, repository, digest, now=now), frees=True
        )

    def remove_repository(self, repository: str, *, now: float) -> Future[None]:
        """A repository goes with all that is known of it; locked or unsent in any part, it stays whole. Its bytes go
        by a sweep, where no other has them."""
        return self._submit(lambda view: removal.removed_repository(view, repository, now=now), frees=True)

    def put_tag_list(self, repository: str, tags: Iterable[str], *, now: float) -> Future[None]:
        """Replace the parent's tag list. One that stayed the same is confirmed, which writes nothing."""
        return self._put_list(
            repository, layout.tag_list_prefix(repository), [tag.encode() for tag in tags], now
        )

    def put_referrers(
        self, repository: str, subject: Digest, descriptors: Iterable[Descriptor], *, now: float
    ) -> Future[None]:
        """The same for the parent's list of referrers."""
        items = [layout.encode_descriptor(d) for d in descriptors]
        return self._put_list(repository, layout.referrer_list_prefix(repository, subject), items, now)

    def _put_list(self, repository: str, prefix: bytes, items: list[bytes], now: float) -> Future[None]:
        def plan(view: View) -> list[change.Change]:
            rows = change.fetched_list(view, repository, prefix, items, now)
            if not rows:
                self._confirm_list(prefix, now)
            return rows

        return self._submit(plan)

    def put_fill(self, state: FillState) -> Future[None]:
        """Checkpoint a fill. Write the part's bytes first: the checkpoint must not claim what is not there."""
        return self._submit(lambda view: change.fill(view, state))

    def note_chunks(self, repository: str, digest: Digest, chunks: Mapping[int, bytes]) -> None:
        """Note the BLAKE3 of whole chunks of a fill that has a checkpoint, or soon will. Write their bytes first.
        Blocks. Raises StoreError, Unwritable where it is the disk that refuses."""
        self._writing()
        try:
            write_progress(self._directory.fills_fd, repository, digest, chunks)
        except OSError as error:
            raise self._directory.refused(error, f"progress of {digest}") from error

    def drop_fill(self, repository: str, digest: Digest) -> Future[None]:
        """Forget a fill's checkpoint and its progress; its part stays until `drop_part` or the next writable open."""
        self._drop_progress(repository, digest)
        return self._submit(lambda view: change.drop_fill(view, repository, digest), frees=True)

    def open_part(self, repository: str, digest: Digest, size: int) -> FillPart:
        """The growing file of a fill begun for `repository`, made when absent, `size` bytes long, sparse. Raises
        StoreError, Unwritable where it is the disk that refuses."""
        self._writing()
        name = part_name(repository, digest)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(name, flags, 0o600, dir_fd=self._directory.fills_fd)
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
        except OSError as error:
            raise self._directory.refused(error, name) from error
        self._parts += 1
        path, told = str(self._directory.fills / name), self._directory.refused
        return FillPart(path, fd, repository, digest, size, self._part_closed, told)

    def _part_closed(self) -> None:
        self._parts -= 1

    def drop_part(self, repository: str, digest: Digest) -> None:
        """Remove a fill's files, if there are any."""
        self._directory.drop(self._directory.part(repository, digest))
        self._drop_progress(repository, digest)

    def _drop_progress(self, repository: str, digest: Digest) -> None:
        with contextlib.suppress(OSError):  # what stays proves nothing, and the next writable open removes it
            drop_progress(self._directory.fills_fd, repository, digest)

    def commit_fill(
        self, part: FillPart, repository: str, digest: Digest, table: bytes, *, owned: bool, now: float
    ) -> Future[None]:
        """A finished part becomes a blob of the repository, and fills of the digest end. The caller checked
        the digest; `table` is `ChunkHasher.table()` of the same bytes. The part may be closed before or after.
        Raises Mistake when the table does not fit the size."""
        require_table(digest, table, part.size)
        done = self._put_file(
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

    def sync_cached(self) -> Future[None]:
        """One syncfs, then mark what was placed before it as on disk; once an hour write access times and
        confirmations; free the reader slots of dead processes, which would pin old pages. Every ~5 s; nothing is
        written when nothing is new."""
        writer = self._writing()
        self._index.reader_check()
        if self._recent.is_due:
            self._write_recent()

        def prepare() -> Prepared:
            rows = [key for key, _ in self._index.scan(layout.UNSYNCED)]
            if rows:
                self._directory.sync_all()
            return Prepared(lambda view: change.synced(view, rows))

        if writer.settled() and next(self._index.scan(layout.UNSYNCED), None) is None:
            return writer.submit(lambda view: ())
        return self._file_work().begin(prepare, settle=True)

    @property
    def journal_is_long(self) -> bool:
        """Whether `compact_journal` should be called; cheap."""
        self._writing()
        return self._compaction.is_due

    def compact_journal(self) -> Future[bool]:
        """Write the journal again, as short as the index allows; commits go on meanwhile. The future says whether it
        was done: not while a record of the index is damaged, another call is under way or the store is being closed. It
        raises OSError or StoreError; then the journal is as it was."""
        return self._file_work().run(self._compaction.run)

    def seen(self, repository: str, digest: Digest, now: float) -> None:
        """Note an access in memory; `sync_cached` writes it within the hour. Never waits."""
        self._recent.see(layout.seen_key(repository, digest), now)

    def quarantine(self, digest: Digest, start: int, end: int) -> Future[bool]:
        """The chunks of [start, end) are bad: no reader returns a byte of them until they are repaired, or the
        blob is pushed again. At once in this process; in others for readers opened after the commit. The future
        says whether that was new. Raises NotHeld."""
        blob = self.blob_anywhere(digest)
        if blob is None or blob.inline is not None:
            raise NotHeld(f"{digest} is not held in a file")
        for chunk in change.chunk_span(blob, start, end):
            self._readers.mark_bad(digest, chunk)
        rows: list[change.Change] = []

        def plan(view: View) -> list[change.Change]:
            rows[:] = change.quarantine(view, digest, start, end)
            return rows

        return self._answered(plan, lambda: bool(rows))

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

        def prepare() -> Prepared:
            self.check_chunk(digest, start, body)
            self._directory.repair(digest, blob.size, start, body)
            return Prepared(
                lambda view: change.repaired(view, digest, chunk),
                lambda: self._readers.mark_repaired(digest, chunk),
            )

        return self._file_work().begin(prepare, digest)

    def check_chunk(self, digest: Digest, start: int, body: bytes) -> None:
        """Raises DigestMismatch when the body is not the chunk that begins at `start`."""
        chunk = start // CHUNK_BYTES
        expected, found = self._chunk_hash(digest, chunk), chunk_hash(body)
        if expected != found:
            raise DigestMismatch(f"chunk {chunk} of {digest}: {expected.hex()}", found.hex())

    def discard(self, digest: Digest) -> Future[None]:
        """Forget bytes that cannot be used (file gone or of the wrong size), with all links to them. What
        lies in their place moves to quarantine/."""
        prepared = Prepared(
            lambda view: change.discard(view, {digest}), lambda: self._directory.set_aside(digest)
        )
        return self._file_work().begin(lambda: prepared, digest, frees=True)
