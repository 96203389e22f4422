"""The transfers of one fill: started as the plan says, each one GET of the parent, tried again with patience.

`Transfers` knows what the parent's answers say about the blob: its ETag, whether ranges of it can be had (`splits`),
and whether the bytes that are held still belong to it (otherwise a whole body is fetched and compared with them).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import TYPE_CHECKING, Any

from holdfast_core.errors import OutOfDescriptors
from holdfast_core.filesystem.files import has_descriptors

from holdfast.backoff import Backoff
from holdfast.bandwidth.share import Work
from holdfast.clock import Clock
from holdfast.errors import ParentBroken, ParentDenied, Refusal, of_store
from holdfast.fill.context import FillContext, TransferSlot
from holdfast.fill.disk_writer import BlobChanged, DiskWriter, TransferProgress
from holdfast.fill.phases import Lifecycle
from holdfast.fill.planner import Running, StartTransfer
from holdfast.fill.readers import FillReaders
from holdfast.fill.received_bytes import ReceivedBytes
from holdfast.log import log

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import BlobStream, Parent


#: Attempts in a row that bring no new byte, then the fill fails (reliability.md P2).
TRIES = 5
LONGEST_BACKOFF_SECONDS = 30.0
#: After attempts in a row that brought nothing.
BACKOFF = Backoff(1.0, LONGEST_BACKOFF_SECONDS)
#: After progress: enough that a parent that cuts every answer gets no request after request.
RESUME_SECONDS = 0.05
#: Descriptors that a transfer may need; without them it looks again so often, so many times (seconds).
DESCRIPTORS, DESCRIPTOR_SECONDS, DESCRIPTOR_TRIES = 4, 0.1, 50
#: A parent's Retry-After is honoured up to this (reliability.md P1).
LONGEST_RETRY_AFTER_SECONDS = 300


class RangeBroken(ParentBroken):
    """The parent answered a Range with bytes that were not requested."""


class Patience:
    """How long a fill keeps trying. Pure: outcomes in, a delay or the end of patience out.

    Any new byte since the last failure starts the count of tries anew, so a link that is cut again and
    again is resumed without end; five failures without one end it.
    """

    def __init__(self) -> None:
        self._held = self._tries = self._streak = 0

    def failed(self, error: Refusal, gained: int, held: int) -> bool:
        """Whether to try again after an attempt that ended early with `gained` new bytes; the fill has `held`."""
        self._streak = 0 if gained else self._streak + 1
        self._tries = 0 if held > self._held else self._tries + 1
        self._held = held
        # a parent that has sent bytes and now says 401 or 403 means a URL or token that ran out
        is_final = getattr(error, "permanent", False) and not isinstance(error, ParentDenied)
        return not is_final and self._tries < TRIES

    def limit(self) -> float:
        """The longest wait before the next attempt, in seconds; jitter makes it shorter."""
        return BACKOFF.longest(self._streak) if self._streak else RESUME_SECONDS

    @staticmethod
    def least(error: Refusal) -> float:
        """The wait that the parent requested, up to a bound, in seconds."""
        return float(min(error.retry_after or 0, LONGEST_RETRY_AFTER_SECONDS))

    def renew(self) -> None:
        """Start all counts anew: an attempt went to its end, or a reader comes."""
        self._tries = self._streak = 0


class Transfers:
    """See the module. `resting`: a transfer failed, and the next may not start yet.

    Calls `wake` to have the fill plan again, `begin` for work whose failure is the fill's, and `fail(error, drop)` when
    there is no other attempt; with `drop` the bytes are not kept.
    """

    def __init__(
        self,
        context: FillContext,
        lifecycle: Lifecycle,
        readers: FillReaders,
        received: ReceivedBytes,
        parent: Parent,
        name: str,
        digest: str,
        *,
        wake: Callable[[], None],
        begin: Callable[[Coroutine[Any, Any, None]], None],
        fail: Callable[[BaseException, bool], None],
    ) -> None:
        self._context, self._lifecycle, self._readers, self._received = context, lifecycle, readers, received
        self._wake, self._begin, self._fail = wake, begin, fail
        self.parent, self.name, self.digest = parent, name, digest
        self.etag = ""
        #: by number
        self.active: dict[int, Transfer] = {}
        self.patience = Patience()
        self.resting = False
        self._splits, self._doubtful = True, False
        self._numbers, self._sizing = count(1), asyncio.Lock()

    # -- for the fill ------------------------------------------------------------------------------

    def for_planner(self) -> list[Running]:
        """The running transfers."""
        return [transfer.for_planner() for transfer in self.active.values()]

    @property
    def splits(self) -> bool:
        """Whether a part of the blob can be requested now."""
        return self._splits and not any(t.progress.compares for t in self.active.values())

    @property
    def brings_rest(self) -> bool:
        """Whether one transfer brings, in order, all that is missing: for readers of the whole blob there is
        nothing to plan before its end."""
        received = self._received
        if len(self.active) != 1 or len(received.held) != 1 or received.claimed or received.is_complete:
            return False
        (transfer,) = self.active.values()
        ends_last = transfer.end is None and not transfer.stopped
        return ends_last and received.held.run_end(0) == transfer.progress.landed

    def start(self, action: StartTransfer) -> None:
        """Send a request to the parent, or wait for a slot: the fill is woken when it gets one."""
        transfer = Transfer(self, next(self._numbers), action.start, action.end, action.sequential)
        transfer.progress.compares = self._doubtful and action.start == 0 and action.end is None
        if self._context.slots.take(self._wake, transfer.slot, action.background):
            self.active[transfer.number] = transfer
            self._context.counters["transfers"] += 1
            transfer.begin()

    def change_work(self) -> None:
        """A reader came or left: running transfers go before others on the link, or after them."""
        for transfer in self.active.values():
            transfer.change_work(self.work)

    def stop(self) -> None:
        """End all of them. What they received still lands."""
        for transfer in list(self.active.values()):
            transfer.stop()
        self.patience.renew()

    async def ended(self) -> None:
        """Wait until none is left."""
        await asyncio.gather(*(t.finished() for t in list(self.active.values())))

    # -- for its transfers -------------------------------------------------------------------------

    @property
    def clock(self) -> Clock:
        """The node's."""
        return self._context.clock

    @property
    def is_background(self) -> bool:
        """Whether no reader waits."""
        return self._readers.is_empty

    @property
    def work(self) -> Work:
        """The kind of work on the link: without a reader it is synchronisation, also the rest of a pull that ended."""
        return "sync" if self.is_background else "interactive"

    async def sized(self, size: int, etag: str, coming: int) -> DiskWriter:
        """The writer of the fill, once the parent's answer gives size and ETag, and room was made for `coming` more
        bytes as far as there is any. Raises BlobChanged, NodeBusy."""
        received = self._received
        async with self._sizing:
            has_room = await received.has_room(coming)
            if received.writer is None:
                self.etag = etag
                try:
                    received.prepare(size, stored=has_room and not self._context.is_short_of_space())
                except OutOfDescriptors as error:
                    raise of_store(error) from error
                self._wake()
            elif size != received.size:
                raise BlobChanged(f"the parent's blob has {size} bytes now, it had {received.size}")
        assert received.writer is not None
        return received.writer

    async def descriptors(self) -> None:
        """Wait until a connection and a file find descriptors. Raises NodeBusy after DESCRIPTOR_TRIES."""
        for tries in range(DESCRIPTOR_TRIES):
            if has_descriptors(DESCRIPTORS):
                return
            if tries == 0:
                log.warning("fill waits", digest=self.digest, reason="no file descriptor is left")
            await self.clock.sleep(DESCRIPTOR_SECONDS)
        raise of_store(OutOfDescriptors("no file descriptor is left"))

    def answered_whole(self) -> None:
        """The parent answered a Range with the whole blob."""
        if self._splits:
            log.warning("range ignored", digest=self.digest, parent=self.parent.name)
        self._splits = False

    def etag_changed(self, etag: str) -> None:
        """All bytes that are held are being compared with those that come under this ETag."""
        log.warning("etag changed", digest=self.digest, parent=self.parent.name)
        self.etag = etag
        self._splits, self._doubtful = False, True

    def count_received(self, count: int) -> None:
        """Bytes came over the link."""
        self._context.counters["received_bytes"] += count

    def transfer_ended(self, transfer: Transfer, error: BaseException | None) -> None:
        """A transfer has ended: what it brought decides what is next."""
        del self.active[transfer.number]
        self._context.slots.release(transfer.slot)
        self._wake()
        if self._lifecycle.has_ended or self._lifecycle.is_refused or transfer.stopped:
            return
        if error is None and transfer.progress.compares:
            self._splits, self._doubtful = True, False
        if error is None and (transfer.progress.gained or self._received.is_complete):
            self.patience.renew()
        elif isinstance(error, Refusal):
            self._interrupted(transfer, error)
        elif error is None:
            self._interrupted(transfer, ParentBroken("the parent's answer brought no byte that is missing"))
        else:
            self._fail(error, True)

    def _interrupted(self, transfer: Transfer, error: Refusal) -> None:
        self._context.counters["interrupted"] += 1
        at = transfer.progress.received
        log.info("transfer interrupted", digest=self.digest, at=at, reason=error.message)
        if isinstance(error, ParentBroken) and (transfer.start or transfer.end is not None):
            self._splits, self._doubtful = False, True
        again = self.patience.failed(error, transfer.progress.gained, self._received.held.total)
        if self._received.size is None or not again:
            self._fail(error, isinstance(error, BlobChanged))
        else:
            wait = self._context.clock.jitter(self.patience.limit())
            self._begin(self._rest(max(wait, Patience.least(error))))

    async def _rest(self, seconds: float) -> None:
        self.resting = True
        try:
            await self._context.clock.sleep(seconds)
        finally:
            self.resting = False


