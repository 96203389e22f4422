"""Tags that moved at the parent while a change made here is still to be sent up. Pure: time and chance are passed in.

The outbox decides on such a tag (`outbox.settle`). Until then the tag is not requested from the parent, because the
store shows whether it has decided. Afterwards the tag is requested once, unless the log has a newer message on it. A
decision that was missed, because the node was killed or because a delete of the manifest held the tag back, is found by
checking the store: for each tag after growing pauses, and for all of them in the first run after a start.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

from holdfast.backoff import pause

ParentDigest = str | None
Waits = Callable[[str, ParentDigest], bool]

#: the parent's log usually has the message on a tag that was sent up within this time (seconds)
ECHO_SECONDS = 2.0


class HeldTags:
    """Held tags by `SyncTarget.key`, each with the last known digest at the parent: "" deleted, None unknown. `rows`
    are those of an earlier process. `waits` is whether a change made here that takes precedence over that digest is
    still to be sent up; it sends no request. `now` is monotonic seconds, `share` from 0 to 1 is chance."""

    def __init__(
        self, rows: Mapping[str, ParentDigest] | None = None, waits: Waits = lambda key, digest: False
    ) -> None:
        self._waits, self._rows = waits, dict(rows or {})
        self._tries: dict[str, int] = {}
        self._due_at: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []
        for key in self._rows:
            self._put(key, float("-inf"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def rows(self) -> dict[str, ParentDigest]:
        """Returns the rows to store."""
        return dict(self._rows)

    def is_gone(self, key: str) -> bool:
        """Whether the last known state of a tag at the parent is that it was deleted."""
        return self._rows.get(key) == ""

    def hold(self, key: str, digest: ParentDigest, now: float, share: float) -> None:
        """Holds a tag with the parent's digest, because a change made here takes precedence for now."""
        self._rows[key] = digest
        if key not in self._due_at:
            self._wait(key, now, share)

    def failed(self, key: str, now: float, share: float) -> None:
        """Records that the request for a tag failed: it is due again after a growing pause."""
        if key in self._rows:
            self._wait(key, now, share)

    def decided(self, key: str, now: float, *, ours: bool) -> None:
        """Records that the outbox has decided on a tag: `ours` was sent, or the parent's won and is due at once."""
        if not ours:
            self._rows.setdefault(key, None)
        if key in self._rows:
            self._tries.pop(key, None)
            self._put(key, now + ECHO_SECONDS if ours else now)

    def forget(self, key: str) -> None:
        """Drops a tag: the parent's digest counts here again, or was requested."""
        self._rows.pop(key, None)
        self._tries.pop(key, None)
        self._due_at.pop(key, None)

    def due(self, now: float, share: float) -> list[str]:
        """Returns the tags to request now. Each is returned once, until `failed` or `decided` makes it due again."""
        keys = []
        while self._queue and self._queue[0][0] <= now:
            at, key = heapq.heappop(self._queue)
            if self._due_at.get(key) != at:
                continue
            del self._due_at[key]
            if self._waits(key, self._rows[key]):
                self._wait(key, now, share)
            else:
                keys.append(key)
        return keys

    def again(self, keys: Iterable[str], now: float) -> None:
        """Makes keys due again, because the answers to their requests were dropped."""
        for key in keys:
            if key in self._rows and key not in self._due_at:
                self._put(key, now)

    def next_at(self) -> float | None:
        """Returns when the next key is due (monotonic seconds); None when none waits."""
        while self._queue and self._due_at.get(self._queue[0][1]) != self._queue[0][0]:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def _wait(self, key: str, now: float, share: float) -> None:
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        self._put(key, now + pause("transient", tries, share))

    def _put(self, key: str, at: float) -> None:
        self._due_at[key] = at
        heapq.heappush(self._queue, (at, key))
