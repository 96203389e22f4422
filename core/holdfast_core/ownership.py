"""What a client's push, mount, delete or lock puts into the index: decided from what is there, as in `change`.

Each raises Locked when an attribute forbids it, and NotHeld when what it is about is not there. All of it is
on disk before it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from holdfast_core import events
from holdfast_core import format as layout
from holdfast_core import lock as locks
from holdfast_core.change import (
    Change,
    Keep,
    View,
    link,
    moved,
    present,
    put,
    referrer,
    remove,
    tag,
    tag_of,
    unlink,
)
from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld
from holdfast_core.record import Blob, Descriptor, Event, Lock, LockChange, TagMove, Target

#: repositories looked at for one that shows a blob to whoever mounts it from anywhere
SOURCES = 1000

Referrer = tuple[Digest, Descriptor]  # (subject, the manifest that names it)


# --- pushes --------------------------------------------------------------------------------------------


def require_push(view: View, repository: str, digest: Digest | None = None, tags: Sequence[str] = ()) -> None:
    """Raise Locked unless a blob (`digest` None), or a manifest with its tags, may be pushed."""
    targets = [Target("tag", name) for name in tags]
    if digest is not None:
        targets.append(Target("manifest", str(digest)))
    locks.require(view, repository, "write", targets)


def pushed_blob(view: View, repository: str, blob: Blob, *, now: float) -> list[Change]:
    """Membership of bytes that were pushed; a tombstone ends."""
    return [*link(view, repository, blob, now=now), *_back(view, repository, "blob", str(blob.digest))]


def pushed_manifest(
    view: View,
    repository: str,
    blob: Blob,
    media_type: str,
    *,
    tags: Sequence[str],
    referrers: Iterable[Referrer],
    pending: bool,
    now: float,
    event: Event,
) -> list[Change]:
    """Membership, tags with their moves, referrers, and whether the parent has to be told. `event` is of the manifest
    alone."""
    changes = link(view, repository, blob, now=now, media_type=media_type)
    joined, moving = bool(changes), events.moves(view, repository, tags, blob.digest)
    changes += _back(view, repository, "manifest", str(blob.digest))
    for name in dict.fromkeys(tags):
        changes += tag(view, repository, name, blob.digest, now=now, origin="local")
        changes += _back(view, repository, "tag", name)
    for subject, descriptor in referrers:
        changes += referrer(repository, subject, descriptor, Keep.DISK)
    if pending:
        key = layout.pending_key(repository, blob.digest)
        changes.append(put(key, layout.encode_pending(repository, now), Keep.DISK))
    return [*changes, *events.pushed(event, moving, joined=joined)]


def _back(view: View, repository: str, kind: str, name: str) -> list[Change]:
    """What was deleted is here again."""
    key = layout.deleted_key(repository, kind, name)
    return remove([key], Keep.DISK) if present(view, key) else []


def mountable(view: View, digest: Digest, source: str | None) -> bool:
    """Whether `source`, or with None any repository, shows the blob to a reader."""
    any_locks = bool(view.keys(layout.LOCK, limit=1))
    if source is not None:
        links: Iterable[bytes] = [layout.link_key(source, layout.AS_BLOB, digest.key)]
    else:
        holders = view.keys(layout.HOLDER + digest.key + layout.AS_BLOB, limit=SOURCES)
        links = map(layout.holder_link, holders)
    return any(
        present(view, key) and (not any_locks or locks.found(view, layout.LOCK + key[1:17] + b"r").read)
        for key in links
    )


# --- deletes -------------------------------------------------------------------------------------------


def deleted_tag(
    view: View, repository: str, name: str, *, now: float, tombstone: bool, origin: str = "local"
) -> list[Change]:
    """The tag goes, the manifest stays. `origin`: who did it."""
    locks.require(view, repository, "delete", [Target("tag", name)])
    if not present(view, layout.tag_key(repository, name)):
        raise NotHeld(f"no tag {name} in {repository}")
    told = events.untagged(view, repository, [name], now=now, origin=origin)
    gone = _gone(repository, "tag", name, now, tombstone)
    return [*_tag_gone(view, repository, name, now, origin), *gone, *told]


def deleted_manifest(
    view: View, repository: str, digest: Digest, *, now: float, tombstone: bool, origin: str = "local"
) -> list[Change]:
    """The manifest goes, with every tag that points to it and as a referrer. Referrers of it stay."""
    target, key = Target("manifest", str(digest)), layout.link_key(repository, layout.AS_MANIFEST, digest.key)
    if not present(view, key):
        locks.require(view, repository, "delete")
        raise NotHeld(f"no manifest {digest} in {repository}")
    names = list(tags_at(view, repository, digest))
    locks.require(view, repository, "delete", [target, *(Target("tag", name) for name in names)])
    changes = unlink(view, key, now=now)
    for subject in view.keys(layout.subject_prefix(repository, digest)):
        changes += [*remove([layout.subject_referrer(subject)], Keep.DISK), *remove([subject])]
    for kept in (layout.pending_key(repository, digest), layout.lock_key(repository, target)):
        changes += remove([kept], Keep.DISK) if present(view, kept) else []
    for name in names:
        changes += _tag_gone(view, repository, name, now, origin)
        changes += _gone(repository, "tag", name, now, tombstone)
    changes += _gone(repository, "manifest", str(digest), now, tombstone)
    changes += events.untagged(view, repository, names, now=now, origin=origin)
    event = events.of_manifest(view, "delete", repository, digest, now=now, origin=origin)
    return [*changes, events.tell(event)]


def deleted_blob(view: View, repository: str, digest: Digest, *, now: float, tombstone: bool) -> list[Change]:
    """The blob goes out of the repository, whatever manifests name it."""
    locks.require(view, repository, "delete")
    key = layout.link_key(repository, layout.AS_BLOB, digest.key)
    if not present(view, key):
        raise NotHeld(f"no blob {digest} in {repository}")
    return [*unlink(view, key, now=now), *_gone(repository, "blob", str(digest), now, tombstone)]


def tags_at(view: View, repository: str, digest: Digest) -> Iterator[str]:
    """Names of the tags that point to a manifest."""
    prefix = layout.tagged_prefix(repository, digest)
    for key in view.keys(prefix):
        name = key[len(prefix) :].decode("utf-8", "surrogatepass")
        found = tag_of(view, repository, name)
        if found is not None and found.digest == digest:
            yield name


def _tag_gone(view: View, repository: str, name: str, now: float, origin: str) -> list[Change]:
    key, found = layout.tag_key(repository, name), tag_of(view, repository, name)
    lock = layout.lock_key(repository, Target("tag", name))
    changes = remove([key, lock] if present(view, lock) else [key], Keep.DISK)
    if found is not None:
        changes += remove([layout.tagged_key(key, found.digest)])
    return [*changes, *moved(view, repository, name, TagMove(None, now, origin), Keep.DISK)]


def _gone(repository: str, kind: str, name: str, now: float, tombstone: bool) -> list[Change]:
    key = layout.deleted_key(repository, kind, name)
    return [put(key, layout.encode_time(now), Keep.DISK)] if tombstone else []


# --- locks ---------------------------------------------------------------------------------------------


def set_lock(
    view: View, repository: str, target: Target, change: Lock | LockChange, *, now: float
) -> list[Change]:
    """Change a lock; one that allows everything is none. The old one is read here, inside the transaction, so
    that of two changes at once both hold. NotHeld unless the target is there."""
    key = layout.lock_key(repository, target)
    if not present(view, _record_of(repository, target)):
        raise NotHeld(f"no {target.kind} {target.name or repository} to lock")
    lock = locks.changed(view, key, change)
    if lock == locks.ALLOWED:
        return remove([key], Keep.DISK)
    return [put(key, layout.encode_lock(lock, now), Keep.DISK)]


def _record_of(repository: str, target: Target) -> bytes:
    if target.kind == "repository":
        return layout.repository_key(repository)
    if target.kind == "tag":
        return layout.tag_key(repository, target.name)
    return layout.link_key(repository, layout.AS_MANIFEST, Digest.parse(target.name).key)
