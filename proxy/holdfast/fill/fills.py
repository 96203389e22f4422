"""Every fill of the node: one for each parent and digest, whoever asks and through whichever of its repositories.

What one parent sends is never shown as another's: a parent that says it has bytes which came from elsewhere has to send
them (security.md S11). It costs the link those bytes a second time, and only where two parents have the same blob.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError, Unwritable
from holdfast_core.record import FillState
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Fills as Policy
from holdfast.errors import (
    BlobUnknown,
    FillGone,
    NodeFailed,
    ParentBroken,
    ParentDenied,
    ParentFailed,
    ParentNotFound,
    ParentUnreachable,
    RangeUnsatisfiable,
    Refusal,
)
from holdfast.fill.change import FillChange, Snapshot
from holdfast.fill.errand import DiskFull, Errand
from holdfast.fill.fill import Fill
from holdfast.fill.means import Means
from holdfast.fill.plan import Want
from holdfast.fill.reader import Reader
from holdfast.fill.repair import Repairs
from holdfast.fill.slots import Slots
from holdfast.keeper.flight import Flights
from holdfast.keeper.port import BlobAnswer, UnstoredChunk
from holdfast.repository import Repository

if TYPE_CHECKING:
    from holdfast.parent.client import Parent


log = structlog.get_logger()

#: Fills that nobody reads and that stay open, so that the next range of a lazy puller finds its bytes and
#: its hash where they were. One descriptor each.
IDLE_FILLS = 128
#: A fill that is to be finished and failed is tried again after so long (seconds).
REVIVE_SECONDS = 30.0
#: A blob that came in full and is not in the store is fetched no more often than this.
FETCHES = 3
#: What a client is told to wait when the rest of a blob is at a parent that is away (seconds).
OFFLINE_SECONDS = 10
#: Repositories of a blob that are looked at for another parent that has it.
HOLDERS = 100
#: Wrong digests from one parent that are worth a person's attention (reliability.md P6).
ALARMING_MISMATCHES = 2


def refuse_offline(parent: Parent) -> None:
    """Raises ParentUnreachable when the parent is known to be offline."""
    if parent.state == "offline":
        raise ParentUnreachable("the parent is offline", retry_after=OFFLINE_SECONDS)


class Origin(NamedTuple):
    """A digest at one parent, by its namespace: what a fill belongs to."""

    namespace: str
    digest: Digest

    @classmethod
    def of(cls, repository: str, digest: Digest) -> Origin:
        """That of a blob of a repository."""
        return cls(Repository.from_key(repository).namespace, digest)

    def has(self, repository: str) -> bool:
        """Whether the repository is that parent's."""
        return Repository.from_key(repository).namespace == self.namespace


