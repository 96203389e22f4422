"""Reads that would come out as before: what an answer read of the store is noted, and compared later.

An answer that was made of rows of the index alone is still right while these are the same. While `state` is the same
nothing has changed at all, and nothing need be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from holdfast_core.changes.access_times import AccessTimes
from holdfast_core.index.lmdb_index import Index
from holdfast_core.index.row_snapshot import RowSnapshot
from holdfast_core.write_access import WriteAccess

#: the number of the last commit, whoever made it; the confirmations of tags that this process has in memory; the mode
StoreState = tuple[int, int, str]


class RepeatedReads:
    """Of an open store. For the event loop: what other threads read is not noted."""

    def __init__(self, index: Index, recent: AccessTimes, access: WriteAccess) -> None:
        self._index, self._recent, self._access = index, recent, access

    @contextmanager
    def noted(self) -> Iterator[RowSnapshot]:
        """What is read inside the block, which must not await anything."""
        snapshot = self._index.snapshot = RowSnapshot(self._access.mode)
        try:
            yield snapshot
        finally:
            self._index.snapshot = None

    def state(self) -> StoreState:
        """What every read of the index depends on. Raises StoreError."""
        txn = self._index.read_transaction()
        try:
            return txn.id(), self._recent.confirmations, self._access.mode
        finally:
            txn.abort()

    def is_same(self, snapshot: RowSnapshot) -> bool:
        """Whether the reads of a snapshot would come out as they did. Raises StoreError."""
        times = snapshot.times.items()
        return (
            snapshot.mode == self._access.mode
            and all(self._recent.newest(key, payload) == newest for key, (payload, newest) in times)
            and self._index.is_same(snapshot)
        )
