"""What the disk lets a store do: one table from what failed, and why, to the store's condition. No I/O here.

The error number decides, never arithmetic on free blocks: a file system refuses earlier than it says (ext4 keeps
up to 16 MiB for its own splits), and later than it says (quotas).

In every condition what is held is served. `writable`: everything works. `full`: each write is tried, and one that
finds no room is refused. `read-only`: no write is tried but that of a probe. `failed`: nothing is tried any more,
because a sync or a write of the index failed for a reason that says nothing about what is on the disk; only a fresh
start finds that out.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import Enum, StrEnum
from threading import Lock

from holdfast_core.errors import (
    DiskFailed,
    DiskReadOnly,
    Exhausted,
    OutOfDescriptors,
    StoreError,
    SyncFailed,
    Unwritable,
)


class DiskState(StrEnum):
    """The condition of a store."""

    WRITABLE = "writable"
    FULL = "full"
    READ_ONLY = "read-only"
    FAILED = "failed"


class Write(Enum):
    """What was being written, by what depends on it."""

    #: one file on its way in, its bytes or its sync: nothing that was acknowledged depends on it
    FILE = "file"
    #: names in a directory, or the whole file system: others' names and bytes go by the same sync
    NAMES = "names"
    #: the journal's unsynced end: everything before it is on disk, and it is written again before the next sync
    JOURNAL = "journal"
    #: pages of a transaction that did not commit: no committed tree has them, and the next one writes its own
    INDEX = "index"
    #: the index's meta page: LMDB refuses every later call
    META = "index meta page"


class Cause(Enum):
    """Why, by error number."""

    NO_ROOM = "no room"
    READ_ONLY = "read-only"
    DEVICE = "device"


CAUSES = {
    errno.ENOSPC: Cause.NO_ROOM,
    errno.EDQUOT: Cause.NO_ROOM,
    errno.EROFS: Cause.READ_ONLY,
}
#: what a broken device, or a file system that found itself broken, says
BROKEN = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.EUCLEAN)
#: too many open files: no word about the disk
SHORTAGES = (errno.EMFILE, errno.ENFILE)

#: (what, why) -> what the store is now; None: it stays what it is
TABLE: dict[tuple[Write, Cause], DiskState | None] = {
    (Write.FILE, Cause.NO_ROOM): DiskState.FULL,
    (Write.FILE, Cause.READ_ONLY): DiskState.READ_ONLY,
    (Write.FILE, Cause.DEVICE): None,
    (Write.NAMES, Cause.NO_ROOM): DiskState.FULL,
    (Write.NAMES, Cause.READ_ONLY): DiskState.READ_ONLY,
    (Write.NAMES, Cause.DEVICE): DiskState.FAILED,
    (Write.JOURNAL, Cause.NO_ROOM): DiskState.FULL,
    (Write.JOURNAL, Cause.READ_ONLY): DiskState.READ_ONLY,
    (Write.JOURNAL, Cause.DEVICE): DiskState.FAILED,
    (Write.INDEX, Cause.NO_ROOM): DiskState.FULL,
    (Write.INDEX, Cause.READ_ONLY): DiskState.READ_ONLY,
    (Write.INDEX, Cause.DEVICE): DiskState.FAILED,
    (Write.META, Cause.NO_ROOM): DiskState.FAILED,
    (Write.META, Cause.READ_ONLY): DiskState.FAILED,
    (Write.META, Cause.DEVICE): DiskState.FAILED,
}

#: whether a write is tried
TRIED = {
    DiskState.WRITABLE: True,
    DiskState.FULL: True,
    DiskState.READ_ONLY: False,
    DiskState.FAILED: False,
}


def refusal(code: int | None, text: str) -> StoreError:
    """The store's word for a write that the system refused, by its error number."""
    cause = CAUSES.get(code or 0)
    if code in SHORTAGES:
        return OutOfDescriptors(text)
    if cause is Cause.NO_ROOM:
        return Exhausted(text)
    if cause is Cause.READ_ONLY:
        return DiskReadOnly(text)
    return DiskFailed(text) if code in BROKEN else StoreError(text)


class StoreCondition:
    """The condition of one open store, and why. Set by the writer's and by file threads, read by any."""

    def __init__(self) -> None:
        self.state = DiskState.WRITABLE
        self.reason = ""
        self._subscriber: Callable[[DiskState, str], None] = lambda state, reason: None
        self._one = Lock()

    def subscribe(self, changed: Callable[[DiskState, str], None]) -> None:
        """Call `changed` with each new condition and its reason from now on, on the thread that found it."""
        self._subscriber = changed

    def refusal(self) -> Unwritable | None:
        """What a write is refused with before it is tried; None when it is tried."""
        return None if TRIED[self.state] else self.error()

    def error(self) -> Unwritable:
        """What a write is refused with in this condition."""
        kinds = {DiskState.FULL: Exhausted, DiskState.READ_ONLY: DiskReadOnly}
        return kinds.get(self.state, SyncFailed)(self.reason)

    def met(self, write: Write, code: int | None, text: str) -> StoreError:
        """A write failed with this error number: what the store is now follows from the table. Returns what the
        writer's caller is refused with."""
        if code in SHORTAGES:
            return OutOfDescriptors(text)
        state = TABLE[write, CAUSES.get(code or 0, Cause.DEVICE)]
        if state is not None:
            self._become(state, text)
        return SyncFailed(text) if state is DiskState.FAILED else refusal(code, text)

    def probed(self) -> None:
        """A write was tried and done: there is room, and the disk takes it. A store that failed stays failed."""
        self._become(DiskState.WRITABLE, "")

    def opened(self) -> None:
        """The store was opened for writing, whatever it was before."""
        self._become(DiskState.WRITABLE, "", fresh=True)

    def set_from(self, error: Unwritable) -> None:
        """The store could not be opened for writing."""
        kinds = {Exhausted: DiskState.FULL, DiskReadOnly: DiskState.READ_ONLY}
        self._become(kinds.get(type(error), DiskState.FAILED), str(error), fresh=True)

    def _become(self, state: DiskState, reason: str, *, fresh: bool = False) -> None:
        with self._one:
            known = (self.state, self.reason) == (state, reason)
            if known or (not fresh and self.state in (state, DiskState.FAILED)):
                return
            self.state, self.reason = state, reason
        self._subscriber(state, reason)
