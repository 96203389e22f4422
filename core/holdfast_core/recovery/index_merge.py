"""What a rebuild takes from the old index and what from the journal.

The index is the truth up to the end of the journal that it knows, and the journal from there on. What the index cannot
tell, because a part of it cannot be read, the journal does. Neither is asked for what the other is sure to be without:
a record that was removed does not come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from holdfast_core import format as layout
from holdfast_core.changes.change import IndexChange, Keep
from holdfast_core.changes.transaction import commit_alone
from holdfast_core.index.lmdb_index import Index
from holdfast_core.journal import frame as framing
from holdfast_core.journal import journal_file, salvage
from holdfast_core.journal.salvage import SalvagedChange
from holdfast_core.recovery.old_index import OldIndex
from holdfast_core.upkeep.fsck import FsckReport

_BATCH = 10_000  # changes a transaction

Head = tuple[bytes, int]


def head_of(path: Path) -> Head | None:
    """(uuid, generation) of the journal in `path`, one flipped bit in it made good; None when there is none."""
    head = journal_file.head_of(path)
    if head is None and (path / journal_file.NAME).exists():
        with (path / journal_file.NAME).open("rb") as file:
            head = salvage.journal_head(file.read(framing.JOURNAL_HEAD_BYTES))
    return head


class IndexMerge:
    """Fills the new index. `lost` are the keys of records that were there and cannot be read."""

    def __init__(self, index: Index, path: Path, report: FsckReport) -> None:
        self.lost: dict[bytes, None] = {}
        self._gaps = False
        self._index = index
        self._path = path
        self._report = report

    def run(self, former: OldIndex | None, head: Head | None, uuid: bytes) -> None:
        """All of it. `head` is the journal's."""
        state = None if former is None else former.state
        known = None if state is None else (uuid, state.generation)
        if former is not None and head is not None and head == known:
            assert state is not None
            if not former.sound:
                self._put(self._journaled(framing.JOURNAL_HEAD_BYTES, state.length))
            # what the index lacks and the journal has is not lost
            rows = (piece for piece in former.rows() if piece.intact or self._gaps)
            self._put(rows, "records of the old index")
            self._put(self._journaled(state.length, None))
        elif former is not None and (head is None or (known is not None and head < known) or head[0] != uuid):
            self._from_index_alone(former)
        else:
            if former is not None:
                self._report.counts["records of an older index left out"] += former.rows_read
            self._put(self._journaled(framing.JOURNAL_HEAD_BYTES, None))

    def _from_index_alone(self, former: OldIndex) -> None:
        self._put(former.rows(), "records of the old index")
        if not former.sound:
            what = [*former.pages.problems[:3], f"{former.damaged} records are damaged"]
            self._report.problems.append(
                f"LOST: what the index held there, and no journal has: {'; '.join(what)}"
            )

    def _put(self, pieces: Iterable[SalvagedChange], counted: str = "changes replayed") -> None:
        batch: list[IndexChange] = []
        for piece in pieces:
            if not piece.intact:
                self.lost[piece.key] = None
                continue
            self.lost.pop(piece.key, None)
            self._report.counts[counted] += 1
            batch.append(IndexChange(piece.key, piece.value, Keep.INDEX))
            if len(batch) == _BATCH:
                commit_alone(self._index, batch)
                batch = []
        commit_alone(self._index, batch)

    def _journaled(self, start: int, stop: int | None) -> Iterator[SalvagedChange]:
        """The changes of the frames from `start` up to `stop`, of the damaged ones what can be read."""
        try:
            size = (self._path / journal_file.NAME).stat().st_size
        except FileNotFoundError:
            return
        for frame in journal_file.frames(self._path, start):
            if stop is not None and frame.start >= stop:
                return
            if frame.changes is not None:
                yield from (piece for change in frame.changes if (piece := self._checked(*change)))
            else:
                yield from self._damaged(frame, last=frame.end == size and stop is None)

    def _checked(self, key: bytes, value: bytes | None) -> SalvagedChange | None:
        # the log of events begins anew: its readers compare everything; and a parent's word is not taken from a journal
        # that may have lost what ended it
        if key[:1] in (layout.EVENT, layout.CONFIRMED):
            return None
        if key[:1] not in layout.JOURNALED_TABLES:
            what = layout.describe(key)
            self._report.problems.append(f"the journal holds a change of no journaled table: {what}")
            return None
        return SalvagedChange(key, value, intact=value is None or salvage.is_sealed(key, value))

    def _damaged(self, frame: journal_file.Frame, *, last: bool) -> Iterator[SalvagedChange]:
        """What can be read of it. One that is cut short by the end of the file, or of which nothing can be read there,
        is the torn tail of a crash: it was not acknowledged."""
        data = journal_file.bytes_of(self._path, frame)
        size = framing.frame_bytes(data)
        pieces = salvage.whole(data)
        if pieces is None:
            pieces = list(salvage.pieces(data))
            short = size is not None and size > len(data)
            if last and size != len(data) and (short or not any(piece.intact for piece in pieces)):
                self._report.counts["torn tail bytes"] += len(data)
                return
            self._name_loss(frame, pieces)
        self._report.counts["damaged journal bytes"] += len(data)
        self._gaps = self._gaps or not all(piece.intact for piece in pieces)
        yield from (piece for piece in pieces if piece.key and piece.key[:1] != layout.EVENT)

    def _name_loss(self, frame: journal_file.Frame, pieces: list[SalvagedChange]) -> None:
        """What cannot be read by its key is named by its place; what has a key, in the end."""
        where = f"the journal is damaged from byte {frame.start} to {frame.end}"
        lost = sum(piece.lost for piece in pieces)
        if lost:
            self._report.problems.append(f"LOST: {where}, and {lost} bytes of it cannot be read")
        elif all(piece.intact for piece in pieces) and any(piece.value is None for piece in pieces):
            self._report.problems.append(f"{where}, maybe in a removal: what was removed there may be back")


def bodies(former: OldIndex | None, path: Path, keys: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Records of blobs under `keys`, out of every page of the old index and every frame of the journal,
    however old: the bytes of a digest are always the same."""
    if former is not None:
        yield from (row for row in former.pages.leaves() if row[0] in keys)
    if (path / journal_file.NAME).exists():
        for frame in journal_file.frames(path):
            for key, value in frame.changes or ():
                if key in keys and value is not None:
                    yield key, value
