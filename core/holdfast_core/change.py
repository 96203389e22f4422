"""What each write puts into the index: decided from what is there, without touching it.

A planner takes a `View` of the index inside the write transaction and returns changes. A damaged record is mended
before a planner sees it (`mending`). One that has no copy counts as absent here: the write that replaces it heals it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from holdfast_core import format as layout
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import Mistake, NotHeld
from holdfast_core.record import Blob, Descriptor, FillState, Tag, TagMove


class Keep(IntEnum):
    """How a change reaches the journal before it counts as committed."""

    INDEX = 0  # not at all: a rebuild can do without
    JOURNAL = 1  # appended
    DISK = 2  # appended and synced


class Change(NamedTuple):
    """One record to put, or with `value` None to remove. `value` is sealed."""

    key: bytes
    value: bytes | None
    keep: Keep


class View(Protocol):
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


def put(key: bytes, payload: bytes, keep: Keep = Keep.INDEX) -> Change:
    """A change that stores `payload`."""
    return Change(key, layout.seal(key, payload), keep)


def remove(keys: Iterable[bytes], keep: Keep = Keep.INDEX) -> list[Change]:
    """Changes that remove `keys`."""
    return [Change(key, None, keep) for key in keys]


def durability(owned: bool) -> Keep:
    """Owned changes are on disk before they count; cached ones are only appended."""
    return Keep.DISK if owned else Keep.JOURNAL


def seen_repository(view: View, repository: str, now: float, keep: Keep) -> list[Change]:
    """The repository's row, unless it is there."""
    key = layout.repository_key(repository)
    return [] if view.get(key) is not None else [put(key, layout.encode_time(now), keep)]


def blob_of(view: View, digest: Digest) -> Blob | None:
    """The blob's row."""
    payload = view.get(layout.BLOB + digest.key)
    return None if payload is None else layout.decode_blob(digest, payload)


def blob_row(blob: Blob, keep: Keep) -> Change:
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
    view: View, repository: str, blob: Blob, *, now: float, media_type: str | None = None
) -> list[Change]:
    """Membership, as a blob or, with a media type, as a manifest. As durable as the bytes."""
    keep = durability(blob.owned)
    kind = layout.AS_BLOB if media_type is None else layout.AS_MANIFEST
    key = layout.link_key(repository, kind, blob.digest.key)
    found = view.get(key)
    if found is not None and layout.decode_media_type(found) == (media_type or ""):
        return []
    return [
        *seen_repository(view, repository, now, keep),
        put(key, layout.encode_link(now, media_type or ""), keep),
        put(layout.holder_key(key), b""),
        *remove([layout.UNLINKED + blob.digest.key]),
    ]


def unlink(view: View, link: bytes, *, now: float) -> list[Change]:
    """End a membership, durably. Bytes that no repository links any more are noted, so that a sweep finds
    them; the next link takes the note away."""
    holder, digest = layout.holder_key(link), layout.digest_from(link, link[18:])
    changes = [*remove([link], Keep.DISK), *remove([holder, layout.SEEN + link[1:17] + digest.key])]
    if all(other == holder for other in view.keys(layout.HOLDER + digest.key, limit=2)):
        changes.append(put(layout.UNLINKED + digest.key, layout.encode_time(now)))
    return changes


def arrived(view: View, repository: str, blob: Blob, *, now: float) -> list[Change]:
    """Membership of bytes that a fill brought in. Not where the blob was deleted meanwhile: then they belong
    to those who want them elsewhere, or to nobody."""
    if not present(view, layout.deleted_key(repository, "blob", str(blob.digest))):
        return link(view, repository, blob, now=now)
    if view.keys(layout.HOLDER + blob.digest.key, limit=1):
        return []
    return [put(layout.UNLINKED + blob.digest.key, layout.encode_time(now))]


def present(view: View, key: bytes) -> bool:
    """Whether there is such a record, be it damaged."""
    return view.keys(key, limit=1) == [key]


def refuse_deleted(view: View, repository: str, kind: str, name: str) -> None:
    """Raise NotHeld for what was deleted here: it is not brought in again."""
    if present(view, layout.deleted_key(repository, kind, name)):
        raise NotHeld(f"{kind} {name} was deleted here")


