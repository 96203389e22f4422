"""What of a fill survives a restart: chunks that are on disk and proven by their BLAKE3, and no others.

A checkpoint goes to the index from time to time. In between each whole chunk is noted in a file beside the part as soon
as it was hashed, so that a kill, after which the page cache is still there, costs little more than one chunk. Neither
is synced: the chunk hashes tell afterwards which bytes really are there. Both claim whole chunks only, so they may
claim too little and never too much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

import structlog
from holdfast_core.digest import CHUNK_BYTES, Digest, chunk_hash
from holdfast_core.errors import StoreError
from holdfast_core.record import FillState

from holdfast.fill.extents import Extents, Run
from holdfast.fill.hashing import LENT_BYTES, Frontier, hash_chunks, read_chunk, whole_chunks
from holdfast.fill.means import Means
from holdfast.fill.medium import Medium

log = structlog.get_logger()

#: What a kill may cost: a fill of no more is not worth a checkpoint while it runs (bytes).
UNNOTED_BYTES = 4 << 20
#: Noted together: a job on a thread for each chunk would cost a fast fill a tenth of its processor time (bytes).
NOTED_BYTES = 2 << 20
#: Chunks read and checked in one job; small, so that a waiting reader's chunk comes soon.
RECHECK_CHUNKS = 16


def chunk_extents(chunks: Iterable[int], size: int) -> Extents:
    """The bytes of these chunks."""
    known = set(chunks)
    firsts = sorted(i for i in known if i - 1 not in known)
    lasts = sorted(i for i in known if i + 1 not in known)
    runs = zip(firsts, lasts, strict=True)
    return Extents((first * CHUNK_BYTES, min((last + 1) * CHUNK_BYTES, size)) for first, last in runs)


class Unnoted(NamedTuple):
    """Whole chunks that are to be noted: those that were hashed, and those that have to be read back."""

    hashed: dict[int, bytes]
    others: list[int]


def touched(fresh: Extents) -> list[int]:
    """The chunks that hold a byte of these, in order, each once."""
    spans = (range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES)) for start, end in fresh)
    return list(dict.fromkeys(index for span in spans for index in span))


class Ledger:
    """The chunk hashes of one fill, and when they were last written down."""

    def __init__(self, means: Means, repository: str, digest: Digest) -> None:
        self._means, self.repository, self.digest = means, repository, digest
        self.chunks: dict[int, bytes] = {}
        self.written = False
        #: what was last written
        self.state: FillState | None = None
        self._at_chunks = 0
        self._at_time = means.clock.monotonic()
        #: bytes that came since their chunk was last looked at
        self._fresh = Extents()
        self._notes_fail = False

    def landed(self, runs: Iterable[Run]) -> None:
        """Bytes were written to the part."""
        for run in runs:
            self._fresh.add(*run)

    def unnoted(self, held: Extents, size: int, frontier: Frontier) -> Unnoted | None:
        """What there is to note; None for nothing. A whole chunk that the frontier is about to pass waits for it."""
        least = NOTED_BYTES if self.written else CHUNK_BYTES if self._is_late else UNNOTED_BYTES
        if self._notes_fail or self._fresh.total < least:
            return None
        passed = frontier.position // CHUNK_BYTES
        soon = min(held.run_end(frontier.position), frontier.position + LENT_BYTES // 2)
        first, end, others = passed, 0, list[int]()
        for index in touched(self._fresh):
            start, stop = index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, size)
            if index < passed:
                first, end = min(first, index), index + 1
            elif index not in self.chunks:
                if stop <= soon or not held.covers(start, stop):
                    continue
                others.append(index)
            self._fresh.remove(start, stop)
        hashed = frontier.hasher.complete_chunks(first)[: max(0, end - first)]
        found = {index: entry for index, entry in enumerate(hashed, first) if index not in self.chunks}
        return Unnoted(found, others) if found or others else None

    async def note(self, medium: Medium, unnoted: Unnoted) -> None:
        """Write down beside the part what `unnoted` found. When it cannot be written no more is: that costs bytes after
        a kill, and nothing else."""
        loop = asyncio.get_running_loop()
        try:
            self.chunks |= await loop.run_in_executor(self._means.hashers, self._note, medium, unnoted)
        except (StoreError, OSError) as error:
            self._notes_fail = True
            log.warning("progress not written", digest=str(self.digest), reason=str(error))

    def _note(self, medium: Medium, unnoted: Unnoted) -> dict[int, bytes]:
        """On a thread."""
        chunks = unnoted.hashed | hash_chunks(medium, unnoted.others)
        self._means.store.note_chunks(self.repository, self.digest, chunks)
        return chunks

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is: the first one with the first chunk, for without it nothing that is noted counts;
        then after enough bytes, or enough time with something new."""
        new = (len(self.chunks) - self._at_chunks) * CHUNK_BYTES
        return new > 0 and (self._is_late or not self.written or new >= self._means.policy.checkpoint_bytes)

    @property
    def _is_late(self) -> bool:
        return self._means.clock.monotonic() - self._at_time >= self._means.policy.checkpoint_interval

    async def complete(self, medium: Medium, held: Extents, frontier: Frontier) -> None:
        """Hash what is whole and has no hash yet. The frontier hashes what it passes; the rest is read back."""
        whole, coming = whole_chunks(held, medium.size), held.run_end(0)
        await frontier.passed(coming)
        passed = frontier.hasher.complete_chunks()
        self.chunks.update((i, passed[i]) for i in whole if i < len(passed) and i not in self.chunks)
        missing = [i for i in whole if i not in self.chunks]
        loop = asyncio.get_running_loop()
        self.chunks |= await loop.run_in_executor(self._means.hashers, hash_chunks, medium, missing)

    async def write(self, size: int, etag: str, whole: bool) -> None:
        """Hand the checkpoint to the store; nothing when there is nothing to claim. Raises StoreError."""
        if not self.chunks and not self.written:
            return
        self._at_chunks, self._at_time = len(self.chunks), self._means.clock.monotonic()
        self.written = True
        claimed, now = tuple(chunk_extents(self.chunks, size)), self._means.clock.now()
        self.state = FillState(
            self.repository, self.digest, size, etag, claimed, dict(self.chunks), whole, now
        )
        await asyncio.wrap_future(self._means.store.put_fill(self.state))

    async def forget(self) -> None:
        """Nothing of this fill is worth a resume."""
        self.chunks.clear()
        self._fresh, self._at_chunks = Extents(), 0
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
