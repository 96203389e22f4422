"""What the store takes of the disk, what is promised to bytes on their way in, and whether more has room. Pure.

The bytes of blobs are passed in, because the index knows them at any moment; all else is measured from time to time. A
fill gets its promise before its first byte, and keeps it until the blob is stored, or its bytes are dropped. What was
granted to an upload counts until so many bytes have come, or for GRANT_SECONDS: a client that left takes nothing.
"""

from __future__ import annotations

from collections import deque

from holdfast_core.record import DiskUse, StoreAccount

from holdfast.storage.budget import UNBOUNDED, DiskBudget

#: how long room is kept for bytes of an upload that do not come (seconds)
GRANT_SECONDS = 30.0
#: what the end of a file wastes at most (bytes)
BLOCK_BYTES = 4096
_NOTHING = DiskUse({}, 0, 0, 0, 0, 0, 0)


def blob_bytes(account: StoreAccount) -> int:
    """What the files of blobs take of the disk, at most."""
    return account.file_bytes + account.files * BLOCK_BYTES


class SpaceLedger:
    """See the module. Before the first measurement nothing is bounded."""

    def __init__(self, budget: DiskBudget) -> None:
        self.budget = budget
        self._use = _NOTHING
        self._parked: dict[str, int] = {}
        self._promised: dict[str, int] = {}
        #: what lay in uploads, and (when, bytes) that clients may send beside it
        self._uploads = 0
        self._granted: deque[tuple[float, int]] = deque()
        self._capacity = UNBOUNDED

    @property
    def is_measured(self) -> bool:
        """Whether what the store takes is known."""
        return self._capacity != UNBOUNDED

    def measured(self, use: DiskUse, free: int, blobs: int, removed: int = 0, *, now: float = 0.0) -> None:
        """The disk was measured: what the store takes beside its blobs, and the bytes that are free. Of what was
        `removed` a moment ago a reader may have files open, which keeps their blocks: as far as these bytes are
        missing, they are on their way, and no reason to evict more."""
        self._arrived(use.uploads - self._uploads)
        self._granted = deque(grant for grant in self._granted if grant[0] > now - GRANT_SECONDS)
        self._use, self._uploads = use, use.uploads
        self._parked = {name: size for name, size in use.parts.items() if name not in self._promised}
        found = blobs + self._others() + sum(use.parts.values()) + use.uploads + free
        self._capacity = found + min(removed, max(0, self._capacity - found))

    def _others(self) -> int:
        use = self._use
        return use.set_aside + use.journal + use.index + use.fixed + use.strays

    def used(self, blobs: int) -> int:
        """Bytes that the store takes, with all that was promised."""
        coming = sum(self._promised.values()) + sum(self._parked.values()) + self._uploads
        coming += sum(size for _, size in self._granted)
        return blobs + self._others() + coming

    @property
    def limit(self) -> int:
        """What it may take."""
        return self.budget.limit(self._capacity)

    @property
    def limit_of_pushes(self) -> int:
        """What it may take with what clients push."""
        return self.budget.limit_of_pushes(self._capacity)

    @property
    def high(self) -> int:
        """Where eviction begins."""
        return int(self.limit * self.budget.high)

    @property
    def low(self) -> int:
        """Where it ends."""
        return int(self.limit * self.budget.low)

    def over(self, blobs: int, *, is_full: bool) -> int:
        """Bytes down to the low water mark, from above the high one or on a disk that took no more; 0 elsewhere."""
        used = self.used(blobs)
        return max(0, used - self.low) if is_full or used > self.high else 0

    def aim(self, blobs: int, most: int, *, is_full: bool) -> int:
        """How many bytes go for the water marks when `most` can. What stays may be above the low mark, or above the
        high one: then no more goes than brings it below the next bound, and nothing when that is in vain."""
        over, used = self.over(blobs, is_full=is_full), self.used(blobs)
        if over <= most:
            return over
        if is_full or used > self.limit:
            return most if is_full else min(most, used - self.limit)
        return used - self.high if used - self.high <= most else 0

    def reserve(self, part: str, size: int, blobs: int) -> bool:
        """Promise a fill room for so many bytes in all; whether there is room. A smaller promise stays as it is."""
        more = size - self._promised.get(part, self._parked.get(part, 0))
        if more > 0 and self.used(blobs) + more > self.limit:
            return False
        self._promised[part] = max(size, self._promised.get(part, 0), self._parked.pop(part, 0))
        return True

    def release(self, part: str, kept: int) -> None:
        """The fill takes no more; `kept` bytes of it stay on the disk."""
        self._promised.pop(part, None)
        self._parked.pop(part, None)
        if kept:
            self._parked[part] = kept

    def grant(self, size: int, blobs: int, *, now: float = 0.0) -> bool:
        """Let a client send so many bytes; whether there is room. `now` in monotonic seconds."""
        if self.used(blobs) + size > self.limit_of_pushes:
            return False
        self._granted.append((now, size))
        return True

    def pushed(self, size: int) -> None:
        """An upload became a blob: its bytes are among those of blobs from now on."""
        self._uploads = max(0, self._uploads - self._arrived(size))

    def _arrived(self, size: int) -> int:
        """So many bytes of what was granted came, the oldest first; how many more came than that."""
        while size > 0 and self._granted:
            at, granted = self._granted.popleft()
            if granted > size:
                self._granted.appendleft((at, granted - size))
            size -= min(size, granted)
        return max(0, size)

    def short(self, size: int, blobs: int, *, pushed: bool = False) -> int:
        """Bytes that have to go before `size` more have room; 0 when they have."""
        limit = self.limit_of_pushes if pushed else self.limit
        return max(0, self.used(blobs) + size - limit)
