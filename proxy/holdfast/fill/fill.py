"""One blob that is being fetched: a task of its own, which no client owns and none can cancel or slow down.

It plans (`planner`), has bytes fetched (`transfers`), written and hashed (`received_bytes`), writes what survives a
restart (`checkpoint`), and wakes its readers (`readers`). Its phase is a row of the table in `phases`. No blob
enters the store before the digest of all of it matched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.record import FillState

from holdfast.errors import KeeperAway, NodeFailed, ParentBroken, Refusal
from holdfast.fill.buffer import FillBuffer, Frontier
from holdfast.fill.checkpoint import Checkpoints, Unnoted, admit, chunk_extents
from holdfast.fill.context import FillContext
from holdfast.fill.phases import FillEvent, FillPhase, Lifecycle
from holdfast.fill.planner import (
    Action,
    FinishFill,
    ParkFill,
    PlannerView,
    StartTransfer,
    StopTransfer,
    Want,
    goes_on,
    plan,
)
from holdfast.fill.readers import FillChange, FillGrown, FillReaders, FillSnapshot, Reader
from holdfast.fill.received_bytes import ReceivedBytes
from holdfast.fill.transfers import Transfers
from holdfast.log import log

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent


class DiskFull(NodeFailed):
    """There is no room to keep the blob, and no reader takes it as it passes."""


class Fill:
    """See the module. `opened` gives the size, or the refusal of the parent's first answer. `on_change` is called when
    the fill is parked, has ended, was released, or has dropped bytes from memory."""

    def __init__(
        self,
        context: FillContext,
        number: int,
        repository: str,
        digest: Digest,
        parent: Parent,
        name: str,
        on_change: Callable[[Fill], None],
    ) -> None:
        self.context, self.number, self.repository, self.digest = context, number, repository, digest
        self.parent, self.text, self.lifecycle = parent, str(digest), Lifecycle()
        #: repositories whose parent says that they have it
        self.repositories = {repository}
        self.readers = FillReaders(self.lifecycle)
        self.checkpoints = Checkpoints(context, repository, digest)
        self.received = ReceivedBytes(
            context,
            self.checkpoints,
            self.readers,
            self.lifecycle,
            grown=self._grown,
            keep=self._keep,
            dropped=lambda: on_change(self),
        )
        self.transfers = Transfers(
            context,
            self.lifecycle,
            self.readers,
            self.received,
            parent,
            name,
            self.text,
            wake=self.wake,
            begin=self._begin,
            fail=self.fail,
        )
        self.opened = self.received.opened
        #: all of it is fetched, also when no reader is left
        self.keeps_fetching = False
        self.background_reads: set[BackgroundRead] = set()
        #: why no byte comes, until a reader comes
        self.failure: Refusal | None = None
        #: after a wrong digest: no reader has had a byte of it, and it was not fetched twice yet
        self._may_restart, self._writing_checkpoint = True, asyncio.Lock()
        self._on_change, self._woken = on_change, asyncio.Event()
        self._chores: set[asyncio.Task[None]] = set()
        #: drops what is not kept and closes the files, once the fill has ended
        self.release: asyncio.Task[None] | None = None
        self._task = asyncio.ensure_future(self._run())

    # -- readers -----------------------------------------------------------------------------------

    @property
    def size(self) -> int | None:
        """The size of the blob, once the parent has answered."""
        return self.received.size

    @property
    def in_memory(self) -> bool:
        """Whether bytes pass through memory and are not kept, because the disk is full."""
        return self.received.in_memory

    @property
    def verified(self) -> bool:
        """Whether the digest matched."""
        return self.lifecycle.is_verified

    @property
    def ended(self) -> bool:
        """Whether no byte will follow."""
        return self.lifecycle.has_ended

    @property
    def idle(self) -> bool:
        """Whether no transfer runs, and no reader wants one."""
        return self.lifecycle.is_parked

    @property
    def is_over(self) -> bool:
        """Whether it has ended, every write and transfer too, and the last reader left."""
        return self.lifecycle.is_released and self.readers.is_empty

    @property
    def has_failed(self) -> bool:
        """Whether it ended without a verdict that the bytes are right: a new reader would wait for ever."""
        return self.ended and not self.verified

    def reserve(self, want: Want) -> Callable[[], None]:
        """Count a reader that is about to attach; returns what is called if it does not."""
        leave = self.readers.reserve(want, lambda: self._left(want.whole))
        self.revive()
        return leave

    def attach(self, start: int, end: int, whole: bool) -> Reader:
        """A reader in this process."""
        buffer = self.received.buffer
        assert buffer is not None
        reader = Reader(
            self.readers,
            self.received.held,
            buffer,
            start,
            end,
            whole,
            moved=self._reader_moved,
            closed=self._reader_closed,
        )
        self._may_restart = False
        self.readers.join(reader)
        self.revive()
        return reader

    def snapshot(self) -> FillSnapshot:
        """The present state, for a reader in another process."""
        assert self.size is not None
        assert self.received.buffer is not None
        self._may_restart = False
        sources = tuple(self.received.buffer.sources)
        return FillSnapshot(self.size, sources, tuple(self.received.held), self.verified)

    def revive(self) -> None:
        """Go on, if it had failed or was parked."""
        self.lifecycle.apply(FillEvent.WANTED)
        if not self.ended:
            self.failure = None
        self.wake()

    def _reader_moved(self, reader: Reader) -> None:
        """A reader's position changed: a window may be due, or memory free."""
        if self.in_memory:
            self.received.woken()
            self.wake()
        elif not reader.whole:
            self.wake()

    def _reader_closed(self, reader: Reader) -> None:
        self.readers.attached.discard(reader)
        self.received.woken()
        self._left(reader.whole)

    def _left(self, whole: bool) -> None:
        """A reader left, or did not attach."""
        if whole and not self.readers.has_whole:
            self.keeps_fetching = self.keeps_fetching or self._goes_on()
        self.wake()
        self._close_if_over()

    def _goes_on(self) -> bool:
        policy = self.context.policy
        return goes_on(policy.on_leave, policy.finish_share, self.received.held.total, self.size)

    # -- the task ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Plan again, because something changed."""
        self._woken.set()

    async def _run(self) -> None:
        while not self.ended:
            await self._woken.wait()
            self._woken.clear()
            if not self.ended:
                await self._step()
                self.context.slots.settle(self.wake)
        self.context.slots.forget(self.wake)

    async def _step(self) -> None:
        self.transfers.change_work()
        try:
            for action in plan(self._view()):
                await self._act(action)
            if self.in_memory:
                await self._tend_unstored()
        except Exception as error:  # noqa: BLE001  a fill that stops planning would hang its readers
            self._broke(error)

    def _view(self) -> PlannerView:
        transfers = self.transfers
        return PlannerView(
            self.size,
            self.received.expected(),
            tuple(self._wants()),
            transfers.for_planner(),
            self.context.policy.ranges_per_fill,
            transfers.splits,
            transfers.resting,
        )

    def _wants(self) -> set[Want]:
        if self.lifecycle.is_refused:
            return set()
        if self.in_memory:
            return self.received.unstored_wants()
        wants = self.readers.wants()
        in_background = self.keeps_fetching or self.background_reads
        return wants | {Want(whole=True, background=True)} if in_background else wants

    async def _act(self, action: Action) -> None:
        if isinstance(action, StartTransfer):
            self.transfers.start(action)
        elif isinstance(action, StopTransfer):
            self.transfers.active[action.number].stop()
        elif isinstance(action, FinishFill) and not self.received.claimed and not self.in_memory:
            await self._verify()
        elif isinstance(action, ParkFill) and not self.transfers.active:
            await self._park()

    async def _tend_unstored(self) -> None:
        """Nothing is kept, so the last reader ends the fill; the digest is compared when every byte was hashed."""
        if self.received.is_hashed:
            await self._verify()
        if self.readers.is_empty and not self.ended:
            if self.background_reads:
                self.fail(
                    DiskFull("there is no room: the disk is full or the budget spent", code="BLOB_UNKNOWN"),
                    drop=True,
                )
            else:
                self._end()

    def _grown(self) -> None:
        """More can be read."""
        self._record()
        if self.in_memory or self.readers.has_ranges or not self.transfers.brings_rest:
            self.wake()

    # -- chores ------------------------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start work whose failure is the fill's."""
        self._keep(asyncio.ensure_future(work))

    def _keep(self, task: asyncio.Task[None]) -> None:
        if task not in self._chores:
            self._chores.add(task)
            task.add_done_callback(self._chore_done)

    def _chore_done(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broke(error)
        else:
            self.received.woken()
        self.received.hash()
        self._record()
        self.wake()

    # -- checkpoints -------------------------------------------------------------------------------

    def _record(self) -> None:
        """Write what a restart would find, when there is something new."""
        received, checkpoints = self.received, self.checkpoints
        if received.is_complete or self.in_memory or self.ended or self._writing_checkpoint.locked():
            return
        if received.size is not None and received.frontier is not None:
            unnoted = checkpoints.unnoted(received.held, received.size, received.frontier)
            if unnoted is not None or checkpoints.is_due:
                self._begin(self._note(unnoted))

    async def _note(self, unnoted: Unnoted | None) -> None:
        buffer, forgotten = self.received.buffer, self.checkpoints.forgotten
        async with self._writing_checkpoint:
            is_stale = self.checkpoints.forgotten != forgotten
            if self.ended or self.verified or buffer is None or is_stale:
                return
            if unnoted is not None:
                await self.checkpoints.note(buffer, unnoted)
            if self.checkpoints.is_due:
                await self._checkpoint(buffer)

    async def _checkpoint(self, buffer: FillBuffer, frontier: Frontier | None = None) -> None:
        """Write a checkpoint of the chunks that were noted or, with `frontier`, of every chunk that is whole. A failure
        costs bytes after a restart, and nothing else."""
        whole = self.keeps_fetching or (self.readers.has_whole and self._goes_on())
        try:
            if frontier is not None:
                await self.checkpoints.complete(buffer, self.received.held, frontier)
            await self.checkpoints.write(buffer.size, self.transfers.etag, whole)
        except (StoreError, OSError) as error:
            log.warning("checkpoint not written", digest=self.text, reason=str(error))

    async def _checkpoint_all(self) -> None:
        """Write a checkpoint of every chunk that is whole."""
        buffer, frontier = self.received.buffer, self.received.frontier
        if buffer is None or frontier is None or self.in_memory:
            return
        async with self._writing_checkpoint:
            if not self.ended and not self.verified:
                await self._checkpoint(buffer, frontier)

    def resume(self, state: FillState) -> None:
        """Go on from a checkpoint: its chunks are read back and checked before they count."""
        self.transfers.etag, self.keeps_fetching = state.etag, state.whole
        self.checkpoints.written = True
        self.received.prepare(state.size, stored=True)
        self.wake()
        received = self.received
        if received.buffer is None or self.in_memory:
            return
        received.claimed = chunk_extents(state.chunks, state.size)
        self._begin(
            self.checkpoints.recheck(state.chunks, received.buffer, received.next_claim, received.rechecked)
        )

    # -- the end -----------------------------------------------------------------------------------

    async def _verify(self) -> None:
        """Every byte was received: compare the digest; admit the blob, or drop it."""
        if self.verified or self.received.frontier is None:
            return
        while (job := self.received.hash()) is not None:
            await asyncio.wait((job,))
        if self.ended or not self.received.is_hashed:
            return
        if self.received.frontier.digest() != self.digest:
            await self._mismatched(str(self.received.frontier.digest()))
            return
        if self.in_memory:
            self.lifecycle.apply(FillEvent.MATCH)
        elif not await self._admit(self.received.frontier.hasher.table()):
            return
        self.context.counters["verified"] += 1
        self.readers.verified()
        if not self.in_memory:
            self._end()

    async def _admit(self, table: bytes) -> bool:
        """Whether the fill had not ended before. A refusal of the store is no failure of the fill."""
        buffer = self.received.buffer
        assert buffer is not None
        assert buffer.part is not None
        async with self._writing_checkpoint:  # no checkpoint may come after the blob
            if self.ended:
                return False
            is_stored = await admit(
                self.context, buffer.part, self.repository, self.repositories, self.digest, table
            )
            self.lifecycle.apply(FillEvent.ADMITTED if is_stored else FillEvent.MATCH)
        if is_stored:
            self.received.give_room_back(keeps=False)
        return True

    async def _mismatched(self, actual: str) -> None:
        """Nothing of it is kept. It is fetched once more by itself only if no reader has had a byte."""
        self.context.counters["mismatched"] += 1
        self.context.mismatches[self.parent.name] += 1
        log.error("digest mismatch", digest=self.text, found=actual, parent=self.parent.name)
        if not self._may_restart or self.in_memory:
            error = ParentBroken(f"the parent's bytes are not {self.text}", detail=f"they hash to {actual}")
            self.fail(error, drop=True)
            return
        self._may_restart = False
        await self.transfers.ended()
        async with self._writing_checkpoint:
            await self.checkpoints.forget()
        self.received.forget()
        self.wake()

    def _broke(self, error: BaseException) -> None:
        """A fault of this node: nothing is kept."""
        log.error("fill failed", digest=self.text, exc_info=error)
        refusal = error if isinstance(error, Refusal) else NodeFailed("the blob could not be stored")
        self.fail(refusal, drop=True)

    def fail(self, error: BaseException, drop: bool = False) -> None:
        """Every reader gets `error`. The bytes stay for a later try, unless they are to be dropped; those of an error
        that is no refusal are."""
        if not isinstance(error, Refusal):
            self._broke(error)
            return
        if self.ended:
            return
        self.context.counters["failed"] += 1
        self.transfers.stop()
        keeps = not (drop or self.size is None or self.in_memory)
        self.lifecycle.apply(FillEvent.REFUSED if keeps else FillEvent.ENDED)
        self.failure = error
        self.readers.failed(error)
        if not self.opened.done():
            self.opened.set_exception(error)
        if not keeps:
            self._end()
        self.wake()

    def _end(self) -> None:
        """No byte will follow, whether the phase says so already or not. Attached readers read on."""
        if not self.ended:
            self.lifecycle.apply(FillEvent.ENDED)
        self.transfers.stop()
        self.wake()
        if self.release is None:
            self.release = asyncio.ensure_future(self._release())
            self.release.add_done_callback(self._chore_done)
        self._on_change(self)

    async def _release(self) -> None:
        await self._settle()
        async with self._writing_checkpoint:
            if self.lifecycle.phase != FillPhase.STORED:
                await self._drop()
        self.lifecycle.apply(FillEvent.RELEASED)
        self._close_if_over()

    async def _drop(self) -> None:
        try:
            self.context.store.blobs.fills.drop_part(self.repository, self.digest)
            await self.checkpoints.forget()
        except (StoreError, OSError) as error:
            log.warning("part not dropped", digest=self.text, reason=str(error))

    async def _settle(self) -> None:
        """Wait until no transfer, write or hash job runs."""
        await self.transfers.ended()
        await self.received.settled()

    def _close_if_over(self) -> None:
        """Close the files, once the last reader left."""
        if self.is_over:
            self.received.close()
            self._on_change(self)

    async def _park(self) -> None:
        """Keep the bytes, with a checkpoint, because no reader wants more."""
        if self.idle:
            return
        if self.size is None or self.in_memory:
            self._end()
            return
        self.lifecycle.apply(FillEvent.UNWANTED)
        await self._checkpoint_all()
        self.received.give_room_back(keeps=True)
        if self.idle:
            self._on_change(self)

    async def close(self) -> None:
        """Stop, write a checkpoint, close the files. Readers get KeeperAway, and come again."""
        if not self.ended:
            self.keeps_fetching = self.keeps_fetching or (self.readers.has_whole and self._goes_on())
            self.fail(KeeperAway("the node is stopping", retry_after=2))
        if self.release is not None:
            await asyncio.wait((self.release,))
        await self._settle()
        await self._checkpoint_all()
        self.lifecycle.apply(FillEvent.CLOSED)
        self.wake()
        for task in list(self._chores):
            task.cancel()
        await asyncio.gather(self._task, *self._chores, return_exceptions=True)
        self.received.close(keeps=self.lifecycle.phase is FillPhase.SUSPENDED and not self.in_memory)


class BackgroundRead:
    """One caller that wants all of a blob and that no client waits for: synchronisation.

    Its transfers give way to those that readers wait for. When the last background read of a fill ends early, the fill
    parks at its byte, unless it has a reader. `landed` is called with the count of bytes that came, for one of the
    background reads of a fill.
    """

    def __init__(self, landed: Callable[[int], None]) -> None:
        self.fill: Fill | None = None
        self._landed = landed
        self._unsubscribe: Callable[[], None] = lambda: None

    def begin(self, fill: Fill) -> None:
        """Want the blob of this fill instead of the one before."""
        self.end()
        self.fill = fill
        if not fill.background_reads:
            self._unsubscribe = fill.readers.subscribe(self._changed)
        fill.background_reads.add(self)
        fill.revive()

    def _changed(self, change: FillChange) -> None:
        if isinstance(change, FillGrown):
            self._landed(change.end - change.start)

    async def done(self) -> None:
        """Wait until the blob is in the store. Raises what made the fill fail, and DiskFull."""
        fill = self.fill
        assert fill is not None
        while not fill.verified:
            if fill.failure is not None:
                raise fill.failure
            await fill.readers.wait_verdict()

    def end(self) -> None:
        """Want it no more. May be called twice."""
        self._unsubscribe()
        if self.fill is not None:
            self.fill.background_reads.discard(self)
            self.fill.wake()
            self.fill = None
