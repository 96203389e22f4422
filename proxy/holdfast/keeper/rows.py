"""The outbox of one parent as the keeper holds it: in memory, and in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import structlog
from holdfast_core.change import Change as StoreChange
from holdfast_core.change import View
from holdfast_core.errors import RecordDamaged, StoreError
from holdfast_core.store import Store

from holdfast.keeper import outgoing
from holdfast.repository import Repository
from holdfast.sync.entry import Entry
from holdfast.sync.outbox import Change, Outbox

log = structlog.get_logger()

#: what else changes in the store with rows of the outbox
Settled = Callable[[View], Sequence[StoreChange]]


def nothing(_: View) -> Sequence[StoreChange]:
    """Nothing else changes."""
    return ()


class Rows:
    """The rows of one parent's repositories. `queue` changes at once and the store in the same order, so whoever waits
    for `change` acts on what is on the disk. After a change that was not written the queue is read anew."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store, self._namespace = store, namespace
        self.queue = Outbox()
        self._seen = 0
        self._is_loaded = self._is_ahead = False
        #: changes that the store has not decided
        self._under_way = 0

    async def refresh(self) -> None:
        """Take in the rows that were written since the last look. Those of an earlier keeper are taken as they are."""
        self._follow()
        last = self._store.outbox_last()
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
        return Repository.from_key(repository).namespace == self._namespace

    async def change(self, change: Change, settled: Settled = nothing) -> None:
        """Have a change on disk, in one transaction with what else is `settled`."""
        if not change.puts and not change.removes and settled is nothing:
            return
        puts = [(entry.seq, outgoing.encode(entry)) for entry in change.puts]
        self._under_way += 1
        try:
            written = asyncio.wrap_future(self._store.change_outbox(puts, change.removes, settled))
        except StoreError:
            self._decided(is_written=False)
            raise
        written.add_done_callback(lambda done: self._decided(is_written=done.exception() is None))
        await asyncio.shield(written)

    def _decided(self, *, is_written: bool) -> None:
        self._under_way -= 1
        self._is_ahead = self._is_ahead or not is_written
        try:
            self._follow()
        except StoreError as error:
            log.error("outbox not read", reason=str(error))

    def _follow(self) -> None:
        """Read the queue anew when it is ahead of the store, once the store has decided on everything. Raises
        StoreError."""
        if self._is_ahead and not self._under_way:
            self.queue.reread(entry for entry in self._read(0) if entry.seq <= self._seen)
            self._is_ahead = False

    def _came(self, entries: Sequence[Entry]) -> Change:
        """What follows from new rows for all rows."""
        puts: dict[int, Entry] = {}
        removes: list[int] = []
        for entry in entries:
            change = self.queue.came(entry)
            for seq in change.removes:
                puts.pop(seq, None)
            removes += change.removes
            puts.update({put.seq: put for put in change.puts if put != entry})
        return Change(tuple(puts.values()), tuple(removes))

    def _read(self, after: int) -> list[Entry]:
        found = []
        for number, body in self._store.outbox(after=after):
            try:
                found.append(outgoing.decode(number, body))
            except RecordDamaged as damage:
                log.error("outbox row unreadable", number=number, reason=str(damage))
        return [entry for entry in found if self.is_ours(entry.repository)]


async def committed(future: Future[None]) -> None:
    """Wait for the store; a commit that was begun is finished whoever waits."""
    await asyncio.shield(asyncio.wrap_future(future))
