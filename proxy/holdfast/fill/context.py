"""What all fills of a node share: store, clock, threads, counters, the slots of transfers, the memory of blobs that
pass through unstored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from holdfast_core.digest import CHUNK_BYTES
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import FillsSection as Policy
from holdfast.fill.buffer import DROP_BYTES, FillBuffer
from holdfast.fill.hash_queue import HashQueue

#: Threads that write parts; one blocks for seconds when the kernel throttles dirty pages.
WRITERS = 4
#: Threads that hash; more than cores would only wait for each other.
HASHERS = 2
#: With less memory a fill could stand still: up to DROP_BYTES are not given back, and the hash waits for up to a chunk.
LEAST_BYTES = CHUNK_BYTES + DROP_BYTES


@dataclass(eq=False)
class TransferSlot:
    """What a transfer needs to run. `stop` ends the transfer, which goes on by Range later."""

    is_background: Callable[[], bool]
    stop: Callable[[], None]


#: Called when a slot is kept for a fill: the fill plans again. It is also the fill's place in the queue.
Wake = Callable[[], None]


class Slots:
    """The node's cap on transfers: `limit` slots, fair between fills, readers before background reads.

    A fill that finds none waits in a queue and gets one slot for each turn. A fill with readers that finds none stops
    one transfer of a background read.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.holders: set[TransferSlot] = set()
        self._reserved: dict[Wake, None] = {}
        self._queues: tuple[dict[Wake, None], dict[Wake, None]] = ({}, {})

    def take(self, wake: Wake, slot: TransferSlot, background: bool) -> bool:
        """Whether `slot` may be used now; otherwise `wake` is put in the queue."""
        if wake in self._reserved:
            del self._reserved[wake]
        elif self._full() or any(self._queues):
            self._queue(wake, background)
            return False
        self.holders.add(slot)
        return True

    def _full(self) -> bool:
        return len(self.holders) + len(self._reserved) >= self.limit

    def _queue(self, wake: Wake, background: bool) -> None:
        if wake in self._queues[background]:
            return
        self._queues[background][wake] = None
        if background or not self._full():
            return
        victim = next((slot for slot in self.holders if slot.is_background()), None)
        if victim is not None:
            victim.stop()

    def release(self, slot: TransferSlot) -> None:
        """The transfer ended: wake the next fill of the queue, with a slot kept for it."""
        self.holders.discard(slot)
        self._serve()

    def settle(self, wake: Wake) -> None:
        """The fill has planned: a slot that was kept for it and not taken goes to the next."""
        if wake in self._reserved:
            del self._reserved[wake]
            self._serve()

    def forget(self, wake: Wake) -> None:
        """The fill has ended: take it out of the queue."""
        for queue in self._queues:
            queue.pop(wake, None)
        self.settle(wake)

    def _serve(self) -> None:
        for queue in self._queues:
            while queue and not self._full():
                wake = next(iter(queue))
                del queue[wake]
                self._reserved[wake] = None
                wake()


class UnstoredBudget:
    """The memory of all blobs that pass through unstored: one budget for the node, shared among their fills. Pure.

    A fill holds what its slowest reader has not read yet. Half of the budget is cut into places of `LEAST_BYTES`, one
    for each fill: with its place a fill goes on, whatever others hold. The other half is for the fills that need more,
    as far as it is free. A fill without room takes nothing, so its parent waits; a fill without a place begins when
    another has ended. So all of them together hold the budget and, for each transfer, the block that it was receiving,
    however slow their readers are.
    """

    def __init__(self, total: int) -> None:
        self._places = total // (2 * LEAST_BYTES)
        self._shared = total - self._places * LEAST_BYTES
        self._admitted: set[FillBuffer] = set()
        self._waiting: dict[FillBuffer, Callable[[], None]] = {}

    def enter(self, buffer: FillBuffer, retry: Callable[[], None]) -> bool:
        """Whether the fill has a place, which it keeps. If not, `retry` is called when another fill has left."""
        if buffer not in self._admitted and len(self._admitted) >= self._places:
            self._waiting[buffer] = retry
            return False
        self.add(buffer)
        return True

    def add(self, buffer: FillBuffer) -> None:
        """Admit a fill that the disk takes no more of, whether there is a place or not."""
        self._admitted.add(buffer)
        self._waiting.pop(buffer, None)

    def leave(self, buffer: FillBuffer) -> None:
        """The fill gave all its memory back. May be called twice."""
        self._admitted.discard(buffer)
        self._waiting.pop(buffer, None)
        for retry in self._waiting.values():
            retry()

    def has_room(self, buffer: FillBuffer, coming: int) -> bool:
        """Whether a fill may take more, when `coming` bytes are about to be in memory."""
        others = sum(max(0, other.in_memory - LEAST_BYTES) for other in self._admitted if other is not buffer)
        return buffer.in_memory + coming <= LEAST_BYTES + max(0, self._shared - others)


class Admission(Protocol):
    """Says how much of a blob may be kept on the disk; `part` is the file of its fill, of this repository. On the
    loop."""

    async def reserve(self, repository: str, part: str, size: int) -> bool:
        """Whether there is room for `size` bytes in all, after what can go has gone; then they are promised."""
        ...

    def grow(self, part: str, size: int) -> bool:
        """Whether the fill may have `size` bytes in all. Never waits."""
        ...

    def release(self, part: str, kept: int = 0) -> None:
        """Nothing more comes; `kept` bytes stay in the file of the fill."""
        ...


class EverythingFits:
    """`Admission` without a budget: the disk says when it is full."""

    async def reserve(self, repository: str, part: str, size: int) -> bool:
        """Always."""
        return True

    def grow(self, part: str, size: int) -> bool:
        """Always."""
        return True

    def release(self, part: str, kept: int = 0) -> None:
        """Nothing was promised."""


def _threads(count: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix=name)


@dataclass(eq=False)
class FillContext:
    """Owned by the registry, lent to each fill."""

    store: Store
    policy: Policy
    clock: Clock
    slots: Slots
    admission: Admission = field(default_factory=EverythingFits)
    writers: ThreadPoolExecutor = field(default_factory=lambda: _threads(WRITERS, "fill-write"))
    hashers: ThreadPoolExecutor = field(default_factory=lambda: _threads(HASHERS, "fill-hash"))
    #: transfers, received_bytes, unique_bytes, resumed, failed, verified, mismatched, unstored, …
    counters: Counter[str] = field(default_factory=Counter)
    #: wrong digests by parent name
    mismatches: Counter[str] = field(default_factory=Counter)
    unstored_budget: UnstoredBudget = field(init=False)
    hash_queue: HashQueue = field(init=False)

    def __post_init__(self) -> None:
        self.hash_queue = HashQueue(self.hashers)
        self.unstored_budget = UnstoredBudget(self.policy.unstored_bytes)

    def is_short_of_space(self) -> bool:
        """Whether the disk has less than the reserve left."""
        return self.policy.reserve_bytes > 0 and self.store.free_bytes() < self.policy.reserve_bytes

    def close(self) -> None:
        """End the threads once their jobs are done."""
        self.writers.shutdown(wait=False)
        self.hashers.shutdown(wait=False)
