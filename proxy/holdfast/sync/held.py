"""Tags that moved at the parent while a change of them from here is still to go up. Pure: time and chance are passed
in.

The outbox decides what becomes of such a tag (`outbox.settle`), and until it has, nothing is asked for it: whether it
has is known here. After that the parent is asked for the tag once, unless its log has said a newer word of it already.
A decision that was not heard of, because the node was killed or because a delete of the manifest was what held the tag
back, is found by a look at the store: ever more seldom for each tag, and at the first run after a start for all.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

from holdfast.sync.backoff import pause

Word = str | None
Waits = Callable[[str, Word], bool]

#: the parent's log tells of a tag that went up, as a rule before this (seconds)
ECHO_SECONDS = 2.0


class Held:
    """Keys as `sync.plan.Target.key`, each with the digest that the tag has by the parent's last word: "" deleted, None
    unknown. `rows` are those of an earlier process. `waits` tells whether a change from here is still to go up that
    outweighs that word, and asks nobody for it. `now` is monotonic seconds, `share` from 0 to 1 chance."""

    def __init__(
        self, rows: Mapping[str, Word] | None = None, waits: Waits = lambda key, word: False
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

    def rows(self) -> dict[str, Word]:
        """What to store."""
        return dict(self._rows)

    def is_gone(self, key: str) -> bool:
        """Whether the parent's last word of a tag is that it was deleted."""
        return self._rows.get(key) == ""

    def hold(self, key: str, word: Word, now: float, share: float) -> None:
        """The parent said something of a tag, and what was done to it here counts more for now."""
        self._rows[key] = word
        if key not in self._due_at:
            self._wait(key, now, share)

    def failed(self, key: str, now: float, share: float) -> None:
        """The parent did not say what it has: the tag is asked for later, and each time later still."""
        if key in self._rows:
            self._wait(key, now, share)

    def decided(self, key: str, now: float, *, ours: bool) -> None:
        """The outbox is done with a tag: `ours` went up, or the parent's won and is to be had at once."""
        if not ours:
            self._rows.setdefault(key, None)
        if key in self._rows:
            self._tries.pop(key, None)
            self._put(key, now + ECHO_SECONDS if ours else now)

    def forget(self, key: str) -> None:
        """The parent's word counts here, or it was asked."""
        self._rows.pop(key, None)
        self._tries.pop(key, None)
        self._due_at.pop(key, None)

    def due(self, now: float, share: float) -> list[str]:
        """Tags to ask the parent for now. Each is told once, until `failed` or `decided` says when it is due again."""
        found = []
        while self._queue and self._queue[0][0] <= now:
            at, key = heapq.heappop(self._queue)
            if self._due_at.get(key) != at:
                continue
            del self._due_at[key]
            if self._waits(key, self._rows[key]):
                self._wait(key, now, share)
            else:
                found.append(key)
        return found

    def again(self, keys: Iterable[str], now: float) -> None:
        """What was asked for these keys is void: they are due again."""
        for key in keys:
            if key in self._rows and key not in self._due_at:
                self._put(key, now)

    def next_at(self) -> float | None:
        """When the next key is due (monotonic seconds); None when none waits."""
        while self._queue and self._due_at.get(self._queue[0][1]) != self._queue[0][0]:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def _wait(self, key: str, now: float, share: float) -> None:
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        self._put(key, now + pause("transient", tries, share))

    def _put(self, key: str, at: float) -> None:
        self._due_at[key] = at
        heapq.heappush(self._queue, (at, key))