class Transfer:
    """One GET of the parent, for [start, end) of one blob; `end` None is the blob's end. Its answer is checked, and its
    bytes go to the fill's writer."""

    def __init__(self, owner: Transfers, number: int, start: int, end: int | None, sequential: bool) -> None:
        self.owner, self.number = owner, number
        self.start, self.end, self.sequential = start, end, sequential
        self.progress = TransferProgress(start, start)
        self.slot = TransferSlot(lambda: owner.is_background, self.stop)
        self.stopped = False
        self._writer: DiskWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._over = asyncio.Event()

    def begin(self) -> None:
        """Send the request."""
        self._lane = self.owner.parent.enter(self.owner.work)
        self._task = asyncio.ensure_future(self._run())
        # not at the end of the task itself, which `stop` may cancel anywhere, even before it starts
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._closed = True
        self._lane.close()
        self._task = asyncio.ensure_future(self._end(task))

    def stop(self) -> None:
        """Close the connection; what was received still lands."""
        if self._task is not None and not self.stopped and not self._closed:
            self.stopped = True
            self._task.cancel()

    def change_work(self, work: Work) -> None:
        """Readers wait for it from now on, or none does."""
        self._lane.change_work(work)

    async def finished(self) -> None:
        """Wait until it has ended, in whatever way, and its fill has counted that."""
        await self._over.wait()

    def for_planner(self) -> Running:
        """Its state for the planner."""
        landed, received = self.progress.landed, self.progress.received
        if self.stopped:  # what was received still lands
            return Running(self.number, landed, received, received, False)
        return Running(self.number, landed, received, self.end, self.sequential)

    async def _run(self) -> None:
        clock, pace = self.owner.clock, self.owner.parent.pace
        await self.owner.descriptors()
        asked_at = clock.monotonic()
        async with self._request() as stream:
            pace.began(clock.monotonic() - asked_at)
            self._writer = await self.owner.sized(stream.size, stream.etag, self._coming(stream))
            self._accept(stream)
            await self._writer.ready()
            begun_at, begun = clock.monotonic(), self.progress.received
            await self._receive(stream, self._writer)
            pace.brought(self.progress.received - begun, clock.monotonic() - begun_at)

    def _coming(self, stream: BlobStream) -> int:
        """Bytes of the requested range."""
        return (stream.size if self.end is None else min(self.end, stream.size)) - self.start

    async def _end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._writer is not None:
            await self._writer.settled(self.progress)
            # the last bytes are written after they were taken; bytes that cannot be kept outweigh the rest
            error = self._writer.failure or error
        self._over.set()
        self.owner.transfer_ended(self, error)

    def _request(self) -> AbstractAsyncContextManager[BlobStream]:
        owner = self.owner
        etag = "" if self.progress.compares else owner.etag
        return owner.parent.get_blob(
            owner.name, owner.digest, start=self.start, end=self.end, etag=etag, lane=self._lane
        )

    def _accept(self, stream: BlobStream) -> None:
        """Note where the stream really starts. Raises when it cannot be joined to the bytes that are held."""
        changed = bool(self.owner.etag and stream.etag and stream.etag != self.owner.etag)
        if stream.partial:
            if stream.start != self.start:
                raise RangeBroken(
                    f"bytes from {self.start} were requested, and bytes from {stream.start} came"
                )
            if changed and not self.progress.compares:
                raise RangeBroken("the parent's blob has another ETag than the bytes before")
            return
        if changed:
            self.progress.compares = True
            self.owner.etag_changed(stream.etag)
        if self.start or self.end is not None:
            if not changed:
                self.owner.answered_whole()
            self.start = self.progress.landed = self.progress.received = 0
            self.end, self.sequential = None, True

    async def _receive(self, stream: BlobStream, writer: DiskWriter) -> None:
        progress, size = self.progress, stream.size if self.end is None else min(self.end, stream.size)
        async for piece in stream:
            data = piece[: size - progress.received]
            offset, progress.received = progress.received, progress.received + len(data)
            self.owner.count_received(len(piece))
            await writer.put(progress, offset, data)
            if progress.received == size:
                break
