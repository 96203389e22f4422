"""The parent of the simulation, by the product's own commands on a store in memory."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast import timestamps
from holdfast.control import activation
from holdfast.control.command import Activate, RecordReport
from holdfast.control.draft import Context, Draft
from holdfast.errors import ControlConflict
from holdfast.gateway.agent_state import Activated, Deactivated, OtherInstanceActive, Outcome, Reported
from holdfast.resources.model import (
    REGISTRY,
    STATUS,
    ConnectedRegistry,
    ParentProperties,
    SyncProperties,
)
from holdfast_core.record import Resource, ResourceChange
from msgspec.structs import replace

PLANT = ConnectedRegistry(
    name="plantA",
    mode="ReadOnly",
    parent=ParentProperties(sync_properties=SyncProperties(token_id="/tokens/plantA")),
)


class MemoryView:
    """`ResourceView` of a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Resource] = {}
        self.number = 0

    def get(self, kind: str, name: str) -> Resource | None:
        """By name in any casing."""
        return self.rows.get((kind, name.lower()))

    def list(
        self, kind: str, *, after: str = "", limit: int | None = None, prefix: str = ""
    ) -> list[Resource]:
        """By lower-cased name."""
        low, above = prefix.lower(), after.lower()
        names = sorted(n for k, n in self.rows if k == kind and n > above and n.startswith(low))
        return [self.rows[kind, name] for name in names[:limit]]

    def count(self, kind: str) -> int:
        """How many."""
        return sum(k == kind for k, _ in self.rows)

    def revision(self) -> int:
        """Transactions so far."""
        return self.number

    def apply(self, changes: Sequence[ResourceChange]) -> None:
        """One transaction."""
        self.number += 1
        for row in changes:
            place = (row.kind, row.name.lower())
            if row.body is None:
                self.rows.pop(place, None)
            else:
                self.rows[place] = Resource(row.kind, row.name, self.number, row.body)


class ExecutedWord:
    """`lease_world.Word` by `control/activation.py`."""

    def __init__(self) -> None:
        self.view = MemoryView()
        draft = Draft(self.view)
        draft.put(REGISTRY, PLANT)
        self.view.apply(draft.changes())

    def activate(self, instance: str, lease: float, now: float) -> Outcome:
        """See `Word`."""
        order = Activate(name="plantA", instance=instance, lease_seconds=lease)
        draft = Draft(self.view)
        try:
            result = activation.activate(draft, order, Context(now))
        except ControlConflict as refused:
            return OtherInstanceActive() if refused.detail == "ALREADY_ACTIVATED" else Deactivated()
        self.view.apply(draft.changes())
        return Activated(result.generation, lease)

    def report(self, instance: str, generation: int, lease: float, now: float) -> Outcome:
        """See `Word`."""
        order = RecordReport(name="plantA", instance=instance, generation=generation, lease_seconds=lease)
        draft = Draft(self.view)
        try:
            activation.report(draft, order, Context(now))
        except ControlConflict as refused:
            return Deactivated() if refused.detail == "NOT_ACTIVATED" else OtherInstanceActive()
        self.view.apply(draft.changes())
        return Reported(lease)

    def deactivate(self, now: float) -> None:
        """What the operator's command does to the status."""
        draft = Draft(self.view)
        draft.put(STATUS, replace(draft.status("plantA"), lease=None), "plantA")
        self.view.apply(draft.changes())

    def holder(self) -> tuple[str, int, float] | None:
        """See `Word`."""
        lease = Draft(self.view).status("plantA").lease
        return (
            None if lease is None else (lease.instance, lease.generation, timestamps.seconds(lease.expires))
        )
