"""What a store is after a write failed, by what was written and why."""

from __future__ import annotations

import errno

import pytest
from holdfast_core.errors import DiskFailed, DiskReadOnly, Exhausted, StoreError, SyncFailed
from holdfast_core.filesystem.disk_state import (
    CAUSES,
    TABLE,
    TRIED,
    Cause,
    DiskState,
    StoreCondition,
    Write,
    refusal,
)


def test_the_table_is_whole() -> None:
    assert set(TABLE) == {(write, cause) for write in Write for cause in Cause}
    assert set(TRIED) == set(DiskState)


@pytest.mark.parametrize("write", [w for w in Write if w is not Write.META])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_case_fault_2_no_room_never_ends_a_store(write: Write, code: int) -> None:
    condition = StoreCondition()
    assert isinstance(condition.met(write, code, "x: no room"), Exhausted)
    assert (condition.state, condition.reason) == (DiskState.FULL, "x: no room")
    assert condition.refusal() is None, "each write is tried: a smaller one may fit"
    condition.probed()
    assert (condition.state, condition.reason) == (DiskState.WRITABLE, "")


@pytest.mark.parametrize("write", [w for w in Write if w is not Write.META])
def test_case_fault_9_a_read_only_disk_is_tried_by_probes_alone(write: Write) -> None:
    condition = StoreCondition()
    assert isinstance(condition.met(write, errno.EROFS, "x: read-only"), DiskReadOnly)
    assert isinstance(condition.refusal(), DiskReadOnly)
    condition.probed()
    assert condition.refusal() is None


@pytest.mark.parametrize("write", Write)
def test_case_fault_9_a_broken_device_ends_what_others_depend_on(write: Write) -> None:
    condition = StoreCondition()
    assert isinstance(condition.met(write, errno.EIO, "x: input/output error"), DiskFailed)
    assert (condition.state is DiskState.FAILED) == (write is not Write.FILE)


@pytest.mark.parametrize("state", [DiskState.WRITABLE, DiskState.FULL, DiskState.READ_ONLY])
def test_case_fault_9_an_error_of_one_file_says_nothing_of_the_disk(state: DiskState) -> None:
    condition = StoreCondition()
    condition._become(state, "as it was")
    condition.met(Write.FILE, errno.EIO, "x: input/output error")
    assert condition.state is state


@pytest.mark.parametrize("code", [None, *CAUSES])
def test_a_failed_store_stays_failed(code: int | None) -> None:
    condition, told = StoreCondition(), list[DiskState]()
    condition.subscribe(lambda state, reason: told.append(state))
    assert isinstance(condition.met(Write.META, code, "index: broken"), SyncFailed)
    condition.met(Write.FILE, errno.ENOSPC, "later")
    condition.probed()
    assert isinstance(condition.refusal(), SyncFailed)
    assert str(condition.refusal()) == "index: broken"
    assert told == [DiskState.FAILED]


def test_each_change_is_told_once() -> None:
    condition, told = StoreCondition(), list[tuple[DiskState, str]]()
    condition.subscribe(lambda state, reason: told.append((state, reason)))
    for _ in range(3):
        condition.met(Write.INDEX, errno.ENOSPC, "index: no room")
    condition.probed()
    condition.probed()
    assert told == [(DiskState.FULL, "index: no room"), (DiskState.WRITABLE, "")]


def test_another_opening_that_fails_says_why_it_did() -> None:
    condition, told = StoreCondition(), list[str]()
    condition.subscribe(lambda state, reason: told.append(reason))
    for reason in ("read-only", "read-only", "still read by others"):
        condition.set_from(DiskReadOnly(reason))
    assert (told, str(condition.error())) == (["read-only", "still read by others"], "still read by others")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENXIO, errno.ENODEV, errno.EUCLEAN])
def test_case_fault_9_what_a_broken_device_says_is_the_disks_fault(code: int) -> None:
    """Of other numbers (no permission) nobody knows whose it is, so nothing passes through for them in silence."""
    assert type(refusal(code, "x")) is DiskFailed
    assert type(refusal(errno.EACCES, "x")) is StoreError


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_say_nothing_of_the_disk(code: int) -> None:
    condition = StoreCondition()
    assert isinstance(condition.met(Write.FILE, code, "x"), Exhausted)
    assert condition.state is DiskState.WRITABLE
