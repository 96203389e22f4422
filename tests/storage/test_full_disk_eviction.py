"""Whole nodes on a small file system of their own: pulls go on, space comes back, and a budget changes by SIGHUP."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.disk import Disk
from support.disk_node import data_on
from support.node import Node, parent_toml
from support.programs import wait_until
from support.transfer import fetch

MIB = 1 << 20
DISK_BYTES, BLOB_BYTES, BLOBS = 256 * MIB, 12 * MIB, 40


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    blobs = [part for number in range(BLOBS) for part in ("--blob", f"app={BLOB_BYTES}:part{number}")]
    with scripted_process(*blobs) as started:
        yield started


def pull_all(node: Node, parent: ScriptedProcess) -> None:
    """Every blob, every byte."""
    for number in range(BLOBS):
        content = GeneratedContent(BLOB_BYTES, f"part{number}")
        answer = fetch(node.url, f"/v2/app/blobs/{content.digest}")
        assert (answer.status, answer.body == content.read(0, BLOB_BYTES)) == (200, True), number


def stored(place: Path) -> int:
    """Bytes of blobs on the disk."""
    return sum(file.stat().st_size for file in (place / "data" / "blobs").glob("*/*/*") if file.is_file())


def free_bytes(disk: Disk) -> int:
    """What the file system says is free."""
    found = os.statvfs(disk.root)
    return found.f_bavail * found.f_frsize


def events(node: Node, name: str) -> list[dict[str, object]]:
    return [event for event in node.events() if event.get("event") == name]


def test_pulls_of_twice_a_full_disk_go_on_and_are_stored(tmp_path: Path, parent: ScriptedProcess) -> None:
    with Disk(tmp_path / "disk", "ext4", DISK_BYTES) as disk:
        place = data_on(disk, tmp_path / "node")
        with Node(place, configuration=parent_toml(parent.url), workers=1) as node:
            pull_all(node, parent)
            assert stored(place) > 100 * MIB, "misses are stored on a disk of 256 MiB"
            filler = disk.fill_up()
            wait_until(lambda: free_bytes(disk) > 20 * MIB, "a tenth of the disk to be free again", 60.0)
            pull_all(node, parent)
            filler.unlink()
            pull_all(node, parent)
            assert stored(place) > 100 * MIB, "space is used again"
            assert events(node, "room made")


def test_a_budget_changes_by_sighup_and_a_contradiction_does_not(
    tmp_path: Path, parent: ScriptedProcess
) -> None:
    usual = parent_toml(parent.url)
    with Node(tmp_path / "node", configuration=usual, workers=1) as node:
        pull_all(node, parent)
        held = stored(tmp_path / "node")
        assert held == BLOBS * BLOB_BYTES
        node.file.write_text(f"{usual}\n[store]\nhigh_water = 0.5\nlow_water = 0.6\n")
        node.hang_up()
        wait_until(lambda: events(node, "configuration refused"), "the refusal")
        assert "store.low_water: found 0.6" in str(events(node, "configuration refused")[0]["reason"])
        assert stored(tmp_path / "node") == held
        node.file.write_text(f"{usual}\n[store]\nmax_bytes = {100 * MIB}\n")
        node.hang_up()
        wait_until(lambda: events(node, "configuration reloaded"), "the new configuration")
        wait_until(lambda: 0 < stored(tmp_path / "node") <= 100 * MIB, "the disk to be emptied", 60.0)
        (said,) = events(node, "budget below what is held")
        assert said["budget"] == 100 * MIB
