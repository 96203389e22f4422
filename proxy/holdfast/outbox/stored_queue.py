"""The outbox of one parent in memory, kept equal to the rows in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from holdfast_core.changes import outbox_rows as rows
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged, StoreError
from holdfast_core.facets.outbox import OutboxRows

from holdfast.log import log
from holdfast.outbox import records
from holdfast.outbox.entry import OutboxEntry
from holdfast.outbox.queue import Outbox, QueueChange
from holdfast.routing import Repository

#: other changes of the store in the transaction of outbox rows
Settled = Callable[[IndexView], Sequence[IndexChange]]


def nothing(_: IndexView) -> Sequence[IndexChange]:
    """Nothing else changes."""
    return ()


class StoredQueue:
    """The rows of one parent's repositories. `queue` changes at once and the store in the same order, so a caller that
    waits for `change` acts on what is on disk. After a change that was not written the queue is read anew."""

    def __init__(self, outbox: OutboxRows, namespace: str) -> None:
        self._outbox, self.namespace = outbox, namespace
        self.queue = Outbox()
        #: set when rows were written, so that the sender need not wait for its next look
        self.changed = asyncio.Event()
        self._seen = 0
        self._is_loaded = self._is_ahead = False
        #: changes that the store has not decided
        self._undecided = 0

    async def refresh(self) -> None:
        """Add the rows that were written since the last call. Those of an earlier keeper are taken as they are."""
        self._follow()
        last = self._outbox.last()
        if self._is_loaded and last == self._seen:
            return
        entries = self._read(self._seen)
        self._seen = max(last, self._seen, *(entry.seq for entry in entries), 0)
        if self._is_loaded:
            await self.change(self._came(entries))
        else:
            self.queue, self._is_loaded = Outbox(entries), True

    def is_ours(self, repository: str) -> bool:
        """Whether a repository is this parent's."""
        return Repository.from_key(repository).namespace == self.namespace

    def is_going_up(self, repository: str, tag: str) -> bool:
        """Whether a change of a tag is still to be sent, as far as its row was read."""
        return bool(self.queue.pending(repository, tag))

    async def moved_to(self, repository: str, tag: str) -> str:
        """The digest of the last move of a tag that is still to be sent; "" for none, and for a delete."""
        if not self.is_ours(repository):
            return ""
        await self.refresh()
        moves = self.queue.pending(repository, tag)
        return moves[-1].digest if moves else ""

    async def blobs_arrived(self, repository: str, digest: Digest) -> None:
        """All blobs of a manifest are here now: remove its mark, unless it is still to be sent."""
        if not self.is_ours(repository):
            return
        await self.refresh()
        is_pending = self.queue.is_pending(repository, str(digest))
        if not is_pending and self._outbox.is_pending(repository, digest):
            await self.change(
                QueueChange(), partial(rows.manifest_sent, repository=repository, digest=digest)
            )

    async def retry(self, number: int) -> bool:
        """Have an entry sent now, for an operator; False when there is no such entry."""
        await self.refresh()
        if self.queue.get(number) is None:
            return False
        await self.change(self.queue.retry(number))
        return True

    async def retry_damaged(self) -> None:
        """Have the entries sent that failed because content here was damaged: it is whole again."""
        await self.refresh()
        queue = self.queue
        for entry in queue.troubled("damaged"):
            if queue.get(entry.seq) is not None:
                await self.change(queue.retry(entry.seq))

    async def change(self, change: QueueChange, settled: Settled = nothing) -> None:
        """Write a change to disk, in one transaction with the changes of `settled`."""
        if not change.puts and not change.removes and settled is nothing:
            return
        puts = [(entry.seq, records.encode(entry)) for entry in change.puts]
        self._undecided += 1
        try:
            written = asyncio.wrap_future(self._outbox.change(puts, change.removes, settled))
        except StoreError:
            self._decided(is_written=False)
            raise
        written.add_done_callback(lambda done: self._decided(is_written=done.exception() is None))
        await asyncio.shield(written)

    def _decided(self, *, is_written: bool) -> None:
        self._undecided -= 1
        self._is_ahead = self._is_ahead or not is_written
        try:
            self._follow()
        except StoreError as error:
            log.error("outbox not read", reason=str(error))

    def _follow(self) -> None:
        """Read the queue anew when it is ahead of the store, once the store has decided on everything. Raises
        StoreError."""
        if self._is_ahead and not self._undecided:
            self.queue.reread(entry for entry in self._read(0) if entry.seq <= self._seen)
            self._is_ahead = False

    def _came(self, entries: Sequence[OutboxEntry]) -> QueueChange:
        """The change that new rows cause in all rows."""
        puts: dict[int, OutboxEntry] = {}
        removes: list[int] = []
        for entry in entries:
            change = self.queue.came(entry)
            for seq in change.removes:
                puts.pop(seq, None)
            removes += change.removes
            puts.update({put.seq: put for put in change.puts if put != entry})
        return QueueChange(tuple(puts.values()), tuple(removes))

    def _read(self, after: int) -> list[OutboxEntry]:
        entries = []
        for number, body in self._outbox.rows(after=after):
            try:
                entries.append(records.decode(number, body))
            except RecordDamaged as damage:
                log.error("outbox row unreadable", number=number, reason=str(damage))
        return [entry for entry in entries if self.is_ours(entry.repository)]


async def committed(future: Future[None]) -> None:
    """Wait for the store; a commit that was begun goes on when the caller is cancelled."""
    await asyncio.shield(asyncio.wrap_future(future))
