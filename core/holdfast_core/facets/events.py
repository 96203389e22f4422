"""The log of events: what changed in the store, in order, for those who follow it."""

from __future__ import annotations

from concurrent.futures import Future

from holdfast_core import format as layout
from holdfast_core.changes import store_events
from holdfast_core.changes.change import IndexChange, IndexView, present
from holdfast_core.index.lmdb_index import Index
from holdfast_core.record import EventHead, EventRecord
from holdfast_core.write_access import WriteAccess


class StoredEvents:
    """The log of an open store. An event is written in the transaction of what it tells of, as long as the log is
    kept."""

    def __init__(self, index: Index, access: WriteAccess) -> None:
        self._index = index
        self._access = access
        self._get = index.get

    def head(self) -> EventHead | None:
        """Where the log of events stands; None when it has no readers, so that it is not kept. Raises RecordDamaged."""
        payload = self._get(layout.EVENT)
        head = None if payload is None else layout.decode_log_head(payload)
        if head is None or not head.log:
            return None
        return EventHead(head.log.hex(), head.last, head.floor, head.count)

    def after(self, after: int, limit: int) -> list[EventRecord]:
        """Events with numbers above `after`, in order, at most `limit`; what is left of an ended log among them. Raises
        RecordDamaged: it is not known what happened."""
        rows = self._index.scan(layout.EVENT, after=layout.event_key(after), limit=limit)
        return [layout.decode_event(key, layout.unseal(key, value)) for key, value in rows]

    def since(self, log: str, after: int, limit: int) -> list[EventRecord] | None:
        """All that happened since a point of a log, in order, at most `limit`. None when that is not known: it is
        another log now, or what followed was trimmed, or `after` is no point of it: the event of that number was lost
        with a power cut, so a reader of it saw what is not. Raises RecordDamaged."""
        events = self.after(after, limit)
        # looked at after the rows: what is a point now was one before, and nothing above it had been trimmed
        head = self.head()
        if head is None or head.log != log:
            return None
        if after < head.floor:
            return None
        with self._index.view() as view:
            is_point = after == head.floor or present(view, layout.event_key(after))
        return events if is_point else None

    def keep(self, keep: bool) -> Future[None]:
        """From now on log what changes here, or do not: then no reader can follow what was logged so far, and
        `trim` takes it away. A log that is begun again has another id."""
        return self._access.submit(lambda view: store_events.kept(view, keep))

    def trim(self, *, before: float, keep: int, limit: int = 1000) -> Future[int]:
        """Take up to `limit` events away: those older than `before` (wall seconds), and the oldest beyond `keep`. The
        future says how many."""
        trimmed = 0

        def plan(view: IndexView) -> list[IndexChange]:
            nonlocal trimmed
            rows = store_events.trimmed(view, before=before, keep=keep, limit=limit)
            trimmed = sum(row.value is None for row in rows)
            return rows

        return self._access.answered(plan, lambda: trimmed)
