"""All fills of the node: one for each parent and digest, for all clients and all repositories of that parent.

Bytes of one parent are never served as another's: a parent that says it has bytes which came from elsewhere has to send
them (security.md S11). That costs the link those bytes a second time, and only where two parents have the same blob.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Set
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld, StoreError, Unwritable
from holdfast_core.record import FillState
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import FillsSection as Policy
from holdfast.errors import (
    BlobUnknown,
    FillGone,
    NodeFailed,
    ParentBroken,
    ParentDenied,
    ParentErred,
    ParentFailed,
    ParentNotFound,
    ParentUnreachable,
    RangeUnsatisfiable,
    Refusal,
)
from holdfast.fill.context import Admission, EverythingFits, FillContext, Slots
from holdfast.fill.fill import BackgroundRead, DiskFull, Fill
from holdfast.fill.planner import Want
from holdfast.fill.readers import BlobAnswer, FillChange, FillSnapshot, Reader
from holdfast.fill.repair import Repairs, UnstoredChunk
from holdfast.log import log
from holdfast.routing import Repository
from holdfast.single_flight import SingleFlight

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent


#: Parked fills without a reader that stay open, so that the next range of a lazy puller finds its bytes and
#: its hash where they were. One descriptor each.
IDLE_FILLS = 128
#: A fill that keeps fetching and failed is tried again after so long (seconds).
REVIVE_SECONDS = 30.0
#: A blob that came whole and is not in the store is fetched again so many times at most.
FETCHES = 3
#: Retry-After when the rest of a blob is at a parent that is offline (seconds).
OFFLINE_SECONDS = 10
#: Repositories of a blob that are searched for another parent that has it.
HOLDERS = 100
#: Wrong digests from one parent that are reported to the operator (reliability.md P6).
ALARMING_MISMATCHES = 2


def refuse_offline(parent: Parent) -> None:
    """Raises ParentUnreachable when the parent is known to be offline."""
    if parent.state == "offline":
        raise ParentUnreachable("the parent is offline", retry_after=OFFLINE_SECONDS)


class Origin(NamedTuple):
    """A digest at one parent, by its namespace: the key of a fill."""

    namespace: str
    digest: Digest

    @classmethod
    def of(cls, repository: str, digest: Digest) -> Origin:
        """The origin of a blob of a repository."""
        return cls(Repository.from_key(repository).namespace, digest)

    def has(self, repository: str) -> bool:
        """Whether the repository belongs to that parent."""
        return Repository.from_key(repository).namespace == self.namespace


class FillRegistry:
    """See the module. `parent_of` gives a namespace's parent and raises KeyError for an unknown one.

    Every method that sends the parent a request raises `holdfast.errors.Refusal`.
    """

    def __init__(
        self,
        store: Store,
        parent_of: Callable[[str], Parent],
        config: Policy,
        clock: Clock,
        admission: Admission | None = None,
    ) -> None:
        self.store, self.clock = store, clock
        slots = Slots(config.transfers)
        self.context = FillContext(store, config, clock, slots, admission or EverythingFits())
        #: transfers, received_bytes, unique_bytes, interrupted, verified, failed, mismatched, unstored, …
        self.counters: Counter[str] = self.context.counters
        self._parent_of = parent_of
        self._by_origin: dict[Origin, Fill] = {}
        self._by_number: dict[int, Fill] = {}
        self._parked: dict[Origin, FillState] = {}
        self._idle: dict[Fill, None] = {}
        self._closing: dict[Origin, asyncio.Task[None]] = {}
        self._heads: SingleFlight[int] = SingleFlight()
        self._repairs = Repairs(store)
        self._chores: set[asyncio.Task[None]] = set()
        self._numbers = count(1)

    async def start(self) -> None:
        """Load checkpoints: the fills that keep fetching go on, others wait for a reader."""
        for state in self.store.blobs.fills.states():
            origin = Origin.of(state.repository, state.digest)
            if self._has_sent(origin):
                with suppress(StoreError, OSError):
                    self.store.blobs.fills.drop_part(state.repository, state.digest)
                self.store.blobs.fills.drop(state.repository, state.digest)
            else:
                self._parked.setdefault(origin, state)
        for state in [s for s in self._parked.values() if s.whole]:
            try:
                self._resume(state)
            except BlobUnknown:
                log.warning("checkpoint has no parent", repository=state.repository)

    async def close(self) -> None:
        """Close every fill and end the threads. Readers get KeeperAway."""
        for task in self._chores:
            task.cancel()
        await asyncio.gather(*self._chores, *self._closing.values(), return_exceptions=True)
        await asyncio.gather(self._heads.close(), self._repairs.close())
        await asyncio.gather(*(fill.close() for fill in list(self._by_number.values())))
        self.context.close()

    # -- readers -----------------------------------------------------------------------------------

    async def open(
        self,
        repository: str,
        digest: str,
        start: int,
        end: int,
        whole: bool,
        background: BackgroundRead | None = None,
    ) -> BlobAnswer:
        """Start or join the fill of a blob; see `KeeperApi.blob`. Returns once the size is known.

        Bytes that came by another repository of the same parent are shared once the parent confirmed by HEAD
        that this one has them; no byte crosses the link twice, and none is served to a client without access to it.
        With `background` no reader will attach: the background read is begun instead.
        """
        parsed, is_confirmed = Digest.parse(digest), False
        origin = Origin.of(repository, parsed)
        while True:
            blob = self.store.blobs.get(repository, parsed)
            if blob is not None and self.store.blobs.is_in_place(blob):
                return BlobAnswer(blob.size)
            fill = await self._current(origin)
            known = fill.repositories if fill else ()
            if not is_confirmed and repository not in known and (fill or self._has_sent(origin)):
                await self._size_at_parent(repository, parsed)
                is_confirmed = True
            elif fill is None and self._has_sent(origin):
                if not await self._linked(repository, parsed):
                    held = self.store.blobs.anywhere(parsed)
                    return BlobAnswer(held.size if held else 0, unlinked=True)
            elif start < 0:
                size = fill.size if fill and fill.size else await self._size_at_parent(repository, parsed)
                start, end = max(0, size + start), size
            else:
                fill = fill or self._begin_fill(repository, parsed)
                fill.repositories.add(repository)
                answer = await self._join(fill, repository, start, end, whole, background)
                if answer is not None:
                    return answer

    async def _linked(self, repository: str, digest: Digest) -> bool:
        """Link held bytes to the repository; returns whether the disk took the note. Bytes that were evicted at this
        moment are fetched: the caller looks again."""
        try:
            await asyncio.wrap_future(self.store.blobs.link(repository, digest, now=self.clock.now()))
        except NotHeld:
            return True
        except Unwritable:
            return False
        return True

    def _has_sent(self, origin: Origin) -> bool:
        """Whether the bytes are held, without known damage, and a repository of that parent has them: so they came from
        the parent, or were pushed to it. The parent's word alone that it has them proves nothing."""
        blob = self.store.blobs.anywhere(origin.digest)
        if blob is None or blob.damaged or not self.store.blobs.is_in_place(blob):
            return False
        return self.store.blobs.has_holder(origin.digest, origin.has)

    async def _current(self, origin: Origin) -> Fill | None:
        """The fill of an origin: open, or resumed from its checkpoint."""
        while (closing := self._closing.get(origin)) is not None:
            await asyncio.wait((closing,))
        fill = self._by_origin.get(origin)
        if fill is None and origin in self._parked and not self._has_sent(origin):
            return self._resume(self._parked[origin])
        return fill

    async def _join(
        self,
        fill: Fill,
        repository: str,
        start: int,
        end: int,
        whole: bool,
        background: BackgroundRead | None,
    ) -> BlobAnswer | None:
        """Wait for the size; None when the failure of another repository says nothing about this one."""
        last = None if end < 0 else end
        if not fill.received.has(start, last):
            refuse_offline(fill.parent)
        if background is not None:
            background.begin(fill)
            leave = background.end
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
        """Raises RangeUnsatisfiable when the range starts at or behind the end: the client's mistake, not the
        parent's."""
        if start > 0 and start >= (size := await self._size_at_parent(repository, digest)):
            headers = (("Content-Range", f"bytes */{size}"),)
            raise RangeUnsatisfiable(f"the blob has {size} bytes", headers=headers)

    def size_of(self, repository: str, digest: str) -> int | None:
        """The size of a blob that is, or was, fetched through this repository; None when no fill knows it. Sends no
        request."""
        origin = Origin.of(repository, Digest.parse(digest))
        fill, parked = self._by_origin.get(origin), self._parked.get(origin)
        if fill is not None:
            return fill.size if repository in fill.repositories and fill.size else None
        return parked.size if parked is not None and parked.repository == repository else None

    def coming(self) -> Set[tuple[str, Digest]]:
        """(namespace of the parent, digest) of all blobs that are being fetched, or were and are still read."""
        fills = (fill for fill in self._by_number.values() if not fill.idle)
        return {Origin.of(fill.repository, fill.digest) for fill in fills}

    def is_coming(self, repository: str, digest: str, start: int, end: int) -> bool:
        """Whether a blob is being fetched through this repository now, or [start, end) of it is held."""
        fill = self._by_origin.get(Origin.of(repository, Digest.parse(digest)))
        if fill is None or repository not in fill.repositories:
            return False
        return not fill.idle or (start >= 0 and fill.received.has(start, None if end < 0 else end))

    async def bring(self, repository: str, digest: str) -> None:
        """Begin to fetch all of a blob that has no reader yet; returns when its size is known."""
        answer = await self.open(repository, digest, 0, -1, whole=True)
        if answer.fill:
            self._numbered(answer.fill).keeps_fetching = True
            (await self.attach(answer.fill, 0, -1, whole=True)).close()

    async def fetch(self, repository: str, digest: str, landed: Callable[[int], None]) -> None:
        """Fetch all of a blob into the store as a background read; returns when it is stored. `landed` is called with
        the count of bytes as they come. Cancelled it stops at the byte, and goes on there the next time. Raises
        DiskFull."""
        for _ in range(FETCHES + 1):
            blob = self.store.blobs.get(repository, Digest.parse(digest))
            if blob is not None and self.store.blobs.is_in_place(blob):
                return
            read = BackgroundRead(landed)
            try:
                opened = await self.open(repository, digest, 0, -1, whole=True, background=read)
                if opened.unlinked:
                    raise DiskFull("the disk takes no writes", code="BLOB_UNKNOWN")
                if opened.fill:
                    await read.done()
            finally:
                read.end()
        raise NodeFailed("the blob came and was not kept; the log says why", code="BLOB_UNKNOWN")

    async def attach(self, fill: int, start: int, end: int, whole: bool) -> Reader:
        """A reader of [start, end) of an open fill; `end` -1 is the blob's end. Raises FillGone when
        the fill has ended: open it again."""
        one = self._numbered(fill)  # a failed fill has woken its readers already, and would not wake this one
        self._idle.pop(one, None)
        return one.attach(start, (one.size or 0) if end < 0 else end, whole)

    def subscribe(self, fill: int, on_change: Callable[[FillChange], None]) -> Callable[[], None]:
        """Have `on_change` called with every change of a fill from now on; returns what ends it."""
        return self._numbered(fill).readers.subscribe(on_change)

    def snapshot(self, fill: int) -> FillSnapshot:
        """The state of a fill; with `subscribe` in the same turn of the loop no change is missed."""
        return self._numbered(fill).snapshot()

    def _numbered(self, number: int) -> Fill:
        fill = self._by_number.get(number)
        if fill is None or fill.size is None or fill.has_failed:
            raise FillGone(f"fill {number} has ended", code="BLOB_UNKNOWN")
        return fill

    # -- fills -------------------------------------------------------------------------------------

    def _new(self, repository: str, digest: Digest) -> Fill:
        parent, name = self._parent(repository)
        fill = Fill(self.context, next(self._numbers), repository, digest, parent, name, self._changed)
        self._by_origin[Origin.of(repository, digest)] = self._by_number[fill.number] = fill
        return fill

    def _begin_fill(self, repository: str, digest: Digest) -> Fill:
        """A new fill for a reader, which would otherwise wait for a slot to learn that the parent is offline. Raises
        ParentUnreachable."""
        refuse_offline(self._parent(repository)[0])
        return self._new(repository, digest)

    def _resume(self, state: FillState) -> Fill:
        fill = self._new(state.repository, state.digest)
        del self._parked[Origin.of(state.repository, state.digest)]
        fill.resume(state)
        return fill

    def _parent(self, repository: str) -> tuple[Parent, str]:
        address = Repository.from_key(repository)
        try:
            return self._parent_of(address.namespace), address.name
        except KeyError:
            raise BlobUnknown(f"no parent serves {repository}") from None

    async def _size_at_parent(self, repository: str, digest: Digest) -> int:
        """The size by HEAD, one request for all callers at once. Raises BlobUnknown when the parent does not have
        it."""
        parent, name = self._parent(repository)
        try:
            return await self._heads.result((repository, digest), lambda: parent.head_blob(name, str(digest)))
        except (ParentNotFound, ParentDenied) as error:
            raise BlobUnknown(f"no blob {digest}", detail=error.message) from error

    def _changed(self, fill: Fill) -> None:
        origin = Origin.of(fill.repository, fill.digest)
        if (fill.ended or fill.received.has_dropped) and self._by_origin.get(origin) is fill:
            del self._by_origin[origin]
            if fill.release is not None:  # it drops its part, which must not be that of the next fill
                self._hold_back(origin, fill.release)
        if fill.ended:
            self._idle.pop(fill, None)
        if fill.is_over:
            self._by_number.pop(fill.number, None)
        elif fill.idle and fill.keeps_fetching:
            self._begin(self._revive_later(fill))
        elif fill.idle:
            self._idle[fill] = None
            self._trim()

    async def _revive_later(self, fill: Fill) -> None:
        await self.clock.sleep(REVIVE_SECONDS)
        fill.revive()

    def _trim(self) -> None:
        """Keep the youngest parked fills, and those with a reader of the bytes that are held."""
        unread = [fill for fill in self._idle if fill.readers.is_empty]
        for fill in unread[: max(0, len(self._idle) - IDLE_FILLS)]:
            self._put_away(fill)

    def _put_away(self, fill: Fill) -> None:
        """Close a parked fill; its checkpoint stays."""
        origin = Origin.of(fill.repository, fill.digest)
        del self._idle[fill]
        del self._by_origin[origin], self._by_number[fill.number]
        self._hold_back(origin, asyncio.ensure_future(self._closed(fill)))

    def _hold_back(self, origin: Origin, task: asyncio.Task[None]) -> None:
        """Begin no other fill of the origin before the task is done."""
        self._closing[origin] = task
        task.add_done_callback(lambda _: self._closing.pop(origin, None))

    async def _closed(self, fill: Fill) -> None:
        await fill.close()
        if fill.checkpoints.state is not None:
            self._parked[Origin.of(fill.repository, fill.digest)] = fill.checkpoints.state

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    # -- repair and reports ----------------------------------------------------------------------------------

    async def repair(self, repository: str, digest: str, start: int, end: int) -> UnstoredChunk | None:
        """Fetch the damaged chunks of [start, end) again, and those right behind them, and put them in place; all of a
        blob whose file is lost. Ends at the first chunk that the disk refuses, which is returned. Chunks are known by
        their hashes, so any parent that has the blob may send them, by any repository of it. A parent that refuses one
        repository is asked for the next; one that fails otherwise is left alone. Raises NotHeld when the blob was
        evicted meanwhile."""
        parsed, failures = Digest.parse(digest), list[Refusal]()
        failed: set[Parent] = set()
        blob = self.store.blobs.anywhere(parsed)
        is_lost = blob is not None and not self.store.blobs.is_in_place(blob)
        for source in self._sources(repository, parsed):
            parent, name = self._parent(source)
            if parent in failed:
                continue
            try:
                if not is_lost:
                    return await self._repairs.mend(parent, name, parsed, start, end)
                await self.fetch(source, digest, lambda count: None)
                return None
            except (ParentFailed, BlobUnknown) as failure:
                failures.append(failure)
                if not (isinstance(failure, BlobUnknown | ParentErred) or failure.permanent):
                    failed.add(parent)
        raise failures[0]

    def _sources(self, repository: str, digest: Digest) -> list[str]:
        """Repositories of a held blob that have a parent, the one that was asked for first."""
        self._parent(repository)
        sources = [repository]
        for holder in self.store.blobs.holders(digest, limit=HOLDERS):
            with suppress(BlobUnknown):
                self._parent(holder)
                sources.append(holder)
        return list(dict.fromkeys(sources))

    @property
    def repaired_chunks(self) -> int:
        """Chunks of held blobs that were fetched again; those of lost files, which are fills, are not counted."""
        return self._repairs.stored

    @property
    def is_transferring(self) -> bool:
        """Whether bytes of blobs are coming now."""
        return bool(self.context.slots.holders)

    def passing(self) -> list[str]:
        """A sentence for the operator when blobs pass through unstored, because the disk is full."""
        unstored = sum(fill.in_memory for fill in self._by_number.values())
        return [f"the disk is full: {unstored} blob(s) pass through unstored"] if unstored else []

    def troubles(self) -> list[str]:
        """Sentences for the operator."""
        waiting = sum(fill.idle and fill.keeps_fetching for fill in self._by_number.values())
        sentences = [f"{waiting} fill(s) wait for their parent"] if waiting else []
        return sentences + [
            f"parent {name or 'default'} sent bytes that do not match their digest, {times} times"
            for name, times in self.context.mismatches.items()
            if times >= ALARMING_MISMATCHES
        ]