class Fills:
    """The registry of fills. `parent_of` gives a namespace's parent and raises KeyError for an unknown one.

    Every method that asks the parent raises `holdfast.errors.Refusal`.
    """

    def __init__(
        self, store: Store, parent_of: Callable[[str], Parent], config: Policy, clock: Clock
    ) -> None:
        self.store, self.clock = store, clock
        self.means = Means(store, config, clock, Slots(config.transfers))
        #: transfers, received_bytes, unique_bytes, interrupted, verified, failed, mismatched, unstored, …
        self.counters: Counter[str] = self.means.counters
        self._parent_of = parent_of
        self._by_origin: dict[Origin, Fill] = {}
        self._by_number: dict[int, Fill] = {}
        self._parked: dict[Origin, FillState] = {}
        self._idle: dict[Fill, None] = {}
        self._leaving: dict[Origin, asyncio.Task[None]] = {}
        self._heads: Flights[int] = Flights()
        self._repairs = Repairs(store)
        self._chores: set[asyncio.Task[None]] = set()
        self._numbers = count(1)

    async def start(self) -> None:
        """Take up parked fills: those of which all is wanted go on, others wait for a reader."""
        for state in self.store.fills():
            origin = Origin.of(state.repository, state.digest)
            if self._has_sent(origin):
                with suppress(StoreError, OSError):
                    self.store.drop_part(state.repository, state.digest)
                self.store.drop_fill(state.repository, state.digest)
            else:
                self._parked.setdefault(origin, state)
        for state in [s for s in self._parked.values() if s.whole]:
            try:
                self._take_up(state)
            except BlobUnknown:
                log.warning("parked fill has no parent", repository=state.repository)

    async def close(self) -> None:
        """Park every fill and end the threads. Readers are told to ask again."""
        for task in self._chores:
            task.cancel()
        await asyncio.gather(*self._chores, *self._leaving.values(), return_exceptions=True)
        await asyncio.gather(self._heads.close(), self._repairs.close())
        await asyncio.gather(*(fill.close() for fill in list(self._by_number.values())))
        self.means.close()

    # -- readers -----------------------------------------------------------------------------------

    async def open(
        self,
        repository: str,
        digest: str,
        start: int,
        end: int,
        whole: bool,
        errand: Errand | None = None,
    ) -> BlobAnswer:
        """Start or join the fill of a blob; see `KeeperPort.blob`. Returns once the size is known.

        Bytes that came by another repository of the same parent are shared once the parent confirmed by HEAD
        that this one has them; no byte crosses the link twice, and none is shown to who may not see it.
        With `errand` nobody is going to attach: it is begun instead.
        """
        wanted, confirmed = Digest.parse(digest), False
        origin = Origin.of(repository, wanted)
        while True:
            blob = self.store.blob(repository, wanted)
            if blob is not None and self.store.is_in_place(blob):
                return BlobAnswer(blob.size)
            fill = await self._current(origin)
            known = fill.repositories if fill else ()
            if not confirmed and repository not in known and (fill or self._has_sent(origin)):
                await self._size_at_parent(repository, wanted)
                confirmed = True
            elif fill is None and self._has_sent(origin):
                if not await self._linked(repository, wanted):
                    held = self.store.blob_anywhere(wanted)
                    return BlobAnswer(held.size if held else 0, unlinked=True)
            elif start < 0:
                size = fill.size if fill and fill.size else await self._size_at_parent(repository, wanted)
                start, end = max(0, size + start), size
            else:
                fill = fill or self._begun(repository, wanted)
                fill.repositories.add(repository)
                answer = await self._entered(fill, repository, start, end, whole, errand)
                if answer is not None:
                    return answer

    async def _linked(self, repository: str, digest: Digest) -> bool:
        """Note that the repository has bytes that are held; whether the disk took the note."""
        try:
            await asyncio.wrap_future(self.store.link_blob(repository, digest, now=self.clock.now()))
        except Unwritable:
            return False
        return True

    def _has_sent(self, origin: Origin) -> bool:
        """Whether the bytes are held, whole as far as it is known, and a repository of that parent has them: so they
        came from the parent, or were pushed to it. Its word alone that it has them proves nothing."""
        blob = self.store.blob_anywhere(origin.digest)
        if blob is None or blob.damaged or not self.store.is_in_place(blob):
            return False
        return self.store.has_holder(origin.digest, origin.has)

    async def _current(self, origin: Origin) -> Fill | None:
        """The fill of an origin: running, idle, or taken up from its checkpoint."""
        while (leaving := self._leaving.get(origin)) is not None:
            await asyncio.wait((leaving,))
        fill = self._by_origin.get(origin)
        if fill is None and origin in self._parked and not self._has_sent(origin):
            return self._take_up(self._parked[origin])
        return fill

    async def _entered(
        self, fill: Fill, repository: str, start: int, end: int, whole: bool, errand: Errand | None
    ) -> BlobAnswer | None:
        """Wait for the size; None when another repository's failure says nothing about this one."""
        last = None if end < 0 else end
        if not fill.stock.has(start, last):
            refuse_offline(fill.parent)
        if errand is not None:
            errand.begin(fill)
            leave = errand.end
        else:
            leave = fill.reserve(Want(whole=True) if whole else Want(start, last, position=start))
        self._idle.pop(fill, None)
        try:
            return BlobAnswer(await asyncio.shield(fill.opened), fill.number)
        except asyncio.CancelledError:
            leave()
            raise
        except ParentBroken as error:
            await self._refuse_beyond(repository, fill.digest, start)
            raise error
        except Refusal:
            if fill.repository == repository:
                raise
            return None

    async def _refuse_beyond(self, repository: str, digest: Digest, start: int) -> None:
        """A range that starts at or behind the end is the client's mistake, not the parent's."""
        if start > 0 and start >= (size := await self._size_at_parent(repository, digest)):
            headers = (("Content-Range", f"bytes */{size}"),)
            raise RangeUnsatisfiable(f"the blob has {size} bytes", headers=headers)

    def size_of(self, repository: str, digest: str) -> int | None:
        """The size of a blob that is, or was, on its way in through this repository; None when no fill knows
        it. Asks nobody."""
        origin = Origin.of(repository, Digest.parse(digest))
        fill, parked = self._by_origin.get(origin), self._parked.get(origin)
        if fill is not None:
            return fill.size if repository in fill.repositories and fill.size else None
        return parked.size if parked is not None and parked.repository == repository else None

    async def bring(self, repository: str, digest: str) -> None:
        """Begin to bring all of a blob that nobody reads yet; returns when its size is known."""
        answer = await self.open(repository, digest, 0, -1, whole=True)
        if answer.fill:
            self._numbered(answer.fill).sticky = True
            (await self.attach(answer.fill, 0, -1, whole=True)).close()

    async def fetch(self, repository: str, digest: str, landed: Callable[[int], None]) -> None:
        """Bring all of a blob into the store for nobody who waits; returns when it is there. `landed` is told of
        bytes as they come. Cancelled it stops at the byte, and goes on there the next time. Raises DiskFull."""
        for _ in range(FETCHES + 1):
            blob = self.store.blob(repository, Digest.parse(digest))
            if blob is not None and self.store.is_in_place(blob):
                return
            errand = Errand(landed)
            try:
                opened = await self.open(repository, digest, 0, -1, whole=True, errand=errand)
                if opened.unlinked:
                    raise DiskFull("the disk takes no writes", code="BLOB_UNKNOWN")
                if opened.fill:
                    await errand.done()
            finally:
                errand.end()
        raise NodeFailed("the blob came and was not kept; the log says why", code="BLOB_UNKNOWN")

    async def attach(self, fill: int, start: int, end: int, whole: bool) -> Reader:
        """A reader of [start, end) of an open fill; `end` -1 is the blob's end. Raises FillGone when
        the fill is not there any more: open it again."""
        found = self._numbered(fill)  # before anything waits for it: its failure was told already
        self._idle.pop(found, None)
        return found.attach(start, (found.size or 0) if end < 0 else end, whole)

    def subscribe(self, fill: int, on_change: Callable[[FillChange], None]) -> Callable[[], None]:
        """Be told of every change of a fill from now on; call the result to end it."""
        return self._numbered(fill).audience.subscribe(on_change)

    def snapshot(self, fill: int) -> Snapshot:
        """The fill as it stands; with `subscribe` in the same turn of the loop nothing is missed."""
        return self._numbered(fill).snapshot()

    def _numbered(self, number: int) -> Fill:
        fill = self._by_number.get(number)
        if fill is None or fill.size is None or fill.has_failed:
            raise FillGone(f"fill {number} has ended", code="BLOB_UNKNOWN")
        return fill

    # -- fills -------------------------------------------------------------------------------------

    def _new(self, repository: str, digest: Digest) -> Fill:
        parent, name = self._parent(repository)
        fill = Fill(self.means, next(self._numbers), repository, digest, parent, name, self._changed)
        self._by_origin[Origin.of(repository, digest)] = self._by_number[fill.number] = fill
        return fill

    def _begun(self, repository: str, digest: Digest) -> Fill:
        """A new fill that somebody waits for: not one that would wait for a slot to learn that the parent
        is offline. Raises ParentUnreachable."""
        refuse_offline(self._parent(repository)[0])
        return self._new(repository, digest)

    def _take_up(self, state: FillState) -> Fill:
        fill = self._new(state.repository, state.digest)
        del self._parked[Origin.of(state.repository, state.digest)]
        fill.resume(state)
        return fill

    def _parent(self, repository: str) -> tuple[Parent, str]:
        where = Repository.from_key(repository)
        try:
            return self._parent_of(where.namespace), where.name
        except KeyError:
            raise BlobUnknown(f"no parent serves {repository}") from None

    async def _size_at_parent(self, repository: str, digest: Digest) -> int:
        """By HEAD; one for all who ask. Raises BlobUnknown when the parent does not have it."""
        parent, name = self._parent(repository)
        try:
            return await self._heads.result((repository, digest), lambda: parent.head_blob(name, str(digest)))
        except (ParentNotFound, ParentDenied) as error:
            raise BlobUnknown(f"no blob {digest}", detail=error.message) from error

    def _changed(self, fill: Fill) -> None:
        origin = Origin.of(fill.repository, fill.digest)
        if (fill.ended or fill.retired) and self._by_origin.get(origin) is fill:
            del self._by_origin[origin]
            if fill.winding_up is not None:  # it drops its part, which must not be the next fill's
                self._leave(origin, fill.winding_up)
        if fill.ended:
            self._idle.pop(fill, None)
        if fill.is_over:
            self._by_number.pop(fill.number, None)
        elif fill.idle and fill.sticky:
            self._begin(self._revive_later(fill))
        elif fill.idle:
            self._idle[fill] = None
            self._trim()

    async def _revive_later(self, fill: Fill) -> None:
        await self.clock.sleep(REVIVE_SECONDS)
        fill.revive()

    def _trim(self) -> None:
        """Keep the youngest idle fills, and those that somebody still reads (what is here, slowly)."""
        unread = [fill for fill in self._idle if fill.audience.is_empty]
        for fill in unread[: max(0, len(self._idle) - IDLE_FILLS)]:
            self._put_away(fill)

    def _put_away(self, fill: Fill) -> None:
        """Close an idle fill; its checkpoint stays."""
        origin = Origin.of(fill.repository, fill.digest)
        del self._idle[fill]
        del self._by_origin[origin], self._by_number[fill.number]
        self._leave(origin, asyncio.ensure_future(self._closed(fill)))

    def _leave(self, origin: Origin, task: asyncio.Task[None]) -> None:
        """No new fill of the origin until the task is done."""
        self._leaving[origin] = task
        task.add_done_callback(lambda _: self._leaving.pop(origin, None))

    async def _closed(self, fill: Fill) -> None:
        await fill.close()
        if fill.ledger.state is not None:
            self._parked[Origin.of(fill.repository, fill.digest)] = fill.ledger.state

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    # -- the rest ----------------------------------------------------------------------------------

    async def repair(self, repository: str, digest: str, start: int, end: int) -> UnstoredChunk | None:
        """Fetch the damaged chunks of [start, end) again, and those right behind them, and put them in place; all of a
        blob whose file is lost. The first chunk that the disk does not take ends that, and is returned. Chunks are
        known by their hashes, so any parent that has the blob may send them."""
        wanted = Digest.parse(digest)
        blob = self.store.blob_anywhere(wanted)
        if blob is not None and not self.store.is_in_place(blob):
            await self.fetch(repository, digest, lambda count: None)
            return None
        failures: list[ParentFailed] = []
        for parent, name in self._sources(repository, wanted):
            try:
                return await self._repairs.mend(parent, name, wanted, start, end)
            except ParentFailed as failure:
                failures.append(failure)
        raise failures[0]

    def _sources(self, repository: str, digest: Digest) -> list[tuple[Parent, str]]:
        """Where a blob may be had that is held, each parent once: the repository's own parent first."""
        found = dict([self._parent(repository)])
        for holder in self.store.holders(digest, limit=HOLDERS):
            with suppress(BlobUnknown):
                parent, name = self._parent(holder)
                found.setdefault(parent, name)
        return list(found.items())

    def passing(self) -> list[str]:
        """A sentence when blobs pass through now without being stored, because the disk is full."""
        unstored = sum(fill.in_memory for fill in self._by_number.values())
        return [f"the disk is full: {unstored} blob(s) pass through unstored"] if unstored else []

    def troubles(self) -> list[str]:
        """Sentences for a person."""
        waiting = sum(fill.idle and fill.sticky for fill in self._by_number.values())
        found = [f"{waiting} fill(s) wait for their parent"] if waiting else []
        return found + [
            f"parent {name or 'default'} sent bytes that do not match their digest, {times} times"
            for name, times in self.means.mismatches.items()
            if times >= ALARMING_MISMATCHES
        ]
