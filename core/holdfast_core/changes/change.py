"""What each write puts into the index: decided from what is there, without touching it.

A planner takes an `IndexView` of the index inside the write transaction and returns changes. A damaged record is mended
before a planner sees it (`index_repair`). One that has no copy counts as absent here: the write that replaces it
heals it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from holdfast_core import format as layout
from holdfast_core import list_format, space_format
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import Mistake, NotHeld
from holdfast_core.record import Blob, Child, Descriptor, FillState, Tag, TagMove

#: referrers whose lease begins when their subject goes; those beyond are collected with it
REFERRERS = 1000


#: how old a lease is that is worth a write
LEASE_SECONDS = 3600.0


class Keep(IntEnum):
    """How a change reaches the journal before it counts as committed."""

    INDEX = 0  # not at all: a rebuild can do without
    JOURNAL = 1  # appended
    DISK = 2  # appended and synced


class IndexChange(NamedTuple):
    """One record to put, or with `value` None to remove. `value` is sealed."""

    key: bytes
    value: bytes | None
    keep: Keep


class IndexView(Protocol):
    """The index inside the write transaction."""

    def get(self, key: bytes) -> bytes | None:
        """The payload, or None when it is absent or damaged."""

    def raw(self, key: bytes) -> bytes | None:
        """The sealed value, be it damaged; None when it is absent."""

    def keys(self, prefix: bytes, limit: int | None = None) -> list[bytes]:
        """All keys below a prefix, or the first `limit` of them."""

    def rows(self, prefix: bytes, *, after: bytes, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        """(key, payload) of the records below a prefix with keys above `after`, in order, at most `limit`; damaged
        ones are left out."""


def put(key: bytes, payload: bytes, keep: Keep = Keep.INDEX) -> IndexChange:
    """A change that stores `payload`."""
    return IndexChange(key, layout.seal(key, payload), keep)


def remove(keys: Iterable[bytes], keep: Keep = Keep.INDEX) -> list[IndexChange]:
    """Changes that remove `keys`."""
    return [IndexChange(key, None, keep) for key in keys]


def durability(owned: bool) -> Keep:
    """Owned changes are on disk before they count; cached ones are only appended."""
    return Keep.DISK if owned else Keep.JOURNAL


def seen_repository(view: IndexView, repository: str, now: float, keep: Keep) -> list[IndexChange]:
    """The repository's row, unless it is there."""
    key = layout.repository_key(repository)
    return [] if view.get(key) is not None else [put(key, layout.encode_time(now), keep)]


def blob_of(view: IndexView, digest: Digest) -> Blob | None:
    """The blob's row."""
    payload = view.get(layout.BLOB + digest.key)
    return None if payload is None else layout.decode_blob(digest, payload)


def is_owned(view: IndexView, digest_key: bytes) -> bool:
    """Whether bytes that are here were pushed here."""
    blob = blob_of(view, Digest.from_key(digest_key))
    return blob is not None and blob.owned


def blob_row(blob: Blob, keep: Keep) -> IndexChange:
    """The row that says what `blob` says."""
    flags = (
        (layout.OWNED if blob.owned else 0)
        | (layout.DAMAGED if blob.damaged else 0)
        | (0 if blob.inline is None else layout.INLINE)
    )
    payload = layout.encode_blob(
        blob.size, flags=flags, boot=blob.boot or layout.NO_BOOT, inline=blob.inline or b""
    )
    return put(layout.BLOB + blob.digest.key, payload, keep)


def link(
    view: IndexView, repository: str, blob: Blob, *, now: float, media_type: str | None = None
) -> list[IndexChange]:
    """Membership, as a blob or, with a media type, as a manifest. As durable as the bytes."""
    keep = durability(blob.owned)
    kind = layout.AS_BLOB if media_type is None else layout.AS_MANIFEST
    key = layout.link_key(repository, kind, blob.digest.key)
    lease = loose(view, key[1:17], blob.digest.key, now=now)
    row = view.get(key)
    if row is not None and layout.decode_media_type(row) == (media_type or ""):
        return lease if is_lease_old(view, key[1:17], blob.digest.key, now) else []
    return [
        *seen_repository(view, repository, now, keep),
        put(key, layout.encode_link(now, media_type or ""), keep),
        *remove([layout.UNLINKED + blob.digest.key]),
        *lease,
        *(_restored(view, key) if media_type is not None else ()),
    ]


