"""The events that leave this node: pushes and deletes of manifests and deletes of whole repositories, as the original
has them (references.md 1.15), and conflicts over tags. Deleting only a tag is no such event; deleting a manifest is one
event, however many tags it has."""

from __future__ import annotations

from typing import NamedTuple

from holdfast_core.record import EventRecord

from holdfast.resources.model import REGISTRY, id_of
from holdfast.resources.notification import Event
from holdfast.routing import Repository

#: topic of the events of a registry without parent: the root of all ids
ROOT_TOPIC = "/"


class OutgoingEvent(NamedTuple):
    """An event, and the connected registry where it happened ("" at the root)."""

    event: Event
    registry: str

    @property
    def topic(self) -> str:
        """See `topic_of`."""
        return topic_of(self.registry)


def topic_of(registry: str) -> str:
    """The resource id of a connected registry (references.md 1.15)."""
    return id_of(REGISTRY, registry) if registry else ROOT_TOPIC


def outgoing_event(row: EventRecord, log: str, own: str) -> OutgoingEvent | None:
    """Returns the event of a row of log `log`, None for a row that stays in this node. `own` is the connected registry
    that this node is, "" at the root. An event from below keeps its id and its time. An id begins with the name of the
    registry that made it, which makes it unique among registries."""
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
    return OutgoingEvent(event, row.registry or own)


def shown_name(key: str) -> str:
    """Returns a repository's name as clients of this node write it."""
    namespace, name = Repository.from_key(key)
    return f"{namespace}/{name}" if namespace else name
