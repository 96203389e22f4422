"""The index is written again without its free pages; killed at any step it is one of two that hold the same."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
from holdfast_core import Digest, Store, fsck
from holdfast_core import format as layout
from holdfast_core.errors import Damaged, Exhausted, StoreRefused
from holdfast_core.index.lmdb_index import Index
from holdfast_core.index.page_reader import IndexPages
from holdfast_core.recovery import compact as compaction
from holdfast_core.recovery.compact import compact, compact_if_due
from support.kill_steps import kills
from support.stores import dump, push, push_file, read_all, some_bytes

Opener = Callable[..., Store]
LAYER = some_bytes(40_000, seed=9)


def records(root: Path, opener: Opener) -> dict[bytes, bytes]:
    """Every record of a store's index but the journal's place, which each opening for writing writes."""
    store = opener(root, write=False)
    rows, _ = dump(store, root)
    store.close()
    return rows


@pytest.fixture
def before(opener: Opener, root: Path) -> dict[bytes, bytes]:
    """The records of a closed store at `root` whose index has many free pages."""
    store = opener()
    push_file(store, "r", LAYER)
    push(store, "r", b"kept", "kept")
    gone = push(store, "r", b"gone", *(f"t{number}" for number in range(600)))
    store.references.delete_manifest("r", gone, now=2.0).result()
    store.close()
    return records(root, opener)


def length(root: Path) -> int:
    return (root / "index" / "data.mdb").stat().st_size


def is_as_before(root: Path, opener: Opener, before: dict[bytes, bytes]) -> None:
    """No record is missing or changed, the checks pass, and the next writer goes on."""
    assert records(root, opener) == before
    assert fsck(root, (1, 1)).problems == []
    store = opener(root)
    assert store.references.tags("r") == ["kept"]
    layer = store.blobs.get("r", Digest.of(LAYER))
    assert layer is not None
    assert read_all(store, layer) == LAYER
    push(store, "r", b"later", "later")
    store.references.delete_tag("r", "later", now=3.0).result()
    store.close()


def test_free_pages_go_and_every_record_stays(before: dict[bytes, bytes], root: Path, opener: Opener) -> None:
    long = length(root)
    report = compact(root)
    assert report == (long, length(root))
    assert report.after * 2 < report.before
    assert sorted(os.listdir(root / "index")) == ["data.mdb"]
    assert (root / "index" / "data.mdb").stat().st_mode & 0o777 == 0o600
    assert not (root / "index.new").exists()
    is_as_before(root, opener, before)


def test_killed_before_each_step(
    before: dict[bytes, bytes], root: Path, opener: Opener, tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path / "first")
    lengths = set()
    imports = "from holdfast_core.recovery.compact import compact"
    for _ in kills(imports, "compact(sys.argv[2])", root):
        lengths.add(length(root))
        is_as_before(root, opener, before)
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "first", root)
    assert len(lengths) == 2  # kills fell before the rename and after it


def test_a_start_compacts_past_four_times_the_live_pages(
    before: dict[bytes, bytes], root: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compact_if_due(root) is None
    monkeypatch.setattr(compaction, "SLACK_BYTES", 0)
    monkeypatch.setattr(compaction, "DUE_TIMES", 2)
    report = compact_if_due(root)
    assert report is not None
    assert report.after < report.before
    assert compact_if_due(root) is None
    is_as_before(root, opener, before)


@pytest.mark.parametrize(("over", "due"), [(0, False), (1, True)])
def test_past_four_times_the_live_pages_and_16_mib(over: int, due: bool) -> None:
    live = 5 << 20
    assert compaction.is_due(4 * live + (16 << 20) + over, live) is due


def test_no_store_is_compacted_at_a_start_and_none_is_made(root: Path, tmp_path: Path) -> None:
    assert compact_if_due(root) is None
    assert not root.exists()
    with pytest.raises(StoreRefused, match="holds no store"):
        compact(tmp_path)


@pytest.mark.parametrize("write", [True, False])
def test_not_while_a_process_has_it_open(
    before: dict[bytes, bytes], root: Path, opener: Opener, write: bool
) -> None:
    long = length(root)
    store = opener(root, write=write)
    words = "is written by another process" if write else "is read by another process; stop it, then compact"
    with pytest.raises(StoreRefused, match=words):
        compact(root)
    store.close()
    assert length(root) == long
    is_as_before(root, opener, before)


def test_who_opened_it_meanwhile_opens_it_again(
    before: dict[bytes, bytes], root: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that waited for LMDB's lock has the former lock file, which names a state that the new file has not."""
    real, opened = lmdb.open, []

    def late(path: str, **settings: Any) -> lmdb.Environment:
        opened.append(path)
        if len(opened) == 1:
            monkeypatch.setattr(lmdb, "open", real)
            compact(root)
            monkeypatch.setattr(lmdb, "open", late)
        return real(path, **settings)

    monkeypatch.setattr(lmdb, "open", late)
    store = opener(root, write=False)
    assert len(opened) == 2
    assert store.references.tags("r") == ["kept"]
    store.close()
    monkeypatch.undo()
    is_as_before(root, opener, before)


def test_a_full_disk_leaves_the_index_as_it_was(
    before: dict[bytes, bytes], root: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = length(root)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exhausted, match="the index cannot be compacted: No space left on device"):
        compact(root)
    monkeypatch.undo()
    assert length(root) == long
    assert not (root / "index.new").exists()
    is_as_before(root, opener, before)


@pytest.mark.usefixtures("before")
def test_a_damaged_index_is_not_copied(root: Path) -> None:
    """LMDB would end the process at that page."""
    data = root / "index" / "data.mdb"
    with IndexPages(data) as pages:
        page = pages.metas[0].root
    assert page is not None
    with data.open("r+b") as file:
        file.seek(page * 4096)
        file.write(bytes(4096))
    with pytest.raises(
        Damaged, match=f"the index is damaged: page {page} is damaged; run `holdfast rebuild`"
    ):
        compact(root)
    assert not (root / "index.new").exists()


@pytest.mark.usefixtures("before")
def test_a_copy_with_other_records_does_not_take_its_place(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, settle = length(root), compaction.settle_copy

    def changed(target: Path) -> None:
        settle(target)
        copy = Index(target, write=True)
        with copy.begin(write=True) as txn:
            txn.delete(layout.tag_key("r", "kept"))
        copy.close()

    monkeypatch.setattr(compaction, "settle_copy", changed)
    with pytest.raises(Damaged, match="the copy of the index has other records than it; nothing was changed"):
        compact(root)
    assert length(root) == long
