"""What the connected registries below said last, as far as it is not worth a write: that they are there, and how far a
transfer is.

Each says so once a minute, and one write of it is 37 KB on the disk. So their documents are written when something else
changed, and otherwise once an hour; in between the last word is in memory, and replaces the document wherever that is
read. A keeper that ends in good order leaves the last words, and beside them a record of how long each lease counts:
then nothing is unknown. The first word that is heard after that takes the record away, durably, before it is answered:
what was said of these leases may be renewed from now on, and a power cut must not bring the older word back.

After a kill or a power cut nobody knows when a lease was renewed last. It counts as renewed at the last moment at which
that may have been: a lease never ends sooner than its holder was told, so two instances are never active at once. What
is shown is what is known: nobody looks connected whose last known lease ran out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import structlog
from holdfast_core.errors import StoreError
from holdfast_core.record import Resource, ResourceChange
from holdfast_core.resources import ResourceView
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast.control.draft import decoded
from holdfast.control.moment import seconds
from holdfast.control.resource import STATUS, Status
from holdfast.control.states import WRITE_SECONDS, revived, timeless

log = structlog.get_logger()

#: one quiet record, of the end of the last keeper that ended in good order
KIND, NAME = "leases", "self"


@dataclass(slots=True)
class Word:
    """What replaces the document of a revision, unless the change that it came with failed: then the word before it
    counts."""

    revision: int
    status: Status
    before: Word | None
    has_failed: bool = False


class Left(NamedTuple):
    """Nothing was heard that is not in this revision of the document, and the lease in it counts until then."""

    revision: int
    expires: str


def left_behind(store: Store) -> dict[str, Left]:
    """What the last keeper that ended in good order left, by lower-cased name. A record that cannot be read is none, as
    after a kill."""
    try:
        held = store.resource(KIND, NAME)
        return msgspec.json.decode(held.body, type=dict[str, Left]) if held is not None else {}
    except (StoreError, msgspec.DecodeError) as error:
        log.error("record of leases cannot be read", reason=str(error))
        return {}


class Heartbeats:
    """Those of one keeper, which was begun at `began` (wall seconds) and found what another `left`."""

    def __init__(self, began: float, left: Mapping[str, Left] | None = None) -> None:
        self._began, self._left = began, dict(left or {})
        self._words: dict[str, Word] = {}
        #: revisions that this keeper wrote
        self._own: dict[str, int] = {}

    def over(self, view: ResourceView) -> ResourceView:
        """What is there, with the last words in place of the documents."""
        return _Overlaid(view, self)

    def worth(
        self, view: ResourceView, changes: Sequence[ResourceChange], remembered: list[Word]
    ) -> list[ResourceChange]:
        """Those of the changes that are to be written; the others are `remembered`. What was left behind counts no
        more once anything is said: it goes before that is answered, and never comes back, because its kind is not
        quiet here."""
        written = [row for row in changes if not self._keeps(view, row, remembered)]
        if any(row.kind == STATUS for row in changes):
            written.append(ResourceChange(KIND, NAME, None))  # nothing is written when there is none
        return written

    @staticmethod
    def settled(remembered: Sequence[Word], *, well: bool) -> None:
        """The store took the change with which these were remembered, or did not: then nobody was told of them."""
        for word in remembered:
            word.has_failed = not well
            word.before = None if well else word.before

    def current(self, held: Resource) -> Status:
        """What was said last, by the document that the store holds, with its lease as long as that may be."""
        stored = _status(held.body)
        if (word := self._word(held)) is not None:
            return word
        if self._own.get(held.name.lower()) == held.revision or stored.lease is None:
            return stored
        if (left := self._left_for(held)) is None:
            return revived(stored, self._began)
        return replace(stored, lease=replace(stored.lease, expires=left.expires))

    def statuses(self, store: Store) -> dict[str, Status]:
        """What is known of all of them, by name."""
        return {row.name: self._word(row) or _status(row.body) for row in store.resources(STATUS)}

    def last_words(self, view: ResourceView) -> Iterator[ResourceChange]:
        """What the store has not, and how long each lease counts."""
        left: dict[str, Left] = {}
        for row in view.list(STATUS):
            word, lease = self._word(row), self.current(row).lease
            if changed := word is not None and word != _status(row.body):
                yield ResourceChange(STATUS, row.name, msgspec.json.encode(word))
            if lease is not None:
                left[row.name.lower()] = Left(row.revision + changed, lease.expires)
        self._left, held = left, view.get(KIND, NAME)
        body = msgspec.json.encode(left)
        if left and (held is None or held.body != body):
            yield ResourceChange(KIND, NAME, body)

    def _word(self, held: Resource) -> Status | None:
        """What this keeper heard and did not write, of what the store holds."""
        word = self._said(held.name.lower())
        if word and word.revision == held.revision and timeless(word.status) == timeless(_status(held.body)):
            return word.status
        return None

    def _said(self, name: str) -> Word | None:
        """The last word that has not failed."""
        word = self._words.get(name)
        while word is not None and word.has_failed:
            word = word.before
        return word

    def _left_for(self, held: Resource) -> Left | None:
        """What was left for just this document. One of the same name that was made anew may have its revision, and then
        a later lease."""
        left, lease = self._left.get(held.name.lower()), _status(held.body).lease
        if left is None or lease is None or left.revision != held.revision:
            return None
        return left if seconds(left.expires) >= seconds(lease.expires) else None

    def _keeps(self, view: ResourceView, row: ResourceChange, remembered: list[Word]) -> bool:
        """Whether a change is remembered alone."""
        if row.kind != STATUS or row.body is None:
            return False
        held, now, name = view.get(STATUS, row.name), _status(row.body), row.name.lower()
        if held is None or _is_news(_status(held.body), now):
            self._own[name] = 1 if held is None else held.revision + 1
            return False
        remembered.append(Word(held.revision, now, self._said(name)))
        self._words[name] = remembered[-1]
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
