"""The bytes of one fill that were received: where they are, which they are, and how far they were hashed.

Bytes come through `writer` (from transfers) or `rechecked` (from before a restart). They are in `buffer`: on disk or,
once the disk is full, in a window of memory. `held` is what can be read, `claimed` what a checkpoint says is on disk
and was not checked yet.

In memory, bytes pass at the pace of the slowest reader: those behind every reader and the hash are dropped. A reader
that comes before any byte was dropped shares the transfer. A later one gets a fill, and a transfer, of its own: the
bytes that it needs first are gone, and fetching them into this window would make the other readers wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast_core.blob_files.fill_file import FillPart
from holdfast_core.digest import CHUNK_BYTES
from holdfast_core.errors import OutOfDescriptors, StoreError
from holdfast_core.filesystem.directory import part_name

from holdfast.fill.buffer import FillBuffer, Frontier
from holdfast.fill.checkpoint import Checkpoints
from holdfast.fill.context import FillContext
from holdfast.fill.disk_writer import DiskWriter, Piece
from holdfast.fill.extents import Extents, Run
from holdfast.fill.phases import Lifecycle
from holdfast.fill.planner import Want
from holdfast.fill.readers import FillReaders
from holdfast.log import log


def make_room(buffer: FillBuffer, held: Extents, frontier: Frontier, wants: set[Want]) -> list[Run]:
    """Drop from memory what no want and not the hash has before it; returns the dropped runs."""
    needed = Extents([(frontier.position, held.run_end(frontier.position))])
    for want in wants:
        needed.add(want.start, buffer.size if want.end is None else want.end)
    dropped = buffer.keep(needed)
    for run in dropped:
        held.remove(*run)
    return dropped


class ReceivedBytes:
    """See the module. Empty until `prepare`, which gets the size.

    Calls `grown` when more can be read, `keep` with a task whose failure is the fill's, and `dropped` when bytes were
    dropped from memory, so that the next reader needs another fill.
    """

    def __init__(
        self,
        context: FillContext,
        checkpoints: Checkpoints,
        readers: FillReaders,
        lifecycle: Lifecycle,
        *,
        grown: Callable[[], None],
        keep: Callable[[asyncio.Task[None]], None],
        dropped: Callable[[], None],
    ) -> None:
        self._context, self._checkpoints = context, checkpoints
        self._readers, self._lifecycle = readers, lifecycle
        self._repository, self._digest = checkpoints.repository, checkpoints.digest
        self._on_grown, self._keep, self._on_dropped = grown, keep, dropped
        #: the size of the blob, or the refusal of the parent's first answer
        self.opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.opened.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.size: int | None = None
        self.held, self.claimed = Extents(), Extents()
        self.buffer: FillBuffer | None = None
        self.writer: DiskWriter | None = None
        self.frontier: Frontier | None = None
        #: bytes that no reader waited for were dropped from memory
        self.has_dropped = False
        self._part = part_name(self._repository, self._digest)

    def prepare(self, size: int, *, stored: bool) -> DiskWriter:
        """Begin to take bytes, now that the size is known: on disk if there is room and `stored` says so. Raises
        OutOfDescriptors; then nothing has begun."""
        part = self._open_part(size) if stored else None
        self.size, self.buffer = size, FillBuffer(part, size)
        self.writer = DiskWriter(
            self._context,
            self.buffer,
            self.held,
            landed=self._landed,
            move=self._move,
            make_room=self._make_room,
            is_far_behind=self._is_far_behind,
            may_keep=self._may_keep,
        )
        self._hash_anew()
        if part is None:
            self._move()
        if not self.opened.done():
            self.opened.set_result(size)
        return self.writer

    async def has_room(self, coming: int) -> bool:
        """Whether so many more bytes may be kept on the disk; they are promised then."""
        if self.in_memory:
            return False
        size = self.held.total + coming
        return await self._context.admission.reserve(self._repository, self._part, size)

    def _may_keep(self, more: int) -> bool:
        return self._context.admission.grow(self._part, self.held.total + more)

    def give_room_back(self, *, keeps: bool) -> None:
        """Nothing more comes to the disk; what is there stays, or is counted elsewhere or dropped."""
        self._context.admission.release(self._part, self.held.total if keeps else 0)

    def _open_part(self, size: int) -> FillPart | None:
        try:
            return self._context.store.blobs.fills.open_part(self._repository, self._digest, size)
        except OutOfDescriptors:
            raise
        except StoreError as error:
            log.warning("part not opened", digest=str(self._digest), reason=str(error))
            return None

    def _hash_anew(self) -> None:
        assert self.buffer is not None
        self.frontier = Frontier(self._digest.algorithm, self.buffer, self.held, self._context.hash_queue)

    def forget(self) -> None:
        """Take everything that is held as not received."""
        self.held.remove(0, self.size or 0)
        self._hash_anew()

    # -- what is held ------------------------------------------------------------------------------

    @property
    def in_memory(self) -> bool:
        """Whether bytes pass through memory and are not kept, because the disk is full."""
        return self.buffer is not None and self.buffer.window is not None

    @property
    def is_complete(self) -> bool:
        """Whether every byte can be read."""
        return self.size is not None and self.held.covers(0, self.size)

    @property
    def is_hashed(self) -> bool:
        """Whether every byte was hashed."""
        return self.frontier is not None and self.frontier.position == self.size

    def has(self, start: int, end: int | None) -> bool:
        """Whether [start, end) is held, or was at the last checkpoint. False while the size is unknown."""
        if self.size is None:
            return False
        stop = self.size if end is None else min(end, self.size)
        return all(self.claimed.covers(*gap) for gap in self.held.gaps(start, stop))

    def expected(self) -> Extents:
        """What need not be fetched: `held` and, until a chunk is found damaged, `claimed`."""
        if not self.claimed:
            return self.held
        both = self.held.copy()
        for run in self.claimed:
            both.add(*run)
        return both

    def unstored_wants(self) -> set[Want]:
        """The wants of a fill whose bytes pass through memory."""
        hashed = None if self.frontier is None or self._lifecycle.is_verified else self.frontier.position
        return self._readers.unstored_wants(hashed)

    # -- what lands --------------------------------------------------------------------------------

    def _landed(self, pieces: list[Piece]) -> None:
        assert self.frontier is not None
        runs = [(offset, offset + len(data)) for offset, data in pieces]
        self._context.counters["unique_bytes"] += sum(end - start for start, end in runs)
        self.frontier.lend(pieces)
        self._checkpoints.landed(runs)
        self._readable(runs)

    def _readable(self, runs: list[Run]) -> None:
        self._readers.landed(runs)
        self.hash()
        self._on_grown()

    def rechecked(self, index: int, is_good: bool) -> None:
        """A claimed chunk was read back: it is held, or has to come again."""
        assert self.size is not None
        start, end = index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, self.size)
        self.claimed.remove(start, end)
        self._context.counters["rechecked_chunks" if is_good else "bad_chunks"] += 1
        if is_good:
            self.held.add(start, end)
            self._readable([(start, end)])
        else:
            log.warning("checkpointed chunk damaged", digest=str(self._digest), start=start)
            self._on_grown()

    def next_claim(self, left: set[int]) -> int:
        """The claimed chunk to check next: one that a reader waits for, else the lowest."""
        for want in self._readers.wants():
            near = [i for i in left if i >= max(want.start, want.position) // CHUNK_BYTES]
            if near and not want.whole:
                return min(near)
        return min(left)

    def hash(self) -> asyncio.Task[None] | None:
        """Hash what is new; returns the job. The job's failure is the fill's, and ends it before waiters go on."""
        job = None if self.frontier is None or self._lifecycle.has_ended else self.frontier.advance()
        if job is not None:
            self._keep(job)
        return job

    # -- a full disk -------------------------------------------------------------------------------

    def _move(self) -> None:
        """The disk takes no more: go on in memory."""
        assert self.buffer is not None
        log.warning("fill goes on unstored", digest=str(self._digest), held=self.held.total)
        self._context.counters["unstored"] += 1
        self.give_room_back(keeps=True)
        self._readers.moved(self.buffer.move(self.held))

    def _make_room(self) -> None:
        assert self.buffer is not None
        assert self.frontier is not None
        if make_room(self.buffer, self.held, self.frontier, self.unstored_wants()):
            self.has_dropped = True
            self._on_dropped()

    def _is_far_behind(self) -> bool:
        return self.frontier is not None and self.frontier.is_far_behind

    def woken(self) -> None:
        """Memory may have become free: a reader went on or left, or more was hashed."""
        if self.writer is not None:
            self.writer.woken()

    # -- the end -----------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Wait until no write and no hash job runs. No transfer may be running."""
        if self.writer is not None:
            await self.writer.close()
        if self.frontier is not None:
            await self.frontier.settled()

    def close(self, *, keeps: bool = False) -> None:
        """Close the files, which stay for a later fill if it `keeps` them; may be called twice."""
        self.give_room_back(keeps=keeps)
        if self.buffer is not None:
            self.buffer.close()
        if self.writer is not None:
            self.writer.leave()
