"""What a client's push, mount, delete or lock puts into the index: decided from what is there, as in `change`.

Each raises ContentLocked when an attribute forbids it, and NotHeld when what it is about is not there. All of it is
on disk before it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from holdfast_core import format as layout
from holdfast_core.changes import locks, outbox_rows, store_events
from holdfast_core.changes.change import (
    IndexChange,
    IndexView,
    Keep,
    left,
    link,
    moved,
    present,
    put,
    referrer,
    remove,
    set_aside,
    tag,
    tag_of,
    unlink,
)
from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld
from holdfast_core.record import Blob, Descriptor, EventRecord, Lock, LockChange, LockTarget, TagMove

#: repositories looked at for one that shows a blob, for a mount that names no repository
SOURCES = 1000

Referrer = tuple[Digest, Descriptor]  # (subject, the manifest that names it)


# --- pushes --------------------------------------------------------------------------------------------


def require_push(
    view: IndexView, repository: str, digest: Digest | None = None, tags: Sequence[str] = ()
) -> None:
    """Raise ContentLocked unless a blob (`digest` None), or a manifest with its tags, may be pushed."""
    targets = [LockTarget("tag", name) for name in tags]
    if digest is not None:
        targets.append(LockTarget("manifest", str(digest)))
    locks.require(view, repository, "write", targets)


def require_blobs(view: IndexView, repository: str, blobs: Iterable[Digest]) -> None:
    """Raise NotHeld unless the repository has all of these blobs: a manifest that names them is about to be linked, and
    what was found a moment ago may have been collected since."""
    for blob in blobs:
        if not present(view, layout.link_key(repository, layout.AS_BLOB, blob.key)):
            raise NotHeld(f"{blob} is not in {repository} any more; push it again")


def pushed_blob(view: IndexView, repository: str, blob: Blob, *, now: float) -> list[IndexChange]:
    """Membership of bytes that were pushed; a tombstone ends, and what a parent said of them before."""
    changes = link(view, repository, blob, now=now)
    changes += outbox_rows.unconfirmed(view, repository, [blob.digest])
    return [*changes, *_back(view, repository, "blob", str(blob.digest))]


def pushed_manifest(
    view: IndexView,
    repository: str,
    blob: Blob,
    media_type: str,
    *,
    tags: Sequence[str],
    referrers: Iterable[Referrer],
    pending: bool,
    now: float,
    event: EventRecord,
) -> list[IndexChange]:
    """Membership, tags with their moves, referrers, and the notes for the parent. `event` is of the manifest
    alone."""
    changes = link(view, repository, blob, now=now, media_type=media_type)
    joined, moving = bool(changes), store_events.moves(view, repository, tags, blob.digest)
    changes += outbox_rows.unconfirmed(view, repository, [blob.digest])
    changes += _back(view, repository, "manifest", str(blob.digest))
    for name in dict.fromkeys(tags):
        changes += tag(view, repository, name, blob.digest, now=now, origin="local")
        changes += _back(view, repository, "tag", name)
    for subject, descriptor in referrers:
        changes += referrer(repository, subject, descriptor, Keep.DISK)
    if pending:
        key = layout.pending_key(repository, blob.digest)
        changes.append(put(key, layout.encode_pending(repository, now), Keep.DISK))
    return [*changes, *store_events.pushed(event, moving, joined=joined)]


def _back(view: IndexView, repository: str, kind: str, name: str) -> list[IndexChange]:
    """What was deleted is here again."""
    key = layout.deleted_key(repository, kind, name)
    return remove([key], Keep.DISK) if present(view, key) else []


def mountable(view: IndexView, digest: Digest, source: str | None) -> bool:
    """Whether `source`, or with None any repository, shows the blob to a reader."""
    any_locks = bool(view.keys(layout.LOCK, limit=1))
    if source is not None:
        links: Iterable[bytes] = [layout.link_key(source, layout.AS_BLOB, digest.key)]
    else:
        holders = view.keys(layout.HOLDER + digest.key + layout.AS_BLOB, limit=SOURCES)
        links = map(layout.holder_link, holders)
    return any(
        present(view, key) and (not any_locks or locks.lock_at(view, layout.LOCK + key[1:17] + b"r").read)
        for key in links
    )


# --- deletes -------------------------------------------------------------------------------------------


def deleted_tag(
    view: IndexView, repository: str, name: str, *, now: float, tombstone: bool, origin: str = "local"
) -> list[IndexChange]:
    """The tag goes, the manifest stays. `origin` is that of the event."""
    locks.require(view, repository, "delete", [LockTarget("tag", name)])
    if not present(view, layout.tag_key(repository, name)):
        raise NotHeld(f"no tag {name} in {repository}")
    events = store_events.untagged(view, repository, [name], now=now, origin=origin)
    gone = _gone(repository, "tag", name, now, tombstone)
    return [*_tag_gone(view, repository, name, now, origin), *gone, *events]


def deleted_manifest(
    view: IndexView,
    repository: str,
    digest: Digest,
    *,
    now: float,
    tombstone: bool,
    origin: str = "local",
    restorable: bool = False,
) -> list[IndexChange]:
    """The manifest goes, with every tag that points to it and as a referrer. Referrers of it stay. With `restorable`
    it is set aside, with its closure and the names of its tags."""
    target = LockTarget("manifest", str(digest))
    key = layout.link_key(repository, layout.AS_MANIFEST, digest.key)
    if not present(view, key):
        locks.require(view, repository, "delete")
        raise NotHeld(f"no manifest {digest} in {repository}")
    names = list(tags_at(view, repository, digest))
    locks.require(view, repository, "delete", [target, *(LockTarget("tag", name) for name in names)])
    subjects = view.keys(layout.subject_prefix(repository, digest))
    changes = remove(map(layout.subject_referrer, subjects), Keep.DISK)
    for kept in (layout.pending_key(repository, digest), layout.lock_key(repository, target)):
        changes += remove([kept], Keep.DISK) if present(view, kept) else []
    for name in names:
        changes += _tag_gone(view, repository, name, now, origin)
        changes += _gone(repository, "tag", name, now, tombstone)
    changes += set_aside(view, key, names, now=now) if restorable else unlink(view, key, now=now)
    changes += _gone(repository, "manifest", str(digest), now, tombstone)
    changes += store_events.untagged(view, repository, names, now=now, origin=origin)
    event = store_events.of_manifest(view, "delete", repository, digest, now=now, origin=origin)
    return [*changes, store_events.unnumbered(event)]


def deleted_blob(
    view: IndexView, repository: str, digest: Digest, *, now: float, tombstone: bool
) -> list[IndexChange]:
    """The blob goes out of the repository, whatever manifests name it."""
    locks.require(view, repository, "delete")
    key = layout.link_key(repository, layout.AS_BLOB, digest.key)
    if not present(view, key):
        raise NotHeld(f"no blob {digest} in {repository}")
    return [*unlink(view, key, now=now), *_gone(repository, "blob", str(digest), now, tombstone)]


def tags_at(view: IndexView, repository: str, digest: Digest) -> Iterator[str]:
    """Names of the tags that point to a manifest."""
    prefix = layout.tagged_prefix(repository, digest)
    for key in view.keys(prefix):
        name = key[len(prefix) :].decode("utf-8", "surrogatepass")
        tag = tag_of(view, repository, name)
        if tag is not None and tag.digest == digest:
            yield name


def _tag_gone(view: IndexView, repository: str, name: str, now: float, origin: str) -> list[IndexChange]:
    key, tag = layout.tag_key(repository, name), tag_of(view, repository, name)
    lock = layout.lock_key(repository, LockTarget("tag", name))
    changes = remove([key, lock] if present(view, lock) else [key], Keep.DISK)
    if tag is not None:
        changes += left(view, key, tag, now)
    return [*changes, *moved(view, repository, name, TagMove(None, now, origin), Keep.DISK)]


def _gone(repository: str, kind: str, name: str, now: float, tombstone: bool) -> list[IndexChange]:
    key = layout.deleted_key(repository, kind, name)
    return [put(key, layout.encode_time(now), Keep.DISK)] if tombstone else []


# --- locks ---------------------------------------------------------------------------------------------


def set_lock(
    view: IndexView, repository: str, target: LockTarget, change: Lock | LockChange, *, now: float
) -> list[IndexChange]:
    """Change a lock; one that allows everything is none. The old one is read here, inside the transaction, so
    that of two changes at once both hold. NotHeld unless the target is there."""
    key = layout.lock_key(repository, target)
    if not present(view, _record_of(repository, target)):
        raise NotHeld(f"no {target.kind} {target.name or repository} to lock")
    lock = locks.changed(view, key, change)
    if lock == locks.ALLOWED:
        return remove([key], Keep.DISK)
    return [put(key, layout.encode_lock(lock, now), Keep.DISK)]


def _record_of(repository: str, target: LockTarget) -> bytes:
    if target.kind == "repository":
        return layout.repository_key(repository)
    if target.kind == "tag":
        return layout.tag_key(repository, target.name)
    return layout.link_key(repository, layout.AS_MANIFEST, Digest.parse(target.name).key)
