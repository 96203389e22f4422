"""What of a fill survives a restart: chunks that are on disk and proven by their BLAKE3, and no others.

A checkpoint is written without a sync: the chunk hashes tell afterwards which bytes really are there
(reliability.md 1.2). It claims whole chunks only, so it may claim too little and never too much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from holdfast_core.digest import CHUNK_BYTES, Digest, chunk_hash
from holdfast_core.record import FillState

from holdfast.fill.extents import Extents
from holdfast.fill.hashing import Frontier, hash_chunks, read_chunk, whole_chunks
from holdfast.fill.means import Means
from holdfast.fill.medium import Medium

#: Chunks read and checked in one job; small, so that a waiting reader's chunk comes soon.
RECHECK_CHUNKS = 16


def chunk_extents(chunks: Iterable[int], size: int) -> Extents:
    """The bytes of these chunks."""
    known = set(chunks)
    firsts = sorted(i for i in known if i - 1 not in known)
    lasts = sorted(i for i in known if i + 1 not in known)
    runs = zip(firsts, lasts, strict=True)
    return Extents((first * CHUNK_BYTES, min((last + 1) * CHUNK_BYTES, size)) for first, last in runs)


class Ledger:
    """The chunk hashes of one fill, and when they were last written down."""

    def __init__(self, means: Means, repository: str, digest: Digest) -> None:
        self._means, self.repository, self.digest = means, repository, digest
        self.chunks: dict[int, bytes] = {}
        self.written = False
        #: what was last written
        self.state: FillState | None = None
        self._at_bytes = 0
        self._at_time = means.clock.monotonic()

    def is_due(self, held: int) -> bool:
        """Whether enough arrived, or enough time passed with something new."""
        new = held - self._at_bytes
        late = self._means.clock.monotonic() - self._at_time >= self._means.policy.checkpoint_interval
        return new >= self._means.policy.checkpoint_bytes or (late and new >= CHUNK_BYTES)

    async def write(self, medium: Medium, held: Extents, frontier: Frontier, etag: str, whole: bool) -> None:
        """Hash what has no hash yet, on a thread, and hand the state to the store."""
        self._at_bytes, self._at_time = held.total, self._means.clock.monotonic()
        await self._hash(medium, held, frontier)
        if not self.chunks and not self.written:
            return
        self.written = True
        claimed = tuple(chunk_extents(self.chunks, medium.size))
        now = self._means.clock.now()
        self.state = FillState(
            self.repository, self.digest, medium.size, etag, claimed, dict(self.chunks), whole, now
        )
        await asyncio.wrap_future(self._means.store.put_fill(self.state))

    async def _hash(self, medium: Medium, held: Extents, frontier: Frontier) -> None:
        """The frontier hashes what it passes; the rest is read back."""
        complete, coming = whole_chunks(held, medium.size), held.run_end(0)
        await frontier.passed(coming)
        passed = frontier.hasher.complete_chunks()
        self.chunks.update((i, passed[i]) for i in complete if i < len(passed) and i not in self.chunks)
        missing = [i for i in complete if i not in self.chunks]
        loop = asyncio.get_running_loop()
        self.chunks |= await loop.run_in_executor(self._means.hashers, hash_chunks, medium, missing)

    async def forget(self) -> None:
        """Nothing of this fill is worth a resume."""
        self.chunks.clear()
        self.state = None
        if self.written:
            self.written = False
            await asyncio.wrap_future(self._means.store.drop_fill(self.repository, self.digest))

    async def recheck(
        self,
        claimed: dict[int, bytes],
        medium: Medium,
        chosen: Callable[[set[int]], int],
        good: Callable[[int, bool], None],
    ) -> None:
        """Read every claimed chunk back and tell `good(index, is_good)`; `chosen` picks where to go on."""
        loop = asyncio.get_running_loop()
        left = set(claimed)
        while left:
            first = chosen(left)
            batch = [i for i in range(first, first + RECHECK_CHUNKS) if i in left]
            left.difference_update(batch)
            found = await loop.run_in_executor(self._means.hashers, check_chunks, medium, claimed, batch)
            for index in batch:
                if found[index]:
                    self.chunks[index] = claimed[index]
                good(index, found[index])


def check_chunks(medium: Medium, claimed: dict[int, bytes], indexes: list[int]) -> dict[int, bool]:
    """Whether chunks on disk are what the checkpoint says; blocks."""
    return {i: chunk_hash(read_chunk(medium, i)) == claimed[i] for i in indexes}
