"""Locks: what is allowed on a repository, a manifest, a tag. Checked for reads and inside write transactions.

A lock that cannot be read forbids everything: whoever set it must set it again.
"""

from __future__ import annotations

from collections.abc import Iterable

from holdfast_core import format as layout
from holdfast_core.change import View
from holdfast_core.errors import Locked, RecordDamaged
from holdfast_core.record import Lock, LockChange, Target

REPOSITORY = Target("repository")
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


def refusal(repository: str, target: Target, action: str) -> Locked:
    """The error that says which attribute of what forbids it."""
    what = f"the repository {repository}"
    if target.kind != "repository":
        what = f"the {target.kind} {target.name} of {repository}"
    return Locked(
        "The operation is disallowed on this registry, repository or image. "
        f"{ATTRIBUTES[action]} is false on {what}."
    )


def require(view: View, repository: str, action: str, targets: Iterable[Target] = ()) -> None:
    """Raise Locked unless `action` is allowed on the repository and on every one of `targets`. Raises
    RecordDamaged for a lock that cannot be read."""
    if not view.keys(layout.LOCK, limit=1):
        return
    for target in (REPOSITORY, *targets):
        lock = found(view, layout.lock_key(repository, target))
        for needed in NEEDED.get(action, (action,)):
            if not getattr(lock, needed):
                raise refusal(repository, target, needed)


def found(view: View, key: bytes) -> Lock:
    """The lock under a key of LOCK; all is allowed when there is none."""
    payload = view.get(key)
    if payload is not None:
        return layout.decode_lock(payload)
    if view.keys(key, limit=1) == [key]:
        raise RecordDamaged(f"{layout.describe(key)} cannot be read; set the lock again", key)
    return ALLOWED


def changed(view: View, key: bytes, change: Lock | LockChange) -> Lock:
    """The lock under a key of LOCK after a change. One that cannot be read allows what the change allows and
    nothing else, because nobody knows what else it allowed."""
    try:
        old = found(view, key)
    except RecordDamaged:
        old = NOTHING
    return Lock(*(_either(getattr(change, name), getattr(old, name)) for name in Lock.__struct_fields__))


def _either(said: bool | None, held: bool) -> bool:
    return held if said is None else said