def _restored(view: IndexView, link: bytes) -> list[IndexChange]:
    """A deleted manifest is a manifest again, by its new link."""
    key = layout.LINK + link[1:17] + layout.AS_DELETED + link[18:]
    return remove([key], Keep.DISK) if present(view, key) else []


def set_aside(view: IndexView, link: bytes, tags: Sequence[str], *, now: float) -> list[IndexChange]:
    """The link of a manifest becomes that of a deleted one: nobody sees it, and all that it names stays. `tags` are
    those that it had."""
    repository, digest_key, payload = link[1:17], link[18:], view.get(link)
    if payload is None:  # its media type cannot be read
        return unlink(view, link, now=now)
    deleted = space_format.encode_deleted(now, layout.decode_media_type(payload), tags)
    return [
        put(layout.LINK + repository + layout.AS_DELETED + digest_key, deleted, Keep.DISK),
        *remove([link], Keep.DISK),
        put(space_format.loose_key(repository, digest_key), layout.encode_time(now)),
    ]


def unlink(view: IndexView, link: bytes, *, now: float) -> list[IndexChange]:
    """End a membership, durably. Bytes that no repository links any more are noted, so that a sweep finds
    them; the next link takes the note away. So are those that nothing else of the repository names now."""
    holder, digest = layout.holder_key(link), layout.digest_from(link, link[18:])
    repository, seen = link[1:17], layout.SEEN + link[1:17] + digest.key
    changes = [*remove([link], Keep.DISK), *remove([seen]), *_uses_kept(view, digest.key, seen)]
    if link[17:18] in layout.MANIFEST_KINDS:
        for child in children_in(view, digest.key) or ():
            if is_linked(view, repository, child.digest.key):
                changes += loose(view, repository, child.digest.key, now=now, without=digest.key)
        changes += _loose_referrers(view, repository, digest, now)
    if all(other == holder for other in view.keys(layout.HOLDER + digest.key, limit=2)):
        changes.append(put(layout.UNLINKED + digest.key, layout.encode_time(now)))
    return changes


def uses_of(view: IndexView, repository: bytes, digest_key: bytes) -> tuple[float, float]:
    """(when a repository's bytes were last used, how often, as it counted then). What was never read was used once,
    when it was linked; (0, 0) for what is not there."""
    seen = view.get(layout.SEEN + repository + digest_key)
    if seen is not None:
        return layout.decode_seen(seen)
    links = (view.get(layout.LINK + repository + kind + digest_key) for kind in layout.LINK_KINDS)
    return max(
        ((layout.decode_linked_at(payload), 1.0) for payload in links if payload is not None),
        default=(0.0, 0.0),
    )


def _uses_kept(view: IndexView, digest_key: bytes, seen: bytes) -> list[IndexChange]:
    """The uses of bytes that a repository (by its SEEN record) gives up count at another that has them: what it costs
    to lose them hangs on all uses, whoever was asked."""
    payload = view.get(seen)
    holders = view.keys(layout.HOLDER + digest_key, limit=3) if payload is not None else ()
    other = next((key[-16:] for key in holders if key[-16:] != seen[1:17]), None)
    if payload is None or other is None:
        return []
    (gone_at, gone), (at, uses) = layout.decode_seen(payload), uses_of(view, other, digest_key)
    return [
        put(
            layout.SEEN + other + digest_key,
            layout.encode_seen(at, uses + space_format.decayed(gone, at - gone_at)),
        )
    ]


def children_in(view: IndexView, manifest: bytes) -> list[Child] | None:
    """What a manifest names, as it was noted; None where nothing, or not all of it, is."""
    prefix = space_format.children_prefix(manifest)
    rows = view.rows(prefix, after=prefix)
    return space_format.decode_children([payload for _, payload in rows]) if rows else None


def children_rows(digest: Digest, children: Sequence[Child]) -> list[IndexChange]:
    """The note of what a manifest names; before its link, which makes edges of it."""
    prefix = space_format.children_prefix(digest.key)
    payloads = enumerate(space_format.encode_children(children))
    return [put(layout.segment_key(prefix, number), payload) for number, payload in payloads]


