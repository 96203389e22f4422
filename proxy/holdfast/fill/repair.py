"""Repair: damaged chunks of a held blob are fetched again from the parent, exactly their bytes, and checked before they
are used.

Damage seldom comes alone: a power cut, a bad part of a disk, a file that was begun again with holes. So the chunks
behind a damaged one are checked before it is requested, and a run of damaged ones comes by one request. A reader that
waits for one of them goes on as soon as that one is sound. A chunk that the disk refuses is handed to its readers, and
comes alone: those behind it would have to stay in memory.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import ChunkDamaged, Damaged, DigestMismatch, NotHeld, Unwritable
from holdfast_core.record import Blob
from holdfast_core.store import Store

from holdfast.errors import ParentBroken, ParentUnreachable
from holdfast.log import log

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent


#: The run ends after so many requests in a row that bring nothing.
TRIES = 3
#: Chunks of one request at most; checking so many takes less time than fetching one.
RUN_CHUNKS = 64


class UnstoredChunk(msgspec.Struct, frozen=True, array_like=True):
    """A chunk of a held blob that was fetched again and verified, and that the disk refused."""

    start: int
    body: bytes


class DamagedRun:
    """Consecutive chunks that are being fetched: [position, end) is still to come. `end` grows once the chunks behind
    were checked."""

    def __init__(self, store: Store, parent: Parent, name: str, digest: Digest, start: int, end: int) -> None:
        self._store, self.parent, self._name, self._digest = store, parent, name, digest
        self.position, self.end = start - start % CHUNK_BYTES, end
        #: the last chunk, when the disk refused it
        self.unstored: UnstoredChunk | None = None
        #: chunks that were put in place
        self.stored = 0
        self._landed = asyncio.Event()
        self.task = asyncio.create_task(self._work())
        self.task.add_done_callback(lambda done: self._landed.set())

    async def passed(self, offset: int) -> int:
        """The offset of the first byte that is not sound, once the one at `offset` is. Raises what ended the run."""
        while self.position <= offset and not self.task.done():
            await self._landed.wait()
        if self.position <= offset:
            self.task.result()
        return self.position

    async def _work(self) -> None:
        blob = self._store.blobs.anywhere(self._digest)
        if blob is None:
            raise NotHeld(f"{self._digest} is not held")
        loop = asyncio.get_running_loop()
        damaged = await loop.run_in_executor(None, damaged_until, self._store, blob, self.position)
        if damaged > self.position:
            self.end, start, text = damaged, self.position, str(self._digest)
            try:
                await record_damage(self._store, self._digest, start, damaged)
            except Unwritable:  # nor will the disk take more than the chunk that a reader waits for
                self.end = min(start + CHUNK_BYTES, damaged)
            await self._fetch(blob.size)
            if self.unstored is None:
                log.info("blob repaired", digest=text, start=start, end=self.end)
        self._move(self.end)

    def _move(self, position: int) -> None:
        self.position = position
        self._landed.set()
        self._landed = asyncio.Event()

    async def _fetch(self, size: int) -> None:
        """Put the chunks in place as they come; resumed when cut."""
        fruitless, body = 0, bytearray()
        while self.position < self.end:
            fetched = self.position + len(body)
            try:
                async with self.parent.get_blob(
                    self._name, str(self._digest), start=fetched, end=self.end
                ) as stream:
                    at = stream.start
                    async for data in stream:
                        body += data[max(0, fetched - at) :][: self.end - self.position - len(body)]
                        at += len(data)
                        await self._put(body, size)
                        if self.position >= self.end:
                            return
            except ParentUnreachable:
                fruitless = 0 if self.position + len(body) > fetched else fruitless + 1
                if fruitless == TRIES:
                    raise
                continue
            raise ParentBroken(f"the parent's {self._digest} ends before byte {self.end - 1}")

    async def _put(self, body: bytearray, size: int) -> None:
        """Write the chunks that are complete, and remove them from `body`."""
        while self.position < self.end and len(body) >= (length := min(CHUNK_BYTES, size - self.position)):
            chunk = bytes(body[:length])
            try:
                await asyncio.wrap_future(self._store.blobs.repair_chunk(self._digest, self.position, chunk))
            except DigestMismatch as error:
                raise self._broken(error) from error
            except Unwritable as error:
                self._pass_on(chunk, error)
            else:
                self.stored += 1
            del body[:length]
            self._move(self.position + length)

    def _pass_on(self, chunk: bytes, refused: Unwritable) -> None:
        """The disk refused the chunk: it is the run's last."""
        try:
            self._store.blobs.check_chunk(self._digest, self.position, chunk)
        except DigestMismatch as error:
            raise self._broken(error) from error
        log.warning("chunk unstored", digest=str(self._digest), start=self.position, reason=str(refused))
        self.unstored, self.end = UnstoredChunk(self.position, chunk), self.position + len(chunk)

    def _broken(self, error: DigestMismatch) -> ParentBroken:
        return ParentBroken(f"the parent's bytes are not {self._digest}", detail=str(error))


