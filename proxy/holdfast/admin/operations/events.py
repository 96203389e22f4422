"""The event log over the admin API: what changed here and in the connected registries below, by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote

from holdfast_core.record import EventHead, EventRecord
from holdfast_core.store import Store

from holdfast.admin.documents import EventDocument, EventList, EventProperties
from holdfast.admin.filter import PAGE_ENTRIES
from holdfast.admin.operation import AdminCall, reply
from holdfast.errors import ControlConflict
from holdfast.notify.event import outgoing_event, shown_name
from holdfast.timestamps import stamp_milliseconds
from holdfast.wire.message import Reply
from holdfast.wire.query import encode_query

#: most events that one answer reads, whatever the filter: the next page continues behind them
LOOKED_AT = 5000


async def show_list(call: AdminCall) -> Reply:
    """GET of a page, the oldest first. Raises ControlConflict on a node that keeps no log."""
    head = call.node.store.events.head()
    if head is None:
        raise ControlConflict(
            "this node keeps no event log, because it has no reader; a [[webhook]], a connected registry below it or a"
            " notificationsList turns it on"
        )
    size = call.query.get("$top", PAGE_ENTRIES)
    after = call.query.get("after")
    if after is None:
        after = _before_last(call.node.store, head, size)
    rows = call.node.store.events.after(after, LOOKED_AT)
    matching = [row for row in rows if _matches(call, row)]
    page = matching[:size]
    cut = len(matching) > size
    cursor = page[-1].number if cut else rows[-1].number if rows else after
    more = cut or len(rows) == LOOKED_AT
    return reply(_page(call, head, page, cursor, more))


def _before_last(store: Store, head: EventHead, size: int) -> int:
    """The highest number that at least `size` events follow, or the one before all of them. Numbers have gaps of a
    million at each start of the node, so it is looked for by halves."""
    low, high = head.floor, head.last
    while low < high:
        middle = (low + high + 1) // 2
        if len(store.events.after(middle, size)) == size:
            low = middle
        else:
            high = middle - 1
    return low


def _matches(call: AdminCall, row: EventRecord) -> bool:
    registry, repository = call.query.get("registry"), call.query.get("repository")
    return (registry is None or row.registry.lower() == registry.lower()) and (
        repository is None or shown_name(row.repository) == repository
    )


def _own_name(call: AdminCall) -> str:
    """The connected registry that this node is, "" at the root."""
    identity = call.catalogue.identity()
    return "" if identity is None else identity.name


def _page(
    call: AdminCall, head: EventHead, page: Sequence[EventRecord], cursor: int, more: bool
) -> EventList:
    own = _own_name(call)
    return EventList(
        value=tuple(document(row, head.log, own) for row in page),
        next_link=_next_link(call, cursor) if more else None,
        log=head.log,
        cursor=cursor,
    )


def _next_link(call: AdminCall, cursor: int) -> str:
    kept = tuple(pair for pair in call.request.query if pair[0] != "after")
    return f"{quote(call.request.path, safe='/')}?{encode_query((*kept, ('after', str(cursor))))}"


def document(row: EventRecord, log: str, own: str) -> EventDocument:
    """An event, with the id that webhooks give it."""
    notified = outgoing_event(row, log, own)
    return EventDocument(
        id=f"events/{row.number}",
        name=str(row.number),
        type="holdfast/events",
        properties=EventProperties(
            time=stamp_milliseconds(row.happened or row.at),
            action=row.verb,
            kind=cast(Any, row.kind),
            repository=shown_name(row.repository),
            tag=row.tag,
            digest=row.digest,
            media_type=row.media_type,
            size=row.size,
            artifact_type=row.artifact_type,
            subject=row.subject,
            origin=cast(Any, row.origin),
            theirs=row.theirs,
            winner=cast(Any, row.winner),
            connected_registry=row.registry,
            event_id=notified.event.id if notified is not None else "",
        ),
    )
