"""The data directory is its owner's alone, whatever the umask and whoever made it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_core import Store
from holdfast_core.errors import StoreRefused, Unwritable
from holdfast_core.filesystem.files import keep_private
from holdfast_core.recovery.rebuild import rebuild
from support.stores import put_file, some_bytes


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(root: Path) -> dict[str, str]:
    """What others have a part in, with its mode."""
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (root, *root.rglob("*"))}
    return {str(path.relative_to(root)): f"{mode:04o}" for path, mode in modes.items() if mode & 0o077}


def test_case_trust_21_all_that_a_store_makes_is_its_owners_alone(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir(0o755)
    store = Store.create_or_open(root, write=True)
    put_file(store, "team/app", some_bytes(3 << 20))
    stage_name = store.uploads.name("id", "repository")
    store.uploads.create(stage_name)
    store.close()
    assert open_to_others(root) == {}
    (root / "index" / "data.mdb").unlink()
    rebuild(root)
    assert open_to_others(root) == {}


def test_case_trust_21_a_directory_that_was_open_is_closed_once(tmp_path: Path) -> None:
    """Nothing is walked: what lies in it keeps its mode, and nobody reaches it."""
    (tmp_path / "blob").touch(0o644)
    tmp_path.chmod(0o755)
    assert keep_private(tmp_path) == 0o755
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert keep_private(tmp_path) == 0
    assert stat.S_IMODE((tmp_path / "blob").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("code", "refused"), [(errno.EPERM, StoreRefused), (errno.EROFS, Unwritable), (errno.EIO, Unwritable)]
)
def test_case_trust_21_one_that_cannot_be_closed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, refused: type[Exception]
) -> None:
    """A disk that takes no writes is another matter: what it holds is served."""

    def fchmod(fd: int, mode: int) -> None:
        raise OSError(code, os.strerror(code))

    tmp_path.chmod(0o750)
    monkeypatch.setattr(os, "fchmod", fchmod)
    with pytest.raises(refused, match=str(tmp_path)) as said:
        keep_private(tmp_path)
    assert ("found mode 0750" in str(said.value)) is (refused is StoreRefused)
