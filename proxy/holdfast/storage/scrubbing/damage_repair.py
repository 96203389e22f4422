"""Damage that is known is repaired without a reader: its chunks are fetched again from a parent, by range, as soon as
one can be reached. What no parent brings stays in quarantine and is tried again, less and less often."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import NotHeld, StoreError, Unwritable
from holdfast_core.record import Blob, Damage
from holdfast_core.store import Store

from holdfast.backoff import Backoff
from holdfast.clock import Clock
from holdfast.errors import Refusal
from holdfast.fill.registry import FillRegistry
from holdfast.fill.repair import record_damage
from holdfast.log import log
from holdfast.routing import Repository

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent

#: damaged blobs that are looked at in one round; the next one looks at those behind them
MOST = 1000
#: of these a sentence names so many
NAMED = 5
#: what a parent that can be reached did not bring is asked for again
AGAIN = Backoff(60.0, 3600.0, spread=0.0)


class DamageRepair:
    """Repairs one blob after another. `parents` by namespace."""

    def __init__(
        self, store: Store, parents: Mapping[str, Parent], fills: FillRegistry, clock: Clock
    ) -> None:
        self._store, self._parents, self._fills, self._clock = store, parents, fills, clock
        #: by digest: failures in a row, and when it is tried again (monotonic seconds)
        self._failed: dict[Digest, tuple[int, float]] = {}
        #: the last blob that the last round looked at; None for all of them
        self._place: Digest | None = None
        self._one = asyncio.Lock()
        self._counted = fills.repaired_chunks

    async def note(self, digest: Digest, start: int, end: int) -> bool:
        """Put what is damaged of [start, end) of a blob into quarantine: no reader gets a byte of it from now on. False
        when nothing is: the blob was removed or replaced meanwhile. Raises StoreError."""
        with contextlib.suppress(NotHeld):
            return await record_damage(self._store, digest, start, end)
        return False

    def unrepaired(self) -> list[Damage]:
        """What is damaged now, MOST at most."""
        return self._store.blobs.damage(limit=MOST)

    async def round(self) -> int:
        """Repair what can be repaired now; how many chunks came again since the last round. Never raises
        StoreError or Refusal."""
        async with self._one:
            repaired, damaged = 0, self._next()
            for one in damaged:
                if self._is_due(one.digest) and (repository := self._source(one)) is not None:
                    repaired += await self._repaired(one, repository)
            return repaired + self._came()

    def _next(self) -> list[Damage]:
        """The damage that this round looks at. Failures of what is not damaged any more are forgotten."""
        first = self._place
        damaged = self._store.blobs.damage(limit=MOST, after=first)
        self._place = damaged[-1].digest if len(damaged) == MOST else None
        kept, low, high = {one.digest for one in damaged}, _key(first), _key(self._place)
        for digest in list(self._failed):
            if digest not in kept and digest.key > low and (not high or digest.key <= high):
                del self._failed[digest]
        return damaged

    def _came(self) -> int:
        """Chunks that came since the last call; a run of damage goes on behind the chunk that it was begun for."""
        before, self._counted = self._counted, self._fills.repaired_chunks
        return self._counted - before

    def notes(self) -> list[str]:
        """A sentence about cached content that only its parent has, and that cannot be fetched now."""
        waiting = [one for one in self.unrepaired() if not one.owned and self._waits(one)]
        if not waiting:
            return []
        named = ", ".join(str(one.digest) for one in waiting[:NAMED]) + (
            ", …" if len(waiting) > NAMED else ""
        )
        return [
            f"{len(waiting)} damaged blob(s) wait for their parent: {named} (nothing of the damage is served; they are"
            " fetched again once the parent can be reached and has them)"
        ]

    def _waits(self, damage: Damage) -> bool:
        has_parent = any(Repository.from_key(name).namespace in self._parents for name in damage.repositories)
        return has_parent and (damage.digest in self._failed or self._source(damage) is None)

    def _is_due(self, digest: Digest) -> bool:
        return self._failed.get(digest, (0, 0.0))[1] <= self._clock.monotonic()

    def _source(self, damage: Damage) -> str | None:
        """A repository of the blob whose parent can be reached."""
        for repository in damage.repositories:
            parent = self._parents.get(Repository.from_key(repository).namespace)
            if parent is not None and parent.state != "offline":
                return repository
        return None

    async def _repaired(self, damage: Damage, repository: str) -> int:
        """Chunks of one blob that came again with its file; 0 for one whose file was there."""
        blob = self._store.blobs.anywhere(damage.digest)
        if blob is None:
            return 0
        is_lost = not self._store.blobs.is_in_place(blob)
        try:
            for start, end in _runs(damage.chunks, blob.size):
                if await self._fills.repair(repository, str(damage.digest), start, end) is not None:
                    break  # the disk takes no more
        except (Refusal, StoreError) as error:
            self._note_failure(damage.digest, error)
        left = self._left(damage.digest)
        if not left:
            self._failed.pop(damage.digest, None)
        return len(damage.chunks) if is_lost and not left else 0

    def _left(self, digest: Digest) -> int:
        blob: Blob | None = self._store.blobs.anywhere(digest)
        return 0 if blob is None else len(self._store.blobs.bad_chunks(blob))

    def _note_failure(self, digest: Digest, error: Exception) -> None:
        failures = self._failed.get(digest, (0, 0.0))[0] + 1
        self._failed[digest] = failures, self._clock.monotonic() + AGAIN.longest(failures)
        if failures == 1 and not isinstance(error, Unwritable):
            log.warning("blob not repaired", digest=str(digest), reason=str(error))


def _key(digest: Digest | None) -> bytes:
    return b"" if digest is None else digest.key


def _runs(chunks: tuple[int, ...], size: int) -> Iterator[tuple[int, int]]:
    """Bytes [start, end) of consecutive chunks, which are in rising order."""
    first = last = -1
    for chunk in chunks:
        if chunk != last + 1 or first < 0:
            if first >= 0:
                yield first * CHUNK_BYTES, min(size, (last + 1) * CHUNK_BYTES)
            first = chunk
        last = chunk
    if first >= 0:
        yield first * CHUNK_BYTES, min(size, (last + 1) * CHUNK_BYTES)
