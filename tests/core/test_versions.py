"""Versions of one store: a newer one brings it up to date, an older one leaves it alone and says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from holdfast_core import Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.errors import StoreRefused
from holdfast_core.recovery.backup import backup, restore
from holdfast_core.recovery.compact import compact
from support import golden
from support.stores import push, push_file, some_bytes

ARCHIVES = sorted(golden.ARCHIVE.parent.glob("store-format-*.tar.xz"))
#: what the last landed version reads
OLDER = (1, 2, 3, 4)


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on this code knows no newer format than its last version did."""

    def become() -> None:
        monkeypatch.setattr(layout, "FORMATS", OLDER)
        monkeypatch.setattr(layout, "FORMAT", OLDER[-1])

    return become


def everything(root: Path) -> dict[str, bytes]:
    """Every file of a store but LMDB's lock file."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and file.name != "lock.mdb"
    }


def works(root: Path, target: Path) -> Iterator[Callable[[], object]]:
    """All that opens a store."""
    yield lambda: Store.create_or_open(root, write=True)
    yield lambda: Store.create_or_open(root, write=True, or_read=True)
    yield lambda: Store.create_or_open(root, write=False)
    yield lambda: compact(root)
    yield lambda: backup(root, target)


def test_an_older_version_refuses_a_store_of_this_one(tmp_path: Path, older: Callable[[], None]) -> None:
    """It cannot read how often something was used (format.md, History)."""
    root = tmp_path / "store"
    with closing(Store.create_or_open(root, write=True)) as store:
        push_file(store, "r", some_bytes(40_000))
        push(store, "r", b"manifest", "v1")
    assert json.loads((root / "store.json").read_text())["format"] == 5
    before = everything(root)
    older()
    sentence = (
        f"{root}/store.json is of format 5, which a newer version wrote; this one reads up to 4. Start the newer one,"
        " or restore a backup of before the update (`holdfast restore`)"
    )
    for work in works(root, tmp_path / "backup"):
        with pytest.raises(StoreRefused) as refused:
            work()
        assert str(refused.value) == sentence
    assert fsck(root).problems == [sentence]
    assert everything(root) == before


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ('{"format": 0, "engine": "lmdb-0.9"}', "is not of format 1 or 2 or 3 or 4 or 5 on lmdb-0.9"),
        ('{"format": 5, "engine": "lmdb-1.0"}', "is not of format 1 or 2 or 3 or 4 or 5 on lmdb-0.9"),
        ('{"format": "5", "engine": "lmdb-0.9"}', "is not of format 1 or 2 or 3 or 4 or 5 on lmdb-0.9"),
        ("[5]", "is not of format 1 or 2 or 3 or 4 or 5 on lmdb-0.9"),
        (
            '{"format": 6, "engine": "lmdb-0.9"}',
            "is of format 6, which a newer version wrote; this one reads up to 5",
        ),
    ],
)
def test_what_store_json_may_say(tmp_path: Path, document: str, found: str) -> None:
    root = tmp_path / "store"
    Store.create_or_open(root, write=True).close()
    (root / "store.json").write_text(document)
    with pytest.raises(StoreRefused, match=found):
        Store.create_or_open(root, write=True)


@pytest.mark.parametrize(
    "archive", [path for path in ARCHIVES if path != golden.ARCHIVE], ids=lambda path: path.name
)
def test_the_way_back_is_the_backup_of_before(
    archive: Path, tmp_path: Path, older: Callable[[], None]
) -> None:
    """A backup that is taken before the update is a store of the former format, and the former version restores it."""
    root, place = golden.unpack(archive, tmp_path / "old"), tmp_path / "backup"
    backup(root, place)
    with closing(Store.create_or_open(root, write=True)) as store:
        push(store, "pushed/later", b"later", "v1")
    assert json.loads((root / "store.json").read_text())["format"] == 5
    older()
    with pytest.raises(StoreRefused, match="which a newer version wrote"):
        Store.create_or_open(root, write=True)
    restore(place, tmp_path / "restored")
    assert json.loads((tmp_path / "restored" / "store.json").read_text())["format"] == 4
    with closing(Store.create_or_open(tmp_path / "restored", write=False)) as store:
        assert store.references.tags("library/a") == ["v1"]
        assert store.references.tags("pushed/later") == []


def test_a_rebuild_does_not_go_back(tmp_path: Path, older: Callable[[], None]) -> None:
    """It would write a store.json of the older format over records of the newer."""
    root = tmp_path / "store"
    with closing(Store.create_or_open(root, write=True)) as store:
        push(store, "r", b"manifest", "v1")
    before = everything(root)
    older()
    with pytest.raises(StoreRefused, match="which a newer version wrote"):
        rebuild(root)
    assert everything(root) == before
