"""What every fill of a node works with, in one place: store, clock, threads, slots, counts, troubles."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Fills as Policy
from holdfast.fill.slots import Slots

#: Threads that write parts; one blocks for seconds when the kernel throttles dirty pages.
WRITERS = 4
#: Threads that hash; more than cores would only take turns.
HASHERS = 2


def _threads(count: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix=name)


@dataclass(eq=False)
class Means:
    """Owned by `Fills`, lent to each fill."""

    store: Store
    policy: Policy
    clock: Clock
    slots: Slots
    writers: ThreadPoolExecutor = field(default_factory=lambda: _threads(WRITERS, "fill-write"))
    hashers: ThreadPoolExecutor = field(default_factory=lambda: _threads(HASHERS, "fill-hash"))
    #: transfers, received_bytes, unique_bytes, resumed, failed, verified, mismatched, unstored, …
    counters: Counter[str] = field(default_factory=Counter)
    #: wrong digests by parent name
    mismatches: Counter[str] = field(default_factory=Counter)

    def is_short_of_space(self) -> bool:
        """Whether the disk has less than the reserve left."""
        return self.store.free_bytes() < self.policy.reserve_bytes

    def close(self) -> None:
        """End the threads once their jobs are done."""
        self.writers.shutdown(wait=False)
        self.hashers.shutdown(wait=False)
