"""A store on a disk that lets nobody write: opened for reading all the same, and a writer's once it may be written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from holdfast_core import Digest, Store
from holdfast_core.errors import DiskFailed, DiskReadOnly, StoreError, StoreRefused, Unwritable
from holdfast_core.filesystem.disk_state import DiskState
from support.disk import Disk

pytestmark = pytest.mark.disk

Opener = Callable[..., Store]
BODY, LATER = b"held", b"later"
#: a process that opens the store, and reads until its input ends; a line opens the index anew
READER = """
import sys
from holdfast_core import Digest, Store
store = Store.create_or_open(sys.argv[1], write=sys.argv[2] == "write")
print(store.is_unlocked, flush=True)
for _ in sys.stdin:
    store.lock_again()
    print(store.is_unlocked, store.blobs.get("r", Digest.of(b"held")).size, flush=True)
store.close()
"""


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path, request.param, 320 << 20) as made:
        yield made


@pytest.fixture
def place(opener: Opener, disk: Disk) -> Path:
    """A store that holds BODY, on a disk that is read-only now."""
    store = opener(disk.root / "store")
    push(store, BODY)
    store.close()
    disk.remount("ro")
    return disk.root / "store"


def push(store: Store, body: bytes) -> None:
    store.blobs.push_inline("r", Digest.of(body), body, now=1.0).result()


def holds(store: Store, body: bytes) -> bool:
    return store.blobs.get("r", Digest.of(body)) is not None


@contextmanager
def reader(place: Path, mode: str = "read") -> Iterator[subprocess.Popen[str]]:
    """Another process that reads the store, or is its writer."""
    command = [sys.executable, "-c", READER, str(place), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.communicate()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def open_anew(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return says(process)


def test_a_store_that_cannot_be_written_is_read_and_taken_up_later(
    opener: Opener, disk: Disk, place: Path
) -> None:
    store = opener(place, or_read=True)
    assert (store.is_waiting, store.condition.state, holds(store, BODY)) == (True, DiskState.READ_ONLY, True)
    with pytest.raises(DiskReadOnly):
        push(store, LATER)
    assert not store.probe()
    with pytest.raises(Unwritable):
        store.take_up()
    assert (store.is_waiting, holds(store, BODY)) == (True, True)
    disk.remount("rw")
    assert store.probe()
    assert store.condition.state is DiskState.READ_ONLY, "nobody opened it for writing yet"
    store.take_up()
    assert (store.is_waiting, store.is_unlocked, str(store.condition.state)) == (False, False, "writable")
    push(store, LATER)
    store.close()
    again = opener(place)
    assert holds(again, BODY)
    assert holds(again, LATER)


def test_without_it_a_store_that_cannot_be_written_is_refused(opener: Opener, place: Path) -> None:
    with pytest.raises(DiskReadOnly):
        opener(place)


def test_where_there_is_no_store_there_is_nothing_to_read(opener: Opener, place: Path) -> None:
    with pytest.raises(DiskReadOnly):
        opener(place.parent / "none", or_read=True)


def test_what_is_no_fault_of_the_disk_is_refused(opener: Opener, tmp_path: Path) -> None:
    """Somebody else writes: a store that is read instead would be served as old as it is."""
    with reader(tmp_path / "store", "write") as other:
        assert says(other) == "False"
        with pytest.raises(StoreRefused, match="written by another process"):
            opener(tmp_path / "store", or_read=True)


def test_nobody_writes_while_others_read_without_a_table(opener: Opener, disk: Disk, place: Path) -> None:
    """LMDB's writer knows its readers by a table in a file; those of a read-only file system have none, and pages that
    they read would be written over."""
    with reader(place) as other:
        assert says(other) == "True"
        disk.remount("rw")
        with pytest.raises(DiskReadOnly, match="still read"):
            opener(place)
        disk.remount("ro")
        store = opener(place, or_read=True)
        assert "still read" not in store.condition.reason
        disk.remount("rw")
        assert store.probe()
        with pytest.raises(DiskReadOnly, match="still read"):
            store.take_up()
        assert (store.is_waiting, holds(store, BODY)) == (True, True)
        assert "still read" in store.condition.reason
        assert open_anew(other) == f"False {len(BODY)}"
        store.take_up()
        push(store, LATER)
        assert open_anew(other) == f"False {len(BODY)}"


def test_readers_with_a_table_keep_nobody_from_writing(opener: Opener, disk: Disk, place: Path) -> None:
    disk.remount("rw")
    with reader(place) as other:
        assert says(other) == "False"
        push(opener(place), LATER)


@pytest.mark.parametrize("write", [False, True])
def test_case_fault_9_a_disk_that_cannot_be_read_is_said_to_be_so(
    opener: Opener, disk: Disk, place: Path, write: bool
) -> None:
    """The disk's fault, not that of who named the directory: whoever opens it tries again."""
    disk.remount("rw")
    store = opener(place)
    push(store, LATER)
    assert store.read_failure() == ""
    disk.cut()
    assert store.read_failure() == f"{place / 'index' / 'data.mdb'}: Input/output error"
    assert holds(store, BODY), "in memory"
    with pytest.raises(StoreError):
        push(store, b"more")
    store.close()
    with pytest.raises(DiskFailed):
        opener(place, write=write, or_read=write)


def test_case_fault_9_what_memory_has_of_the_index_says_nothing_of_the_disk(
    opener: Opener, disk: Disk, place: Path
) -> None:
    store = opener(place, write=False)
    assert store.read_failure() == ""
    disk.lose()
    assert (place / "index" / "data.mdb").read_bytes(), "in memory"
    assert store.read_failure() == f"{place / 'index' / 'data.mdb'}: Input/output error"