def loose(
    view: IndexView,
    repository: bytes,
    digest_key: bytes,
    *,
    now: float,
    without: bytes = b"",
    untagged: bytes = b"",
) -> list[IndexChange]:
    """The note that no tag and no manifest of a repository (its hash) names a digest from `now` on, if that is so once
    the manifest `without` is gone, or the tag `untagged` names another. It is a lease as well: each push begins it
    anew."""
    edges = space_format.edge_prefix(repository, digest_key)
    tags = layout.TAGGED + repository + digest_key
    if any(key != edges + without for key in view.keys(edges, limit=2)):
        return []
    if any(key != tags + untagged for key in view.keys(tags, limit=2)):
        return []
    return [put(space_format.loose_key(repository, digest_key), layout.encode_time(now))]


def is_linked(view: IndexView, repository: bytes, digest_key: bytes) -> bool:
    """Whether a repository (its hash) has a digest, as a blob, a manifest or a deleted one."""
    links = (layout.LINK + repository + kind + digest_key for kind in layout.LINK_KINDS)
    return any(view.raw(link) is not None for link in links)


def has_manifest(view: IndexView, repository: bytes, digest_key: bytes) -> bool:
    """Whether a repository (its hash) has a manifest, or a deleted one: what it names stays."""
    links = (layout.LINK + repository + kind + digest_key for kind in layout.MANIFEST_KINDS)
    return any(view.raw(link) is not None for link in links)


def is_deleted(view: IndexView, repository: bytes, digest_key: bytes) -> bool:
    """Whether a repository (its hash) has a manifest that a client deleted, and that can be restored."""
    return present(view, layout.LINK + repository + layout.AS_DELETED + digest_key)


def is_lease_old(view: IndexView, repository: bytes, digest_key: bytes, now: float) -> bool:
    """Whether what is loose has been so for LEASE_SECONDS, so that another push begins its lease anew."""
    payload = view.get(space_format.loose_key(repository, digest_key))
    return payload is not None and layout.decode_time(payload) <= now - LEASE_SECONDS


def _loose_referrers(
    view: IndexView, repository: bytes, subject: Digest, now: float
) -> Iterator[IndexChange]:
    """Their lease begins when what they refer to goes."""
    prefix = layout.REFERRER + repository + subject.key
    for key in view.keys(prefix, limit=REFERRERS):
        if is_linked(view, repository, key[len(prefix) :]):
            yield from loose(view, repository, key[len(prefix) :], now=now)


def arrived(view: IndexView, repository: str, blob: Blob, *, now: float) -> list[IndexChange]:
    """Membership of bytes that a fill brought in. Not where the blob was deleted meanwhile: then they belong
    to those that other requests want, or is dropped."""
    if not present(view, layout.deleted_key(repository, "blob", str(blob.digest))):
        return link(view, repository, blob, now=now)
    if view.keys(layout.HOLDER + blob.digest.key, limit=1):
        return []
    return [put(layout.UNLINKED + blob.digest.key, layout.encode_time(now))]


def present(view: IndexView, key: bytes) -> bool:
    """Whether there is such a record, be it damaged."""
    return view.keys(key, limit=1) == [key]


def refuse_deleted(view: IndexView, repository: str, kind: str, name: str) -> None:
    """Raise NotHeld for what was deleted here: it is not brought in again."""
    if present(view, layout.deleted_key(repository, kind, name)):
        raise NotHeld(f"{kind} {name} was deleted here")


def bytes_held(view: IndexView, blob: Blob, table: bytes | None) -> tuple[list[IndexChange], Blob]:
    """New bytes, or with `table` None bytes that were found to be there already: (changes, the row's blob).

    Owned stays owned when it is fetched again. New bytes end a quarantine.
    """
    held = blob_of(view, blob.digest)
    owned = blob.owned or (held is not None and held.owned)
    keep = durability(owned)
    if table is None:
        if held is None:
            raise NotHeld(f"{blob.digest} went away while it was committed")
        boot = b"" if blob.owned else held.boot
        blob = Blob(blob.digest, held.size, owned, boot, held.inline, held.damaged)
        changes = [blob_row(blob, keep)]
    else:
        blob = Blob(blob.digest, blob.size, owned, blob.boot, blob.inline)
        if blob == held and blob.inline is not None:
            return [], blob
        changes = [
            *_forget_chunks(view, blob.digest, keep),
            blob_row(blob, keep),
            *_table_rows(blob, table, keep),
        ]
    unsynced = layout.UNSYNCED + blob.digest.key
    if blob.boot:
        return [*changes, put(unsynced, b"")], blob
    return [*changes, *remove([unsynced])], blob


