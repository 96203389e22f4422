"""What is still to go up to a parent, and how conflicts over tags were decided, over the admin API."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from holdfast_core.errors import RecordDamaged

from holdfast.admin.document import (
    BacklogDocument,
    ConflictDocument,
    OutboxDocument,
    OutboxProperties,
    OutboxState,
)
from holdfast.admin.operation import Call, reply
from holdfast.admin.pages import PAGE_ENTRIES, page_reply
from holdfast.endpoint.history import stamp
from holdfast.errors import ControlUnknown, QueryInvalid
from holdfast.keeper import outgoing
from holdfast.sync.entry import Entry
from holdfast.sync.outbox import Conflict
from holdfast.wire.message import Reply
from holdfast.wire.names import shown

#: digits of a number that the store can have given
DIGITS = 18


class Row(NamedTuple):
    """An entry that is still to go up, a conflict that was decided, or both."""

    number: int
    entry: Entry | None
    conflict: Conflict | None

    @property
    def name(self) -> str:
        """As it stands in paths."""
        return str(self.number)


def _found(call: Call) -> Row:
    text = call.name
    row = Row(0, None, None)
    if text.isascii() and text.isdigit() and len(text) <= DIGITS:
        number = int(text)
        store = call.node.store
        row = Row(number, outgoing.entry_of(store, number), outgoing.conflict_of(store, number))
    if row.entry is None and row.conflict is None:
        raise ControlUnknown(f"nothing is in the outbox under {shown(text)!r}", field="name")
    return row


async def show(call: Call) -> Reply:
    """GET of one."""
    return reply(view(call, _found(call)))


async def show_list(call: Call) -> Reply:
    """GET of all, in the order in which they came."""
    size, token = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "0")
    if not (token.isascii() and token.isdigit() and len(token) <= DIGITS):
        raise QueryInvalid("$skipToken: allowed: what nextLink says", detail="$skipToken")
    after, store = int(token), call.node.store
    conflicts = {number: one for number, one in outgoing.conflicts_of(store).items() if number > after}
    entries: dict[int, Entry] = {}
    for number, body in store.outbox(after=after, limit=size + 1):
        try:
            entries[number] = outgoing.decode(number, body)
        except RecordDamaged:  # the keeper tells of it in its log
            continue
    rows = [
        Row(number, entries.get(number), conflicts.get(number)) for number in sorted({*entries, *conflicts})
    ]
    return page_reply(call, rows[: size + 1], size, view)


async def backlog(call: Call) -> Reply:
    """GET: how much is to go up, since when, and how fast it goes."""
    counters = (await call.node.port.status()).counters
    oldest, now = counters.get("outbox.oldest_at", 0), call.node.clock.now()
    found = BacklogDocument(
        entries=counters.get("outbox", 0),
        under_way=counters.get("outbox.under_way", 0),
        oldest_time=stamp(float(oldest)) if oldest else None,
        oldest_seconds=max(0, int(now - oldest)) if oldest else 0,
        per_minute=counters.get("outbox.per_minute", 0),
    )
    return reply(msgspec.to_builtins(found))


async def retry(call: Call) -> Reply:
    """POST: have it tried now; one in conflict goes up as if this side had won."""
    before = _found(call)
    await call.node.port.retry_outbox(before.number)
    entry = outgoing.entry_of(call.node.store, before.number)
    return reply(view(call, before._replace(entry=entry or before.entry)))


def view(_: Call, row: Row) -> dict[str, Any]:
    """What is shown of one."""
    entry, conflict = row.entry, row.conflict
    told = entry or conflict
    assert told is not None
    trouble = entry.trouble if entry is not None else None
    properties = OutboxProperties(
        repository=told.repository,
        deed=entry.deed if entry is not None else "tag",
        digest=entry.digest if entry is not None else conflict.ours if conflict is not None else "",
        tag=told.tag,
        state=state_of(row),
        time=stamp(told.at),
        attempts=trouble.attempts if trouble is not None else 0,
        reason=entry.conflict or (trouble.reason if trouble is not None else "") if entry is not None else "",
        next_try=stamp(trouble.next_at) if trouble is not None else None,
        conflict=_conflict(conflict) if conflict is not None else None,
    )
    document = OutboxDocument(
        id=f"outbox/{row.name}", name=row.name, type="holdfast/outbox", properties=properties
    )
    found: dict[str, Any] = msgspec.to_builtins(document)
    return found


def _conflict(conflict: Conflict) -> ConflictDocument:
    return ConflictDocument(
        ours=conflict.ours,
        theirs=conflict.theirs,
        base=conflict.base,
        time=stamp(conflict.at),
        policy=conflict.policy,
        winner=conflict.winner or "undecided",
    )


def state_of(row: Row) -> OutboxState:
    """One word for it."""
    if row.entry is None:
        return "overruled" if row.conflict is not None and row.conflict.winner == "parent" else "arrived"
    if row.entry.conflict:
        return "conflict"
    if row.entry.trouble is not None:
        return "parked" if row.entry.trouble.parked else "failing"
    return "waiting"
