"""The last reports of the connected registries below, as far as they are not worth a write: that they are connected,
and the progress of a transfer.

Each reports once a minute, and one write of a report is 37 KB on the disk. So their documents are written when
something else changed, and otherwise once an hour; in between the last report is in memory, and replaces the document
wherever that is read. A keeper that ends in good order writes the last reports, and beside them a record of the end of
each lease: then nothing is unknown. The first report after that removes the record, durably, before it is answered:
these leases may be renewed from then on, and a power cut must not bring the older ends back.

After a kill or a power cut it is not known when a lease was renewed last. It counts as renewed at the last moment at
which that may have been: a lease never ends sooner than its holder was told, so two instances are never active at once.
The API shows what is known: no registry is shown as connected whose last known lease ran out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.errors import StoreError
from holdfast_core.record import Resource, ResourceChange
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast.control.draft import decoded
from holdfast.log import log
from holdfast.resources.model import STATUS, Status
from holdfast.resources.states import WRITE_SECONDS, revived, timeless
from holdfast.timestamps import seconds

#: one quiet record, of the end of the last keeper that ended in good order
KIND, NAME = "leases", "self"


@dataclass(slots=True)
class LastReport:
    """A report that replaces the document of a revision, unless the change that it came with failed: then the report
    before it counts."""

    revision: int
    status: Status
    before: LastReport | None
    has_failed: bool = False


class PendingReport(NamedTuple):
    """This revision of the document has the last report, and its lease counts until then."""

    revision: int
    expires: str


def pending_reports(store: Store) -> dict[str, PendingReport]:
    """The record of the last keeper that ended in good order, by lower-cased name. One that cannot be read counts as
    none, as after a kill."""
    try:
        held = store.documents.get(KIND, NAME)
        return msgspec.json.decode(held.body, type=dict[str, PendingReport]) if held is not None else {}
    except (StoreError, msgspec.DecodeError) as error:
        log.error("record of leases cannot be read", reason=str(error))
        return {}


class Heartbeats:
    """Those of one keeper, which was started at `started` (wall seconds) and read the `pending` reports of the one
    before it."""

    def __init__(self, started: float, pending: Mapping[str, PendingReport] | None = None) -> None:
        self._started, self._pending = started, dict(pending or {})
        self._reports: dict[str, LastReport] = {}
        #: revisions that this keeper wrote
        self._own: dict[str, int] = {}

    def over(self, view: ResourceView) -> ResourceView:
        """The resources, with the last reports in place of the documents."""
        return _Overlaid(view, self)

    def worth(
        self, view: ResourceView, changes: Sequence[ResourceChange], remembered: list[LastReport]
    ) -> list[ResourceChange]:
        """Those of the changes that are to be written; the others are `remembered`. The record of the last keeper ends
        with the first report: it is removed before that is answered, and never comes back, because its kind is not
        quiet here."""
        written = [row for row in changes if not self._remembers(view, row, remembered)]
        if any(row.kind == STATUS for row in changes):
            written.append(ResourceChange(KIND, NAME, None))  # nothing is written when there is none
        return written

    @staticmethod
    def settled(remembered: Sequence[LastReport], *, well: bool) -> None:
        """The store took the change with which these were remembered, or did not: then no caller saw them."""
        for report in remembered:
            report.has_failed = not well
            report.before = None if well else report.before

    def current(self, held: Resource) -> Status:
        """The last report, where the store holds this document, with its lease as long as that may be."""
        stored = _status(held.body)
        if (unwritten := self._unwritten(held)) is not None:
            return unwritten
        if self._own.get(held.name.lower()) == held.revision or stored.lease is None:
            return stored
        if (pending := self._pending_for(held)) is None:
            return revived(stored, self._started)
        return replace(stored, lease=replace(stored.lease, expires=pending.expires))

    def statuses(self, store: Store) -> dict[str, Status]:
        """The last known status of each, by name."""
        return {
            row.name: self._unwritten(row) or _status(row.body) for row in store.documents.of_kind(STATUS)
        }

    def final_changes(self, view: ResourceView) -> Iterator[ResourceChange]:
        """The reports that the store does not have, and the record of the end of each lease."""
        pending: dict[str, PendingReport] = {}
        for row in view.list(STATUS):
            unwritten, lease = self._unwritten(row), self.current(row).lease
            if changed := unwritten is not None and unwritten != _status(row.body):
                yield ResourceChange(STATUS, row.name, msgspec.json.encode(unwritten))
            if lease is not None:
                pending[row.name.lower()] = PendingReport(row.revision + changed, lease.expires)
        self._pending, held = pending, view.get(KIND, NAME)
        body = msgspec.json.encode(pending)
        if pending and (held is None or held.body != body):
            yield ResourceChange(KIND, NAME, body)

    def _unwritten(self, held: Resource) -> Status | None:
        """The last report, when it was not written and the store still holds the document that it followed."""
        last = self._last(held.name.lower())
        if last and last.revision == held.revision and timeless(last.status) == timeless(_status(held.body)):
            return last.status
        return None

    def _last(self, name: str) -> LastReport | None:
        """The last report that has not failed."""
        report = self._reports.get(name)
        while report is not None and report.has_failed:
            report = report.before
        return report

    def _pending_for(self, held: Resource) -> PendingReport | None:
        """What the last keeper recorded for just this document. One of the same name that was made anew may have its
        revision, and then a later lease."""
        pending, lease = self._pending.get(held.name.lower()), _status(held.body).lease
        if pending is None or lease is None or pending.revision != held.revision:
            return None
        return pending if seconds(pending.expires) >= seconds(lease.expires) else None

    def _remembers(self, view: ResourceView, row: ResourceChange, remembered: list[LastReport]) -> bool:
        """Whether a change is remembered alone."""
        if row.kind != STATUS or row.body is None:
            return False
        held, now, name = view.get(STATUS, row.name), _status(row.body), row.name.lower()
        if held is None or _is_news(_status(held.body), now):
            self._own[name] = 1 if held is None else held.revision + 1
            return False
        remembered.append(LastReport(held.revision, now, self._last(name)))
        self._reports[name] = remembered[-1]
        return True


class _Overlaid:
    """See `Heartbeats.over`."""

    def __init__(self, view: ResourceView, heartbeats: Heartbeats) -> None:
        self._view, self._heartbeats = view, heartbeats

    def get(self, kind: str, name: str) -> Resource | None:
        held = self._view.get(kind, name)
        if held is None or kind != STATUS:
            return held
        return replace(held, body=msgspec.json.encode(self._heartbeats.current(held)))

    def list(
        self, kind: str, *, after: str = "", limit: int | None = None, prefix: str = ""
    ) -> list[Resource]:
        return self._view.list(kind, after=after, limit=limit, prefix=prefix)

    def count(self, kind: str) -> int:
        return self._view.count(kind)

    def revision(self) -> int:
        return self._view.revision()


def _is_news(before: Status, now: Status) -> bool:
    """Whether it is to be written."""
    return timeless(before) != timeless(now) or _apart(before, now) >= WRITE_SECONDS


def _apart(before: Status, now: Status) -> float:
    """Seconds between two reports, whichever way the clock went."""
    if before.last_activity_time is None or now.last_activity_time is None:
        return WRITE_SECONDS
    return abs(seconds(now.last_activity_time) - seconds(before.last_activity_time))


def _status(body: bytes) -> Status:
    status = decoded(STATUS, body)
    assert isinstance(status, Status)
    return status