def damaged_until(store: Store, blob: Blob, start: int) -> int:
    """The end of the damaged chunks from `start` on; `start` when that one is sound. Blocks."""
    at, last = start, min(blob.size, start + RUN_CHUNKS * CHUNK_BYTES)
    try:
        with store.blobs.open(blob) as reader:
            while at < last:
                try:
                    reader.read(at, 1)
                except ChunkDamaged as damage:
                    at = damage.end
                else:
                    break
    except (NotHeld, Damaged):  # all of it
        return last
    return at


async def record_damage(store: Store, digest: Digest, start: int, end: int) -> bool:
    """Record which of the bytes [start, end) of a blob are damaged, and log it once; whether any are that were not
    known. Raises StoreError."""
    is_new = await asyncio.wrap_future(store.blobs.quarantine_damaged(digest, start, end))
    if is_new:
        log.error("blob damaged", digest=str(digest), start=start, end=end)
    return is_new


def is_sound(store: Store, blob: Blob, start: int, end: int) -> bool:
    """Whether [start, end) is sound now, as far as one run goes: it was repaired since a reader found the damage, or
    only that reader's copy in memory was bad. Blocks."""
    last = min(end, start + RUN_CHUNKS * CHUNK_BYTES)
    try:
        with store.blobs.open(blob) as reader:
            for at in range(start - start % CHUNK_BYTES, last, CHUNK_BYTES):
                reader.read(at, 1)
    except (NotHeld, Damaged):
        return False
    return True


class Repairs:
    """The runs that are being fetched: a chunk comes once, for all who read it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs: dict[Digest, list[DamagedRun]] = {}
        self._stored = 0

    async def mend(
        self, parent: Parent, name: str, digest: Digest, start: int, end: int
    ) -> UnstoredChunk | None:
        """Repair the chunks of [start, end); returns None, or the first of them that the disk refused. Raises the
        parent's refusal, ParentBroken when its bytes are not the chunk's, or NotHeld when the blob was evicted."""
        while start < end:
            runs = self._runs.setdefault(digest, [])
            run = next((r for r in runs if r.parent is parent and r.position <= start < r.end), None)
            if run is None:
                run = DamagedRun(self._store, parent, name, digest, start, end)
                runs.append(run)
                run.task.add_done_callback(partial(self._over, digest, run))
            passed = await run.passed(start)
            one = run.unstored
            if one is not None and start < one.start + len(one.body) and one.start < min(passed, end):
                return one
            start = max(start, passed)
        return None

    def _over(self, digest: Digest, run: DamagedRun, _: asyncio.Task[None]) -> None:
        self._runs[digest].remove(run)
        self._stored += run.stored
        if not self._runs[digest]:
            del self._runs[digest]
        if not run.task.cancelled():
            run.task.exception()  # retrieved: a reader that left is no reason for a warning of asyncio

    @property
    def stored(self) -> int:
        """Chunks that were fetched again and put in place."""
        return self._stored + sum(run.stored for runs in self._runs.values() for run in runs)

    async def close(self) -> None:
        """Cancel what runs and wait until it is gone."""
        tasks = [run.task for runs in self._runs.values() for run in runs]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
