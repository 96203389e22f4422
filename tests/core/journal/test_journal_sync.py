"""No page of the journal is synced twice without having been written again in between."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from holdfast_core import format as layout
from holdfast_core.journal.journal_file import Journal

ROW = (b"Tkey", layout.seal(b"Tkey", b"value"))


class Disk:
    """Counts what is written, and refuses one kind of call while `refused` names it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[tuple[int, int]] = []
        self.refused, self.code = "", errno.ENOSPC
        for name in ("pwrite", "fdatasync", "ftruncate"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(fd: int, *rest: Any) -> Any:
            if name == self.refused:
                raise OSError(self.code, os.strerror(self.code))
            if name == "pwrite":
                self.written.append((rest[1], rest[1] + len(rest[0])))
            return real(fd, *rest)

        return call


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal.rewrite(tmp_path, bytes(16), 1, [ROW])
    made.replace()
    return made


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_case_fault_2_what_a_failed_sync_left_is_written_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    disk = Disk(monkeypatch)
    journal.append([ROW])  # of a cached commit: in the index, and not synced
    start, end = journal.synced, journal.length
    journal.append([ROW])
    disk.refused, disk.code = "fdatasync", code
    with pytest.raises(OSError, match=os.strerror(code)):
        journal.sync()
    journal.cut(end)
    disk.refused, disk.written = "", []
    journal.append([ROW])
    journal.sync()
    assert any(a <= start and b >= end for a, b in disk.written), disk.written
    assert journal.synced == journal.length
    disk.written = []
    journal.append([ROW])
    journal.sync()
    assert len(disk.written) == 1, "what was synced is not written again"
    journal.close()


def test_case_fault_2_what_another_process_left_unsynced_is_written_again(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append([ROW])
    state = journal.state(bytes(16))
    journal.close()
    disk = Disk(monkeypatch)
    opened = Journal.open(tmp_path, bytes(16), state)
    assert opened is not None
    opened.sync()
    assert any(a <= state.synced and b >= state.length for a, b in disk.written), disk.written
    opened.close()


def test_case_fault_9_a_sync_on_a_file_system_that_turned_read_only_proves_nothing(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older kernels sync nothing there and say that it is done."""
    journal.append([ROW])
    synced = journal.synced
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_flag=os.ST_RDONLY))
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            journal.sync()
    assert journal.synced == synced
    journal.sync()
    assert journal.synced == journal.length
    journal.close()


def test_case_fault_2_what_cannot_be_cut_off_is_cut_off_later(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, length = Disk(monkeypatch), journal.length
    journal.append([ROW])
    disk.refused, disk.code = "ftruncate", errno.EIO
    journal.cut(length)
    assert journal.length == length
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        journal.append([ROW])
    disk.refused = ""
    journal.append([ROW])
    journal.sync()
    assert (tmp_path / "log").stat().st_size == journal.length
    journal.close()


def calls_of(work: Callable[[], Any]) -> int:
    """Calls of functions, Python's and native ones, in it."""
    calls: list[str] = []
    sys.setprofile(lambda _frame, event, _argument: calls.append(event))
    try:
        work()
    finally:
        sys.setprofile(None)
    return sum(event in ("call", "c_call") for event in calls)


def test_case_73_an_opening_hashes_what_no_sync_covered_and_takes_nothing_apart(tmp_path: Path) -> None:
    """As many calls for a frame of many changes as for one of few."""
    found = []
    for changes in (10, 10_000):
        place = tmp_path / str(changes)
        place.mkdir()
        made = Journal.rewrite(place, bytes(16), 1, [ROW])
        made.replace()
        made.append([ROW] * changes)
        state = made.state(bytes(16))
        made.close()
        opened: list[Journal | None] = []
        found.append(calls_of(lambda: opened.append(Journal.open(place, bytes(16), state))))  # noqa: B023
        assert opened[0] is not None
        opened[0].close()
    assert found[0] == found[1], found
