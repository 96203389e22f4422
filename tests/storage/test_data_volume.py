"""The volume of the data directory, and the one store that a node takes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from holdfast.config import ConfigInvalid, Configuration, StoreSection
from holdfast.storage import data_volume
from holdfast.storage.data_volume import is_mounted, refuse_unmounted, with_present_store, with_store
from holdfast_core import Store
from msgspec.structs import replace
from support.node import COMMAND, Node
from support.patience import PROGRAM_PATIENCE
from support.programs import wait_until
from support.transfer import fetch

UUID = "11111111-2222-3333-4444-555555555555"


def configured(data: Path, **store: Any) -> Configuration:
    return Configuration(data=str(data), store=StoreSection(**store))


@contextmanager
def mounts(place: Path, monkeypatch: pytest.MonkeyPatch, *points: Path) -> Iterator[None]:
    lines = [f"36 35 98:0 / {point} rw,noatime - ext4 /dev/root rw\n" for point in points]
    file = place / "mountinfo"
    file.write_text("".join(line for line in lines))
    monkeypatch.setattr(data_volume, "MOUNTS", str(file))
    yield


def test_a_directory_on_the_disk_of_its_parent_is_no_volume(tmp_path: Path) -> None:
    assert not is_mounted(tmp_path)
    with pytest.raises(ConfigInvalid, match=f"nothing is mounted on {tmp_path}; the store would be made on"):
        refuse_unmounted(configured(tmp_path / "data", volume=str(tmp_path)))
    refuse_unmounted(configured(tmp_path / "data"))


def test_a_mounted_file_system_is_a_volume() -> None:
    assert is_mounted(Path("/proc"))
    refuse_unmounted(configured(Path("/proc/x/data"), volume="/proc"))


def test_a_bind_mount_of_the_same_file_system_is_a_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, blank = tmp_path / "volume", tmp_path / "a volume"
    with mounts(tmp_path, monkeypatch, plain, Path(str(blank).replace(" ", "\\040"))):
        assert is_mounted(plain)
        assert is_mounted(blank)
        assert not is_mounted(tmp_path / "vol")


def test_a_data_directory_elsewhere_is_a_mistake() -> None:
    with pytest.raises(ConfigInvalid, match=r"store.volume: found /proc beside data /var/x; allowed"):
        refuse_unmounted(configured(Path("/var/x"), volume="/proc"))


def test_a_node_keeps_to_the_store_that_it_found(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path / "data", write=True)
    uuid = store.uuid
    store.close()
    found = with_present_store(configured(tmp_path / "data"))
    assert found.store.uuid == uuid
    with pytest.raises(ConfigInvalid, match=f"store.uuid: found {UUID}; this node serves store {uuid}"):
        with_store(replace(found, store=replace(found.store, uuid=UUID)), uuid)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f'[store]\nuuid = "{UUID}"\n', f"must have store {UUID}; found: none. Mount the volume"),
        ('[store]\nvolume = "{place}"\n', "store.volume: nothing is mounted on {place}"),
    ],
    ids=["uuid", "volume"],
)
def test_a_start_on_an_empty_mount_point_makes_no_store(tmp_path: Path, text: str, reason: str) -> None:
    place = tmp_path / "disk"
    (place / "data").mkdir(parents=True)
    file = tmp_path / "holdfast.toml"
    file.write_text(text.format(place=place))
    line = ("--config", str(file), "--listen", "127.0.0.1:0", "--data", str(place / "data"))
    done = subprocess.run(
        (*COMMAND, *line), capture_output=True, text=True, check=False, timeout=PROGRAM_PATIENCE
    )
    assert done.returncode == 2
    assert reason.format(place=place) in done.stderr
    assert [str(each) for each in (place / "data").rglob("*") if each.name == "store.json"] == []


def test_a_serving_node_makes_no_store_when_its_volume_goes(tmp_path: Path) -> None:
    """The next keeper refuses the empty directory; it takes the store again when that is back."""
    with Node(tmp_path, "--anonymous", "push", workers=1) as node:
        hidden = tmp_path / "elsewhere"
        node.data.rename(hidden)
        node.data.mkdir()
        node.hang_up()
        wait_until(lambda: "must have store" in node.text(), f"see {node.log}")
        assert [each for each in node.data.rglob("*") if each.name == "store.json"] == []
        shutil.rmtree(node.data)
        hidden.rename(node.data)
        wait_until(lambda: fetch(node.url, "/readyz").status == 200, f"see {node.log}")
