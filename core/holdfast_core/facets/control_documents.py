"""Documents of the control plane: by kind and name, with a count for each kind and one revision for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from holdfast_core import format as layout
from holdfast_core.changes import resource_rows, store_events
from holdfast_core.changes.change import IndexChange, IndexView, Keep
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.index.lmdb_index import Index
from holdfast_core.record import EventRecord, Resource, ResourceChange
from holdfast_core.write_access import WriteAccess


class ControlDocuments:
    """The documents of an open store."""

    def __init__(self, index: Index, access: WriteAccess) -> None:
        self._index = index
        self._access = access
        self._get = index.get

    def get(self, kind: str, name: str) -> Resource | None:
        """A document of the control plane by its name, whatever its casing. Raises RecordDamaged, Mistake."""
        payload = self._get(layout.resource_key(kind, name))
        return None if payload is None else layout.decode_resource(kind, payload)

    def of_kind(
        self, kind: str, *, after: str = "", limit: int | None = None, prefix: str = ""
    ) -> list[Resource]:
        """Documents of a kind by lower-cased name: those above `after` whose name begins with `prefix`, at most
        `limit`. Raises RecordDamaged."""
        below, start = layout.resource_range(kind, prefix, after)
        rows = self._index.scan(below, after=start, limit=limit)
        return [layout.decode_resource(kind, layout.unseal(key, value)) for key, value in rows]

    def count(self, kind: str) -> int:
        """How many documents of a kind there are. Raises RecordDamaged."""
        return layout.decode_number(self._get(layout.resource_prefix(kind)))

    def revision(self) -> int:
        """Counts the transactions that changed a document of a kind that is not quiet; 0 before the first. Raises
        RecordDamaged."""
        return layout.decode_number(self._get(layout.RESOURCE))

    def change(
        self,
        plan: Callable[[ResourceView], Sequence[ResourceChange]],
        *,
        quiet: frozenset[str],
        synced: frozenset[str] = frozenset(),
        events: Callable[[], Iterable[EventRecord]] = tuple,
    ) -> Future[None]:
        """Change documents of the control plane, all or nothing, on disk when the future is done. `plan` decides on
        what is there, inside the transaction; what it raises the future raises, and nothing was changed. Kinds in
        `quiet` are only appended to the journal, but for those in `synced`, and do not count as a revision. `events`,
        called after the plan, gives events for the log. The operator's doing and the parent's, no client's: allowed in
        every mode."""

        def planned(view: IndexView) -> list[IndexChange]:
            rows = resource_rows.changed(view, plan(resource_rows.Resources(view)), quiet, synced)
            return [*rows, *(store_events.unnumbered(event, Keep.JOURNAL) for event in events())]

        return self._access.submit(planned)
