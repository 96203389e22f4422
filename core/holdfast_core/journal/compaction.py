"""The journal, written again while the store serves.

A new journal is begun beside the present one: the records of the index first, read in short transactions while commits
go on, then the frames that were appended to the present one since the reading began. A frame says what a record became
and not how it changed, so it does not matter that a record was read in a later state than its neighbour: what happened
to it comes after it. The last frames are copied, and the new journal named in the index, while commits wait; the lag is
short by then. The index decides at every moment which of the two files is the journal (`Journal.open`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from holdfast_core import format as layout
from holdfast_core.errors import RecordDamaged
from holdfast_core.filesystem.disk_state import DiskState
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal.group_commit import Writer
from holdfast_core.journal.journal_file import Journal, grouped

SLACK_BYTES = 16 << 20
LAG_BYTES = 64 << 10  # copied while commits wait
ROUNDS = 16  # to catch up with what is appended meanwhile; then the rest is copied, however long it is


def is_due(length: int, live: int) -> bool:
    """Whether a journal is long enough to be written again: past twice the live index and 16 MiB."""
    return length > 2 * live + SLACK_BYTES


def intact_records(index: Index) -> Iterator[tuple[bytes, bytes]]:
    """The records of the journaled tables as they stand in the index. Raises RecordDamaged at one that is not whole."""
    for table in sorted(layout.JOURNALED_TABLES):
        for key, value in index.scan(table):
            layout.unseal(key, value)
            yield key, value


class Compaction:
    """One at a time. `directory` is the journal's; `closing` says that the store is about to be closed."""

    def __init__(self, index: Index, directory: Path, writer: Writer, closing: Callable[[], bool]) -> None:
        self._index = index
        self._directory = directory
        self._writer = writer
        self._closing = closing
        self._not_before = 0
        self._one = threading.Lock()

    @property
    def is_due(self) -> bool:
        """Whether `run` should be called. When one was given up, only after the journal has grown on."""
        length = self._writer.journal.length
        return length > self._not_before and is_due(length, self._index.live_bytes())

    def run(self) -> bool:
        """Write the journal again; whether that was done. Not while a record of the index is damaged: then the present
        journal may hold the only good copy. Raises OSError or StoreError; the present journal stays in use then."""
        if not self._one.acquire(blocking=False):
            return False
        try:
            return self._write_again()
        finally:
            self._one.release()

    def _write_again(self) -> bool:
        present = self._writer.journal
        self._not_before = present.length + SLACK_BYTES
        position, uuid = self._committed(), self._index.get(layout.IDENTITY)
        assert uuid is not None  # the store is open
        fresh = Journal.begin(self._directory, uuid, present.generation + 1)
        try:
            for group in grouped(intact_records(self._index)):
                if self._closing():
                    return False
                fresh.append(group)
            self._catch_up(present, fresh, position)
        except RecordDamaged:
            return False
        finally:
            # when the store failed the index may name it: the next start finds out
            if self._writer.journal is not fresh and self._writer.condition.state is not DiskState.FAILED:
                fresh.abandon()
        self._not_before = 0
        return True

    def _catch_up(self, present: Journal, fresh: Journal, position: int) -> None:
        for _ in range(ROUNDS):
            end = self._committed()
            fresh.copy(present, position, end)
            position = end
            fresh.sync()
            if self._committed() - position <= LAG_BYTES:
                break
        self._writer.succeed(fresh, position)

    def _committed(self) -> int:
        """How far the present journal goes for a state of the index that is committed."""
        payload = self._index.get(layout.JOURNALED)
        assert payload is not None  # the store is open for writing
        return layout.decode_journaled(payload).length
