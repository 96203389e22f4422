"""What is still to go up to a parent: numbered rows, each written in the transaction of the change that it tells of.

The store does not read them. It numbers them in the order of the commits, and never twice, so that who sends them knows
what came first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from holdfast_core import format as layout
from holdfast_core.change import Change, Keep, View, present, put, remove, tag_of
from holdfast_core.digest import Digest
from holdfast_core.record import Tag

#: Left out when the record of the last number was damaged: rows that are gone had numbers, too.
NUMBER_GAP = 1_000_000

#: What a change has to tell a parent: rows, from the tags that it moves or takes away, as they were before it.
Notes = Callable[[Sequence[Tag]], Sequence[bytes]]


def nothing(_: Sequence[Tag]) -> Sequence[bytes]:
    """The notes of a change that no parent is told of."""
    return ()


def noted(view: View, repository: str, names: Iterable[str], notes: Notes) -> list[Change]:
    """The rows of a change of these tags."""
    if notes is nothing:
        return []
    found = (tag_of(view, repository, name) for name in names)
    return appended(view, notes([tag for tag in found if tag is not None]))


def appended(view: View, bodies: Sequence[bytes]) -> list[Change]:
    """New rows, after all that there were."""
    if not bodies:
        return []
    number = last_number(view)
    rows = [put(layout.outbox_key(at), body, Keep.DISK) for at, body in enumerate(bodies, start=number + 1)]
    return [*rows, put(layout.OUTBOX, layout.encode_number(number + len(bodies)), Keep.DISK)]


def last_number(view: View) -> int:
    """The number that was given last, 0 before the first."""
    number = layout.decode_number(view.get(layout.OUTBOX))
    keys = [] if number else view.keys(layout.OUTBOX)
    if not keys:
        return number
    return max((layout.outbox_number(key) for key in keys if key != layout.OUTBOX), default=0) + NUMBER_GAP


def rewritten(puts: Iterable[tuple[int, bytes]], removes: Iterable[int]) -> list[Change]:
    """Rows that change, and rows that are done."""
    changes = [put(layout.outbox_key(number), body, Keep.DISK) for number, body in puts]
    return [*changes, *remove(map(layout.outbox_key, removes), Keep.DISK)]


def told(view: View, repository: str, digest: Digest) -> list[Change]:
    """The parent has a manifest that was pushed here."""
    key = layout.pending_key(repository, digest)
    return remove([key], Keep.DISK) if present(view, key) else []


def handed_over(view: View, repository: str, name: str, digest: Digest, checked_at: float) -> list[Change]:
    """From now on a tag that was moved here is the parent's, who knew it at `checked_at`: its next word moves it. Not
    when it was moved again meanwhile."""
    key, found = layout.tag_key(repository, name), tag_of(view, repository, name)
    if found is None or found.digest != digest or found.origin != "local":
        return []
    return [put(key, layout.encode_tag(digest, checked_at, found.moved_at, "parent"), Keep.DISK)]


def lifted(view: View, repository: str, kind: str, name: str) -> list[Change]:
    """The parent knows that something was deleted here: what it has under this name from now on is new."""
    key = layout.deleted_key(repository, kind, name)
    return remove([key], Keep.DISK) if present(view, key) else []
