"""References: repositories, the manifests that they link, the tags that point to them, and the locks on each.

Reads are for the event loop of any process, writes for the one that writes: each is one transaction, and returns a
future that is done once it is committed, durably for owned content.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Literal

from holdfast_core import format as layout
from holdfast_core import space_format
from holdfast_core.changes import (
    change,
    client_changes,
    locks,
    outbox_rows,
    referrers_tag,
    store_events,
    upstream_removal,
)
from holdfast_core.changes.access_times import AccessTimes
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged
from holdfast_core.facets.outbox import OutboxRows
from holdfast_core.facets.parent_lists import ParentLists
from holdfast_core.facets.stored_blobs import NO_CHUNKS, StoredBlobs
from holdfast_core.index import list_pages
from holdfast_core.index.lmdb_index import Index
from holdfast_core.record import (
    Blob,
    DeletedManifest,
    Descriptor,
    Lock,
    LockChange,
    LockTarget,
    Manifest,
    MemberPage,
    NamePage,
    Tag,
    TagMove,
)
from holdfast_core.write_access import WriteAccess


class References:
    """The references of an open store. Every method may raise RecordDamaged: a record failed its checksum. Manifests
    and tags whose attributes forbid reading raise ContentLocked, held or not; other reads leave that to `require_read`.
    Lists leave out what their attributes forbid to list. What clients change is refused by StoreReadOnly, at once, in
    that mode, and its futures raise ContentLocked where an attribute forbids it, Exhausted when there is no room; then
    the store is as it was."""

    def __init__(self, index: Index, access: WriteAccess, recent: AccessTimes, blobs: StoredBlobs) -> None:
        self._index = index
        self._access = access
        self._recent = recent
        self._blobs = blobs
        self._placement = blobs.placement
        self.lists = ParentLists(index, access, recent)
        self.outbox = OutboxRows(index, access)
        # bound once: the hit path calls them for every request
        self._get = index.get
        self._get_and_locks = index.get_and_locks
        self._linked = index.linked

    def manifest(
        self, repository: str, digest: Digest, chunks: Mapping[int, bytes] = NO_CHUNKS
    ) -> Manifest | None:
        """The manifest, if it is linked to the repository as a manifest. One larger than the inline limit is
        read from its file, checked; from `chunks`, by where they begin, what the file cannot have. Raises
        RecordDamaged, ChunkDamaged, NotHeld, ContentLocked."""
        key = digest.key
        row, any_locks = self._linked(layout.link_key(repository, layout.AS_MANIFEST, key), layout.BLOB + key)
        if any_locks:
            locks.require_read(self._index, repository, LockTarget("manifest", str(digest)))
        if row is None:
            return None
        blob = layout.decode_blob(digest, row[1])
        body = self._blobs.read(blob, chunks) if blob.inline is None else blob.inline
        return Manifest(digest, layout.decode_media_type(row[0]), body, blob.owned)

    def tag(self, repository: str, name: str) -> Tag | None:
        """Where a tag points. Raises RecordDamaged, ContentLocked."""
        key = layout.tag_key(repository, name)
        payload, any_locks = self._get_and_locks(key)
        if any_locks:
            locks.require_read(self._index, repository, LockTarget("tag", name))
        if payload is None:
            return None
        newest = self._recent.newest(key, payload)
        if self._index.snapshot is not None:
            self._index.snapshot.note_time(key, payload, newest)
        return layout.decode_tag(name, newest)

    def tags(self, repository: str, *, last: str = "", limit: int | None = None) -> list[str]:
        """Tags held, bytewise sorted, those above `last`, at most `limit`."""
        prefix = layout.TAG + layout.repository_hash(repository)
        hidden = locks.hidden(self._index, repository, "tag")
        names = (key[17:] for key in self._keys(prefix, last))
        return [name.decode() for name in islice((n for n in names if n not in hidden), limit)]

    def tag_names(
        self, repository: str, *, last: str, limit: int, unstored: Sequence[bytes] | None = None
    ) -> NamePage:
        """The tags that a repository lists, above `last`: held ones and those of the parent's list, or of its list that
        was not stored (sorted), as `tags` and `tag_list` have them. Looks at `limit` of each."""
        return list_pages.tags(self._index, repository, unstored, last=last, limit=limit)

    def tag_moves(self, repository: str, name: str) -> list[TagMove]:
        """The last 16 moves of a tag, newest first, its deletions among them. They outlive the tag."""
        payload = self._get(layout.moves_key(repository, name))
        return [] if payload is None else layout.decode_moves(payload)

    def members(self, repository: str, *, after: bytes = list_pages.FIRST, limit: int) -> MemberPage:
        """What a repository has, from the place `after` on (that of an earlier call): manifests that no tag names, by
        digest, then tags, by name. Looks at `limit` records at most, 1 at least. What a lock forbids to list or to read
        is left out."""
        return list_pages.members(self._index, repository, after=after, limit=limit)

    def repositories(self, *, last: str = "", limit: int | None = None) -> list[str]:
        """Repositories of which anything is known, bytewise sorted, those above `last`, at most `limit`. One
        that was emptied stays: its locks and the moves of its tags can still be read."""
        any_locks = next(self._index.scan(layout.LOCK), None) is not None
        names = map(layout.repository_name, self._keys(layout.REPOSITORY, last))
        shown = (n for n in names if not any_locks or self.lock(n, locks.REPOSITORY).list)
        return list(islice(shown, limit))

    def every_name(self, *, last: str = "", limit: int) -> list[str]:
        """The same with those that a lock forbids to list: for the operator."""
        return [layout.repository_name(key) for key in islice(self._keys(layout.REPOSITORY, last), limit)]

    def contents(self, repository: str, *, limit: int) -> list[tuple[Literal["tag", "manifest"], str]]:
        """The first manifests of a repository, by digest, or where there is none its first tags: for the operator, also
        what a lock hides."""
        manifests = list(self._index.scan(layout.link_key(repository, layout.AS_MANIFEST, b""), limit=limit))
        if manifests:
            return [("manifest", str(layout.digest_from(key, key[18:]))) for key, _ in manifests]
        tags = self._index.scan(layout.TAG + layout.repository_hash(repository), limit=limit)
        return [("tag", key[17:].decode()) for key, _ in tags]

    def require_deletable(self, repository: str) -> None:
        """Raise ContentLocked when an attribute of the repository, or of anything in it, forbids to delete it;
        RecordDamaged for a lock that cannot be read."""
        with self._index.view() as view:
            locks.require_whole(view, repository, "delete")

    def repository_names(self, beginning: str, *, last: str, limit: int) -> NamePage:
        """The same for the repositories whose names begin so, without that beginning, as `repositories` has them."""
        return list_pages.repositories(self._index, beginning, last=last, limit=limit)

    def _keys(self, prefix: bytes, last: str) -> Iterator[bytes]:
        after = prefix + last.encode("utf-8", "surrogatepass") if last else b""
        for key, value in self._index.scan(prefix, after=after[:511]):
            layout.unseal(key, value)
            yield key

    def has_repository(self, repository: str) -> bool:
        """Whether anything of the repository was ever recorded."""
        return self._get(layout.repository_key(repository)) is not None

    def is_there(self, repository: str, target: LockTarget) -> bool:
        """Whether a repository, manifest or tag is here, whatever its lock says: a client that may lock may unlock."""
        keys = {
            "repository": lambda: layout.repository_key(repository),
            "manifest": lambda: layout.link_key(
                repository, layout.AS_MANIFEST, Digest.parse(target.name).key
            ),
            "tag": lambda: layout.tag_key(repository, target.name),
        }
        return self._get(keys[target.kind]()) is not None

    def is_deleted(self, repository: str, kind: str, name: str) -> bool:
        """Whether a "tag", "manifest" or "blob" was deleted here and not pushed again: it is not to be brought
        back from a parent. `name` is the tag or the digest."""
        return self._get(layout.deleted_key(repository, kind, name)) is not None

    # --- what can be restored -------------------------------------------------------------------------------

    def deleted(self, repository: str) -> list[DeletedManifest]:
        """The manifests of a repository that clients deleted and that are kept, by digest."""
        rows = self._index.scan(layout.link_key(repository, layout.AS_DELETED, b""))
        return [
            space_format.decode_deleted(layout.digest_from(key, key[18:]), layout.unseal(key, value))
            for key, value in rows
        ]

    def deleted_tags(self, repository: str) -> list[tuple[str, TagMove]]:
        """The tags of a repository that were deleted, with the move before: where each pointed. Those of which no
        digest is known any more are left out."""
        prefix, found = layout.MOVES + layout.repository_hash(repository), []
        for key, value in self._index.scan(prefix):
            last, *before = layout.decode_moves(layout.unseal(key, value))
            if last.digest is None and before and before[0].digest is not None:
                found.append((key[17:].decode(), TagMove(before[0].digest, last.moved_at, last.origin)))
        return found

    def deleted_manifest(self, repository: str, digest: Digest) -> tuple[DeletedManifest, bytes] | None:
        """A manifest that was deleted and is kept, with its body. Raises RecordDamaged, ChunkDamaged, NotHeld."""
        key = layout.link_key(repository, layout.AS_DELETED, digest.key)
        row, _ = self._linked(key, layout.BLOB + digest.key)
        if row is None:
            return None
        blob = layout.decode_blob(digest, row[1])
        body = self._blobs.read(blob) if blob.inline is None else blob.inline
        return space_format.decode_deleted(digest, row[0]), body

    # --- locks ----------------------------------------------------------------------------------------------

    def lock(self, repository: str, target: LockTarget) -> Lock:
        """What is allowed on a repository, manifest or tag."""
        payload = self._get(layout.lock_key(repository, target))
        return Lock() if payload is None else layout.decode_lock(payload)

    def require_read(self, repository: str, *targets: LockTarget) -> None:
        """Raise ContentLocked unless the repository and every one of `targets` may be read; RecordDamaged for a lock
        that cannot be read."""
        locks.require_read(self._index, repository, *targets)

    def hides(self, repository: str, *targets: LockTarget) -> bool:
        """Whether a lock forbids to list or to read the repository or one of `targets`. One that cannot be read
        does."""
        keys = [layout.lock_key(repository, target) for target in (locks.REPOSITORY, *targets)]
        try:
            if not self._get_and_locks(keys[0])[1]:
                return False
            held = [layout.decode_lock(row) for key in keys if (row := self._get(key)) is not None]
        except RecordDamaged:
            return True
        return not all(lock.list and lock.read for lock in held)

    def set_lock(
        self, repository: str, target: LockTarget, change: Lock | LockChange, *, now: float
    ) -> Future[None]:
        """Say what is allowed on a repository, manifest or tag. Always possible, so that a lock can be opened; of a
        lock that cannot be read, what `change` does not set is forbidden. It ends with its target. The future raises
        NotHeld."""
        return self._access.change(
            lambda view: client_changes.set_lock(view, repository, target, change, now=now)
        )

    # --- what a parent has ----------------------------------------------------------------------------------

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
        event = store_events.of_push(
            repository, descriptor, subject, now=now, origin="local" if owned else "parent"
        )

        def links(view: IndexView, blob: Blob) -> list[IndexChange]:
            change.refuse_deleted(view, repository, "manifest", str(digest))
            rows = change.link(view, repository, blob, now=now, media_type=media_type)
            joined = bool(rows)
            if subject is not None:
                rows += change.referrer(repository, subject, descriptor, change.durability(blob.owned))
            named, moved = self._named(view, repository, tag, digest, now) if tag else ([], [])
            return [*rows, *named, *store_events.pushed(event, moved, joined=joined)]

        return self._placement.put_body(digest, body, owned, links, manifest=True)

    def put_tag(
        self, repository: str, name: str, digest: Digest, *, now: float, origin: str = "parent"
    ) -> Future[None]:
        """Point a tag at a digest, or confirm that it does, which writes nothing (`access_times.py`). `origin` "local"
        makes it owned; such a tag is not moved by "parent". The future raises NotHeld for a tag that was deleted
        here."""

        def plan(view: IndexView) -> list[IndexChange]:
            rows, moved = self._named(view, repository, name, digest, now, origin)
            if not moved:
                return rows
            event = store_events.of_manifest(view, "push", repository, digest, now=now, origin=origin)
            return [*rows, *store_events.pushed(event, moved, joined=False)]

        return self._access.submit(plan)

    def _named(
        self, view: IndexView, repository: str, name: str, digest: Digest, now: float, origin: str = "parent"
    ) -> tuple[list[IndexChange], list[str]]:
        """What a tag becomes, and the tag when it moves. Raises NotHeld for one that was deleted here."""
        change.refuse_deleted(view, repository, "tag", name)
        rows = change.tag(view, repository, name, digest, now=now, origin=origin)
        if rows:
            return rows, store_events.moves(view, repository, [name], digest)
        self.confirm_tag(repository, name, digest, now)
        return [], []

    def confirm_tag(self, repository: str, name: str, digest: Digest, now: float) -> None:
        """Note that the parent, or the keeper for it, named this digest for a held tag at `now` (wall seconds). In this
        process, and never waits. Nothing for a tag that names something else by now."""
        key = layout.tag_key(repository, name)
        with contextlib.suppress(RecordDamaged):
            payload = self._get(key)
            if payload is not None and layout.decode_tag(name, payload).digest == digest:
                self._recent.confirm(key, payload, now)

    def drop_tag(self, repository: str, name: str, *, now: float) -> Future[None]:
        """Forget a tag."""

        def plan(view: IndexView) -> list[IndexChange]:
            rows = change.drop_tag(view, repository, name, now=now)
            return [*rows, *store_events.untagged(view, repository, [name], now=now, origin="parent")]

        return self._access.submit(plan, frees=True)

    def remove_tag(self, repository: str, name: str, *, now: float) -> Future[None]:
        """A tag goes, its manifest stays: the parent has it no longer. This and the next two are no client's doing, so
        allowed in every mode. Their futures raise NotHeld, ContentLocked, and Unsent for what is still to go up."""
        return self._access.submit(
            lambda view: upstream_removal.removed_tag(view, repository, name, now=now), frees=True
        )

    def remove_manifest(self, repository: str, digest: Digest, *, now: float) -> Future[None]:
        """A manifest goes, with every tag that points to it and its place among the referrers."""
        return self._access.submit(
            lambda view: upstream_removal.removed_manifest(view, repository, digest, now=now), frees=True
        )

    def remove_repository(self, repository: str, *, now: float) -> Future[None]:
        """A repository goes with all that is known of it; locked or unsent in any part, it stays whole. Its bytes go
        by a sweep, where no other has them."""
        return self._access.submit(
            lambda view: upstream_removal.removed_repository(view, repository, now=now), frees=True
        )

    # --- what clients change --------------------------------------------------------------------------------

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
        notes: outbox_rows.Notes = outbox_rows.nothing,
        blobs: Sequence[Digest] = (),
    ) -> Future[None]:
        """Store a manifest, link it and point `tags` at it, all or nothing. With `subject` it becomes a referrer
        of it. `pending` marks that the parent does not know it, `notes` are what is to be sent to the parent. An
        index under a referrers tag brings in the referrers it lists (references.md 2.9). The future raises
        DigestMismatch, and NotHeld when one of `blobs`, which it needs, is not in the repository."""
        self._access.require_writable()
        descriptor = Descriptor(media_type, str(digest), len(body), artifact_type, dict(annotations or {}))
        own = [] if subject is None else [(subject, descriptor)]
        event = store_events.of_push(repository, descriptor, subject, now=now, origin="local")
        listed: list[client_changes.Referrer] = []

        def check(view: IndexView) -> None:
            client_changes.require_push(view, repository, digest, tags)
            client_changes.require_blobs(view, repository, blobs)

        def links(view: IndexView, blob: Blob) -> list[IndexChange]:
            more = (
                row for row in listed if referrers_tag.is_new(view, repository, Digest.parse(row[1].digest))
            )
            rows = client_changes.pushed_manifest(
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
            return [*rows, *outbox_rows.noted(view, repository, tags, notes)]

        has_list = any(map(referrers_tag.is_fallback, tags))
        ahead = (lambda: listed.extend(self._listed(repository, body))) if has_list else None
        return self._placement.put_body(digest, body, True, links, check, ahead, manifest=True)

    def _listed(self, repository: str, body: bytes) -> list[client_changes.Referrer]:
        """What an index under a fallback tag brings in. Reads files: not for the writer's thread."""
        with self._index.view() as view:
            candidates = referrers_tag.candidates(view, repository, referrers_tag.listed(body))
        return referrers_tag.referrers(candidates, self._blobs.read)

    def delete_tag(
        self,
        repository: str,
        name: str,
        *,
        now: float,
        tombstone: bool = False,
        notes: outbox_rows.Notes = outbox_rows.nothing,
    ) -> Future[None]:
        """Delete a tag; its manifest stays. With `tombstone` it is not brought back from a parent (all three);
        `notes` are what is to be sent to the parent. The future raises NotHeld."""

        def plan(view: IndexView) -> list[IndexChange]:
            rows = client_changes.deleted_tag(view, repository, name, now=now, tombstone=tombstone)
            return [*rows, *outbox_rows.noted(view, repository, [name], notes)]

        return self._access.change(plan, frees=True)

    def delete_manifest(
        self,
        repository: str,
        digest: Digest,
        *,
        now: float,
        tombstone: bool = False,
        notes: outbox_rows.Notes = outbox_rows.nothing,
        restorable: bool = False,
    ) -> Future[None]:
        """Delete a manifest, every tag that points to it, and its place among the referrers. Its own referrers stay
        (references.md 2.8). `notes` are what is to be sent to the parent. With `restorable` it is among `deleted`, and
        a push brings it back, until it is collected. The future raises NotHeld."""

        def plan(view: IndexView) -> list[IndexChange]:
            names = list(client_changes.tags_at(view, repository, digest))
            rows = client_changes.deleted_manifest(
                view, repository, digest, now=now, tombstone=tombstone, restorable=restorable
            )
            return [*rows, *outbox_rows.noted(view, repository, names, notes)]

        return self._access.change(plan, frees=True)
