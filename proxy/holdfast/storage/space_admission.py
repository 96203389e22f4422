"""Who waits for room on the disk: fills and uploads get a promise from the ledger at once, or wait until what can go
has gone. `holdfast.storage.eviction_rounds` makes the room."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from holdfast_core.record import DiskUse
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.storage.space_ledger import SpaceLedger, blob_bytes

#: nobody waits longer for room (seconds)
PATIENCE_SECONDS = 10.0
#: between two looks whether evicted files were closed (seconds)
CLOSED_SECONDS = 0.25
#: what changes unseen, such as the end of a pin, is seen after so long (seconds)
EXHAUSTED_SECONDS = 10.0


@dataclass(eq=False)
class RoomRequest:
    """Room for `size` more bytes, of a client's push or of a fill for a repository ("" for a push)."""

    repository: str
    size: int
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_push(self) -> bool:
        """Whether a client sends it."""
        return not self.repository


class SpaceAdmission:
    """`holdfast.fill.context.Admission` over the ledger, and the same for uploads. `requests` are those that wait,
    `woken` is set when there are any, and when the ledger is over its high water mark."""

    def __init__(self, store: Store, ledger: SpaceLedger, clock: Clock) -> None:
        self._store, self.ledger, self._clock = store, ledger, clock
        self.requests: list[RoomRequest] = []
        self.woken = asyncio.Event()
        #: what can go at most, when that was found out (monotonic seconds), and what was here then
        self._most: tuple[int, float, object] | None = None
        self._inline_bytes = 0

    def blobs(self) -> int:
        """Bytes that the files of blobs take now, with what the index and the journal have grown by since they were
        measured: small content is in both. Raises RecordDamaged."""
        account = self._store.space.account()
        return blob_bytes(account) + 2 * max(0, account.inline_bytes - self._inline_bytes)

    def measured(self, use: DiskUse, removed: int) -> None:
        """The disk was measured; of what was `removed` a moment ago readers may have files open. Raises StoreError
        and OSError."""
        self._inline_bytes = self._store.space.account().inline_bytes
        free, now = self._store.free_bytes(), self._clock.monotonic()
        self.ledger.measured(use, free, self.blobs(), removed, now=now)

    @property
    def _is_unknown(self) -> bool:
        """Whether there is a budget, and the disk was not measured since the start: who asks waits for that."""
        return self.ledger.budget.is_bounded and not self.ledger.is_measured

    def exhausted(self, most: int) -> None:
        """No more than so many bytes can go, as things are: nobody waits for more until something changes."""
        self._most = (most, self._clock.monotonic(), self._things())

    def _things(self) -> object:
        """What changes when more can go: content and pins."""
        return self._store.space.account(), self._store.space.pins()

    @property
    def is_exhausted(self) -> bool:
        """Whether not all that was wanted could go, and nothing has changed since."""
        if self._most is None:
            return False
        _, at, things = self._most
        if self._clock.monotonic() - at >= EXHAUSTED_SECONDS or things != self._things():
            self._most = None
        return self._most is not None

    @property
    def most(self) -> int:
        """Bytes that can go, as far as that was found out: 0 when nothing can, or nobody asked."""
        return self._most[0] if self.is_exhausted and self._most is not None else 0

    def _is_hopeless(self, request: RoomRequest) -> bool:
        """Whether all that can go is not enough for a request."""
        short = self.ledger.short(request.size, self.blobs(), pushed=request.is_push)
        return self.is_exhausted and short > self.most

    async def reserve(self, repository: str, part: str, size: int) -> bool:
        """See `Admission`."""
        # what was evicted may still be open, and keeps its blocks until then
        if not self._has_free(size):
            self._wake()
            return False
        if not self._is_unknown and self.grow(part, size):
            return True
        request = RoomRequest(repository, size)
        if size > self.ledger.limit or self._is_hopeless(request):
            return False
        await self._made(request)
        return self.grow(part, size)

    def _has_free(self, size: int) -> bool:
        """Whether the file system has so many free bytes; one that does not say has none."""
        try:
            return self._store.free_bytes() >= size
        except OSError:
            return False

    def grow(self, part: str, size: int) -> bool:
        """See `Admission`."""
        blobs = self.blobs()
        fits = self.ledger.reserve(part, size, blobs)
        if not fits or self.ledger.used(blobs) > self.ledger.high:
            self._wake()
        return fits

    def release(self, part: str, kept: int = 0) -> None:
        """See `Admission`. What stays unfinished may do so because the disk took no more: it is measured anew."""
        self.ledger.release(part, kept)
        if kept:
            self._wake()

    def _wake(self) -> None:
        if not self.is_exhausted:
            self.woken.set()

    async def admit_push(self, size: int) -> bool:
        """Whether a client may send so many more bytes, after what can go has gone."""
        if not self.ledger.budget.is_bounded or (not self._is_unknown and self._grant(size)):
            return True
        request = RoomRequest("", size)
        if size > self.ledger.limit_of_pushes or self._is_hopeless(request):
            return False
        await self._made(request)
        await self._until_closed(size)
        return self._grant(size)

    async def _until_closed(self, size: int) -> None:
        """Wait until what was evicted is open nowhere any more, if that is all that is missing."""
        waited = 0.0
        while waited < PATIENCE_SECONDS and not self._has_free(size):
            if self.ledger.short(size, self.blobs(), pushed=True):
                return
            await self._clock.sleep(CLOSED_SECONDS)
            waited += CLOSED_SECONDS

    def _grant(self, size: int) -> bool:
        """Also what others filled since the disk was measured is no room."""
        now = self._clock.monotonic()
        return self._has_free(size) and self.ledger.grant(size, self.blobs(), now=now)

    async def _made(self, request: RoomRequest) -> None:
        """Wait until room was made as far as it can be, not longer than a client likes to wait."""
        self.requests.append(request)
        self.woken.set()
        limit = asyncio.ensure_future(self._clock.sleep(PATIENCE_SECONDS))
        try:
            await asyncio.wait((limit, request.done), return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
            if request in self.requests:
                self.requests.remove(request)
