"""A disk that is really full: LMDB's own writes are refused there, not only those of this code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from holdfast_core import Store, fsck
from holdfast_core.errors import Exhausted
from holdfast_core.recovery.backup import backup, restore
from holdfast_core.recovery.compact import compact
from support.disk import SMALL, Disk
from support.stores import push, push_file, some_bytes

#: left free where a copy of an index of 1 MiB does not fit
SHORT_BYTES = 256 << 10


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """An image of the smallest size of use."""
    with Disk(tmp_path / "disk", request.param, SMALL[request.param]) as mounted:
        yield mounted


def fill(disk: Disk, left: int) -> Path:
    """Take the room of a disk but for about `left` bytes."""
    filler = disk.fill_up()
    os.truncate(filler, filler.stat().st_size - left)
    return filler


def long_index(root: Path) -> None:
    """A store of 6,000 tags, whose index takes over a MiB, and whose free pages do as well."""
    with closing(Store.create_or_open(root, write=True)) as store:
        for number in range(6):
            push(store, "r", b"kept %d" % number, *(f"t{number}-{n}" for n in range(1000)))
        gone = push(store, "r", b"gone", *(f"gone{n}" for n in range(2000)))
        store.references.delete_manifest("r", gone, now=2.0).result()
        push_file(store, "r", some_bytes(100_000))


def is_whole(root: Path) -> None:
    assert fsck(root, (1, 1)).problems == []
    with closing(Store.create_or_open(root, write=True)) as store:
        assert len(store.references.tags("r")) == 6000


def test_an_index_that_finds_no_room_stays_as_it_is(disk: Disk) -> None:
    root = disk.root / "store"
    long_index(root)
    length = (root / "index" / "data.mdb").stat().st_size
    filler = fill(disk, SHORT_BYTES)
    with pytest.raises(Exhausted, match="No space left on device"):
        compact(root)
    assert not (root / "index.new").exists()
    assert (root / "index" / "data.mdb").stat().st_size == length
    filler.unlink()
    is_whole(root)
    report = compact(root)
    assert report.after < report.before
    filler = fill(disk, 0)
    # LMDB's lock file is not there, and a write to its map without room for it would kill the process
    with pytest.raises(Exhausted, match="No space left on device"):
        Store.create_or_open(root, write=True)
    with closing(Store.create_or_open(root, write=False)) as store:
        assert len(store.references.tags("r")) == 6000
        assert store.is_unlocked
    filler.unlink()
    is_whole(root)


@pytest.mark.parametrize("left", [0, SHORT_BYTES])
def test_a_backup_that_finds_no_room_is_the_former_one(disk: Disk, tmp_path: Path, left: int) -> None:
    root, place = tmp_path / "store", disk.root / "backup"
    long_index(root)
    assert backup(root, place).problems == []
    with closing(Store.create_or_open(root, write=True)) as store:
        push_file(store, "r", some_bytes(500_000, seed=7))
        push(store, "r", b"newer", *(f"t0-{n}" for n in range(1000)))
    filler = fill(disk, left)
    with pytest.raises(Exhausted, match="No space left on device"):
        backup(root, place)
    assert not (place / "index.new").exists()
    restore(place, tmp_path / "restored")
    is_whole(tmp_path / "restored")
    with closing(Store.create_or_open(tmp_path / "restored", write=False)) as store:
        tag = store.references.tag("r", "t0-1")
        assert tag is not None
        assert tag.moved_at == 1.0
        assert len(store.references.tag_moves("r", "t0-1")) == 1
    shutil.rmtree(tmp_path / "restored")
    filler.unlink()
    assert backup(root, place).problems == []
    assert fsck(place, (1, 1)).problems == []
