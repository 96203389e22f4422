"""What clients change: pushes, mounts, deletes, locks. Each call is one transaction, on disk when its future is
done, and refused by the store itself where the mode or a lock forbids it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from holdfast_core import change, events, fallback, litter, outbox, ownership
from holdfast_core.change import Change, View
from holdfast_core.condition import DiskState
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.directory import Source, blob_name
from holdfast_core.errors import ChunkDamaged, NotHeld, UploadUnknown
from holdfast_core.file_work import Prepared
from holdfast_core.record import Blob, Descriptor, Lock, LockChange, Target
from holdfast_core.sweep import Sweep
from holdfast_core.writer import Plan
from holdfast_core.writes import Writes, require_table


def _nothing_settled(_: View) -> Sequence[Change]:
    return ()


class Pushes(Writes):
    """The writes for clients. All raise ReadOnly, at once, in that mode; their futures raise Locked when an
    attribute forbids it, Exhausted when there is no room, and then the store is as it was."""

    def push_manifest(
        self,
        repository: str,
        digest: Digest,
        media_type: str,
        body: bytes,
        *,
        tags: Sequence[str] = (),
        now: float,
        subject: Digest | None = None,
        artifact_type: str = "",
        annotations: Mapping[str, str] | None = None,
        pending: bool = False,
        notes: outbox.Notes = outbox.nothing,
    ) -> Future[None]:
        """Store a manifest, link it and point `tags` at it, all or nothing. With `subject` it becomes a referrer
        of it. `pending` marks that the parent does not know it, `notes` are what the parent is to be told. An
        index under a fallback tag brings in the referrers it lists (oci-spec #87). The future raises
        DigestMismatch."""
        self.require_writable()
        descriptor = Descriptor(media_type, str(digest), len(body), artifact_type, dict(annotations or {}))
        own = [] if subject is None else [(subject, descriptor)]
        event = events.of_push(repository, descriptor, subject, now=now, origin="local")
        listed: list[ownership.Referrer] = []

        def check(view: View) -> None:
            ownership.require_push(view, repository, digest, tags)

        def look() -> None:
            listed.extend(self._listed(repository, body))

        def links(view: View, blob: Blob) -> list[Change]:
            more = [row for row in listed if fallback.is_new(view, repository, Digest.parse(row[1].digest))]
            rows = ownership.pushed_manifest(
                view,
                repository,
                blob,
                media_type,
                tags=tags,
                referrers=[*own, *more],
                pending=pending,
                now=now,
                event=event,
            )
            return [*rows, *outbox.noted(view, repository, tags, notes)]

        ahead = look if any(map(fallback.is_fallback, tags)) else None
        return self._put_body(digest, body, True, links, check, ahead)

    def _listed(self, repository: str, body: bytes) -> list[ownership.Referrer]:
        """What an index under a fallback tag brings in. Reads files: not for the writer's thread."""
        with self._index.view() as view:
            found = fallback.candidates(view, repository, fallback.listed(body))
        return fallback.referrers(found, self._whole)

    def push_inline_blob(self, repository: str, digest: Digest, body: bytes, *, now: float) -> Future[None]:
        """Store a blob that came in one piece, and link it. The future raises DigestMismatch."""
        self.require_writable()

        def links(view: View, blob: Blob) -> list[Change]:
            return ownership.pushed_blob(view, repository, blob, now=now)

        return self._put_body(
            digest, body, True, links, lambda view: ownership.require_push(view, repository)
        )

    def push_upload(
        self, repository: str, name: str, size: int, digest: Digest, table: bytes, *, now: float
    ) -> Future[None]:
        """The staging file `name`, whose digest the caller checked, becomes a blob of the repository. It takes the
        place of bytes that are held already (`_replace` says why). The future raises UploadUnknown when there is no
        such file, Mistake when its size is another. `table` is `ChunkHasher.table()` of the same bytes."""
        self.require_writable()
        require_table(digest, table, size)

        def links(view: View, blob: Blob) -> list[Change]:
            return ownership.pushed_blob(view, repository, blob, now=now)

        return self._put_file(
            lambda: self._staged(name, size, digest, table),
            digest,
            size,
            table,
            True,
            links,
            lambda view: ownership.require_push(view, repository),
        )

    def _staged(self, name: str, size: int, digest: Digest, table: bytes) -> Source:
        """The staging file. When it is gone because a keeper put it into the blob's place and died before the
        commit, that is where it is, as its bytes prove; whoever had the upload asks again."""
        try:
            return self._directory.upload(name, size)
        except UploadUnknown:
            if self._usable(digest, size) is None and self._is_placed(digest, size, table):
                return Source(self._directory.blobs_fd, blob_name(digest))
            raise

    def mount_blob(self, repository: str, digest: Digest, *, source: str | None, now: float) -> Future[None]:
        """Link a blob that `source` (None: any repository) shows to readers; it is owned from then on. The
        future raises NotHeld when it does not."""
        self.require_writable()

        def check(view: View) -> None:
            ownership.require_push(view, repository)
            if not ownership.mountable(view, digest, source):
                raise NotHeld(f"{digest} is not held in {source or 'any repository'}")

        def prepare() -> Prepared:
            with self._index.view() as view:
                check(view)
            found = self._held(digest)
            self._require_sound(found)
            self._make_durable(found, True)
            blob = Blob(digest, found.size, True, b"", found.inline)

            def plan(view: View) -> list[Change]:
                check(view)
                rows, held = change.bytes_held(view, blob, None)
                return [*rows, *ownership.pushed_blob(view, repository, held, now=now)]

            return Prepared(plan)

        return self._file_work().begin(prepare, digest)

    def _require_sound(self, blob: Blob) -> None:
        """Read what was only cached before somebody relies on it: a power cut may have left zeros where its bytes
        were, and a push of the bytes themselves brings them. Raises NotHeld."""
        if blob.owned or blob.inline is not None:
            return
        reader, offset = self.open_blob(blob), 0
        try:
            while offset < blob.size:
                offset += len(reader.read(offset, CHUNK_BYTES))
        except ChunkDamaged as damage:
            raise NotHeld(f"{blob.digest} is held, but damaged") from damage
        finally:
            reader.close()

    def delete_tag(
        self,
        repository: str,
        name: str,
        *,
        now: float,
        tombstone: bool = False,
        notes: outbox.Notes = outbox.nothing,
    ) -> Future[None]:
        """Delete a tag; its manifest stays. With `tombstone` it is not brought back from a parent (all three);
        `notes` are what the parent is to be told. The future raises NotHeld."""

        def plan(view: View) -> list[Change]:
            rows = ownership.deleted_tag(view, repository, name, now=now, tombstone=tombstone)
            return [*rows, *outbox.noted(view, repository, [name], notes)]

        return self._change(plan, frees=True)

    def delete_manifest(
        self,
        repository: str,
        digest: Digest,
        *,
        now: float,
        tombstone: bool = False,
        notes: outbox.Notes = outbox.nothing,
    ) -> Future[None]:
        """Delete a manifest, every tag that points to it, and its place among the referrers. Its own referrers
        stay (oci-spec #89). `notes` are what the parent is to be told. The future raises NotHeld."""

        def plan(view: View) -> list[Change]:
            names = list(ownership.tags_at(view, repository, digest))
            rows = ownership.deleted_manifest(view, repository, digest, now=now, tombstone=tombstone)
            return [*rows, *outbox.noted(view, repository, names, notes)]

        return self._change(plan, frees=True)

    def change_outbox(
        self, puts: Sequence[tuple[int, bytes]], removes: Sequence[int], settled: Plan = _nothing_settled
    ) -> Future[None]:
        """Rewrite and remove rows of the outbox, in one transaction with what `settled` changes. The keeper's doing,
        no client's: allowed in every mode."""
        return self._submit(lambda view: [*outbox.rewritten(puts, removes), *settled(view)], frees=True)

    def delete_blob(
        self, repository: str, digest: Digest, *, now: float, tombstone: bool = False
    ) -> Future[None]:
        """Take a blob out of a repository. The future raises NotHeld."""
        return self._change(
            lambda view: ownership.deleted_blob(view, repository, digest, now=now, tombstone=tombstone),
            frees=True,
        )

    def set_lock(
        self, repository: str, target: Target, change: Lock | LockChange, *, now: float
    ) -> Future[None]:
        """Say what is allowed on a repository, manifest or tag. Always possible, so that a lock can be opened;
        of a lock that cannot be read, what is not said is forbidden. It ends with its target. The future raises
        NotHeld."""
        return self._change(lambda view: ownership.set_lock(view, repository, target, change, now=now))

    def _change(self, plan: Plan, *, frees: bool = False) -> Future[None]:
        self.require_writable()
        return self._submit(plan, frees=frees)

    def sweep(self, *, now: float, grace: float) -> Future[int]:
        """Give the space of bytes back that no repository has linked for `grace` seconds, on a full disk at once, and
        of files without a row that are older than that, 24 directories of them a call. The future says how many bytes.
        No client's doing, so allowed in every mode."""
        files = self._file_work()
        if self._sweep is None:
            self._sweep = Sweep(self._index, self._directory, self._writing(), files)
        sweep = self._sweep
        return files.run(lambda: self._swept(sweep, now, grace))

    def _swept(self, sweep: Sweep, now: float, grace: float) -> int:
        """Under pressure what nobody links goes at once; what was set free fills the ballast first."""
        reclaimed = sweep.run(now, 0.0 if self.is_pressed else grace, grace)
        reclaimed += litter.remove(self.path, now, pressed=self.is_pressed)
        if self.condition.state is DiskState.FULL:
            self.probe()
        return reclaimed

    _sweep: Sweep | None = None
