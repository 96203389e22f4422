"""The event log over the admin API: what changed here and in the connected registries below, by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote

import msgspec
from holdfast_core.record import Event, EventHead
from holdfast_core.store import Store

from holdfast.admin.document import EventDocument, EventList, EventProperties
from holdfast.admin.operation import Call, reply
from holdfast.admin.pages import PAGE_ENTRIES
from holdfast.endpoint.history import stamp
from holdfast.errors import ControlConflict
from holdfast.notify.told import shown_name, told_of
from holdfast.wire.message import Reply
from holdfast.wire.query import encode_query

#: events that one answer looks at, whatever is asked for: the next page goes on behind them
LOOKED_AT = 5000


async def show_list(call: Call) -> Reply:
    """GET of a page, the oldest first. Raises ControlConflict on a node that keeps no log."""
    head = call.node.store.event_head()
    if head is None:
        raise ControlConflict(
            "this node keeps no event log, because nobody reads it; a [[webhook]], a connected registry below it or a"
            " notificationsList turns it on"
        )
    size = call.query.get("$top", PAGE_ENTRIES)
    after = call.query.get("after")
    if after is None:
        after = _before_last(call.node.store, head, size)
    rows = call.node.store.events(after, LOOKED_AT)
    wanted = [row for row in rows if _is_wanted(call, row)]
    page = wanted[:size]
    cut = len(wanted) > size
    cursor = page[-1].number if cut else rows[-1].number if rows else after
    more = cut or len(rows) == LOOKED_AT
    return reply(_list(call, head, page, cursor, more))


def _before_last(store: Store, head: EventHead, size: int) -> int:
    """The highest number that at least `size` events follow, or the one before all of them. Numbers have gaps of a
    million at each start of the node, so it is looked for by halves."""
    low, high = head.floor, head.last
    while low < high:
        middle = (low + high + 1) // 2
        if len(store.events(middle, size)) == size:
            low = middle
        else:
            high = middle - 1
    return low


def _is_wanted(call: Call, row: Event) -> bool:
    registry, repository = call.query.get("registry"), call.query.get("repository")
    return (registry is None or row.registry.lower() == registry.lower()) and (
        repository is None or shown_name(row.repository) == repository
    )


def _own_name(call: Call) -> str:
    """The connected registry that this node is, "" at the root."""
    identity = call.catalogue.identity()
    return "" if identity is None else identity.name


def _list(call: Call, head: EventHead, page: Sequence[Event], cursor: int, more: bool) -> dict[str, Any]:
    own = _own_name(call)
    found: dict[str, Any] = msgspec.to_builtins(
        EventList(
            value=tuple(view(row, head.log, own) for row in page),
            next_link=_next_link(call, cursor) if more else None,
            log=head.log,
            cursor=cursor,
        )
    )
    return found


def _next_link(call: Call, cursor: int) -> str:
    kept = tuple(pair for pair in call.request.query if pair[0] != "after")
    return f"{quote(call.request.path, safe='/')}?{encode_query((*kept, ('after', str(cursor))))}"


def view(row: Event, log: str, own: str) -> EventDocument:
    """What is shown of one."""
    told = told_of(row, log, own)
    return EventDocument(
        id=f"events/{row.number}",
        name=str(row.number),
        type="holdfast/events",
        properties=EventProperties(
            time=stamp(row.happened or row.at),
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
            event_id=told.event.id if told is not None else "",
        ),
    )
