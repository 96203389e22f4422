"""Tags that both sides moved: kept in the store, the last of them, and told in the log of the node, in its log of
events, from which webhooks and the parent hear of each, and in the status that goes up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import structlog
from holdfast_core.record import Event, ResourceChange
from holdfast_core.resources import ResourceView
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast.clock import Clock
from holdfast.control.moment import stamp
from holdfast.control.resource import QUIET, StatusDetail
from holdfast.keeper import outgoing
from holdfast.keeper.rows import committed
from holdfast.repository import Repository
from holdfast.sync.outbox import Conflict

log = structlog.get_logger()

#: the parent is told of so many, no older than this (seconds)
TOLD, TOLD_SECONDS = 5, 86400.0
#: who won while nobody did
UNDECIDED = "undecided"
#: what became of ours, by who won
OUTCOMES = {"parent": "the parent's stays", "child": "ours goes up", "": "an operator has to decide"}


class Conflicts:
    """All that were recorded, whichever parent they were with."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._recent: deque[Conflict] | None = None
        #: called when there is one more
        self.news: Callable[[], None] = lambda: None

    async def record(self, number: int, conflict: Conflict) -> None:
        """Keep how a conflict was decided, under the number of its entry, and tell of it in the same transaction. One
        that is found again, after a kill or because what follows from it failed, is known already."""
        is_new = False

        def plan(view: ResourceView) -> Sequence[ResourceChange]:
            nonlocal is_new
            name = outgoing.name_of(number)
            held = view.get(outgoing.CONFLICT, name)
            is_new = held is None or not _is_same(outgoing.conflict_in(held), conflict)
            if not is_new:
                return ()
            spare = max(0, view.count(outgoing.CONFLICT) + 1 - outgoing.CONFLICTS)
            old = view.list(outgoing.CONFLICT, limit=spare)
            gone = [ResourceChange(outgoing.CONFLICT, row.name, None) for row in old if row.name != name]
            return [*gone, ResourceChange(outgoing.CONFLICT, name, msgspec.msgpack.encode(conflict))]

        recent = self._known()
        quiet = QUIET | {outgoing.CONFLICT}
        told = self._store.change_resources(plan, quiet=quiet, told=lambda: [_event(conflict)] * is_new)
        await committed(told)
        if is_new:
            log.warning("tag moved on both sides", number=number, **_said(conflict))
            recent.append(conflict)
            self.news()

    def details(self) -> list[StatusDetail]:
        """What the parent is told: the last ones, the newest first."""
        since = self._clock.now() - TOLD_SECONDS
        return [_detail(conflict) for conflict in reversed(self._known()) if conflict.at >= since]

    def _known(self) -> deque[Conflict]:
        if self._recent is None:
            self._recent = deque(outgoing.conflicts_of(self._store).values(), TOLD)
        return self._recent


def _is_same(held: Conflict, found: Conflict) -> bool:
    """Whether it is known already; found again it has another time."""
    return replace(held, at=found.at) == found


def _said(conflict: Conflict) -> dict[str, str | None]:
    """For the log of the node."""
    return {
        "repository": conflict.repository,
        "tag": conflict.tag,
        "ours": conflict.ours,
        "theirs": conflict.theirs,
        "base": conflict.base,
        "policy": conflict.policy,
        "winner": conflict.winner or UNDECIDED,
    }


def _event(conflict: Conflict) -> Event:
    return Event(
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
    said = (
        f"{place} was moved on both sides: {ours} here, {theirs} at the parent; {OUTCOMES[conflict.winner]}"
    )
    return StatusDetail(
        type="Sync",
        code="TagConflict",
        description=f"{said} (sync.conflict = {conflict.policy})",
        timestamp=stamp(conflict.at),
    )