def _table_rows(blob: Blob, table: bytes, keep: Keep) -> list[IndexChange]:
    if blob.inline is not None:
        return []
    prefix = layout.CHUNKS + blob.digest.key
    return [
        put(layout.segment_key(prefix, n), part, keep) for n, part in enumerate(layout.encode_table(table))
    ]


def _forget_chunks(view: IndexView, digest: Digest, keep: Keep) -> list[IndexChange]:
    return [
        *remove(view.keys(layout.CHUNKS + digest.key), keep),
        *remove(view.keys(layout.QUARANTINE + digest.key)),
    ]


def end_fills(view: IndexView, digest: Digest, repository: str | None = None) -> list[IndexChange]:
    """The bytes are here: no fill of them goes on that was begun for `repository`, None for any. A fill of another
    parent has its own bytes to bring."""
    if repository is not None:
        return drop_fill(view, repository, digest)
    return remove([*view.keys(layout.FILL + digest.key), *view.keys(layout.FILL_CHUNKS + digest.key)])


def referrer(repository: str, subject: Digest, descriptor: Descriptor, keep: Keep) -> list[IndexChange]:
    """A manifest held here that names `subject`."""
    key = layout.referrer_prefix(repository, subject) + Digest.parse(descriptor.digest).key
    return [put(key, layout.encode_descriptor(descriptor), keep)]


def tag_of(view: IndexView, repository: str, name: str) -> Tag | None:
    """Where a tag points."""
    payload = view.get(layout.tag_key(repository, name))
    return None if payload is None else layout.decode_tag(name, payload)


def tag(
    view: IndexView, repository: str, name: str, digest: Digest, *, now: float, origin: str
) -> list[IndexChange]:
    """Point a tag at a digest; nothing when it points there. What was pushed here is not moved by the parent's word."""
    key, before = layout.tag_key(repository, name), tag_of(view, repository, name)
    if before is not None and before.origin == "local" != origin:
        return []
    if before is not None and before.digest == digest and before.origin == origin:
        return []
    keep = durability(origin == "local")
    return [
        *seen_repository(view, repository, now, keep),
        put(key, layout.encode_tag(digest, now, now, origin), keep),
        *moved(view, repository, name, TagMove(digest, now, origin), keep),
        *(left(view, key, before, now) if before is not None and before.digest != digest else ()),
    ]


def left(view: IndexView, key: bytes, tag: Tag, now: float) -> list[IndexChange]:
    """What a tag (its key) named, once it does not any more."""
    if not present(view, layout.LINK + key[1:17] + layout.AS_MANIFEST + tag.digest.key):
        return []
    return loose(view, key[1:17], tag.digest.key, now=now, untagged=key[17:])


def moved(view: IndexView, repository: str, name: str, move: TagMove, keep: Keep) -> list[IndexChange]:
    """One more of a tag's moves, of which the last 16 are kept."""
    key = layout.moves_key(repository, name)
    payload = view.get(key)
    earlier = layout.decode_moves(payload) if payload else []
    return [put(key, layout.encode_moves([move, *earlier]), keep)]


def drop_tag(view: IndexView, repository: str, name: str, *, now: float) -> list[IndexChange]:
    """Forget a tag; its moves stay. Nothing when there is none."""
    key, before = layout.tag_key(repository, name), tag_of(view, repository, name)
    if before is None:
        return remove([key], Keep.JOURNAL)
    return [*remove([key], durability(before.origin == "local")), *left(view, key, before, now)]


def fetched_list(
    view: IndexView, repository: str, prefix: bytes, items: Sequence[bytes], now: float
) -> list[IndexChange]:
    """Replace a list that the parent gave; nothing when it has these items."""
    payloads = list_format.encode_list(items, now, list_format.LIST_ORDERS[prefix[:1]])
    rows = {layout.segment_key(prefix, number): payload for number, payload in enumerate(payloads)}
    if _same_list(dict(view.rows(prefix, after=prefix)), rows):
        return []
    return [
        *seen_repository(view, repository, now, Keep.JOURNAL),
        *(put(key, payload, Keep.JOURNAL) for key, payload in rows.items()),
        *remove((key for key in view.keys(prefix) if key not in rows), Keep.JOURNAL),
    ]


