"""A store whose volume is not mounted, or is another's, is refused, and none is made in its place."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import Store, fsck, rebuild
from holdfast_core.errors import StoreRefused
from holdfast_core.filesystem import files as files_of_store
from holdfast_core.filesystem import store_identity
from holdfast_core.recovery.backup import backup, restore
from support.stores import push, push_file, some_bytes

Opener = Callable[..., Store]


def files(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and file.name != "lock.mdb"
    }


def made(opener: Opener, root: Path) -> str:
    """A store with a blob in a file; its uuid."""
    store = opener(root)
    push_file(store, "r", some_bytes(40_000))
    push(store, "r", b"manifest", "v1")
    uuid = store.uuid
    store.close()
    return uuid


def test_the_blobs_say_whose_they_are(opener: Opener, root: Path) -> None:
    uuid = made(opener, root)
    assert (root / "blobs" / "uuid").read_text() == f"{uuid}\n"
    assert json.loads((root / "store.json").read_text())["uuid"] == uuid


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("there", [True, False], ids=["empty directory", "no directory"])
def test_no_store_is_made_where_one_is_expected(opener: Opener, root: Path, write: bool, there: bool) -> None:
    if there:
        root.mkdir()
    expected = "11111111-2222-3333-4444-555555555555"
    with pytest.raises(StoreRefused, match=f"must have store {expected}; found: none. Mount"):
        opener(root, write=write, uuid=expected)
    assert root.exists() == there
    assert not there or list(root.iterdir()) == []


def test_another_store_is_refused_and_left_alone(opener: Opener, root: Path, tmp_path: Path) -> None:
    uuid, other = made(opener, root), made(opener, tmp_path / "other")
    before = files(root)
    with pytest.raises(StoreRefused, match=f"must have store {other}; found: store {uuid}. Mount"):
        opener(root, uuid=other)
    assert files(root) == before
    opener(root, uuid=uuid).close()


@pytest.mark.parametrize("write", [True, False])
def test_blobs_of_another_store_are_refused(opener: Opener, root: Path, tmp_path: Path, write: bool) -> None:
    uuid, other = made(opener, root), made(opener, tmp_path / "other")
    shutil.rmtree(root / "blobs")
    shutil.copytree(tmp_path / "other" / "blobs", root / "blobs")
    before = files(root)
    with pytest.raises(StoreRefused, match=f"blobs is of store {other}; allowed: that of store {uuid}"):
        opener(root, write=write)
    with pytest.raises(StoreRefused, match=f"blobs is of store {other}"):
        rebuild(root)
    assert files(root) == before


@pytest.mark.parametrize("write", [True, False])
def test_blobs_that_are_not_mounted_are_refused(opener: Opener, root: Path, write: bool) -> None:
    """What was pushed here would be found lost, and a rebuild would drop it."""
    made(opener, root)
    (root / "blobs").rename(root / "volume")
    (root / "blobs").mkdir()
    before = files(root)
    with pytest.raises(StoreRefused, match=r"blobs is empty; allowed: .* Mount the volume"):
        opener(root, write=write)
    with pytest.raises(StoreRefused, match="blobs is empty"):
        rebuild(root)
    assert files(root) == before
    (root / "blobs").rmdir()
    (root / "volume").rename(root / "blobs")
    opener(root).close()
    assert fsck(root, (1, 1)).problems == []


def test_blobs_that_are_lost_are_said_to_be(opener: Opener, root: Path) -> None:
    made(opener, root)
    shutil.rmtree(root / "blobs")
    (root / "blobs" / "sha256").mkdir(parents=True)
    assert any(problem.startswith("LOST") for problem in rebuild(root).problems)


def test_a_store_of_an_earlier_version_gets_the_note_at_its_first_start(opener: Opener, root: Path) -> None:
    uuid = made(opener, root)
    (root / "blobs" / "uuid").unlink()
    opener(root, write=False).close()
    assert not (root / "blobs" / "uuid").exists()
    opener(root).close()
    assert (root / "blobs" / "uuid").read_text() == f"{uuid}\n"


def test_a_restored_store_has_the_note_and_a_backup_needs_none(
    opener: Opener, root: Path, tmp_path: Path
) -> None:
    uuid = made(opener, root)
    kept, again = tmp_path / "kept", tmp_path / "again"
    assert backup(root, kept).problems == []
    assert fsck(kept, (1, 1)).problems == []
    assert restore(kept, again).problems == []
    assert (again / "blobs" / "uuid").read_text() == f"{uuid}\n"


@pytest.mark.parametrize("note", [b"", bytes(37), b"\xff" * 37, b"6507db87-49fa"])
def test_a_damaged_note_of_the_store_of_the_blobs_refuses_nobody(
    opener: Opener, root: Path, note: bytes
) -> None:
    uuid = made(opener, root)
    (root / "blobs" / "uuid").write_bytes(note)
    opener(root, write=False).close()
    opener(root).close()
    assert (root / "blobs" / "uuid").read_text() == f"{uuid}\n"


@pytest.mark.parametrize(("number", "refused"), [(errno.EIO, False), (errno.EMFILE, True)])
def test_a_note_that_the_disk_does_not_give_refuses_nobody(
    opener: Opener, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, refused: bool
) -> None:
    """A shortage of this process, which says nothing of the note, does."""
    made(opener, root)
    plain = files_of_store.read_plain

    def failing(path: Path) -> bytes:
        if path.name == "uuid":
            raise OSError(number, "the note")
        return plain(path)

    monkeypatch.setattr(store_identity, "read_plain", failing)
    if not refused:
        opener(root, write=False).close()
        return
    with pytest.raises(OSError, match="the note"):
        opener(root, write=False)
