"""Locks: what is allowed on a repository, a manifest, a tag. Checked for reads and inside write transactions.

A lock that cannot be read forbids everything until it is set again.
"""

from __future__ import annotations

from collections.abc import Iterable

from holdfast_core import format as layout
from holdfast_core.changes.change import IndexView
from holdfast_core.errors import ContentLocked, RecordDamaged
from holdfast_core.index.lmdb_index import Index
from holdfast_core.record import Lock, LockChange, LockTarget

REPOSITORY = LockTarget("repository")
ALLOWED = Lock()
#: what a lock that cannot be read allows
NOTHING = Lock(read=False, write=False, delete=False, list=False)
#: field of `Lock` -> the attribute's name for clients
ATTRIBUTES = {
    "read": "readEnabled",
    "write": "writeEnabled",
    "delete": "deleteEnabled",
    "list": "listEnabled",
}
#: What is not writable is not deleted either: in the original a write lock alone keeps an image from being
#: updated and from being deleted, and `delete` alone is for what may be updated and not deleted.
NEEDED = {"delete": ("delete", "write")}


def refusal(repository: str, target: LockTarget, action: str) -> ContentLocked:
    """The error that says which attribute of what forbids it."""
    what = f"the repository {repository}"
    if target.kind != "repository":
        what = f"the {target.kind} {target.name} of {repository}"
    return ContentLocked(
        "The operation is disallowed on this registry, repository or image. "
        f"{ATTRIBUTES[action]} is false on {what}."
    )


def require(view: IndexView, repository: str, action: str, targets: Iterable[LockTarget] = ()) -> None:
    """Raise ContentLocked unless `action` is allowed on the repository and on every one of `targets`. Raises
    RecordDamaged for a lock that cannot be read."""
    if not view.keys(layout.LOCK, limit=1):
        return
    for target in (REPOSITORY, *targets):
        lock = lock_at(view, layout.lock_key(repository, target))
        for needed in NEEDED.get(action, (action,)):
            if not getattr(lock, needed):
                raise refusal(repository, target, needed)


def require_whole(view: IndexView, repository: str, action: str) -> None:
    """The same for the repository and everything in it."""
    targets = view.keys(layout.LOCK + layout.repository_hash(repository))
    require(view, repository, action, map(layout.lock_target, targets))


def require_read(index: Index, repository: str, *targets: LockTarget) -> None:
    """Raise ContentLocked unless the repository and every one of `targets` may be read; RecordDamaged for a lock that
    cannot be read."""
    with index.view() as view:
        require(view, repository, "read", targets)


def hidden(index: Index, repository: str, kind: str) -> set[bytes]:
    """Ends of the keys of tags or manifests that lists leave out."""
    prefix = layout.LOCK + layout.repository_hash(repository) + layout.NOUNS[kind]
    rows = index.scan(prefix)
    return {
        key[len(prefix) :] for key, value in rows if not layout.decode_lock(layout.unseal(key, value)).list
    }


def lock_at(view: IndexView, key: bytes) -> Lock:
    """The lock under a key of LOCK; all is allowed when there is none."""
    payload = view.get(key)
    if payload is not None:
        return layout.decode_lock(payload)
    if view.keys(key, limit=1) == [key]:
        raise RecordDamaged(f"{layout.describe(key)} cannot be read; set the lock again", key)
    return ALLOWED


def changed(view: IndexView, key: bytes, change: Lock | LockChange) -> Lock:
    """The lock under a key of LOCK after a change. One that cannot be read allows what the change allows and
    nothing else, because what else it allowed is not known."""
    try:
        old = lock_at(view, key)
    except RecordDamaged:
        old = NOTHING
    return Lock(*(_either(getattr(change, name), getattr(old, name)) for name in Lock.__struct_fields__))


def _either(new: bool | None, held: bool) -> bool:
    return held if new is None else new
