"""One blob on its way in: a task of its own, which no client owns and none can cancel or slow down.

It plans (`plan`), lets transfers bring bytes (`transfer`, `intake`), hashes behind them (`hashing`), writes
down what survives a restart (`checkpoint`), and tells who waits (`audience`). Nothing is admitted to the
store before the digest of all of it matched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import structlog
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import Exhausted, StoreError
from holdfast_core.part import FillPart
from holdfast_core.record import FillState

from holdfast.errors import KeeperAway, NodeFailed, ParentBroken, Refusal
from holdfast.fill.admission import admit
from holdfast.fill.audience import Audience
from holdfast.fill.change import Snapshot
from holdfast.fill.checkpoint import Ledger, chunk_extents
from holdfast.fill.extents import Extents, Run
from holdfast.fill.hashing import Frontier
from holdfast.fill.intake import BlobChanged, Intake
from holdfast.fill.means import Means
from holdfast.fill.medium import Medium
from holdfast.fill.patience import Patience
from holdfast.fill.plan import Action, Finish, Park, Start, Stop, View, Want, goes_on, plan
from holdfast.fill.reader import Reader
from holdfast.fill.transfer import Transfer
from holdfast.fill.unstored import make_room, unstored_wants
from holdfast.parent.client import Parent

log = structlog.get_logger()


class Fill:
    """See the module. `opened` gives the size, or the refusal of the parent's first answer.

    `ended`: nothing more will come. `idle`: nobody wants more now. `retired`: bytes that nobody waited for
    are gone (unstored), so that a new reader needs a new fill. `on_change` is told of these.
    """

    def __init__(
        self,
        means: Means,
        number: int,
        repository: str,
        digest: Digest,
        parent: Parent,
        name: str,
        on_change: Callable[[Fill], None],
    ) -> None:
        self.means, self.number, self.repository, self.digest = means, number, repository, digest
        self.parent, self.name, self.text = parent, name, str(digest)
        #: repositories whose parent says that they have it
        self.repositories = {repository}
        self.size: int | None = None
        self.etag = ""
        self.held, self.claimed = Extents(), Extents()
        self.audience = Audience()
        self.wait_landed = self.audience.wait
        self.ledger = Ledger(means, repository, digest)
        self.medium: Medium | None = None
        self.transfers: dict[int, Transfer] = {}
        self.opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.opened.add_done_callback(lambda f: f.cancelled() or f.exception())
        #: nobody reads it any more, and yet all of it is to come
        self.sticky = False
        self.verified = self.ended = self.idle = self.retired = False
        self._intake: Intake | None = None
        self._frontier: Frontier | None = None
        self._patience = Patience()
        self._splits = True
        self._doubtful = self._resting = self._asleep = False
        self._exposed = self._renewed = self._wound_up = self._admitted = False
        self._on_change = on_change
        self._numbers = count(1)
        self._woken = asyncio.Event()
        self._writing_down = asyncio.Lock()
        self._chores: set[asyncio.Task[None]] = set()
        #: gives everything back once it ended
        self.winding_up: asyncio.Task[None] | None = None
        self._task = asyncio.ensure_future(self._run())

    # -- readers -----------------------------------------------------------------------------------

    @property
    def is_background(self) -> bool:
        """No person waits."""
        return self.audience.is_empty

    @property
    def in_memory(self) -> bool:
        """The disk is full: bytes pass through memory and are not kept."""
        return self.medium is not None and self.medium.window is not None

    @property
    def is_over(self) -> bool:
        """It ended, and everything was given back."""
        return self._wound_up and self.audience.is_empty

    @property
    def has_failed(self) -> bool:
        """It ended without a verdict that the bytes are right: who comes now would wait for ever."""
        return self.ended and not self.verified

    def has(self, start: int, end: int | None) -> bool:
        """Whether [start, end) is here, or was at the last checkpoint. False while the size is unknown."""
        if self.size is None:
            return False
        stop = self.size if end is None else min(end, self.size)
        return all(self.claimed.covers(*gap) for gap in self.held.gaps(start, stop))

    def reserve(self, want: Want) -> Callable[[], None]:
        """A reader is about to attach; call the result if not."""
        leave = self.audience.reserve(want, lambda: self._someone_left(want.whole))
        self.revive()
        return leave

    def attach(self, start: int, end: int, whole: bool) -> Reader:
        """A reader in this process."""
        reader = Reader(self, start, end, whole)
        self._exposed = True
        self.audience.join(reader)
        self.revive()
        return reader

    def revive(self) -> None:
        """Go on, if it had failed or was idle."""
        self.idle = self._asleep = False
        self.wake()

    async def wait_verdict(self) -> None:
        """Until verified or failed."""
        await self.audience.wait(-1)

    def moved_on(self, reader: Reader) -> None:
        """A reader's position changed: a window may be due, or memory free."""
        if self.in_memory and self._intake is not None:
            self._intake.woken()
            self.wake()
        elif not reader.whole:
            self.wake()

    def left(self, reader: Reader) -> None:
        """A reader closed."""
        self.audience.readers.discard(reader)
        if self._intake is not None:
            self._intake.woken()
        self._someone_left(reader.whole)

    def _someone_left(self, whole: bool) -> None:
        if whole and not self.audience.has_whole:
            self.sticky = self.sticky or self._goes_on()
        self.wake()
        self._give_back()

    def _goes_on(self) -> bool:
        policy = self.means.policy
        return goes_on(policy.on_leave, policy.finish_share, self.held.total, self.size)

    def snapshot(self) -> Snapshot:
        """The fill as it stands, for a reader in another process."""
        assert self.size is not None
        assert self.medium is not None
        self._exposed = True
        return Snapshot(self.size, tuple(self.medium.sources), tuple(self.held), self.verified)

    # -- the task ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something changed; plan again."""
        self._woken.set()

    async def _run(self) -> None:
        while not self.ended:
            await self._woken.wait()
            self._woken.clear()
            try:
                for action in plan(self._view()):
                    await self._act(action)
                if self.in_memory:
                    await self._tend_unstored()
            except Exception as error:  # noqa: BLE001  a fill that stops planning would hang its readers
                self._broke(error)
            self.means.slots.settle(self)
        self.means.slots.forget(self)

    def _view(self) -> View:
        held = self.held
        if self.claimed:
            held = self.held.copy()
            for run in self.claimed:
                held.add(*run)
        running = [t.running() for t in self.transfers.values()]
        splits = self._splits and not any(t.compares for t in self.transfers.values())
        ranges = self.means.policy.ranges_per_fill
        return View(self.size, held, tuple(self._wants()), running, ranges, splits, self._resting)

    def _wants(self) -> set[Want]:
        if self._asleep:
            return set()
        if self.in_memory:
            return self._unstored_wants()
        wants = self.audience.wants()
        return wants | {Want(whole=True, background=True)} if self.sticky else wants

    def _unstored_wants(self) -> set[Want]:
        hashed = None if self._frontier is None or self.verified else self._frontier.position
        return unstored_wants(self.audience, hashed)

    async def _act(self, action: Action) -> None:
        if isinstance(action, Start):
            self._start(action)
        elif isinstance(action, Stop):
            self.transfers[action.number].stop()
        elif isinstance(action, Finish) and not self.claimed and not self.in_memory:
            await self._judge()
        elif isinstance(action, Park) and not self.transfers:
            await self._park()

    async def _tend_unstored(self) -> None:
        """Nothing is kept, so the last reader ends it; the digest is judged when the hash is through."""
        if self._is_hashed():
            await self._judge()
        if self.audience.is_empty and not self.ended:
            self._end()

    def _start(self, action: Start) -> None:
        transfer = Transfer(self, next(self._numbers), action.start, action.end, action.sequential)
        transfer.compares = self._doubtful and action.start == 0 and action.end is None
        if self.means.slots.take(self, transfer, action.background):
            self.transfers[transfer.number] = transfer
            self.means.counters["transfers"] += 1
            transfer.begin()

    # -- what transfers tell -----------------------------------------------------------------------

    def sized(self, size: int, etag: str) -> Intake:
        """The parent's answer names the size and the ETag. Raises BlobChanged."""
        if self.size is None:
            self.etag = etag
            self._prepare(size, None if self.means.is_short_of_space() else self._open_part(size))
        elif size != self.size:
            raise BlobChanged(f"the parent's blob has {size} bytes now, it had {self.size}")
        assert self._intake is not None
        return self._intake

    def _open_part(self, size: int) -> FillPart | None:
        try:
            return self.means.store.open_part(self.digest, size)
        except Exhausted as error:
            log.warning("disk full", digest=self.text, reason=str(error))
            return None

    def _prepare(self, size: int, part: FillPart | None) -> None:
        self.size = size
        self.medium = medium = Medium(part, size)
        self._intake = Intake(self.means, medium, self.held, self._landed, self._move, self._make_room)
        self._frontier = Frontier(self.digest.algorithm, medium, self.held, self.means.hashers)
        if part is None:
            self._move()
        if not self.opened.done():
            self.opened.set_result(size)
        self.wake()

    def answered_whole(self) -> None:
        """The parent answered a Range with the whole blob."""
        if self._splits:
            log.warning("range ignored", digest=self.text, parent=self.parent.name)
        self._splits = False

    def etag_changed(self, etag: str) -> None:
        """All bytes that are here are being compared with those that come under this ETag."""
        log.warning("etag changed", digest=self.text, parent=self.parent.name)
        self.etag = etag
        self._splits, self._doubtful = False, True

    def received(self, count: int) -> None:
        """Bytes came over the link."""
        self.means.counters["received_bytes"] += count

    def transfer_ended(self, transfer: Transfer, error: BaseException | None) -> None:
        """A transfer is over: what it brought decides what is next."""
        del self.transfers[transfer.number]
        self.means.slots.release(transfer)
        self.wake()
        if self.ended or self._asleep or transfer.stopped:
            return
        if error is None and transfer.compares:
            self._splits, self._doubtful = True, False
        if error is None and (transfer.gained or self.held.covers(0, self.size or 0)):
            self._patience.renew()
        elif isinstance(error, Refusal):
            self._interrupted(transfer, error)
        elif error is None:
            self._interrupted(transfer, ParentBroken("the parent's answer brought no byte that is missing"))
        else:
            self._broke(error)

    def _interrupted(self, transfer: Transfer, error: Refusal) -> None:
        self.means.counters["interrupted"] += 1
        log.info("transfer interrupted", digest=self.text, at=transfer.received, reason=error.message)
        if isinstance(error, ParentBroken) and (transfer.start or transfer.end is not None):
            self._splits, self._doubtful = False, True
        again = self._patience.failed(error, transfer.gained, self.held.total)
        if self.size is None or not again:
            self.fail(error, drop=isinstance(error, BlobChanged))
        else:
            self._begin(
                self._rest(max(self.means.clock.jitter(self._patience.limit()), Patience.least(error)))
            )

    async def _rest(self, seconds: float) -> None:
        self._resting = True
        try:
            await self.means.clock.sleep(seconds)
        finally:
            self._resting = False

    # -- bytes -------------------------------------------------------------------------------------

    def _landed(self, runs: list[Run]) -> None:
        self.means.counters["unique_bytes"] += sum(end - start for start, end in runs)
        self.audience.landed(runs)
        self._hash()
        assert self.size is not None
        complete = self.held.total == self.size
        if not complete and not self.in_memory and self.ledger.is_due(self.held.total):
            self._begin(self._write_down())
        self.wake()

    def _hash(self) -> asyncio.Task[None] | None:
        """Hash what is new; the job's failure is the fill's, and ends it before who waits for it goes on."""
        job = None if self._frontier is None or self.ended else self._frontier.advance()
        if job is not None and job not in self._chores:
            self._keep(job)
        return job

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._keep(asyncio.ensure_future(work))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._chores.add(task)
        task.add_done_callback(self._chore_done)

    def _chore_done(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broke(error)
        elif self._intake is not None:
            self._intake.woken()
        self._hash()
        self.wake()

    def _move(self) -> None:
        """The disk is full: go on without storing."""
        assert self.medium is not None
        log.warning("disk full, fill goes on unstored", digest=self.text, held=self.held.total)
        self.means.counters["unstored"] += 1
        self.audience.moved(self.medium.move(self.held))

    def _make_room(self) -> None:
        assert self._frontier is not None
        if make_room(self._medium(), self.held, self._frontier, self._unstored_wants()):
            self.retired = True
            self._on_change(self)

    # -- the end -----------------------------------------------------------------------------------

    def _is_hashed(self) -> bool:
        return self._frontier is not None and self._frontier.position == self.size

    async def _judge(self) -> None:
        """Every byte was here: compare the digest; admit, or drop."""
        if self.verified or self._frontier is None:
            return
        while (job := self._hash()) is not None:
            await asyncio.wait((job,))
        if self.ended or not self._is_hashed():
            return
        if self._frontier.digest() != self.digest:
            await self._mismatched(str(self._frontier.digest()))
            return
        if not self.in_memory:
            part, table = self._medium().part, self._frontier.hasher.table()
            assert part is not None
            async with self._writing_down:  # no checkpoint may come after the blob
                self._admitted = await admit(
                    self.means, part, self.repository, self.repositories, self.digest, table
                )
                self.verified = True
        self.verified = True
        self.means.counters["verified"] += 1
        self.audience.verified()
        if not self.in_memory:
            self._end()

    async def _mismatched(self, found: str) -> None:
        """Nothing of it is kept. It is fetched once more by itself only if nobody has seen a byte."""
        self.means.counters["mismatched"] += 1
        self.means.mismatches[self.parent.name] += 1
        log.error("digest mismatch", digest=self.text, found=found, parent=self.parent.name)
        error = ParentBroken(f"the parent's bytes are not {self.text}", detail=f"they hash to {found}")
        if self._exposed or self._renewed or self.in_memory:
            self.fail(error, drop=True)
            return
        self._renewed = True
        await asyncio.gather(*(t.finished() for t in list(self.transfers.values())))
        await self.ledger.forget()
        self.held.remove(0, self.size or 0)
        self._frontier = Frontier(self.digest.algorithm, self._medium(), self.held, self.means.hashers)
        self.wake()

    def _medium(self) -> Medium:
        assert self.medium is not None
        return self.medium

    def _broke(self, error: BaseException) -> None:
        log.error("fill failed", digest=self.text, exc_info=error)
        refusal = error if isinstance(error, Refusal) else NodeFailed("the blob could not be stored")
        self.fail(refusal, drop=True)

    def fail(self, error: Refusal, drop: bool = False) -> None:
        """Every reader gets `error`. What is here stays for a later try, unless it is worthless."""
        if self.ended:
            return
        self.means.counters["failed"] += 1
        for transfer in list(self.transfers.values()):
            transfer.stop()
        self._patience.renew()
        self._asleep = True
        self.audience.failed(error)
        if not self.opened.done():
            self.opened.set_exception(error)
        if drop or self.size is None or self.in_memory:
            self._end()
        self.wake()

    def _end(self) -> None:
        """Nothing more will come. Readers that are here read on."""
        self.ended = True
        self.wake()
        self.winding_up = asyncio.ensure_future(self._wind_up())
        self.winding_up.add_done_callback(self._chore_done)
        self._on_change(self)

    async def _wind_up(self) -> None:
        await self._settle()
        if not self._admitted:
            try:
                self.means.store.drop_part(self.digest)
                await self.ledger.forget()
            except (StoreError, OSError) as error:
                log.warning("part not dropped", digest=self.text, reason=str(error))
        self._wound_up = True
        self._give_back()

    async def _settle(self) -> None:
        """Wait until nothing touches the bytes any more."""
        await asyncio.gather(*(t.finished() for t in list(self.transfers.values())))
        if self._intake is not None:
            await self._intake.close()
        if self._frontier is not None:
            await self._frontier.settled()

    def _give_back(self) -> None:
        """The last reader left: the files go, too."""
        if self.is_over:
            if self.medium is not None:
                self.medium.close()
            self._on_change(self)

    # -- pause and restart -------------------------------------------------------------------------

    async def _park(self) -> None:
        """Nobody wants more. Keep what is here, on disk and written down."""
        if self.idle:
            return
        if self.size is None or self.in_memory:
            self._end()
            return
        self.idle = True
        await self._write_down()
        if self.idle:
            self._on_change(self)

    async def _write_down(self) -> None:
        """A checkpoint. One that cannot be written costs bytes after a restart, and nothing else."""
        if self._frontier is None or self.in_memory:
            return
        async with self._writing_down:
            if self.ended or self.verified:
                return
            whole = self.sticky or (self.audience.has_whole and self._goes_on())
            try:
                await self.ledger.write(self._medium(), self.held, self._frontier, self.etag, whole)
            except (StoreError, OSError) as error:
                log.warning("checkpoint not written", digest=self.text, reason=str(error))

    def resume(self, state: FillState) -> None:
        """Take up a checkpoint: its chunks are read back and checked before they count."""
        self.etag, self.sticky = state.etag, state.whole
        self.ledger.written = True
        self._prepare(state.size, self._open_part(state.size))
        if self.in_memory:
            return
        self.claimed = chunk_extents(state.chunks, state.size)
        self._begin(self.ledger.recheck(state.chunks, self._medium(), self._wanted_chunk, self._rechecked))

    def _wanted_chunk(self, left: set[int]) -> int:
        """Where a reader waits, else the lowest."""
        for want in self.audience.wants():
            near = [i for i in left if i >= max(want.start, want.position) // CHUNK_BYTES]
            if near and not want.whole:
                return min(near)
        return min(left)

    def _rechecked(self, index: int, good: bool) -> None:
        start, end = index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, self._medium().size)
        self.claimed.remove(start, end)
        self.means.counters["rechecked_chunks" if good else "bad_chunks"] += 1
        if good:
            self.held.add(start, end)
            self.audience.landed([(start, end)])
            self._hash()
        else:
            log.warning("checkpointed chunk damaged", digest=self.text, start=start)
        self.wake()

    async def close(self) -> None:
        """Stop, write down what is here, give everything back. Readers are told to ask again."""
        if not self.ended:
            self.sticky = self.sticky or (self.audience.has_whole and self._goes_on())
            self.fail(KeeperAway("the node is stopping", retry_after=2))
        if self.winding_up is not None:
            await asyncio.wait((self.winding_up,))
        await self._settle()
        await self._write_down()
        self.ended = True
        self.wake()
        for task in list(self._chores):
            task.cancel()
        await asyncio.gather(self._task, *self._chores, return_exceptions=True)
        if self.medium is not None:
            self.medium.close()
