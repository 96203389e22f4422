"""One blob on its way in: a task of its own, which no client owns and none can cancel or slow down.

It plans (`plan`), has bytes brought (`traffic`), kept and hashed (`stock`), writes down what survives a
restart (`checkpoint`), and tells who waits (`audience`). Nothing is admitted to the store before the digest
of all of it matched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.record import FillState

from holdfast.errors import KeeperAway, NodeFailed, ParentBroken, Refusal
from holdfast.fill.admission import admit
from holdfast.fill.audience import Audience
from holdfast.fill.change import Snapshot
from holdfast.fill.checkpoint import Ledger, Unnoted, chunk_extents
from holdfast.fill.errand import DiskFull, Errand
from holdfast.fill.extents import Run
from holdfast.fill.hashing import Frontier
from holdfast.fill.means import Means
from holdfast.fill.medium import Medium
from holdfast.fill.plan import Action, Finish, Park, Start, Stop, View, Want, goes_on, plan
from holdfast.fill.reader import Reader
from holdfast.fill.stock import Stock
from holdfast.fill.traffic import Traffic

if TYPE_CHECKING:
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
        self.parent, self.text = parent, str(digest)
        #: repositories whose parent says that they have it
        self.repositories = {repository}
        self.audience = Audience()
        self.wait_landed = self.audience.wait
        self.stock = Stock(means, repository, digest, self.audience, self)
        self.traffic = Traffic(means, self, parent, name, self.text)
        self.ledger = Ledger(means, repository, digest)
        self.opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.opened.add_done_callback(lambda f: f.cancelled() or f.exception())
        #: nobody reads it any more, and yet all of it is to come
        self.sticky = False
        #: those who want all of it and whom nobody waits for
        self.errands: set[Errand] = set()
        #: why it does not go on, until somebody wants it again
        self.failure: Refusal | None = None
        self.verified = self.ended = self.idle = self.retired = False
        self._asleep = self._exposed = self._renewed = self._wound_up = self._admitted = False
        self._on_change = on_change
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
    def size(self) -> int | None:
        """Of the blob, once the parent has said it."""
        return self.stock.size

    @property
    def in_memory(self) -> bool:
        """The disk is full: bytes pass through memory and are not kept."""
        return self.stock.in_memory

    @property
    def is_over(self) -> bool:
        """It ended, and everything was given back."""
        return self._wound_up and self.audience.is_empty

    @property
    def has_failed(self) -> bool:
        """It ended without a verdict that the bytes are right: who comes now would wait for ever."""
        return self.ended and not self.verified

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
        self.failure = None
        self.wake()

    async def wait_verdict(self) -> None:
        """Until verified or failed."""
        await self.audience.wait(-1)

    def moved_on(self, reader: Reader) -> None:
        """A reader's position changed: a window may be due, or memory free."""
        if self.in_memory:
            self.stock.woken()
            self.wake()
        elif not reader.whole:
            self.wake()

    def left(self, reader: Reader) -> None:
        """A reader closed."""
        self.audience.readers.discard(reader)
        self.stock.woken()
        self._someone_left(reader.whole)

    def _someone_left(self, whole: bool) -> None:
        if whole and not self.audience.has_whole:
            self.sticky = self.sticky or self._goes_on()
        self.wake()
        self._give_back()

    def _goes_on(self) -> bool:
        policy = self.means.policy
        return goes_on(policy.on_leave, policy.finish_share, self.stock.held.total, self.size)

    def snapshot(self) -> Snapshot:
        """The fill as it stands, for a reader in another process."""
        assert self.size is not None
        assert self.stock.medium is not None
        self._exposed = True
        return Snapshot(self.size, tuple(self.stock.medium.sources), tuple(self.stock.held), self.verified)

    # -- the task ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something changed; plan again."""
        self._woken.set()

    async def _run(self) -> None:
        while not self.ended:
            await self._woken.wait()
            self._woken.clear()
            self.traffic.turn()
            try:
                for action in plan(self._view()):
                    await self._act(action)
                if self.in_memory:
                    await self._tend_unstored()
            except Exception as error:  # noqa: BLE001  a fill that stops planning would hang its readers
                self.broke(error)
            self.means.slots.settle(self)
        self.means.slots.forget(self)

    def _view(self) -> View:
        ranges, held, traffic = self.means.policy.ranges_per_fill, self.stock.expected(), self.traffic
        wants = tuple(self._wants())
        return View(self.size, held, wants, traffic.running(), ranges, traffic.splits, traffic.resting)

    def _wants(self) -> set[Want]:
        if self._asleep:
            return set()
        if self.in_memory:
            return self.stock.passing()
        wants = self.audience.wants()
        return wants | {Want(whole=True, background=True)} if self.sticky or self.errands else wants

    async def _act(self, action: Action) -> None:
        if isinstance(action, Start):
            self.traffic.start(action)
        elif isinstance(action, Stop):
            self.traffic.transfers[action.number].stop()
        elif isinstance(action, Finish) and not self.stock.claimed and not self.in_memory:
            await self._judge()
        elif isinstance(action, Park) and not self.traffic.transfers:
            await self._park()

    async def _tend_unstored(self) -> None:
        """Nothing is kept, so the last reader ends it; the digest is judged when the hash is through."""
        if self.stock.is_hashed:
            await self._judge()
        if self.audience.is_empty and not self.ended:
            if self.errands:
                self.fail(DiskFull("the disk is full", code="BLOB_UNKNOWN"), drop=True)
            else:
                self._end()

    # -- what the traffic tells --------------------------------------------------------------------

    @property
    def is_resigned(self) -> bool:
        """Whatever a transfer brings, it is not tried again."""
        return self.ended or self._asleep

    def prepare(self, size: int, *, stored: bool) -> None:
        """The size is known."""
        self.stock.prepare(size, stored=stored)
        if not self.opened.done():
            self.opened.set_result(size)
        self.wake()

    def broke(self, error: BaseException) -> None:
        """A fault of this node."""
        log.error("fill failed", digest=self.text, exc_info=error)
        refusal = error if isinstance(error, Refusal) else NodeFailed("the blob could not be stored")
        self.fail(refusal, drop=True)

    # -- what the stock tells ----------------------------------------------------------------------

    def grown(self) -> None:
        """More can be read."""
        self._record()
        if self.in_memory or self.audience.has_ranges or not self.traffic.brings_rest:
            self.wake()

    def landed(self, runs: list[Run]) -> None:
        """Bytes came from a transfer."""
        self.ledger.landed(runs)

    def _record(self) -> None:
        """Write down what a restart would find, when there is something new."""
        stock, ledger = self.stock, self.ledger
        if stock.is_complete or self.in_memory or self.ended or self._writing_down.locked():
            return
        if stock.size is not None and stock.frontier is not None:
            unnoted = ledger.unnoted(stock.held, stock.size, stock.frontier)
            if unnoted is not None or ledger.is_due:
                self.begin(self._note(unnoted))

    async def _note(self, unnoted: Unnoted | None) -> None:
        medium, before = self.stock.medium, self._renewed
        async with self._writing_down:
            if self.ended or self.verified or medium is None or self._renewed != before:
                return
            if unnoted is not None:
                await self.ledger.note(medium, unnoted)
            if self.ledger.is_due:
                await self._checkpoint(medium)

    async def _checkpoint(self, medium: Medium, frontier: Frontier | None = None) -> None:
        """Of what was noted or, with `frontier`, of every chunk that is whole. One that cannot be written costs bytes
        after a restart, and nothing else."""
        whole = self.sticky or (self.audience.has_whole and self._goes_on())
        try:
            if frontier is not None:
                await self.ledger.complete(medium, self.stock.held, frontier)
            await self.ledger.write(medium.size, self.traffic.etag, whole)
        except (StoreError, OSError) as error:
            log.warning("checkpoint not written", digest=self.text, reason=str(error))

    def keep(self, task: asyncio.Task[None]) -> None:
        """A job whose failure is the fill's."""
        if task not in self._chores:
            self._chores.add(task)
            task.add_done_callback(self._chore_done)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it as a task; its failure is the fill's."""
        self.keep(asyncio.ensure_future(work))

    def _chore_done(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broke(error)
        else:
            self.stock.woken()
        self.stock.hash()
        self._record()
        self.wake()

    def retire(self) -> None:
        """Bytes are gone that nobody waited for: the next reader needs a fill of its own."""
        self.retired = True
        self._on_change(self)

    # -- the end -----------------------------------------------------------------------------------

    async def _judge(self) -> None:
        """Every byte was here: compare the digest; admit, or drop."""
        if self.verified or self.stock.frontier is None:
            return
        while (job := self.stock.hash()) is not None:
            await asyncio.wait((job,))
        if self.ended or not self.stock.is_hashed:
            return
        if self.stock.frontier.digest() != self.digest:
            await self._mismatched(str(self.stock.frontier.digest()))
            return
        if not self.in_memory:
            await self._admit(self.stock.frontier.hasher.table())
        self.verified = True
        self.means.counters["verified"] += 1
        self.audience.verified()
        if not self.in_memory:
            self._end()

    async def _admit(self, table: bytes) -> None:
        assert self.stock.medium is not None
        assert self.stock.medium.part is not None
        async with self._writing_down:  # no checkpoint may come after the blob
            self._admitted = await admit(
                self.means, self.stock.medium.part, self.repository, self.repositories, self.digest, table
            )
            self.verified = True

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
        await self.traffic.ended()
        async with self._writing_down:
            await self.ledger.forget()
        self.stock.forget()
        self.wake()

    def fail(self, error: Refusal, drop: bool = False) -> None:
        """Every reader gets `error`. What is here stays for a later try, unless it is worthless."""
        if self.ended:
            return
        self.means.counters["failed"] += 1
        self.traffic.stop()
        self._asleep, self.failure = True, error
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
            async with self._writing_down:
                await self._drop()
        self._wound_up = True
        self._give_back()

    async def _drop(self) -> None:
        try:
            self.means.store.drop_part(self.repository, self.digest)
            await self.ledger.forget()
        except (StoreError, OSError) as error:
            log.warning("part not dropped", digest=self.text, reason=str(error))

    async def _settle(self) -> None:
        """Wait until nothing touches the bytes any more."""
        await self.traffic.ended()
        await self.stock.settled()

    def _give_back(self) -> None:
        """The last reader left: the files go, too."""
        if self.is_over:
            self.stock.close()
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
        """A checkpoint of every chunk that is whole."""
        medium, frontier = self.stock.medium, self.stock.frontier
        if medium is None or frontier is None or self.in_memory:
            return
        async with self._writing_down:
            if not self.ended and not self.verified:
                await self._checkpoint(medium, frontier)

    def resume(self, state: FillState) -> None:
        """Take up a checkpoint: its chunks are read back and checked before they count."""
        self.traffic.etag, self.sticky = state.etag, state.whole
        self.ledger.written = True
        self.prepare(state.size, stored=True)
        if self.stock.medium is None or self.in_memory:
            return
        stock = self.stock
        stock.claimed = chunk_extents(state.chunks, state.size)
        self.begin(self.ledger.recheck(state.chunks, self.stock.medium, stock.next_claim, stock.rechecked))

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
        self.stock.close()
