"""Work on blob files: one piece at a time for a digest, from its first look at the disk until its commit is done; what
is undone, and what happens at the end. Commits are made by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, Queue
from typing import Any, cast

import pytest
from holdfast_core import Digest
from holdfast_core.blob_files.file_work import FileWork, Prepare, Prepared
from holdfast_core.errors import NotHeld, StoreError, SyncFailed
from holdfast_core.journal.group_commit import Writer

SECONDS = 5.0
ONE, OTHER = Digest.of(b"one"), Digest.of(b"other")


class HandWriter:
    """Notes what it is to commit, and commits it when it is told to."""

    def __init__(self) -> None:
        self.refused: StoreError | None = None
        self.came: Queue[tuple[Any, Any, bool, bool, Future[None]]] = Queue()

    def refusal(self) -> StoreError | None:
        return self.refused

    def submit(self, plan: Any, after: Any, *, settle: bool, frees: bool) -> Future[None]:
        future: Future[None] = Future()
        self.came.put((plan, after, settle, frees, future))
        return future

    def commit(self, error: Exception | None = None) -> tuple[Any, Any, bool, bool]:
        """Commit, or refuse, what came first; (plan, after, settle, frees)."""
        plan, after, settle, frees, future = self.came.get(timeout=SECONDS)
        future.set_result(None) if error is None else future.set_exception(error)
        return plan, after, settle, frees


@pytest.fixture
def writer() -> HandWriter:
    return HandWriter()


@pytest.fixture
def work(writer: HandWriter) -> Iterator[FileWork]:
    """None of it hangs at the end: what is under way is committed."""
    made = FileWork(cast(Writer, writer))
    yield made
    closing = threading.Thread(target=made.close, daemon=True)
    closing.start()
    while closing.is_alive():
        try:
            writer.came.get(timeout=0.01)[-1].set_result(None)
        except Empty:
            continue


class Steps:
    """What happened, in order, and a wait for so many."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._changed = threading.Condition()

    def note(self, step: str) -> None:
        with self._changed:
            self.seen.append(step)
            self._changed.notify_all()

    def wait(self, count: int) -> list[str]:
        """The steps, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= count, SECONDS), self.seen
            return list(self.seen)

    def prepares(self, name: str, prepared: Prepared | None = None) -> Prepare:
        """File work that notes its name."""

        def prepare() -> Prepared:
            self.note(name)
            return prepared or Prepared(nothing)

        return prepare


def nothing(_: object) -> list[Any]:
    return []


def test_what_was_prepared_is_committed_as_it_is_asked(work: FileWork, writer: HandWriter) -> None:
    def after() -> None:
        """Not called by this writer."""

    for settle, frees in ((False, False), (True, False), (False, True)):
        future = work.begin(lambda: Prepared(nothing, after), ONE, settle=settle, frees=frees)
        assert not future.cancel(), "work that was begun is finished"
        assert writer.commit() == (nothing, after, settle, frees)
        assert future.result(SECONDS) is None


def test_one_digest_has_one_piece_of_work_until_its_commit_in_the_order_of_the_calls(
    work: FileWork, writer: HandWriter
) -> None:
    steps = Steps()
    futures = [work.begin(steps.prepares(name), ONE) for name in ("1", "2", "3")]
    work.begin(steps.prepares("other"), OTHER)
    work.begin(steps.prepares("none"))
    assert sorted(steps.wait(3)) == ["1", "none", "other"]
    assert not work.try_hold(ONE)
    waiting = [writer.came.get(timeout=SECONDS) for _ in range(3)]
    assert writer.came.empty(), "the second waits for the first"
    for row in waiting:
        row[-1].set_result(None)
    writer.commit()
    writer.commit()
    for future in futures:
        future.result(SECONDS)
    assert [step for step in steps.seen if step in "123"] == ["1", "2", "3"]
    assert work.try_hold(ONE)


def test_a_digest_that_is_held_by_hand_makes_work_wait(work: FileWork, writer: HandWriter) -> None:
    steps = Steps()
    assert work.try_hold(ONE)
    assert not work.try_hold(ONE)
    assert work.try_hold(OTHER)
    first = work.begin(steps.prepares("first"), ONE)
    second = work.begin(steps.prepares("second"), ONE)
    assert steps.seen == []
    work.release(ONE)
    assert steps.wait(1) == ["first"]
    assert writer.commit() == (nothing, None, False, False)
    first.result(SECONDS)
    writer.commit()
    second.result(SECONDS)
    assert steps.seen == ["first", "second"]
    assert work.try_hold(ONE)


def raising(error: Exception) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


def test_work_that_fails_lets_the_digest_go_and_commits_nothing(work: FileWork, writer: HandWriter) -> None:
    future = work.begin(raising(NotHeld("it is not here")), ONE)
    assert str(future.exception(SECONDS)) == "it is not here"
    assert writer.came.empty()
    assert work.try_hold(ONE)


def test_no_work_is_begun_on_a_disk_that_takes_none(work: FileWork, writer: HandWriter) -> None:
    steps = Steps()
    writer.refused = SyncFailed("the disk failed")
    future = work.begin(steps.prepares("work"), ONE)
    assert str(future.exception(SECONDS)) == "the disk failed"
    assert steps.seen == []
    assert work.try_hold(ONE)


@pytest.mark.parametrize("undo_fails", [False, True])
def test_work_that_is_not_committed_is_undone_before_the_next(
    work: FileWork, writer: HandWriter, undo_fails: bool
) -> None:
    steps = Steps()

    def undo() -> None:
        steps.note("undone")
        if undo_fails:
            raise OSError("only garbage is left")

    first = work.begin(steps.prepares("first", Prepared(nothing, undo=undo)), ONE)
    second = work.begin(steps.prepares("second", Prepared(nothing, undo=undo)), ONE)
    writer.commit(NotHeld("it went away"))
    assert str(first.exception(SECONDS)) == "it went away"
    writer.commit()
    assert second.exception(SECONDS) is None
    assert steps.seen == ["first", "undone", "second"]


def test_nothing_is_undone_in_a_store_that_failed(work: FileWork, writer: HandWriter) -> None:
    """Only the next start finds out what is on the disk."""
    steps = Steps()
    future = work.begin(steps.prepares("work", Prepared(nothing, undo=lambda: steps.note("undone"))), ONE)
    steps.wait(1)
    entry = writer.came.get(timeout=SECONDS)
    writer.refused = SyncFailed("the disk failed")
    entry[-1].set_exception(SyncFailed("the disk failed"))
    assert isinstance(future.exception(SECONDS), SyncFailed)
    assert steps.seen == ["work"]
    assert work.try_hold(ONE)


def test_a_call_has_a_thread_and_its_answer(work: FileWork) -> None:
    assert work.run(lambda: threading.current_thread().name.partition("_")[0]).result(SECONDS) == (
        "holdfast-files"
    )
    assert isinstance(work.run(raising(NotHeld("no"))).exception(SECONDS), NotHeld)


def test_at_the_end_what_is_under_way_ends_and_what_comes_later_is_refused(writer: HandWriter) -> None:
    others = set(threading.enumerate())
    work = FileWork(cast(Writer, writer))
    go_on, steps = threading.Event(), Steps()
    under_way = work.begin(steps.prepares("first"), ONE)
    waiting = work.begin(steps.prepares("second"), ONE)
    call = work.run(lambda: go_on.wait(SECONDS))
    assert not work.closing
    closing = threading.Thread(target=work.close)
    closing.start()
    while not work.closing:
        pass
    for late in (work.begin(steps.prepares("late"), OTHER), work.run(lambda: steps.note("late"))):
        assert str(late.exception(SECONDS)) == "the store is closed"
    go_on.set()
    assert call.result(SECONDS)
    writer.commit()
    assert under_way.exception(SECONDS) is None
    assert closing.is_alive(), "the second is under way"
    writer.commit()
    assert waiting.exception(SECONDS) is None
    closing.join(SECONDS)
    assert set(threading.enumerate()) <= others, "no thread is left"
    assert steps.seen == ["first", "second"]