def bytes_held(view: View, blob: Blob, table: bytes | None) -> tuple[list[Change], Blob]:
    """New bytes, or with `table` None bytes that were found to be there already: (changes, the row's blob).

    Owned stays owned whoever fetches it again. New bytes end a quarantine.
    """
    found = blob_of(view, blob.digest)
    owned = blob.owned or (found is not None and found.owned)
    keep = durability(owned)
    if table is None:
        if found is None:
            raise NotHeld(f"{blob.digest} went away while it was committed")
        boot = b"" if blob.owned else found.boot
        blob = Blob(blob.digest, found.size, owned, boot, found.inline, found.damaged)
        changes = [blob_row(blob, keep)]
    else:
        blob = Blob(blob.digest, blob.size, owned, blob.boot, blob.inline)
        if blob == found and blob.inline is not None:
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


def _table_rows(blob: Blob, table: bytes, keep: Keep) -> list[Change]:
    if blob.inline is not None:
        return []
    prefix = layout.CHUNKS + blob.digest.key
    return [
        put(layout.segment_key(prefix, n), part, keep) for n, part in enumerate(layout.encode_table(table))
    ]


def _forget_chunks(view: View, digest: Digest, keep: Keep) -> list[Change]:
    return [
        *remove(view.keys(layout.CHUNKS + digest.key), keep),
        *remove(view.keys(layout.QUARANTINE + digest.key)),
    ]


def end_fills(view: View, digest: Digest, repository: str | None = None) -> list[Change]:
    """The bytes are here: no fill of them goes on that was begun for `repository`, None for any. A fill of another
    parent has its own bytes to bring."""
    if repository is not None:
        return drop_fill(view, repository, digest)
    return remove([*view.keys(layout.FILL + digest.key), *view.keys(layout.FILL_CHUNKS + digest.key)])


def referrer(repository: str, subject: Digest, descriptor: Descriptor, keep: Keep) -> list[Change]:
    """A manifest held here that names `subject`."""
    key = layout.referrer_prefix(repository, subject) + Digest.parse(descriptor.digest).key
    return [put(key, layout.encode_descriptor(descriptor), keep), put(layout.subject_key(key), b"")]


def tag_of(view: View, repository: str, name: str) -> Tag | None:
    """Where a tag points."""
    payload = view.get(layout.tag_key(repository, name))
    return None if payload is None else layout.decode_tag(name, payload)


def tag(view: View, repository: str, name: str, digest: Digest, *, now: float, origin: str) -> list[Change]:
    """Point a tag at a digest; nothing when it points there. What was pushed here is not moved by the parent's word."""
    key, found = layout.tag_key(repository, name), tag_of(view, repository, name)
    if found is not None and found.origin == "local" != origin:
        return []
    if found is not None and found.digest == digest and found.origin == origin:
        return []
    keep = durability(origin == "local")
    old = [] if found is None or found.digest == digest else [layout.tagged_key(key, found.digest)]
    return [
        *seen_repository(view, repository, now, keep),
        put(key, layout.encode_tag(digest, now, now, origin), keep),
        *moved(view, repository, name, TagMove(digest, now, origin), keep),
        *remove(old),
        put(layout.tagged_key(key, digest), b""),
    ]


def moved(view: View, repository: str, name: str, move: TagMove, keep: Keep) -> list[Change]:
    """One more of a tag's moves, of which the last 16 are kept."""
    key = layout.moves_key(repository, name)
    payload = view.get(key)
    earlier = layout.decode_moves(payload) if payload else []
    return [put(key, layout.encode_moves([move, *earlier]), keep)]


def drop_tag(view: View, repository: str, name: str) -> list[Change]:
    """Forget a tag; its moves stay. Nothing when there is none."""
    key, found = layout.tag_key(repository, name), tag_of(view, repository, name)
    if found is None:
        return remove([key], Keep.JOURNAL)
    keep = durability(found.origin == "local")
    return [*remove([key], keep), *remove([layout.tagged_key(key, found.digest)])]


def fetched_list(
    view: View, repository: str, prefix: bytes, items: Sequence[bytes], now: float
) -> list[Change]:
    """Replace a list that the parent gave; nothing when it has these items."""
    payloads = layout.encode_list(items, now)
    wanted = {layout.segment_key(prefix, number): payload for number, payload in enumerate(payloads)}
    if _same_list(dict(view.rows(prefix, after=prefix)), wanted):
        return []
    return [
        *seen_repository(view, repository, now, Keep.JOURNAL),
        *(put(key, payload, Keep.JOURNAL) for key, payload in wanted.items()),
        *remove((key for key in view.keys(prefix) if key not in wanted), Keep.JOURNAL),
    ]


