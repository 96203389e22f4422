"""The thread that commits: what a batch is, whom a refusal concerns, what is still taken without room, and what
happens at the end. Over a real index and journal; the clock is a hand."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future

import lmdb
import pytest
from holdfast_core import Store
from holdfast_core import format as layout
from holdfast_core.changes.change import IndexChange, IndexView, Keep, put, remove
from holdfast_core.errors import DiskReadOnly, Exhausted, NotHeld, OutOfDescriptors, SyncFailed
from holdfast_core.filesystem.disk_state import DiskState, StoreCondition, Write
from holdfast_core.journal.frame import JOURNAL_HEAD_BYTES
from holdfast_core.journal.group_commit import CommitOperation, Plan, Writer
from holdfast_core.journal.journal_file import NAME as JOURNAL_NAME
from holdfast_core.journal.journal_file import Journal, frames, head_of
from support.stores import put_file, some_bytes

Opener = Callable[..., Store]
SECONDS = 5.0


class Hand:
    """A clock that moves by `step` each time that somebody looks."""

    def __init__(self) -> None:
        self.at, self.step = 1000.0, 0.0

    def __call__(self) -> float:
        self.at += self.step
        return self.at


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def writer(opener: Opener, hand: Hand) -> Writer:
    found = opener(clock=hand)._writer
    assert found is not None
    return found


def row(number: int, keep: Keep = Keep.JOURNAL) -> IndexChange:
    """A record of its own."""
    return put(layout.repository_key(f"r{number}"), layout.encode_time(1.0), keep)


def puts(number: int, keep: Keep = Keep.JOURNAL) -> Plan:
    """A plan of one record."""
    return lambda _: [row(number, keep)]


def is_held(writer: Writer, number: int) -> bool:
    """Whether the record is in the index."""
    return writer._index.get(layout.repository_key(f"r{number}")) is not None


class Pause:
    """Holds the thread that commits within a plan, so that what is submitted meanwhile is one batch."""

    def __init__(self, writer: Writer) -> None:
        self._begun, self._go_on = threading.Event(), threading.Event()
        self.future = writer.submit(self._plan)
        assert self._begun.wait(SECONDS)

    def _plan(self, _: IndexView) -> Sequence[IndexChange]:
        self._begun.set()
        assert self._go_on.wait(SECONDS)
        return []

    def end(self) -> None:
        """Let it go on."""
        self._go_on.set()
        self.future.result(SECONDS)


# --- what a batch is -------------------------------------------------------------------------------------------


def submitted(writer: Writer, number: int) -> tuple[int, int]:
    """(batches, commits) of so many changes that wait together."""
    pause = Pause(writer)
    futures = [writer.submit(puts(each)) for each in range(number)]
    assert writer.queued() == number
    before = writer.batches, writer.committed
    pause.end()
    for future in futures:
        future.result(SECONDS)
    assert all(is_held(writer, each) for each in range(number))
    assert writer.queued() == 0
    return writer.batches - before[0] - 1, writer.committed - before[1] - 1


@pytest.mark.parametrize(("number", "batches"), [(1, 1), (256, 1), (257, 2), (513, 3)])
def test_at_most_256_changes_are_committed_together(writer: Writer, number: int, batches: int) -> None:
    assert submitted(writer, number) == (batches, number)


@pytest.mark.parametrize(("step", "batches"), [(0.0006, 2), (0.00125, 4), (0.003, 8)])
def test_a_batch_closes_after_2_ms(writer: Writer, hand: Hand, step: float, batches: int) -> None:
    """Each change is a look at the clock: the first one to be more than 2 ms after the batch began is its last."""
    hand.step = step
    assert submitted(writer, 8) == (batches, 8)


def test_a_change_that_was_cancelled_before_it_began_is_not_made(writer: Writer) -> None:
    pause = Pause(writer)
    kept, cancelled = writer.submit(puts(1)), writer.submit(puts(2))
    assert cancelled.cancel()
    pause.end()
    kept.result(SECONDS)
    assert (is_held(writer, 1), is_held(writer, 2)) == (True, False)
    assert writer.committed == 2


def test_a_future_cannot_be_cancelled_once_its_change_is_made(writer: Writer) -> None:
    pause = Pause(writer)
    assert not pause.future.cancel()
    pause.end()


# --- whom a refusal concerns -------------------------------------------------------------------------------------


def refuses(_: IndexView) -> Sequence[IndexChange]:
    raise NotHeld("it is not here")


def test_a_plan_that_refuses_itself_costs_no_other(writer: Writer) -> None:
    pause = Pause(writer)
    futures = [writer.submit(plan) for plan in (puts(1), refuses, puts(2))]
    before = writer.committed
    pause.end()
    assert [str(future.exception(SECONDS)) for future in futures] == ["None", "it is not here", "None"]
    assert [is_held(writer, 1), is_held(writer, 2)] == [True, True]
    assert writer.committed - before == 3


def test_what_follows_a_commit_runs_before_its_future_and_may_fail(writer: Writer) -> None:
    told: list[str] = []

    def after() -> None:
        told.append(f"after, and in the index: {is_held(writer, 1)}")
        raise OSError(errno.EIO, "only garbage is left over")

    future: Future[None] = Future()
    future.add_done_callback(lambda _: told.append("future"))
    assert writer.submit(puts(1), after, future) is future
    future.result(SECONDS)
    assert told == ["after, and in the index: True", "future"]


def test_nothing_follows_what_was_refused(writer: Writer) -> None:
    told: list[str] = []
    future = writer.submit(refuses, lambda: told.append("after"))
    assert isinstance(future.exception(SECONDS), NotHeld)
    assert told == []


class FailingJournal:
    """Refuses to append, so many times."""

    def __init__(self, writer: Writer, monkeypatch: pytest.MonkeyPatch, code: int, times: int) -> None:
        self.tries, self._code, self._times = 0, code, times
        self._append = writer.journal.append
        monkeypatch.setattr(writer.journal, "append", self.append)

    def append(self, rows: list[tuple[bytes, bytes | None]]) -> None:
        self.tries += 1
        if self.tries <= self._times:
            raise OSError(self._code, os.strerror(self._code))
        self._append(rows)


def test_without_room_each_of_a_batch_gets_a_try_of_its_own(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = FailingJournal(writer, monkeypatch, errno.ENOSPC, 2)
    pause = Pause(writer)
    futures = [writer.submit(puts(number)) for number in range(3)]
    pause.end()
    errors = [future.exception(SECONDS) for future in futures]
    assert [type(error) for error in errors] == [Exhausted, type(None), type(None)]
    assert [is_held(writer, number) for number in range(3)] == [False, True, True]
    assert failing.tries == 4
    assert writer.condition.state is DiskState.FULL


@pytest.mark.parametrize(
    ("code", "error", "state"),
    [
        (errno.EIO, SyncFailed, DiskState.FAILED),
        (errno.EROFS, DiskReadOnly, DiskState.READ_ONLY),
        (errno.EMFILE, OutOfDescriptors, DiskState.WRITABLE),
    ],
)
def test_a_journal_that_cannot_be_written_refuses_the_batch(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, code: int, error: type, state: DiskState
) -> None:
    length = writer.journal.length
    failing = FailingJournal(writer, monkeypatch, code, 99)
    pause = Pause(writer)
    futures = [writer.submit(puts(number)) for number in range(2)]
    pause.end()
    for number, future in enumerate(futures):
        assert type(future.exception(SECONDS)) is error
        assert f"journal: {os.strerror(code)}" in str(future.exception(SECONDS))
        assert not is_held(writer, number)
    assert failing.tries == (3 if issubclass(error, Exhausted) else 1)
    assert writer.condition.state is state
    assert writer.journal.length == length
    if state is not DiskState.WRITABLE:
        assert type(writer.refusal()) is error
        assert type(writer.submit(puts(9)).exception(SECONDS)) is error
        assert failing.tries == 1, "it is not tried any more"


@pytest.mark.parametrize(("frees", "has_room"), [(True, True), (True, False), (False, True)])
def test_what_makes_room_gets_the_room_that_is_kept_for_it(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, frees: bool, has_room: bool
) -> None:
    asked: list[str] = []

    def spare() -> bool:
        asked.append("room")
        return has_room

    writer.spare = spare
    failing = FailingJournal(writer, monkeypatch, errno.ENOSPC, 1)
    error = writer.submit(puts(1), frees=frees).exception(SECONDS)
    assert (error is None) is (frees and has_room)
    assert asked == (["room"] if frees else [])
    assert failing.tries == (2 if frees and has_room else 1)
    assert is_held(writer, 1) is (frees and has_room)


# --- what is still taken without room ----------------------------------------------------------------------------


@pytest.mark.parametrize("used", ["below", "at", "above"])
def test_a_full_index_takes_what_is_owned_and_what_removes(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, used: str
) -> None:
    writer.submit(puts(1)).result(SECONDS)
    bound = 0.9 * writer._index.map_bytes
    bytes_used = {"below": bound - 1, "at": bound, "above": bound + 1}[used]
    monkeypatch.setattr(writer._index, "bytes_used", lambda: bytes_used)
    key = layout.repository_key("r1")
    writer.submit(puts(2, Keep.DISK)).result(SECONDS)
    writer.submit(lambda _: [row(3, Keep.DISK), row(4)]).result(SECONDS)
    writer.submit(lambda _: remove([key], Keep.JOURNAL)).result(SECONDS)
    error = writer.submit(lambda _: [row(5), *remove([key])]).exception(SECONDS)
    assert isinstance(error, Exhausted) is (used == "above")
    held = [is_held(writer, number) for number in range(1, 6)]
    assert held == [False, True, True, True, used != "above"]
    assert writer.condition.state is DiskState.WRITABLE


@pytest.mark.parametrize(
    ("flags", "is_taken"), [({}, False), ({"frees": True}, True), ({"settle": True}, True)]
)
def test_while_the_kept_room_is_not_whole_only_what_makes_room_is_taken(
    writer: Writer, flags: dict[str, bool], is_taken: bool
) -> None:
    writer.is_short = lambda: True
    error = writer.submit(puts(1), **flags).exception(SECONDS)  # type: ignore[arg-type]
    assert isinstance(error, Exhausted) is not is_taken
    assert is_held(writer, 1) is is_taken
    assert writer.condition.state is (DiskState.WRITABLE if is_taken else DiskState.FULL)
    assert writer.submit(lambda _: []).exception(SECONDS) is None, "what changes nothing needs no room"


@pytest.mark.parametrize("probe", [None, errno.ENOSPC, errno.EROFS])
def test_a_write_of_the_index_that_was_cut_short_is_asked_of_the_disk(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, probe: int | None
) -> None:
    def probed() -> None:
        if probe is not None:
            raise OSError(probe, os.strerror(probe))

    monkeypatch.setattr(writer, "_probe", probed)
    monkeypatch.setattr(writer, "_apply", raising(lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EIO)}")))
    error = writer.submit(puts(1)).exception(SECONDS)
    expected = {
        None: (SyncFailed, DiskState.FAILED),
        errno.ENOSPC: (Exhausted, DiskState.FULL),
        errno.EROFS: (DiskReadOnly, DiskState.READ_ONLY),
    }[probe]
    assert (type(error), writer.condition.state) == expected
    assert str(error).startswith("index: ")


def test_an_index_that_fills_its_map_says_what_to_do(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_apply", raising(lmdb.MapFullError("full")))
    error = writer.submit(puts(1)).exception(SECONDS)
    assert isinstance(error, Exhausted)
    assert "set a larger map_bytes and restart" in str(error)
    assert writer.condition.state is DiskState.WRITABLE


def test_an_index_that_refuses_every_call_ends_the_store(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_apply", raising(lmdb.Error(f"mdb: {os.strerror(errno.ENOSPC)}")))
    monkeypatch.setattr(writer._index, "is_poisoned", lambda: True)
    assert isinstance(writer.submit(puts(1)).exception(SECONDS), SyncFailed)
    assert writer.condition.state is DiskState.FAILED


def raising(error: Exception) -> Callable[..., object]:
    def call(*_: object) -> object:
        raise error

    return call


# --- damaged records ---------------------------------------------------------------------------------------------


class Mender:
    """Notes what it is asked to mend, and mends it when it is told to."""

    def __init__(self, writer: Writer) -> None:
        self.asked: list[set[bytes]] = []
        self.waiting: list[Callable[[], None]] = []
        self.came = threading.Event()
        writer.mend = self.mend

    def mend(self, records: Collection[bytes], then: Callable[[], None]) -> None:
        self.asked.append(set(records))
        self.waiting.append(then)
        self.came.set()


def damaged_row(writer: Writer) -> bytes:
    """A record whose seal does not match; its key."""
    change = row(1)
    with writer._index.begin(write=True) as txn:
        txn.put(change.key, bytes(40))
    return change.key


def copies(key: bytes) -> Plan:
    """A plan that looks at a record and notes in another whether it is there."""
    return lambda view: [row(2 if view.get(key) is None else 3)]


def test_a_plan_that_met_damage_is_made_again_once_it_is_mended(writer: Writer) -> None:
    key = damaged_row(writer)
    mender = Mender(writer)
    future = writer.submit(copies(key))
    assert mender.came.wait(SECONDS)
    writer.submit(puts(4)).result(SECONDS)  # others go on
    assert (mender.asked, future.done()) == ([{key}], False)
    assert not is_held(writer, 2)
    writer.submit(puts(1), mends=True).result(SECONDS)
    mender.waiting[0]()
    future.result(SECONDS)
    assert [is_held(writer, number) for number in (2, 3)] == [False, True]
    assert len(mender.asked) == 1


def test_a_plan_that_refused_itself_over_damage_is_made_again_as_well(writer: Writer) -> None:
    key = damaged_row(writer)
    mender = Mender(writer)

    def plan(view: IndexView) -> Sequence[IndexChange]:
        if view.get(key) is None:
            raise NotHeld("it is not here")
        return [row(3)]

    future = writer.submit(plan)
    assert mender.came.wait(SECONDS)
    writer.submit(puts(1), mends=True).result(SECONDS)
    mender.waiting[0]()
    future.result(SECONDS)
    assert is_held(writer, 3)


def test_what_is_lost_counts_as_absent_until_it_is_put_again(writer: Writer) -> None:
    key = damaged_row(writer)
    mender = Mender(writer)
    writer.lost.add(key)
    writer.submit(copies(key)).result(SECONDS)
    assert (is_held(writer, 2), writer.lost, mender.asked) == (True, {key}, [])
    writer.submit(puts(1)).result(SECONDS)
    assert writer.lost == set()


def test_what_mends_is_not_put_off(writer: Writer) -> None:
    key = damaged_row(writer)
    mender = Mender(writer)
    writer.submit(copies(key), mends=True).result(SECONDS)
    assert isinstance(writer.submit(raising_plan(key), mends=True).exception(SECONDS), NotHeld)
    assert mender.asked == []


def raising_plan(key: bytes) -> Plan:
    def plan(view: IndexView) -> Sequence[IndexChange]:
        raise NotHeld(str(view.get(key)))

    return plan


def test_without_a_mender_damage_counts_as_absent(writer: Writer) -> None:
    key = damaged_row(writer)
    writer.mend = None
    writer.submit(copies(key)).result(SECONDS)
    assert is_held(writer, 2)


# --- what goes to the journal ------------------------------------------------------------------------------------


class JournalCalls:
    """What is appended to the journal, and when it is synced."""

    def __init__(self, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str | list[bytes]] = []
        append, sync = writer.journal.append, writer.journal.sync

        def appended(rows: list[tuple[bytes, bytes | None]]) -> None:
            self.seen.append([key for key, _ in rows])
            append(rows)

        def synced() -> None:
            self.seen.append("sync")
            sync()

        monkeypatch.setattr(writer.journal, "append", appended)
        monkeypatch.setattr(writer.journal, "sync", synced)


def test_what_is_kept_goes_to_the_journal_and_what_is_owned_is_synced(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.submit(lambda _: [], settle=True).result(SECONDS)
    keys = [row(number).key for number in range(5)]
    calls = JournalCalls(writer, monkeypatch)
    writer.submit(puts(0, Keep.INDEX)).result(SECONDS)
    assert (calls.seen, writer.settled()) == ([], True)
    writer.submit(lambda _: [row(1), row(2, Keep.INDEX)]).result(SECONDS)
    assert (calls.seen, writer.settled()) == ([[keys[1]]], False)
    writer.submit(puts(1)).result(SECONDS)  # as it is
    assert (calls.seen, writer.settled()) == ([[keys[1]]], False)
    writer.submit(puts(3, Keep.DISK)).result(SECONDS)
    assert (calls.seen, writer.settled()) == ([[keys[1]], [keys[3]], "sync"], True)
    writer.submit(puts(3, Keep.DISK)).result(SECONDS)
    assert len(calls.seen) == 3, "it is on the disk"
    writer.submit(puts(4)).result(SECONDS)
    writer.submit(puts(4, Keep.DISK)).result(SECONDS)
    assert (calls.seen[3:], writer.settled()) == ([[keys[4]], "sync"], True)


def test_what_settles_syncs_all_that_came_before_it(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = JournalCalls(writer, monkeypatch)
    writer.submit(puts(1)).result(SECONDS)
    assert not writer.settled()
    writer.submit(lambda _: [], settle=True).result(SECONDS)
    assert (calls.seen[1:], writer.settled()) == (["sync"], True)
    state = layout.decode_journaled(writer._index.get(layout.JOURNALED) or b"")
    assert (state.length, state.synced) == (writer.journal.length, writer.journal.length)


# --- the end -----------------------------------------------------------------------------------------------------


def test_at_the_end_what_waits_is_committed_and_what_comes_later_is_refused(
    opener: Opener, hand: Hand
) -> None:
    store = opener(clock=hand)
    writer = store._writer
    assert writer is not None
    pause = Pause(writer)
    waiting = writer.submit(puts(1))
    closing = threading.Thread(target=store.close)
    closing.start()
    while not writer._closed:
        pass
    late = writer.submit(puts(2))
    assert str(late.exception(SECONDS)) == "the store is closed"
    pause.end()
    closing.join(SECONDS)
    waiting.result(SECONDS)
    again = opener()._writer
    assert again is not None
    assert [is_held(again, number) for number in (1, 2)] == [True, False]


def test_what_came_while_the_thread_ended_is_refused(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opener()
    writer = store._writer
    assert writer is not None
    queue, thread, late = writer._queue, writer._thread, Future[None]()

    class Ending:
        def join(self) -> None:
            thread.join()
            queue.put(None)
            queue.put(CommitOperation(puts(1), None, late, False, False, False))

    monkeypatch.setattr(writer, "_thread", Ending())
    store.close()
    assert str(late.exception(SECONDS)) == "the store is closed"


# --- a batch of nothing, and what ends a batch ---------------------------------------------------------------------


def test_a_batch_of_what_was_cancelled_is_none(writer: Writer) -> None:
    before = writer.batches
    pause = Pause(writer)
    assert writer.submit(puts(1)).cancel()
    pause.end()
    writer.submit(puts(2)).result(SECONDS)
    assert writer.batches - before == 2


def test_what_the_index_refuses_within_a_plan_ends_the_batch(writer: Writer) -> None:
    """What was put before it in the same transaction is put again."""
    pause = Pause(writer)
    first, second = writer.submit(puts(1)), writer.submit(raising(lmdb.MapFullError("full")))  # type: ignore[arg-type]
    pause.end()
    assert first.exception(SECONDS) is None
    assert isinstance(second.exception(SECONDS), Exhausted)
    assert is_held(writer, 1)


def test_damage_that_one_plan_met_puts_no_other_off(writer: Writer) -> None:
    key = damaged_row(writer)
    mender = Mender(writer)
    pause = Pause(writer)
    futures = [writer.submit(copies(key), mends=True), writer.submit(puts(5))]
    pause.end()
    for future in futures:
        future.result(SECONDS)
    assert mender.asked == []


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, Exhausted), (errno.EROFS, DiskReadOnly)])
def test_a_commit_that_the_index_refuses_takes_the_journal_back(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, code: int, error: type
) -> None:
    length = writer.journal.length
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_note", raising(lmdb.Error(f"mdb_put: {os.strerror(code)}")))
        assert type(writer.submit(puts(1)).exception(SECONDS)) is error
    assert writer.journal.length == length
    assert not is_held(writer, 1)


def test_accounts_are_of_the_same_commit(store: Store) -> None:
    put_file(store, "a", some_bytes(30_000))
    assert store.space.account_of("a").file_bytes == 30_000


# --- the journal: none at first, and another in its place -----------------------------------------------------------


def test_a_writer_without_a_journal_refuses_until_it_gets_one(opener: Opener) -> None:
    store = opener()
    first = store._writer
    assert first is not None
    condition = StoreCondition()
    condition.met(Write.FILE, errno.EROFS, "the disk is read-only")
    writer = Writer(store._index, None, boot=b"b" * 16, clock=Hand(), condition=condition, probe=lambda: None)
    assert (writer.batches, writer.committed, writer.is_writing, writer.settled()) == (0, 0, False, True)
    assert writer._thread.daemon, "a process that ends does not wait for it"
    with pytest.raises(DiskReadOnly, match="the disk is read-only"):
        _ = writer.journal
    assert isinstance(writer.submit(puts(1)).exception(SECONDS), DiskReadOnly)
    writer.take_up(first.journal)
    first._journal = None
    condition.opened()
    assert (writer.is_writing, writer.settled()) == (True, True)
    writer.submit(puts(1)).result(SECONDS)
    assert is_held(writer, 1)
    assert (writer.batches, writer.committed) == (1, 1)
    writer.close()


def test_without_room_of_its_own_what_makes_room_is_tried_once(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opener()
    first = store._writer
    assert first is not None
    writer = Writer(
        store._index,
        first.journal,
        boot=b"b" * 16,
        clock=Hand(),
        condition=StoreCondition(),
        probe=lambda: None,
    )
    first._journal = None
    failing = FailingJournal(writer, monkeypatch, errno.ENOSPC, 1)
    assert isinstance(writer.submit(puts(1), frees=True).exception(SECONDS), Exhausted)
    assert failing.tries == 1
    writer.close()


class Succession:
    """A new journal with what the present one holds, and a commit that came after it was begun."""

    def __init__(self, store: Store) -> None:
        assert store._writer is not None
        self.writer, self.folder = store._writer, store.path / "journal"
        self.former = self.writer.journal
        self.writer.submit(puts(1)).result(SECONDS)
        head = head_of(self.folder)
        assert head is not None
        self.position = self.former.length
        self.fresh = Journal.begin(self.folder, head[0], head[1] + 1)
        self.fresh.copy(self.former, JOURNAL_HEAD_BYTES, self.position)
        self.writer.submit(puts(2)).result(SECONDS)

    def succeed(self) -> None:
        """Put it in the place of the present one."""
        self.writer.succeed(self.fresh, self.position)

    def state(self) -> layout.Journaled:
        """What the index says of the journal."""
        return layout.decode_journaled(self.writer._index.get(layout.JOURNALED) or b"")

    def is_former(self) -> bool:
        """Whether the present journal is the one of before, in the index as well."""
        return self.writer.journal is self.former and self.state().generation == self.former.generation


def test_a_new_journal_has_all_before_it_is_in_its_place(store: Store) -> None:
    change = Succession(store)
    change.succeed()
    assert change.writer.journal is change.fresh
    state = change.state()
    assert (state.generation, state.length, state.synced) == (
        change.former.generation + 1,
        change.fresh.length,
        change.fresh.length,
    )
    assert sorted(path.name for path in change.folder.iterdir()) == [JOURNAL_NAME]
    head = head_of(change.folder)
    assert head is not None
    assert head[1] == state.generation
    change.writer.submit(puts(3, Keep.DISK)).result(SECONDS)
    keys = [key for frame in frames(change.folder) for key, _ in frame.changes or ()]
    wanted = [row(number).key for number in (1, 2, 3)]
    assert [key for key in keys if key in wanted] == wanted
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(change.former._fd)


def test_a_store_that_failed_gets_no_new_journal(store: Store) -> None:
    change = Succession(store)
    change.writer.condition.met(Write.META, errno.EIO, "the index failed")
    with pytest.raises(SyncFailed, match="the index failed"):
        change.succeed()
    assert change.is_former()
    change.fresh.abandon()


def test_a_new_journal_that_the_index_does_not_take_is_not_used(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Succession(store)
    with monkeypatch.context() as patch:
        patch.setattr(change.writer, "_note", raising(lmdb.Error(f"mdb_put: {os.strerror(errno.ENOSPC)}")))
        with pytest.raises(Exhausted):
            change.succeed()
    assert change.is_former()
    change.fresh.abandon()
    change.writer.submit(puts(3)).result(SECONDS)


def test_a_new_journal_that_gets_no_name_ends_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index names it already; the next start finds it under its other name."""
    change = Succession(store)
    monkeypatch.setattr(change.fresh, "replace", raising(OSError(errno.EIO, os.strerror(errno.EIO))))
    with pytest.raises(SyncFailed, match="journal: "):
        change.succeed()
    assert change.writer.condition.state is DiskState.FAILED
