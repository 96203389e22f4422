"""What of a fill survives: a checkpoint of the chunks that are on disk and proven by their BLAKE3 and, once its digest
matched, the blob in the store.

A checkpoint goes to the index from time to time. In between each whole chunk is noted in a file beside the part as soon
as it was hashed, so that a kill, after which the page cache is still there, costs little more than one chunk. Neither
is synced: the chunk hashes tell afterwards which bytes really are there. Both claim whole chunks only, so they may
claim too little and never too much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

from holdfast_core.blob_files.fill_file import FillPart
from holdfast_core.digest import CHUNK_BYTES, Digest, chunk_hash
from holdfast_core.errors import StoreError
from holdfast_core.record import FillState

from holdfast.fill.buffer import LENT_BYTES, FillBuffer, Frontier, hash_chunks, read_chunk, whole_chunks
from holdfast.fill.context import FillContext
from holdfast.fill.extents import Extents, Run
from holdfast.log import log

#: What a kill may cost: a fill of no more is not worth a checkpoint while it runs (bytes).
UNNOTED_BYTES = 4 << 20
#: Noted together: a job on a thread for each chunk would cost a fast fill a tenth of its processor time (bytes).
NOTED_BYTES = 2 << 20
#: Chunks read and checked in one job; small, so that a waiting reader's chunk comes soon.
RECHECK_CHUNKS = 16


def chunk_extents(chunks: Iterable[int], size: int) -> Extents:
    """The byte ranges of these chunks."""
    known = set(chunks)
    firsts = sorted(i for i in known if i - 1 not in known)
    lasts = sorted(i for i in known if i + 1 not in known)
    runs = zip(firsts, lasts, strict=True)
    return Extents((first * CHUNK_BYTES, min((last + 1) * CHUNK_BYTES, size)) for first, last in runs)


class Unnoted(NamedTuple):
    """Whole chunks to be noted: those that were hashed, and those that have to be read back."""

    hashed: dict[int, bytes]
    others: list[int]


def touched(fresh: Extents) -> list[int]:
    """Indexes of the chunks that hold a byte of these, in order, each once."""
    spans = (range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES)) for start, end in fresh)
    return list(dict.fromkeys(index for span in spans for index in span))


class Checkpoints:
    """The chunk hashes of one fill, and what of them is written. `forgotten` counts the calls of `forget`."""

    def __init__(self, context: FillContext, repository: str, digest: Digest) -> None:
        self._context, self.repository, self.digest = context, repository, digest
        self.chunks: dict[int, bytes] = {}
        self.written = False
        self.forgotten = 0
        #: the last checkpoint that was written
        self.state: FillState | None = None
        self._at_chunks = 0
        self._at_time = context.clock.monotonic()
        #: bytes that landed since their chunk was last examined
        self._fresh = Extents()
        self._notes_fail = False

    def landed(self, runs: Iterable[Run]) -> None:
        """Bytes were written to the part."""
        for run in runs:
            self._fresh.add(*run)

    def unnoted(self, held: Extents, size: int, frontier: Frontier) -> Unnoted | None:
        """The chunks to note now; None for none. A whole chunk that the frontier is about to pass waits for it."""
        least = NOTED_BYTES if self.written else CHUNK_BYTES if self._is_late else UNNOTED_BYTES
        if self._notes_fail or self._fresh.total < least:
            return None
        hashed_to = frontier.hasher.size  # also within the running job
        passed, soon = hashed_to // CHUNK_BYTES, max(frontier.lent_to, hashed_to + LENT_BYTES // 2)
        soon = min(held.run_end(hashed_to), soon)
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
        fresh = {index: entry for index, entry in enumerate(hashed, first) if index not in self.chunks}
        return Unnoted(fresh, others) if fresh or others else None

    async def note(self, buffer: FillBuffer, unnoted: Unnoted) -> None:
        """Write the hashes of these chunks beside the part. After a failure no more are written: that costs bytes
        after a kill, and nothing else."""
        loop = asyncio.get_running_loop()
        try:
            self.chunks |= await loop.run_in_executor(self._context.hashers, self._note, buffer, unnoted)
        except (StoreError, OSError) as error:
            self._notes_fail = True
            log.warning("chunk hashes not written", digest=str(self.digest), reason=str(error))

    def _note(self, buffer: FillBuffer, unnoted: Unnoted) -> dict[int, bytes]:
        """On a thread. Returns the hashes of all of them."""
        chunks = unnoted.hashed | hash_chunks(buffer, unnoted.others)
        self._context.store.blobs.fills.note_chunks(self.repository, self.digest, chunks)
        return chunks

    @property
    def is_due(self) -> bool:
        """Whether to write a checkpoint: the first one with the first chunk, because notes count only with it; then
        after enough bytes, or enough time with a new chunk."""
        new = (len(self.chunks) - self._at_chunks) * CHUNK_BYTES
        return new > 0 and (self._is_late or not self.written or new >= self._context.policy.checkpoint_bytes)

    @property
    def _is_late(self) -> bool:
        return self._context.clock.monotonic() - self._at_time >= self._context.policy.checkpoint_interval

    async def complete(self, buffer: FillBuffer, held: Extents, frontier: Frontier) -> None:
        """Hash whole chunks that have no hash yet. The frontier hashes those it passes; the rest is read back."""
        whole, coming = whole_chunks(held, buffer.size), held.run_end(0)
        await frontier.passed(coming)
        passed = frontier.hasher.complete_chunks()
        self.chunks.update((i, passed[i]) for i in whole if i < len(passed) and i not in self.chunks)
        missing = [i for i in whole if i not in self.chunks]
        loop = asyncio.get_running_loop()
        self.chunks |= await loop.run_in_executor(self._context.hashers, hash_chunks, buffer, missing)

    async def write(self, size: int, etag: str, whole: bool) -> None:
        """Write the checkpoint to the store, unless it would claim no chunk and replace none. Raises StoreError."""
        if not self.chunks and not self.written:
            return
        self._at_chunks, self._at_time = len(self.chunks), self._context.clock.monotonic()
        self.written = True
        claimed, now = tuple(chunk_extents(self.chunks, size)), self._context.clock.now()
        self.state = FillState(
            self.repository, self.digest, size, etag, claimed, dict(self.chunks), whole, now
        )
        await asyncio.wrap_future(self._context.store.blobs.fills.checkpoint(self.state))

    async def forget(self) -> None:
        """Drop the checkpoint: no byte of this fill is worth a resume."""
        self.chunks.clear()
        self.forgotten += 1
        self._fresh, self._at_chunks = Extents(), 0
        self.state = None
        if self.written:
            self.written = False
            await asyncio.wrap_future(self._context.store.blobs.fills.drop(self.repository, self.digest))

    async def recheck(
        self,
        claimed: dict[int, bytes],
        buffer: FillBuffer,
        choose: Callable[[set[int]], int],
        on_checked: Callable[[int, bool], None],
    ) -> None:
        """Read every claimed chunk back and call `on_checked(index, is_good)`; `choose` picks the next of those
        left."""
        loop = asyncio.get_running_loop()
        left = set(claimed)
        while left:
            first = choose(left)
            batch = [i for i in range(first, first + RECHECK_CHUNKS) if i in left]
            left.difference_update(batch)
            sound = await loop.run_in_executor(self._context.hashers, check_chunks, buffer, claimed, batch)
            for index in batch:
                if sound[index]:
                    self.chunks[index] = claimed[index]
                on_checked(index, sound[index])


def check_chunks(buffer: FillBuffer, claimed: dict[int, bytes], indexes: list[int]) -> dict[int, bool]:
    """For each chunk, whether its bytes on disk are those of the checkpoint; blocks."""
    return {i: chunk_hash(read_chunk(buffer, i)) == claimed[i] for i in indexes}


async def admit(
    context: FillContext, part: FillPart, first: str, repositories: set[str], digest: Digest, table: bytes
) -> bool:
    """Commit a blob whose digest matched, for every repository whose parent has it, also those that join meanwhile;
    `first` is the one it was fetched for. Returns whether it is in the store. A refusal of the store is only logged:
    the bytes are still right for those who read them."""
    store, now, linked = context.store, context.clock.now(), {first}
    try:
        await asyncio.wrap_future(store.blobs.fills.commit(part, first, digest, table, owned=False, now=now))
        while others := sorted(repositories - linked):
            linked.update(others)
            for repository in others:
                await asyncio.wrap_future(store.blobs.link(repository, digest, now=now))
    except StoreError as error:
        context.counters["unadmitted"] += 1
        log.error("blob not admitted", digest=str(digest), reason=str(error))
        return False
    return True
