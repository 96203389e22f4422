"""Records of the control plane: named documents of a few kinds, changed together in one transaction.

The store knows nothing of what a document says. It keeps them by kind and by name without its casing, counts each kind,
and numbers the transactions that changed one that matters: a reader that decoded documents before looks at that number
and knows whether they are still right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from holdfast_core import format as layout
from holdfast_core.changes import change
from holdfast_core.changes.change import IndexChange, IndexView, Keep
from holdfast_core.errors import Mistake, RecordDamaged
from holdfast_core.index.lmdb_index import Index
from holdfast_core.record import Resource, ResourceChange

#: Left out when the record of the revision was damaged: removals since the newest document took numbers, too.
REVISION_GAP = 1_000_000


class ResourceView(Protocol):
    """What a plan sees of the control plane, inside its transaction. A damaged record counts as absent: the change
    that replaces it heals it."""

    def get(self, kind: str, name: str) -> Resource | None: ...

    def list(
        self, kind: str, *, after: str = "", limit: int | None = None, prefix: str = ""
    ) -> list[Resource]: ...

    def count(self, kind: str) -> int: ...

    def revision(self) -> int: ...


ResourcePlan = Callable[[ResourceView], Sequence[ResourceChange]]


class Resources:
    """`ResourceView` over a state of the index."""

    def __init__(self, view: IndexView) -> None:
        self._view = view

    def get(self, kind: str, name: str) -> Resource | None:
        """The document of that name, whatever its casing."""
        payload = self._view.get(layout.resource_key(kind, name))
        return None if payload is None else layout.decode_resource(kind, payload)

    def list(
        self, kind: str, *, after: str = "", limit: int | None = None, prefix: str = ""
    ) -> list[Resource]:
        """See `ControlDocuments.of_kind`."""
        below, start = layout.resource_range(kind, prefix, after)
        rows = self._view.rows(below, after=start, limit=limit)
        return [layout.decode_resource(kind, payload) for _, payload in rows]

    def count(self, kind: str) -> int:
        """How many there are."""
        return layout.decode_number(self._view.get(layout.resource_prefix(kind)))

    def revision(self) -> int:
        """See `ControlDocuments.revision`."""
        number = layout.decode_number(self._view.get(layout.RESOURCE))
        if not number and change.present(self._view, layout.RESOURCE):
            return self._newest() + REVISION_GAP
        return number

    def _newest(self) -> int:
        """The highest revision of any document, when the record of the revision is damaged."""
        rows = self._view.rows(layout.RESOURCE, after=layout.RESOURCE)
        documents = (row for key, row in rows if key != layout.resource_prefix_of(key))
        return max((layout.decode_resource("", row).revision for row in documents), default=0)


def changed(
    view: IndexView, changes: Sequence[ResourceChange], quiet: Collection[str], synced: Collection[str] = ()
) -> list[IndexChange]:
    """What to write for changes of documents. Kinds in `synced` are, though they are `quiet`. What is as it was is left
    alone, so that a repeated command writes nothing. Raises Mistake when one document is changed twice."""
    resources = Resources(view)
    real = _real(resources, changes)
    loud = any(row.kind not in quiet for row in real)
    revision = resources.revision() + loud
    rows: list[IndexChange] = []
    counts: Counter[str] = Counter()
    for row in real:
        key = layout.resource_key(row.kind, row.name)
        keep = Keep.JOURNAL if row.kind in quiet and row.kind not in synced else Keep.DISK
        was = change.present(view, key)
        counts[row.kind] += (row.body is not None) - was
        if row.body is None:
            rows += change.remove([key], keep)
        else:
            number = _next_revision(resources, row) if row.kind in quiet else revision
            rows.append(change.put(key, layout.encode_resource(row.name, number, row.body), keep))
    for kind, more in counts.items():
        keep = Keep.JOURNAL if kind in quiet else Keep.DISK
        if more:
            count = layout.encode_number(max(0, resources.count(kind) + more))
            rows.append(change.put(layout.resource_prefix(kind), count, keep))
    if loud:
        rows.append(change.put(layout.RESOURCE, layout.encode_number(revision), Keep.DISK))
    return rows


def _real(resources: Resources, changes: Sequence[ResourceChange]) -> list[ResourceChange]:
    """Those that differ from what is there."""
    seen: set[tuple[str, bytes]] = set()
    real = []
    for row in changes:
        place = (row.kind, layout.resource_name(row.name))
        if place in seen:
            raise Mistake(f"{row.kind} {row.name} is changed twice in one transaction")
        seen.add(place)
        held = resources.get(row.kind, row.name)
        if held is None or row.body is None or (held.name, held.body) != (row.name, row.body):
            real.append(row)
    return [row for row in real if row.body is not None or _is_there(resources, row)]


def _is_there(resources: Resources, row: ResourceChange) -> bool:
    """Whether there is something to remove, be it damaged."""
    return change.present(resources._view, layout.resource_key(row.kind, row.name))


def _next_revision(resources: Resources, row: ResourceChange) -> int:
    held = resources.get(row.kind, row.name)
    return 1 if held is None else held.revision + 1


def counts(index: Index) -> Iterator[tuple[bytes, int]]:
    """(key of the count, documents there are) of every kind that has a count or a document."""
    by_kind: Counter[bytes] = Counter()
    for key, _ in index.scan(layout.RESOURCE):
        if key != layout.RESOURCE:
            prefix = layout.resource_prefix_of(key)
            by_kind[prefix] += key != prefix
    yield from by_kind.items()


def recounted(index: Index, *, lost: bool = False) -> list[IndexChange]:
    """Counts that are right, for an index that was made again. `lost`: some of it was; then the revision goes on above
    any that may have been read."""
    rows = []
    for prefix, number in counts(index):
        try:
            held = layout.decode_number(index.get(prefix))
        except RecordDamaged:
            held = -1
        if held != number:
            rows.append(change.put(prefix, layout.encode_number(number), Keep.INDEX))
    if lost:
        with index.view() as view:
            resources = Resources(view)
            newest = max(resources.revision(), resources._newest())
        rows.append(change.put(layout.RESOURCE, layout.encode_number(newest + REVISION_GAP), Keep.INDEX))
    return rows
