"""A file of the store that somebody replaced by a link, a FIFO or a directory is refused, and nobody waits for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from holdfast_core import Store, fsck
from support.patience import PROGRAM_PATIENCE
from support.stores import push, push_file, some_bytes

DOCUMENTS = ("store.json", "blobs/uuid", "copy.json")
FILES = (
    "lock",
    "index/data.mdb",
    "index/lock.mdb",
    "journal/log",
    "journal/log.new",
    "sweep",
    "ballast",
)
#: all that opens a store, each in turn, in a process that can be ended when one waits for ever
WORK = """
import sys
from holdfast_core import Store, fsck, rebuild
from holdfast_core.errors import StoreError
from holdfast_core.recovery.backup import backup
from holdfast_core.recovery.compact import compact
from holdfast_core.recovery.store_repair import repair
root, to = sys.argv[1:]
def refused(work):
    try:
        work()
    except StoreError as error:
        return str(error)
    return ""
for work in (
    lambda: Store.create_or_open(root, write=True),
    lambda: Store.create_or_open(root, write=True, or_read=True),
    lambda: Store.create_or_open(root, write=False),
    lambda: compact(root),
    lambda: backup(root, to),
    lambda: repair(root),
    lambda: rebuild(root),
):
    print(refused(work))
print("; ".join(fsck(root).problems))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "store"
    with closing(Store.create_or_open(place, write=True)) as store:
        push_file(store, "r", some_bytes(40_000))
        push(store, "r", b"manifest", "v1")
    return place


def replace(file: Path, what: str, aside: Path) -> None:
    if file.exists():
        file.rename(aside)
    else:
        aside.touch()
    if what == "fifo":
        os.mkfifo(file)
    elif what == "directory":
        file.mkdir()
    else:
        file.symlink_to(aside)


def worked(root: Path, place: Path) -> list[str]:
    """What each piece of work said; "" for one that was done."""
    command = [sys.executable, "-c", WORK, str(root), str(place / "to")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_PATIENCE, check=False)
    said = done.stdout.splitlines()
    assert len(said) == 8, (said, done.stderr)
    return said


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize("what", ["fifo", "directory", "link"])
@pytest.mark.parametrize("name", FILES)
def test_it_is_refused_at_once_and_nothing_changes(root: Path, tmp_path: Path, name: str, what: str) -> None:
    existed, aside = (root / name).exists(), tmp_path / "aside"
    replace(root / name, what, aside)
    before = files(root)
    said = worked(root, tmp_path)
    assert all(name in line for line in said), said
    assert files(root) == before
    (root / name).unlink() if what != "directory" else (root / name).rmdir()
    if existed:
        shutil.move(aside, root / name)
    Store.create_or_open(root, write=True).close()
    assert fsck(root, (1, 1)).problems == []


@pytest.mark.parametrize("what", ["fifo", "directory"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_nobody_writes_over_a_document_that_is_none(root: Path, tmp_path: Path, name: str, what: str) -> None:
    """A reader does without those that say who may write, and a rebuild makes store.json again."""
    replace(root / name, what, tmp_path / "aside")
    assert all(name in line for line in worked(root, tmp_path)[:2])


@pytest.mark.parametrize("what", ["fifo", "link"])
@pytest.mark.parametrize("name", ["blobs", "fills", "uploads"])
def test_so_is_a_directory(root: Path, tmp_path: Path, name: str, what: str) -> None:
    (root / name).rename(tmp_path / "aside")
    if what == "fifo":
        os.mkfifo(root / name)
    else:
        (root / name).symlink_to(tmp_path / "aside")
    assert all("is not a store" in line for line in worked(root, tmp_path)[:3])