def _same_list(held: dict[bytes, bytes], rows: dict[bytes, bytes]) -> bool:
    """Whether the segments of two lists differ in nothing but the time that the first begins with."""
    first, skipped = min(rows), len(layout.encode_time(0.0))
    return held.keys() == rows.keys() and all(
        held[key] == payload or (key == first and held[key][skipped:] == payload[skipped:])
        for key, payload in rows.items()
    )


def fill(view: IndexView, state: FillState) -> list[IndexChange]:
    """Checkpoint a fill. Only segments of chunk hashes that changed are written."""
    prefix = layout.fill_chunks_prefix(state.repository, state.digest)
    segments = layout.encode_fill_chunks(state.chunks)
    rows = {layout.segment_key(prefix, number): payload for number, payload in segments.items()}
    return [
        put(layout.fill_key(state.repository, state.digest), layout.encode_fill(state)),
        *(put(key, payload) for key, payload in rows.items() if view.get(key) != payload),
        *remove(key for key in view.keys(prefix) if key not in rows),
    ]


def drop_fill(view: IndexView, repository: str, digest: Digest) -> list[IndexChange]:
    """Forget a fill's checkpoint."""
    prefix = layout.fill_chunks_prefix(repository, digest)
    return remove([layout.fill_key(repository, digest), *view.keys(prefix)])


def synced(view: IndexView, rows: Iterable[bytes]) -> list[IndexChange]:
    """After a syncfs that began when the UNSYNCED `rows` were there: their files are on disk."""
    changes: list[IndexChange] = []
    for key in rows:
        digest = layout.digest_from(key, key[1:])
        blob = blob_of(view, digest)
        if blob is not None and blob.boot:
            settled = Blob(digest, blob.size, blob.owned, b"", blob.inline, blob.damaged)
            changes.append(blob_row(settled, Keep.INDEX))
        changes.append(IndexChange(key, None, Keep.INDEX))
    return changes


def chunk_span(blob: Blob, start: int, end: int) -> range:
    """The chunks that [start, end) touches. Raises Mistake when it leaves the blob."""
    if not 0 <= start < end <= blob.size:
        raise Mistake(f"{blob.digest}: range {start}-{end} is not within its {blob.size} bytes")
    return range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES))


def quarantine(view: IndexView, digest: Digest, chunks: Iterable[int]) -> list[IndexChange]:
    """Mark chunks as bad; nothing when all of them are."""
    blob = blob_of(view, digest)
    if blob is None:
        raise NotHeld(f"{digest} is not held")
    prefix = layout.QUARANTINE + digest.key
    known = set(view.keys(prefix))
    keys = [layout.segment_key(prefix, chunk) for chunk in chunks]
    rows = [put(key, b"") for key in keys if key not in known]
    return [*rows, blob_row(_with_damage(blob, True), Keep.INDEX)] if rows or not blob.damaged else []


def repaired(view: IndexView, digest: Digest, chunk: int) -> list[IndexChange]:
    """Take one chunk out of quarantine."""
    blob = blob_of(view, digest)
    prefix = layout.QUARANTINE + digest.key
    key = layout.segment_key(prefix, chunk)
    rest = [other for other in view.keys(prefix) if other != key]
    changes = remove([key])
    if blob is not None and blob.damaged and not rest:
        changes.append(blob_row(_with_damage(blob, False), Keep.INDEX))
    return changes


def _with_damage(blob: Blob, damaged: bool) -> Blob:
    return Blob(blob.digest, blob.size, blob.owned, blob.boot, blob.inline, damaged)


def discard(view: IndexView, digests: Iterable[Digest]) -> list[IndexChange]:
    """Forget bytes that cannot be used, and every link to them."""
    changes: list[IndexChange] = []
    for digest in digests:
        holders = view.keys(layout.HOLDER + digest.key)
        links = list(map(layout.holder_link, holders))
        pending = [layout.PENDING + link[1:17] + digest.key for link in links]
        changes += remove([*links, *(key for key in pending if present(view, key))], Keep.JOURNAL)
        changes += forget_bytes(view, digest, Keep.JOURNAL)
    return changes


def forget_bytes(view: IndexView, digest: Digest, keep: Keep) -> list[IndexChange]:
    """Forget everything about bytes but their links."""
    return [
        *remove([layout.BLOB + digest.key], keep),
        *_forget_chunks(view, digest, keep),
        *remove([layout.UNSYNCED + digest.key, layout.UNLINKED + digest.key]),
    ]
