"""What of the event log is told to others: pushes and deletes of manifests, and deletes of whole repositories, as the
original's events (connected-registry 3.11), and tags that both sides moved. A tag that was deleted alone is none;
deleting a manifest that tags name is one, whatever its tags."""

from __future__ import annotations

from typing import NamedTuple

from holdfast_core.record import Event as Row

from holdfast.control.resource import REGISTRY, id_of
from holdfast.repository import Repository
from holdfast.sync.notification import Event

#: topic of what a registry without parent tells of itself: the root of all ids
ROOT_TOPIC = "/"


class Told(NamedTuple):
    """An event, and the connected registry where it happened ("" at the root)."""

    event: Event
    registry: str

    @property
    def topic(self) -> str:
        """See `topic_of`."""
        return topic_of(self.registry)


def topic_of(registry: str) -> str:
    """The resource id of a connected registry (connected-registry 3.11)."""
    return id_of(REGISTRY, registry) if registry else ROOT_TOPIC


def told_of(row: Row, log: str, own: str) -> Told | None:
    """The event that a row of log `log` is, None when it is none. `own` is the connected registry that this node is,
    "" at the root. An event from below keeps the id and the time that it has there. An id begins with the name of the
    registry that gave it, so that no other can give the same."""
    if row.kind == "tag" and row.verb != "conflict" and (row.verb == "delete" or not row.digest):
        return None
    event = Event(
        id=row.id or f"{own}{'/' if own else ''}{log}-{row.number}",
        at=row.happened or row.at,
        verb=row.verb,
        repository=shown_name(row.repository),
        digest=row.digest,
        tag=row.tag,
        media_type=row.media_type,
        size=row.size,
        theirs=row.theirs,
        winner=row.winner,
    )
    return Told(event, row.registry or own)


def shown_name(key: str) -> str:
    """A repository as clients of this node name it."""
    namespace, name = Repository.from_key(key)
    return f"{namespace}/{name}" if namespace else name
