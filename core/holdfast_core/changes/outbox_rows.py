"""What is still to go up to a parent: numbered rows, each written in the transaction of the change that it reports.

The store does not read them. It numbers them in the order of the commits, and never twice, so that the sender knows
what came first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from holdfast_core import format as layout
from holdfast_core.changes.change import (
    IndexChange,
    IndexView,
    Keep,
    is_linked,
    is_owned,
    present,
    put,
    remove,
    tag_of,
)
from holdfast_core.digest import Digest
from holdfast_core.record import Tag

#: Left out when the record of the last number was damaged: rows that are gone had numbers, too.
NUMBER_GAP = 1_000_000

#: What a change has to send to a parent: rows, from the tags that it moves or takes away, as they were before it.
Notes = Callable[[Sequence[Tag]], Sequence[bytes]]


def nothing(_: Sequence[Tag]) -> Sequence[bytes]:
    """The notes of a change that is not sent to a parent."""
    return ()


def noted(view: IndexView, repository: str, names: Iterable[str], notes: Notes) -> list[IndexChange]:
    """The rows of a change of these tags."""
    if notes is nothing:
        return []
    tags = (tag_of(view, repository, name) for name in names)
    return appended(view, notes([tag for tag in tags if tag is not None]))


def appended(view: IndexView, bodies: Sequence[bytes]) -> list[IndexChange]:
    """New rows, after all that there were."""
    if not bodies:
        return []
    number = last_number(view)
    rows = [put(layout.outbox_key(at), body, Keep.DISK) for at, body in enumerate(bodies, start=number + 1)]
    return [*rows, put(layout.OUTBOX, layout.encode_number(number + len(bodies)), Keep.DISK)]


def last_number(view: IndexView) -> int:
    """The number that was given last, 0 before the first."""
    number = layout.decode_number(view.get(layout.OUTBOX))
    keys = [] if number else view.keys(layout.OUTBOX)
    if not keys:
        return number
    return max((layout.outbox_number(key) for key in keys if key != layout.OUTBOX), default=0) + NUMBER_GAP


def rewritten(puts: Iterable[tuple[int, bytes]], removes: Iterable[int]) -> list[IndexChange]:
    """Rows that change, and rows that are done."""
    changes = [put(layout.outbox_key(number), body, Keep.DISK) for number, body in puts]
    return [*changes, *remove(map(layout.outbox_key, removes), Keep.DISK)]


def manifest_sent(view: IndexView, repository: str, digest: Digest) -> list[IndexChange]:
    """The parent has a manifest that was pushed here."""
    key = layout.pending_key(repository, digest)
    return remove([key], Keep.DISK) if present(view, key) else []


def confirmed(view: IndexView, repository: str, digests: Iterable[str], parent: bytes) -> list[IndexChange]:
    """The parent of this mark has what was pushed here, by its own answer for each digest in this repository: what it
    confirmed may be evicted. Of what is not here, or was not pushed, there is nothing to note."""
    hashed = layout.repository_hash(repository)
    keys = [Digest.parse(digest).key for digest in digests]
    owned = (key for key in keys if is_linked(view, hashed, key) and is_owned(view, key))
    return [put(layout.CONFIRMED + hashed + key, parent, Keep.JOURNAL) for key in owned]


def unconfirmed(view: IndexView, repository: str, digests: Iterable[Digest]) -> list[IndexChange]:
    """Nothing says any more that the parent has these: they were pushed anew, or it does not have them after all."""
    hashed = layout.repository_hash(repository)
    keys = (layout.CONFIRMED + hashed + digest.key for digest in digests)
    return remove([key for key in keys if present(view, key)], Keep.DISK)


def tag_sent(
    view: IndexView, repository: str, name: str, digest: Digest, checked_at: float
) -> list[IndexChange]:
    """From now on a tag that was moved here is the parent's, which had it at `checked_at`: the parent's next answer
    moves it. Not when it was moved again meanwhile."""
    key, tag = layout.tag_key(repository, name), tag_of(view, repository, name)
    if tag is None or tag.digest != digest or tag.origin != "local":
        return []
    return [put(key, layout.encode_tag(digest, checked_at, tag.moved_at, "parent"), Keep.DISK)]


def deletion_sent(view: IndexView, repository: str, kind: str, name: str) -> list[IndexChange]:
    """The parent knows that something was deleted here: what it has under this name from now on is new."""
    key = layout.deleted_key(repository, kind, name)
    return remove([key], Keep.DISK) if present(view, key) else []
