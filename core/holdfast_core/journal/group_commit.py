"""The one thread that commits. Changes that wait are committed together.

A batch closes at 256 operations, when 2 ms have passed since its first, or when nothing waits: while one
commit syncs, the next batch gathers, so a lone change does not wait and a flood costs one sync for many.

A future resolves after the commit it was part of. Any exception at commit means not committed; what the store is
then says `disk_state`. LMDB writes the pages of a transaction, syncs them, then writes the meta page that makes them
count. A failure before that page does no harm: no committed tree has those pages, and the next transaction writes its
own. One at that page poisons the environment.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

import lmdb

from holdfast_core import format as layout
from holdfast_core.changes import store_events
from holdfast_core.changes.change import IndexChange, IndexView, Keep
from holdfast_core.changes.transaction import derivation_in
from holdfast_core.errors import Exhausted, StoreError, Unwritable
from holdfast_core.filesystem.disk_state import StoreCondition, Write
from holdfast_core.index.lmdb_index import Index, Transaction, TransactionView, errno_of
from holdfast_core.journal.journal_file import Journal

BATCH_OPERATIONS = 256
BATCH_SECONDS = 0.002
INDEX_SHARE = 0.9  # of the map; beyond it only owned changes and removals are taken

Plan = Callable[[IndexView], Sequence[IndexChange]]


class NeedsRepair(Exception):
    """A plan looked at damaged records: it is made again when they have their values back, or have none."""

    def __init__(self, records: set[bytes]) -> None:
        super().__init__(f"{len(records)} damaged records")
        self.records = records


class CommitOperation:
    """One change to come: its planner, what to do once it is committed, and its future."""

    def __init__(
        self,
        plan: Plan,
        after: Callable[[], None] | None,
        future: Future[None],
        settle: bool,
        frees: bool,
        mends: bool,
    ) -> None:
        self.plan = plan
        self.after = after
        self.future = future
        self.settle = settle
        self.frees = frees
        self.mends = mends
        self.begun = False


class Writer:
    """Owns the write side of the index and the journal."""

    def __init__(
        self,
        index: Index,
        journal: Journal | None,
        *,
        boot: bytes,
        clock: Callable[[], float],
        condition: StoreCondition,
        probe: Callable[[], None],
    ) -> None:
        """`probe` raises OSError when the disk takes no write. Without a journal every change is refused, until
        `take_up`."""
        self._journal = journal
        self.condition = condition
        self.committed = 0
        self.batches = 0
        self._index = index
        self._boot = boot
        self._clock = clock
        self._probe = probe
        #: gives room for a change that makes room; whether it had any left
        self.spare: Callable[[], bool] = lambda: False
        #: gives damaged records their values back on another thread, then calls what follows
        self.mend: Callable[[Collection[bytes], Callable[[], None]], None] | None = None
        #: damaged records of which there is no copy: they count as absent
        self.lost: set[bytes] = set()
        #: whether that room is not all there: until it is, only what makes room is committed
        self.is_short: Callable[[], bool] = lambda: False
        self._queue: SimpleQueue[CommitOperation | None] = SimpleQueue()
        self._closed = False
        self._committing = threading.Lock()  # a commit, or the change to a new journal
        self._thread = threading.Thread(target=self._run, name="holdfast-writer", daemon=True)
        self._thread.start()

    def submit(
        self,
        plan: Plan,
        after: Callable[[], None] | None = None,
        future: Future[None] | None = None,
        *,
        settle: bool = False,
        frees: bool = False,
        mends: bool = False,
    ) -> Future[None]:
        """Queue a change. `after` runs on the writer thread once it is committed, before the future.
        `settle` syncs the journal whatever the change is. `frees` says that it makes room: where there is none, it
        is tried again with the room that `spare` gives. `mends` says that it puts damaged records right."""
        future = Future() if future is None else future
        self._enqueue(CommitOperation(plan, after, future, settle, frees, mends))
        return future

    def _enqueue(self, operation: CommitOperation) -> None:
        if self._closed:
            operation.future.set_exception(StoreError("the store is closed"))
        else:
            self._queue.put(operation)

    def refusal(self) -> Unwritable | None:
        """What a change is refused with before it is tried; None when it is tried."""
        return self.condition.error() if self._journal is None else self.condition.refusal()

    @property
    def is_writing(self) -> bool:
        """Whether there is a journal to write."""
        return self._journal is not None

    def take_up(self, journal: Journal) -> None:
        """From now on changes are written: the store was opened for it."""
        self._journal = journal

    @property
    def journal(self) -> Journal:
        """The journal. Raises Unwritable where there is none yet."""
        if self._journal is None:
            raise self.condition.error()
        return self._journal

    def succeed(self, fresh: Journal, position: int) -> None:
        """From now on `fresh` is the journal; it holds what the present one does up to `position`, and gets the rest.
        Commits wait meanwhile. Raises OSError or StoreError: then the present one is still in use, unless the store
        failed: then the next start finds out which."""
        with self._committing:
            if (refusal := self.refusal()) is not None:
                raise refusal
            fresh.copy(self.journal, position, self.journal.length)
            fresh.sync()
            try:
                with self._index.begin(write=True) as txn:
                    self._note(txn, fresh)
            except (lmdb.Error, OSError) as error:
                raise self._not_committed(error, self.journal.length) from error
            former, self._journal = self.journal, fresh
            former.close()
            try:
                fresh.replace()
            except OSError as error:
                raise self.condition.met(Write.META, error.errno, f"journal: {error}") from error

    def settled(self) -> bool:
        """Whether all of the journal is on disk."""
        return self._journal is None or self._journal.synced == self._journal.length

    def queued(self) -> int:
        """Operations that wait."""
        return self._queue.qsize()

    def close(self) -> None:
        """Commit what waits and end the thread. What came in too late is refused."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        if self._journal is not None:
            self._journal.close()
        with contextlib.suppress(Empty):
            while True:
                late = self._queue.get_nowait()
                if late is not None:
                    late.future.set_exception(StoreError("the store is closed"))

    def _run(self) -> None:
        running = True
        while running:
            first = self._queue.get()
            batch, running = self._gather(first)
            self._settle(batch)

    def _gather(self, first: CommitOperation | None) -> tuple[list[CommitOperation], bool]:
        """The next batch, and whether more may come."""
        batch: list[CommitOperation] = []
        deadline = self._clock() + BATCH_SECONDS
        item = first
        with contextlib.suppress(Empty):
            while item is not None:
                if item.begun or item.future.set_running_or_notify_cancel():
                    item.begun = True
                    batch.append(item)
                if len(batch) >= BATCH_OPERATIONS or self._clock() > deadline:
                    return batch, True
                item = self._queue.get_nowait()
            return batch, False
        return batch, True

    def _settle(self, batch: list[CommitOperation]) -> None:
        """Commit a batch and resolve its futures."""
        if not batch:
            return
        try:
            if (refusal := self.refusal()) is not None:
                raise refusal
            refused = self._commit(batch)
        except Exception as error:  # noqa: BLE001 - whatever it was, every waiter must hear that nothing was committed
            self._refuse(batch, error)
            return
        for operation in batch:
            reason = refused.get(operation)
            if isinstance(reason, NeedsRepair):
                self._put_off(operation, reason.records)
                continue
            if reason is not None:
                operation.future.set_exception(reason)
                continue
            if operation.after is not None:
                with contextlib.suppress(OSError, StoreError):  # committed; what is left over is only garbage
                    operation.after()
            operation.future.set_result(None)

    def _put_off(self, operation: CommitOperation, records: Collection[bytes]) -> None:
        """Do an operation once the damaged records that it met have their values back, or are known to have none."""
        assert self.mend is not None
        self.mend(records, lambda: self._enqueue(operation))

    def _refuse(self, batch: list[CommitOperation], error: Exception) -> None:
        """Nothing of the batch was committed. When there was no room, each gets a try of its own."""
        if isinstance(error, Exhausted) and len(batch) > 1:
            for operation in batch:
                self._settle([operation])
            return
        if isinstance(error, Exhausted) and batch[0].frees and self.spare():
            self._settle(batch)
            return
        for operation in batch:
            operation.future.set_exception(error)

    def _commit(self, batch: list[CommitOperation]) -> dict[CommitOperation, Exception]:
        """One transaction; the operations that refused themselves, with their reasons."""
        with self._committing:
            length = self.journal.length
            try:
                with self._index.begin(write=True) as txn:
                    changes, durable, refused = self._apply(txn, batch)
                    self._record(txn, changes, durable or any(operation.settle for operation in batch))
            except (lmdb.Error, OSError) as error:
                raise self._not_committed(error, length) from error
        self.batches += 1
        self.committed += len(batch) - len(refused)
        return refused

    def _apply(
        self, txn: Transaction, batch: list[CommitOperation]
    ) -> tuple[list[IndexChange], bool, dict[CommitOperation, Exception]]:
        """The changes that changed something, whether any, these or others, is to be on the disk, and the refusals."""
        view, derivation = derivation_in(self._index, txn)
        full = self._index.bytes_used() > INDEX_SHARE * self._index.map_bytes
        short = self.is_short()
        applied: list[IndexChange] = []
        durable = False
        refused: dict[CommitOperation, Exception] = {}
        for operation in batch:
            try:
                view.met.clear()
                changes, events = store_events.split_events(operation.plan(view))
                if not operation.mends:
                    self._require_mended(view)
                if full and any(c.value for c in changes) and all(c.keep is not Keep.DISK for c in changes):
                    raise Exhausted(
                        f"the index uses over {INDEX_SHARE:.0%} of its map of {self._index.map_bytes} bytes;"
                        " set a larger map_bytes and restart"
                    )
                if short and changes and not (operation.frees or operation.settle):
                    text = "no space left: what there is is kept for deletes until there is more"
                    raise self.condition.met(Write.FILE, errno.ENOSPC, text)
            except lmdb.Error:
                raise
            except Exception as error:  # noqa: BLE001 - nothing was put yet: it is this operation's alone
                refused[operation] = error if operation.mends else self._met(view) or error
                continue
            changes = [*changes, *store_events.numbered(view, events)]
            durable = durable or any(c.keep is Keep.DISK for c in changes)
            applied += [c for c in changes if derivation.put(c)]
            if self.lost:  # what was put is whole
                self.lost.difference_update(c.key for c in changes)
        derivation.finish()
        return applied, durable, refused

    def _met(self, view: TransactionView) -> NeedsRepair | None:
        """The damaged records that a plan looked at and that were not tried to be mended."""
        records = {key for key in view.met if key not in self.lost and layout.is_mendable(key)}
        return NeedsRepair(records) if records and self.mend is not None else None

    def _require_mended(self, view: TransactionView) -> None:
        if (damage := self._met(view)) is not None:
            raise damage

    def _record(self, txn: Transaction, changes: list[IndexChange], durable: bool) -> None:
        """Append to the journal, with `durable` sync it unless it is, and note its state. Nothing is written when
        there is nothing new: then the transaction is empty, and LMDB writes none of it."""
        kept = [(key, value) for key, value, keep in changes if keep is not Keep.INDEX]
        if kept:
            self.journal.append(kept)
        if durable := durable and not self.settled():
            self.journal.sync()
        if kept or durable:
            self._note(txn, self.journal)

    def _note(self, txn: Transaction, journal: Journal) -> None:
        state = layout.encode_journaled(journal.state(self._boot))
        txn.put(layout.JOURNALED, layout.seal(layout.JOURNALED, state))

    def _not_committed(self, error: Exception, length: int) -> StoreError:
        """Take the journal back and say why."""
        self.journal.cut(length)
        if isinstance(error, lmdb.MapFullError):
            return Exhausted(
                f"the index fills its map of {self._index.map_bytes} bytes; set a larger map_bytes and restart"
            )
        if isinstance(error, OSError):
            return self.condition.met(Write.JOURNAL, error.errno, f"journal: {error.strerror or error}")
        if self._index.is_poisoned():
            return self.condition.met(Write.META, None, f"index: {error}")
        return self.condition.met(Write.INDEX, self._index_errno(error), f"index: {error}")

    def _index_errno(self, error: Exception) -> int | None:
        """Why the index could not be written. LMDB takes a write that was cut short for EIO, and what cuts a write
        short is a disk that gave its last blocks to it: that disk refuses the next write itself."""
        code = errno_of(error) if isinstance(error, lmdb.Error) else None
        if code == errno.EIO:
            try:
                self._probe()
            except OSError as refused:
                return refused.errno
        return code
