"""The node's cap on transfers: fair between fills, people before background work."""

from __future__ import annotations

from typing import Protocol


class Holder(Protocol):
    """A transfer that occupies a slot."""

    @property
    def background(self) -> bool: ...
    def stop(self) -> None: ...


class Waiter(Protocol):
    """A fill that would start a transfer; `wake` makes it plan again."""

    def wake(self) -> None: ...


class Slots:
    """`limit` slots. A fill that finds none waits its turn: one slot a turn, interactive turns first. An
    interactive fill that finds none makes one background transfer give way (it goes on by Range later)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.holders: set[Holder] = set()
        self._reserved: dict[Waiter, None] = {}
        self._queues: tuple[dict[Waiter, None], dict[Waiter, None]] = ({}, {})

    def take(self, who: Waiter, holder: Holder, background: bool) -> bool:
        """Give `holder` a slot, or put `who` in the queue and return False."""
        if who in self._reserved:
            del self._reserved[who]
        elif self._full() or any(self._queues):
            self._queue(who, background)
            return False
        self.holders.add(holder)
        return True

    def _full(self) -> bool:
        return len(self.holders) + len(self._reserved) >= self.limit

    def _queue(self, who: Waiter, background: bool) -> None:
        if who in self._queues[background]:
            return
        self._queues[background][who] = None
        if background or not self._full():
            return
        victim = next((h for h in self.holders if h.background), None)
        if victim is not None:
            victim.stop()

    def release(self, holder: Holder) -> None:
        """The transfer ended; the next in the queue is woken with a slot of its own."""
        self.holders.discard(holder)
        self._serve()

    def settle(self, who: Waiter) -> None:
        """`who` has planned; a slot kept for it and not taken goes to the next."""
        if who in self._reserved:
            del self._reserved[who]
            self._serve()

    def forget(self, who: Waiter) -> None:
        """`who` is gone."""
        for queue in self._queues:
            queue.pop(who, None)
        self.settle(who)

    def _serve(self) -> None:
        for queue in self._queues:
            while queue and not self._full():
                who = next(iter(queue))
                del queue[who]
                self._reserved[who] = None
                who.wake()
