"""Work on blob files that ends in a commit: on threads, and for one digest one piece at a time.

A file may be placed, re-used, mended or removed; two of these at once on one digest could leave a row without
its file. So each piece of work holds its digest from before its first look at the disk until its commit is
done, and work that comes meanwhile waits in line without holding a thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.journal.group_commit import Plan, Writer

#: a push spends about 1 ms of 1.3 waiting for the disk, and file systems take many syncs at once
FILE_THREADS = 16

T = TypeVar("T")


class Prepared(NamedTuple):
    """What file work leaves to be committed: the plan, what to do after it was, what to do if it was not."""

    plan: Plan
    after: Callable[[], None] | None = None
    undo: Callable[[], None] | None = None


Prepare = Callable[[], Prepared]


class FileWork:
    """The threads, and the digests that are held."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._pool = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="holdfast-files")
        self._changed = threading.Condition()
        self._waiting: dict[Digest, deque[Callable[[], None]]] = {}
        self._under_way = 0
        self._closed = False

    def close(self) -> None:
        """End running work; later calls are refused, because the store is closed."""
        with self._changed:
            self._closed = True
            while self._under_way:
                self._changed.wait()
        self._pool.shutdown()

    @property
    def closing(self) -> bool:
        """Whether long work should end."""
        return self._closed

    def begin(
        self, prepare: Prepare, digest: Digest | None = None, *, settle: bool = False, frees: bool = False
    ) -> Future[None]:
        """Do file work on a thread, holding `digest`, then commit what it planned (`Writer.submit` has the rest). The
        future cannot be cancelled: work that was begun is finished."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()

        def start() -> None:
            self._pool.submit(self._work, prepare, digest, future, settle, frees)

        if self._enter():
            self._hold(digest, start)
        else:
            future.set_exception(StoreError("the store is closed"))
        return future

    def run(self, call: Callable[[], T]) -> Future[T]:
        """A call on a thread that commits, and holds what it needs, by itself."""
        if not self._enter():
            future: Future[T] = Future()
            future.set_exception(StoreError("the store is closed"))
            return future
        running = self._pool.submit(call)
        running.add_done_callback(lambda _: self._leave())
        return running

    def try_hold(self, digest: Digest) -> bool:
        """Hold a digest unless it is held. Give it back with `release`."""
        with self._changed:
            if digest in self._waiting:
                return False
            self._waiting[digest] = deque()
            return True

    def release(self, digest: Digest) -> None:
        """Let the next one have it."""
        with self._changed:
            line = self._waiting[digest]
            following = line.popleft() if line else None
            if following is None:
                del self._waiting[digest]
        if following is not None:
            following()

    def _hold(self, digest: Digest | None, start: Callable[[], None]) -> None:
        with self._changed:
            line = None if digest is None else self._waiting.get(digest)
            if line is not None:
                line.append(start)
                return
            if digest is not None:
                self._waiting[digest] = deque()
        start()

    def _enter(self) -> bool:
        with self._changed:
            self._under_way += not self._closed
            return not self._closed

    def _leave(self) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def _work(
        self, prepare: Prepare, digest: Digest | None, future: Future[None], settle: bool, frees: bool
    ) -> None:
        try:
            if (refusal := self._writer.refusal()) is not None:
                raise refusal
            prepared = prepare()
        except Exception as error:  # noqa: BLE001 - it belongs to the future
            self._finish(digest, future, error, None)
            return
        committing = self._writer.submit(prepared.plan, prepared.after, settle=settle, frees=frees)
        committing.add_done_callback(
            lambda done: self._finish(digest, future, done.exception(), prepared.undo)
        )

    def _finish(
        self,
        digest: Digest | None,
        future: Future[None],
        error: BaseException | None,
        undo: Callable[[], None] | None,
    ) -> None:
        """Take back what was refused, let the digest go, and tell. A store that failed is left as it is: only
        the next start finds out what is on the disk."""
        if error is not None and undo is not None and self._writer.refusal() is None:
            with contextlib.suppress(
                OSError, StoreError
            ):  # then it has no row, and garbage collection finds it
                undo()
        if digest is not None:
            self.release(digest)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        self._leave()
