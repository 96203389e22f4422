"""Whose turn it is: of several that wait, the one that got least so far. Nobody waits for more than the others' shares,
and one that comes later begins where the others stand, so that it neither owes nor is owed."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Items in queues by key. `take` gives the first of the queue that was charged least, `give_back` puts it back at
    the front."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[T]] = {}
        self._charged: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def put(self, key: str, item: T) -> None:
        """At the end of its key's queue."""
        self._queue(key).append(item)

    def give_back(self, key: str, item: T, cost: float = 0.0) -> None:
        """At the front; `cost` of it was not used after all."""
        self._queue(key).appendleft(item)
        self._charged[key] -= cost

    def charge(self, key: str, cost: float) -> None:
        """What an item of this key took."""
        self._charged[key] = self._charged.get(key, 0.0) + cost

    def take(self) -> tuple[str, T] | None:
        """The next item with its key; None when nothing waits."""
        while self._heap:
            known, key = heapq.heappop(self._heap)
            queue = self._queues.get(key)
            if not queue:
                self._queues.pop(key, None)
                continue
            if known < self._charged[key]:
                heapq.heappush(self._heap, (self._charged[key], key))
                continue
            item = queue.popleft()
            if queue:
                heapq.heappush(self._heap, (known, key))
            else:
                del self._queues[key]
            return key, item
        return None

    def _queue(self, key: str) -> deque[T]:
        if key not in self._queues:
            least = self._heap[0][0] if self._heap else 0.0
            self._charged[key] = max(self._charged.get(key, 0.0), least)
            self._queues[key] = deque()
            heapq.heappush(self._heap, (self._charged[key], key))
        return self._queues[key]
