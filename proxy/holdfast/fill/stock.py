"""The bytes of one fill that are here: where they are, which they are, and how far they were hashed.

Bytes come by `intake` (from transfers) or by `rechecked` (from before a restart); they are on disk or,
once the disk is full, in memory (`medium`). `held` is what can be read, `claimed` what a checkpoint says
is on disk and nobody has checked yet.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import StoreError
from holdfast_core.part import FillPart

from holdfast.fill.audience import Audience
from holdfast.fill.extents import Extents, Run
from holdfast.fill.hashing import Frontier
from holdfast.fill.intake import Intake, Piece
from holdfast.fill.means import Means
from holdfast.fill.medium import Medium
from holdfast.fill.plan import Want
from holdfast.fill.unstored import make_room, unstored_wants

log = structlog.get_logger()


class Keeping(Protocol):
    """The fill, as its stock sees it."""

    verified: bool
    ended: bool

    def landed(self, runs: list[Run]) -> None:
        """Bytes came from a transfer."""
        ...

    def grown(self) -> None:
        """More can be read."""
        ...

    def keep(self, task: asyncio.Task[None]) -> None:
        """A job was begun; its failure is the fill's."""
        ...

    def retire(self) -> None:
        """Bytes are gone that the next reader may want."""
        ...


class Stock:
    """See the module. Empty until `prepare`, which is told the size."""

    def __init__(
        self, means: Means, repository: str, digest: Digest, audience: Audience, fill: Keeping
    ) -> None:
        self._means, self._repository, self._digest = means, repository, digest
        self._audience, self._fill = audience, fill
        self.size: int | None = None
        self.held, self.claimed = Extents(), Extents()
        self.medium: Medium | None = None
        self.intake: Intake | None = None
        self.frontier: Frontier | None = None

    def prepare(self, size: int, *, stored: bool) -> None:
        """The size is known: begin to take bytes, on disk if there is room and `stored` says so."""
        part = self._open_part(size) if stored else None
        self.size, self.medium = size, Medium(part, size)
        told = (self._landed, self._move, self._make_room, self._is_far_behind)
        self.intake = Intake(self._means, self.medium, self.held, *told)
        self._hash_anew()
        if part is None:
            self._move()

    def _open_part(self, size: int) -> FillPart | None:
        try:
            return self._means.store.open_part(self._repository, self._digest, size)
        except StoreError as error:
            log.warning("no part on the disk", digest=str(self._digest), reason=str(error))
            return None

    def _hash_anew(self) -> None:
        assert self.medium is not None
        self.frontier = Frontier(self._digest.algorithm, self.medium, self.held, self._means.hashers)

    def forget(self) -> None:
        """Everything that was here is worthless."""
        self.held.remove(0, self.size or 0)
        self._hash_anew()

    # -- what is here ------------------------------------------------------------------------------

    @property
    def in_memory(self) -> bool:
        """The disk is full: bytes pass through memory and are not kept."""
        return self.medium is not None and self.medium.window is not None

    @property
    def is_complete(self) -> bool:
        """Every byte can be read."""
        return self.size is not None and self.held.covers(0, self.size)

    @property
    def is_hashed(self) -> bool:
        """Every byte was hashed."""
        return self.frontier is not None and self.frontier.position == self.size

    def has(self, start: int, end: int | None) -> bool:
        """Whether [start, end) is here, or was at the last checkpoint. False while the size is unknown."""
        if self.size is None:
            return False
        stop = self.size if end is None else min(end, self.size)
        return all(self.claimed.covers(*gap) for gap in self.held.gaps(start, stop))

    def expected(self) -> Extents:
        """What need not be fetched: `held` and, as long as nothing is known against it, `claimed`."""
        if not self.claimed:
            return self.held
        both = self.held.copy()
        for run in self.claimed:
            both.add(*run)
        return both

    def passing(self) -> set[Want]:
        """What is wanted of a fill that is in memory."""
        hashed = None if self.frontier is None or self._fill.verified else self.frontier.position
        return unstored_wants(self._audience, hashed)

    # -- what comes --------------------------------------------------------------------------------

    def _landed(self, pieces: list[Piece]) -> None:
        assert self.frontier is not None
        runs = [(offset, offset + len(data)) for offset, data in pieces]
        self._means.counters["unique_bytes"] += sum(end - start for start, end in runs)
        self.frontier.lend(pieces)
        self._fill.landed(runs)
        self._seen(runs)

    def _seen(self, runs: list[Run]) -> None:
        self._audience.landed(runs)
        self.hash()
        self._fill.grown()

    def rechecked(self, index: int, good: bool) -> None:
        """A claimed chunk was read back."""
        assert self.size is not None
        start, end = index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, self.size)
        self.claimed.remove(start, end)
        self._means.counters["rechecked_chunks" if good else "bad_chunks"] += 1
        if good:
            self.held.add(start, end)
            self._seen([(start, end)])
        else:
            log.warning("checkpointed chunk damaged", digest=str(self._digest), start=start)
            self._fill.grown()

    def next_claim(self, left: set[int]) -> int:
        """Which claimed chunk to check next: one that a reader waits for, else the lowest."""
        for want in self._audience.wants():
            near = [i for i in left if i >= max(want.start, want.position) // CHUNK_BYTES]
            if near and not want.whole:
                return min(near)
        return min(left)

    def hash(self) -> asyncio.Task[None] | None:
        """Hash what is new; the job's failure is the fill's, and ends it before who waits for it goes on."""
        job = None if self.frontier is None or self._fill.ended else self.frontier.advance()
        if job is not None:
            self._fill.keep(job)
        return job

    # -- a full disk -------------------------------------------------------------------------------

    def _move(self) -> None:
        """The disk takes no more: go on without storing."""
        assert self.medium is not None
        log.warning("fill goes on unstored", digest=str(self._digest), held=self.held.total)
        self._means.counters["unstored"] += 1
        self._audience.moved(self.medium.move(self.held))

    def _make_room(self) -> None:
        assert self.medium is not None
        assert self.frontier is not None
        if make_room(self.medium, self.held, self.frontier, self.passing()):
            self._fill.retire()

    def _is_far_behind(self) -> bool:
        return self.frontier is not None and self.frontier.is_far_behind

    def woken(self) -> None:
        """A reader moved on or left, or a hash came further: memory may have become free."""
        if self.intake is not None:
            self.intake.woken()

    # -- the end -----------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Wait until nothing touches the bytes any more. No transfer may be running."""
        if self.intake is not None:
            await self.intake.close()
        if self.frontier is not None:
            await self.frontier.settled()

    def close(self) -> None:
        """Give the files back; may be called twice."""
        if self.medium is not None:
            self.medium.close()