def _same_list(held: dict[bytes, bytes], wanted: dict[bytes, bytes]) -> bool:
    """Whether the segments of two lists differ in nothing but the time that the first begins with."""
    first, skipped = min(wanted), len(layout.encode_time(0.0))
    return held.keys() == wanted.keys() and all(
        held[key] == payload or (key == first and held[key][skipped:] == payload[skipped:])
        for key, payload in wanted.items()
    )


def fill(view: View, state: FillState) -> list[Change]:
    """Checkpoint a fill. Only segments of chunk hashes that changed are written."""
    prefix = layout.fill_chunks_prefix(state.repository, state.digest)
    segments = layout.encode_fill_chunks(state.chunks)
    wanted = {layout.segment_key(prefix, number): payload for number, payload in segments.items()}
    return [
        put(layout.fill_key(state.repository, state.digest), layout.encode_fill(state)),
        *(put(key, payload) for key, payload in wanted.items() if view.get(key) != payload),
        *remove(key for key in view.keys(prefix) if key not in wanted),
    ]


def drop_fill(view: View, repository: str, digest: Digest) -> list[Change]:
    """Forget a fill's checkpoint."""
    prefix = layout.fill_chunks_prefix(repository, digest)
    return remove([layout.fill_key(repository, digest), *view.keys(prefix)])


def synced(view: View, rows: Iterable[bytes]) -> list[Change]:
    """After a syncfs that began when the UNSYNCED `rows` were there: their files are on disk."""
    changes: list[Change] = []
    for key in rows:
        digest = layout.digest_from(key, key[1:])
        found = blob_of(view, digest)
        if found is not None and found.boot:
            settled = Blob(digest, found.size, found.owned, b"", found.inline, found.damaged)
            changes.append(blob_row(settled, Keep.INDEX))
        changes.append(Change(key, None, Keep.INDEX))
    return changes


def chunk_span(blob: Blob, start: int, end: int) -> range:
    """The chunks that [start, end) touches. Raises Mistake when it leaves the blob."""
    if not 0 <= start < end <= blob.size:
        raise Mistake(f"{blob.digest}: range {start}-{end} is not within its {blob.size} bytes")
    return range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES))


def quarantine(view: View, digest: Digest, start: int, end: int) -> list[Change]:
    """Mark every chunk of the range as bad; nothing when all of them are."""
    found = blob_of(view, digest)
    if found is None:
        raise NotHeld(f"{digest} is not held")
    prefix = layout.QUARANTINE + digest.key
    known = set(view.keys(prefix))
    keys = [layout.segment_key(prefix, chunk) for chunk in chunk_span(found, start, end)]
    rows = [put(key, b"") for key in keys if key not in known]
    return [*rows, blob_row(_with_damage(found, True), Keep.INDEX)] if rows or not found.damaged else []


def repaired(view: View, digest: Digest, chunk: int) -> list[Change]:
    """Take one chunk out of quarantine."""
    found = blob_of(view, digest)
    prefix = layout.QUARANTINE + digest.key
    key = layout.segment_key(prefix, chunk)
    rest = [other for other in view.keys(prefix) if other != key]
    changes = remove([key])
    if found is not None and found.damaged and not rest:
        changes.append(blob_row(_with_damage(found, False), Keep.INDEX))
    return changes


def _with_damage(blob: Blob, damaged: bool) -> Blob:
    return Blob(blob.digest, blob.size, blob.owned, blob.boot, blob.inline, damaged)


def discard(view: View, digests: Iterable[Digest]) -> list[Change]:
    """Forget bytes that cannot be used, and every link to them."""
    changes: list[Change] = []
    for digest in digests:
        holders = view.keys(layout.HOLDER + digest.key)
        links = list(map(layout.holder_link, holders))
        pending = [layout.PENDING + link[1:17] + digest.key for link in links]
        changes += remove([*links, *(key for key in pending if present(view, key))], Keep.JOURNAL)
        changes += [*remove(holders), *forget_bytes(view, digest, Keep.JOURNAL)]
    return changes


def forget_bytes(view: View, digest: Digest, keep: Keep) -> list[Change]:
    """Forget everything about bytes but who links them."""
    return [
        *remove([layout.BLOB + digest.key], keep),
        *_forget_chunks(view, digest, keep),
        *remove([layout.UNSYNCED + digest.key, layout.UNLINKED + digest.key]),
    ]
