"""The record of tags that both sides moved: kept in the store, the last ones, and told in the log."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog
from holdfast_core.record import ResourceChange
from holdfast_core.resources import ResourceView
from holdfast_core.store import Store

from holdfast.control.resource import QUIET
from holdfast.keeper import outgoing
from holdfast.keeper.rows import committed
from holdfast.sync.outbox import Conflict

log = structlog.get_logger()


async def recorded(store: Store, number: int, conflict: Conflict) -> None:
    """Keep how a conflict was decided, under the number of its entry."""
    log.warning(
        "tag moved on both sides",
        number=number,
        repository=conflict.repository,
        tag=conflict.tag,
        ours=conflict.ours,
        theirs=conflict.theirs,
        base=conflict.base,
        policy=conflict.policy,
        winner=conflict.winner or "undecided",
    )

    def plan(view: ResourceView) -> Sequence[ResourceChange]:
        name = outgoing.name_of(number)
        spare = max(0, view.count(outgoing.CONFLICT) + 1 - outgoing.CONFLICTS)
        old = view.list(outgoing.CONFLICT, limit=spare)
        gone = [ResourceChange(outgoing.CONFLICT, row.name, None) for row in old if row.name != name]
        return [*gone, ResourceChange(outgoing.CONFLICT, name, msgspec.msgpack.encode(conflict))]

    await committed(store.change_resources(plan, quiet=QUIET | {outgoing.CONFLICT}))
