"""Conflicts: tags that both sides moved. The last of them are kept in the store; each is written to the log of the node
and to its event log, from which webhooks and the parent get it, and the last are part of the status for the parent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.record import EventRecord, ResourceChange
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast.clock import Clock
from holdfast.log import log
from holdfast.outbox import records
from holdfast.outbox.queue import Conflict
from holdfast.outbox.stored_queue import committed
from holdfast.resources.model import QUIET, StatusDetail
from holdfast.routing import Repository
from holdfast.timestamps import stamp

#: conflicts in the status for the parent, no older than this (seconds)
REPORTED, REPORTED_SECONDS = 5, 86400.0
#: the winner while an operator has to decide
UNDECIDED = "undecided"
#: what becomes of our tag, by winner
OUTCOMES = {"parent": "the parent's stays", "child": "ours goes up", "": "an operator has to decide"}


class Conflicts:
    """The recorded conflicts with all parents. `report_due` is called after one was recorded."""

    def __init__(self, store: Store, clock: Clock, report_due: Callable[[], None] = lambda: None) -> None:
        self._store, self._clock, self._report_due = store, clock, report_due
        self._recent: deque[Conflict] | None = None

    async def record(self, number: int, conflict: Conflict) -> None:
        """Store a conflict under the number of its entry, with its event, in one transaction. One that is found again,
        after a kill or because the next step failed, is not recorded twice."""
        is_new = False

        def plan(view: ResourceView) -> Sequence[ResourceChange]:
            nonlocal is_new
            name = records.name_of(number)
            held = view.get(records.CONFLICT, name)
            is_new = held is None or not _is_same(records.conflict_in(held), conflict)
            if not is_new:
                return ()
            spare = max(0, view.count(records.CONFLICT) + 1 - records.CONFLICTS)
            old = view.list(records.CONFLICT, limit=spare)
            gone = [ResourceChange(records.CONFLICT, row.name, None) for row in old if row.name != name]
            return [*gone, ResourceChange(records.CONFLICT, name, msgspec.msgpack.encode(conflict))]

        recent = self._known()
        quiet = QUIET | {records.CONFLICT}
        written = self._store.documents.change(plan, quiet=quiet, events=lambda: [_event(conflict)] * is_new)
        await committed(written)
        if is_new:
            log.warning("tag moved on both sides", number=number, **_log_fields(conflict))
            recent.append(conflict)
            self._report_due()

    def details(self) -> list[StatusDetail]:
        """The last conflicts for the status, the newest first."""
        since = self._clock.now() - REPORTED_SECONDS
        return [_detail(conflict) for conflict in reversed(self._known()) if conflict.at >= since]

    def _known(self) -> deque[Conflict]:
        if self._recent is None:
            self._recent = deque(records.conflicts_of(self._store).values(), REPORTED)
        return self._recent


def _is_same(held: Conflict, new: Conflict) -> bool:
    """Whether two conflicts differ in their time alone."""
    return replace(held, at=new.at) == new


def _log_fields(conflict: Conflict) -> dict[str, str | None]:
    """The fields of its line in the log."""
    return {
        "repository": conflict.repository,
        "tag": conflict.tag,
        "ours": conflict.ours,
        "theirs": conflict.theirs,
        "base": conflict.base,
        "policy": conflict.policy,
        "winner": conflict.winner or UNDECIDED,
    }


def _event(conflict: Conflict) -> EventRecord:
    return EventRecord(
        "conflict",
        "tag",
        conflict.repository,
        conflict.at,
        conflict.tag,
        conflict.ours,
        theirs=conflict.theirs,
        winner=conflict.winner or UNDECIDED,
    )


def _detail(conflict: Conflict) -> StatusDetail:
    ours, theirs = conflict.ours or "deleted", conflict.theirs or "nothing"
    place = f"{Repository.from_key(conflict.repository).name}:{conflict.tag}"
    what = (
        f"{place} was moved on both sides: {ours} here, {theirs} at the parent; {OUTCOMES[conflict.winner]}"
    )
    return StatusDetail(
        type="Sync",
        code="TagConflict",
        description=f"{what} (sync.conflict = {conflict.policy})",
        timestamp=stamp(conflict.at),
    )
