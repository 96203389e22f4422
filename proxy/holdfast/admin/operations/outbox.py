"""The outbox and the decided conflicts over tags, over the admin API."""

from __future__ import annotations

from typing import NamedTuple

from holdfast_core.errors import RecordDamaged

from holdfast.admin.documents import (
    BacklogDocument,
    ConflictDocument,
    OutboxDocument,
    OutboxProperties,
    OutboxState,
)
from holdfast.admin.filter import PAGE_ENTRIES, page_reply
from holdfast.admin.operation import AdminCall, reply
from holdfast.errors import ControlUnknown, QueryInvalid
from holdfast.oci.names import shown
from holdfast.outbox import records
from holdfast.outbox.entry import OutboxEntry
from holdfast.outbox.queue import Conflict
from holdfast.timestamps import stamp_milliseconds
from holdfast.wire.message import Reply

#: digits of a number that the store can have given
DIGITS = 18


class OutboxRow(NamedTuple):
    """An entry of the outbox, a decided conflict, or both."""

    number: int
    entry: OutboxEntry | None
    conflict: Conflict | None

    @property
    def name(self) -> str:
        """The name in paths."""
        return str(self.number)


def _named(call: AdminCall) -> OutboxRow:
    text = call.name
    row = OutboxRow(0, None, None)
    if text.isascii() and text.isdigit() and len(text) <= DIGITS:
        number = int(text)
        store = call.node.store
        row = OutboxRow(number, records.entry_of(store, number), records.conflict_of(store, number))
    if row.entry is None and row.conflict is None:
        raise ControlUnknown(f"nothing is in the outbox under {shown(text)!r}", field="name")
    return row


async def show(call: AdminCall) -> Reply:
    """GET of one."""
    return reply(document(call, _named(call)))


async def show_list(call: AdminCall) -> Reply:
    """GET of all, oldest first."""
    size, token = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "0")
    if not (token.isascii() and token.isdigit() and len(token) <= DIGITS):
        raise QueryInvalid("$skipToken: allowed: what nextLink says", detail="$skipToken")
    after, store = int(token), call.node.store
    conflicts = {number: one for number, one in records.conflicts_of(store).items() if number > after}
    entries: dict[int, OutboxEntry] = {}
    for number, body in store.references.outbox.rows(after=after, limit=size + 1):
        try:
            entries[number] = records.decode(number, body)
        except RecordDamaged:  # the keeper logs it
            continue
    rows = [
        OutboxRow(number, entries.get(number), conflicts.get(number))
        for number in sorted({*entries, *conflicts})
    ]
    return page_reply(call, rows[: size + 1], size, document)


async def backlog(call: AdminCall) -> Reply:
    """GET: the size of the outbox, the age of its oldest entry, and the rate at which it shrinks."""
    counters = (await call.node.port.status()).counters
    oldest, now = counters.get("outbox.oldest_at", 0), call.node.clock.now()
    answer = BacklogDocument(
        entries=counters.get("outbox", 0),
        under_way=counters.get("outbox.under_way", 0),
        oldest_time=stamp_milliseconds(float(oldest)) if oldest else None,
        oldest_seconds=max(0, int(now - oldest)) if oldest else 0,
        per_minute=counters.get("outbox.per_minute", 0),
    )
    return reply(answer)


async def retry(call: AdminCall) -> Reply:
    """POST: try the entry now; one in conflict is sent as if this node had won."""
    before = _named(call)
    await call.node.port.retry_outbox(before.number)
    entry = records.entry_of(call.node.store, before.number)
    return reply(document(call, before._replace(entry=entry or before.entry)))


def document(_: AdminCall, row: OutboxRow) -> OutboxDocument:
    """An entry, and how its conflict was decided."""
    entry, conflict = row.entry, row.conflict
    change = entry or conflict
    assert change is not None
    trouble = entry.trouble if entry is not None else None
    properties = OutboxProperties(
        repository=change.repository,
        deed=entry.deed if entry is not None else "tag",
        digest=entry.digest if entry is not None else conflict.ours if conflict is not None else "",
        tag=change.tag,
        state=state_of(row),
        time=stamp_milliseconds(change.at),
        attempts=trouble.attempts if trouble is not None else 0,
        reason=entry.conflict or (trouble.reason if trouble is not None else "") if entry is not None else "",
        next_try=stamp_milliseconds(trouble.next_at) if trouble is not None else None,
        conflict=_conflict(conflict) if conflict is not None else None,
    )
    return OutboxDocument(
        id=f"outbox/{row.name}", name=row.name, type="holdfast/outbox", properties=properties
    )


def _conflict(conflict: Conflict) -> ConflictDocument:
    return ConflictDocument(
        ours=conflict.ours,
        theirs=conflict.theirs,
        base=conflict.base,
        time=stamp_milliseconds(conflict.at),
        policy=conflict.policy,
        winner=conflict.winner or "undecided",
    )


def state_of(row: OutboxRow) -> OutboxState:
    """The state as one word."""
    if row.entry is None:
        return "overruled" if row.conflict is not None and row.conflict.winner == "parent" else "arrived"
    if row.entry.conflict:
        return "conflict"
    if row.entry.trouble is not None:
        return "parked" if row.entry.trouble.parked else "failing"
    return "waiting"
