"""How the facets of a store change it: through the thread that commits, or through file work that ends in a commit.
The mode and the locks say what clients may change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from holdfast_core.blob_files.file_work import FileWork
from holdfast_core.changes import locks
from holdfast_core.errors import Mistake, StoreError, StoreReadOnly
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal.group_commit import Plan, Writer

MODES = ("root", "ReadWrite", "ReadOnly")
READ_ONLY_TEXT = "This operation is not allowed on this registry."

T = TypeVar("T")


def require_known(mode: str) -> None:
    """Raise Mistake unless there is such a mode."""
    if mode not in MODES:
        raise Mistake(f"mode {mode!r}; allowed: {', '.join(MODES)}")


class WriteAccess:
    """The writer of one store and its file threads. Without a writer, in a process that opened the store for reading,
    every change raises StoreError at once."""

    def __init__(self, index: Index, writer: Writer | None, files: FileWork | None, mode: str) -> None:
        self._index = index
        self._writer = writer
        self._files = files
        self._mode = mode

    @property
    def mode(self) -> str:
        """What clients may do: one of MODES."""
        return self._mode

    def set_mode(self, mode: str) -> None:
        """From now on clients may do what `mode` says, their uploads under way included: a managed node learns its
        mode from its parent. In this process only. Raises Mistake for an unknown mode."""
        require_known(mode)
        self._mode = mode

    def require_writable(self, repository: str = "") -> None:
        """Raise StoreReadOnly when clients may change nothing here, ContentLocked when nothing may be pushed to
        `repository`. Every call that changes something for a client does; an endpoint calls this before it reads a
        body."""
        self.require_mode()
        if repository:
            with self._index.view() as view:
                locks.require(view, repository, "write")

    @property
    def has_writer(self) -> bool:
        """Whether this process opened the store for writing."""
        return self._writer is not None

    def require_mode(self) -> None:
        """Raise StoreReadOnly when clients may change nothing here."""
        if self._mode == "ReadOnly":
            raise StoreReadOnly(READ_ONLY_TEXT)

    def writer(self) -> Writer:
        """The thread that commits. Raises StoreError where there is none."""
        if self._writer is None:
            raise StoreError("this process opened the store for reading")
        return self._writer

    def file_work(self) -> FileWork:
        """The threads for work on files. Raises StoreError where there is none."""
        self.writer()
        assert self._files is not None
        return self._files

    def submit(
        self, plan: Plan, after: Callable[[], None] | None = None, *, frees: bool = False
    ) -> Future[None]:
        """Queue a change that no mode forbids (`Writer.submit`)."""
        return self.writer().submit(plan, after, frees=frees)

    def change(self, plan: Plan, *, frees: bool = False) -> Future[None]:
        """Queue a change for a client. Raises StoreReadOnly."""
        self.require_mode()
        return self.submit(plan, frees=frees)

    def answered(self, plan: Plan, answer: Callable[[], T], *, frees: bool = False) -> Future[T]:
        """A commit whose future says what `answer` does once it is done."""
        return told(self.submit(plan, frees=frees), answer)


def told(committing: Future[None], answer: Callable[[], T]) -> Future[T]:
    """A future that says what `answer` does once the commit is done, or raises what that does."""
    answered: Future[T] = Future()

    def tell(done: Future[None]) -> None:
        if not answered.set_running_or_notify_cancel():  # nobody waits; the change is made all the same
            return
        error = done.exception()
        answered.set_result(answer()) if error is None else answered.set_exception(error)

    committing.add_done_callback(tell)
    return answered
