"""What a store keeps in memory and writes at most once an hour each: when and how often a blob was read, and when a tag
or a list that stayed the same was last confirmed.

Both come with every hit and every look at the parent, and neither is worth a commit: a flash card would wear out by
them. After a kill the last hour of them is missing, so something is confirmed sooner, and eviction takes a blob for an
hour older than it is. One of these in each process: a worker notes what it had from the keeper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from holdfast_core import format as layout
from holdfast_core import space_format
from holdfast_core.changes.change import IndexChange, IndexView, put

WRITE_SECONDS = 3600.0
LIMIT = 50_000  # notes of each sort; a note is about 250 bytes
BATCH = 1000  # notes a transaction

TIME_BYTES = 8  # every record that is confirmed begins with its time


class AccessTimes:
    """The notes of one process. `clock` gives seconds that never step."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: (last read, uses as they counted then)
        self._seen: dict[bytes, tuple[float, float]] = {}
        self._confirmed: dict[bytes, tuple[bytes, float]] = {}
        self._written_at = clock()
        #: counts the changes of what `newest` may say
        self.confirmations = 0

    def see(self, key: bytes, now: float) -> None:
        """A blob was read at `now` (wall seconds); `key` is that of its SEEN record. Beyond the limit new ones are
        dropped."""
        seen = self._seen.get(key)
        if seen is not None or len(self._seen) < LIMIT:
            self._seen[key] = used_again(seen, now)

    def last_seen(self, key: bytes) -> float | None:
        """The last such read that is noted here."""
        seen = self._seen.get(key)
        return None if seen is None else seen[0]

    def confirm(self, key: bytes, payload: bytes, now: float) -> None:
        """The record was found to be right as it is at `now` (wall seconds)."""
        if key in self._confirmed or len(self._confirmed) < LIMIT:
            self._confirmed[key] = (payload, now)
            self.confirmations += 1

    def newest(self, key: bytes, payload: bytes) -> bytes:
        """The payload with the time of its last confirmation. A note of a record that was written since is void."""
        confirmed = self._confirmed.get(key)
        if confirmed is None or confirmed[0] != payload:
            return payload
        return layout.encode_time(confirmed[1]) + payload[TIME_BYTES:]

    @property
    def is_due(self) -> bool:
        """Whether it is time to write the notes."""
        return self._clock() - self._written_at >= WRITE_SECONDS or LIMIT in (
            len(self._seen),
            len(self._confirmed),
        )

    def taken(self) -> Iterator[Callable[[IndexView], list[IndexChange]]]:
        """Give up all notes, as planners that write them, in the order of their keys: neighbours share a page."""
        seen, confirmed = self._seen, self._confirmed
        self._seen, self._confirmed, self._written_at = {}, {}, self._clock()
        self.confirmations += 1
        keys = iter(sorted(confirmed))
        while batch := list(islice(keys, BATCH)):
            yield _confirming({key: confirmed[key] for key in batch})
        keys = iter(sorted(seen))
        while batch := list(islice(keys, BATCH)):
            yield _seeing({key: seen[key] for key in batch})


def _confirming(notes: dict[bytes, tuple[bytes, float]]) -> Callable[[IndexView], list[IndexChange]]:
    """Not journaled: after a rebuild the parent is only looked at sooner."""
    return lambda view: [
        put(key, layout.encode_time(now) + payload[TIME_BYTES:])
        for key, (payload, now) in notes.items()
        if view.get(key) == payload
    ]


def _seeing(notes: dict[bytes, tuple[float, float]]) -> Callable[[IndexView], list[IndexChange]]:
    def planned(view: IndexView) -> list[IndexChange]:
        rows = []
        for key, (now, uses) in notes.items():
            payload = view.get(key)
            before = None if payload is None else layout.decode_seen(payload)
            rows.append(put(key, layout.encode_seen(*used_again(before, now, uses))))
        return rows

    return planned


def used_again(seen: tuple[float, float] | None, now: float, uses: float = 1.0) -> tuple[float, float]:
    """(last access, uses as they count then) after more uses that ended at `now`."""
    return now, uses + (0.0 if seen is None else space_format.decayed(seen[1], now - seen[0]))
