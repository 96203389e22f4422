"""A fair queue: of several keys with waiting items, the one that was charged least has the next turn. A key that joins
later starts at the lowest charge of the others, so that it has neither a debt nor a credit."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items in one queue for each key. `take` returns the first item of the key that was charged least, `give_back`
    puts it back at the front."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[T]] = {}
        self._charged: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def put(self, key: str, item: T) -> None:
        """Adds an item at the end of its key's queue."""
        self._queue(key).append(item)

    def give_back(self, key: str, item: T, cost: float = 0.0) -> None:
        """Puts an item back at the front; `cost` is the part of its charge that was not used."""
        self._queue(key).appendleft(item)
        self._charged[key] -= cost

    def charge(self, key: str, cost: float) -> None:
        """Adds the cost of an item to its key's charge."""
        self._charged[key] = self._charged.get(key, 0.0) + cost

    def take(self) -> tuple[str, T] | None:
        """Returns the next item with its key; None when nothing waits."""
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
