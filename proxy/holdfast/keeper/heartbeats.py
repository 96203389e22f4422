"""What the connected registries below said last, as far as it is not worth a write: that they are there, and how far a
transfer is.

Each says so once a minute, and one write of it is 37 KB on the disk. So their documents are written when something else
changed, and otherwise once an hour; in between the last word is in memory, and replaces the document wherever that is
read. After a kill nobody knows when a lease was renewed last. It counts as renewed at the last moment at which that may
have been: a lease never ends sooner than its holder was told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
from holdfast_core.record import Resource, ResourceChange
from holdfast_core.resources import ResourceView
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast.control.draft import decoded
from holdfast.control.moment import seconds
from holdfast.control.resource import STATUS, Status
from holdfast.control.states import WRITE_SECONDS, revived, timeless


class _Word(NamedTuple):
    """What replaces the document of a revision."""

    revision: int
    status: Status


class Heartbeats:
    """Those of one keeper, which was begun at `began` (wall seconds)."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._words: dict[str, _Word] = {}
        #: revisions that this keeper wrote
        self._own: dict[str, int] = {}

    def over(self, view: ResourceView) -> ResourceView:
        """What is there, with the last words in place of the documents."""
        return _Overlaid(view, self)

    def worth(self, view: ResourceView, changes: Sequence[ResourceChange]) -> list[ResourceChange]:
        """Those of the changes that are to be written; the others are remembered."""
        return [row for row in changes if not self._keeps(view, row)]

    def current(self, held: Resource) -> Status:
        """What was said last, by the document that the store holds."""
        stored = _status(held.body)
        word = self._words.get(held.name.lower())
        if word and word.revision == held.revision and timeless(word.status) == timeless(stored):
            return word.status
        if self._own.get(held.name.lower()) == held.revision:
            return stored
        return revived(stored, self._began)

    def statuses(self, store: Store) -> dict[str, Status]:
        """All of them, by name."""
        return {row.name: self.current(row) for row in store.resources(STATUS)}

    def unwritten(self, view: ResourceView) -> Iterator[ResourceChange]:
        """What the store has not."""
        for row in view.list(STATUS):
            if row.name.lower() in self._words and (status := self.current(row)) != _status(row.body):
                yield ResourceChange(STATUS, row.name, msgspec.json.encode(status))

    def _keeps(self, view: ResourceView, row: ResourceChange) -> bool:
        """Whether a change is remembered alone."""
        if row.kind != STATUS or row.body is None:
            return False
        held, now, name = view.get(STATUS, row.name), _status(row.body), row.name.lower()
        if held is None or _is_news(_status(held.body), now):
            self._own[name] = 1 if held is None else held.revision + 1
            return False
        self._words[name] = _Word(held.revision, now)
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
    """Seconds between two words, whichever way the clock went."""
    if before.last_activity_time is None or now.last_activity_time is None:
        return WRITE_SECONDS
    return abs(seconds(now.last_activity_time) - seconds(before.last_activity_time))


def _status(body: bytes) -> Status:
    found = decoded(STATUS, body)
    assert isinstance(found, Status)
    return found
