"""A whole node on a disk that turned read-only, or was so when the node came up."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from holdfast.testing.sample import build_sample
from holdfast.testing.scripted_process import scripted_process
from support.disk import Disk
from support.disk_node import data_on, pull_image
from support.failing import failing
from support.node import Node, parent_toml
from support.plain_push import at, digest_of, push
from support.programs import wait_until
from support.transfer import fetch

NAME, FRESH = "library/held", "library/fresh"
DISK_BYTES = 320 << 20
#: the reserve of `fills` is larger than these disks
SETTINGS = '[store]\nmin_free = "0"\n'


def passes_lists(node: Node, name: str) -> None:
    """The lists of a repository of which nothing is held are the parent's."""
    sample = build_sample(name)
    tags = fetch(node.url, f"/v2/{name}/tags/list")
    assert (tags.status, json.loads(tags.body)["tags"]) == (200, ["latest"])
    found = fetch(node.url, f"/v2/{name}/referrers/{sample.index}")
    assert found.status == 200
    assert [row["digest"] for row in json.loads(found.body)["manifests"]] == [sample.artifact]


def readiness(node: Node) -> dict[str, Any]:
    answer = fetch(node.url, "/readyz")
    assert answer.status == 200, answer
    return dict(json.loads(answer.body))


@pytest.mark.parametrize("workers", [0, 2])
def test_case_fault_9_a_file_system_that_turns_read_only(tmp_path: Path, workers: int) -> None:
    """Held tags and blobs are served, misses pass through, /readyz says why, across restarts of the node."""
    with (
        Disk(tmp_path / "disk", "ext4", DISK_BYTES) as disk,
        scripted_process("--sample", f"{NAME}:latest", "--sample", f"{FRESH}:latest") as parent,
        Node(
            data_on(disk, tmp_path / "node"),
            configuration=parent_toml(parent.url) + SETTINGS,
            workers=workers,
        ) as node,
    ):
        layer = build_sample(NAME).layers["amd64"][1]

        def gets() -> int:
            return int(parent.stats()["requests"][f"GET /v2/{NAME}/blobs/{layer}"])

        def is_kept() -> bool:
            asked = gets()
            pull_image(node, NAME)
            return gets() == asked

        pull_image(node, NAME)
        wait_until(is_kept, "the image to be kept")
        before = gets()
        disk.error()
        pull_image(node, NAME)
        pull_image(node, FRESH)
        passes_lists(node, FRESH)
        assert any("DiskError: the file system" in said for said in readiness(node)["troubles"])
        node.restart()
        pull_image(node, NAME)
        pull_image(node, FRESH)
        assert any("DiskError: the file system" in said for said in readiness(node)["troubles"])
        assert gets() == before, "held"


def test_case_fault_9_a_store_that_failed_is_not_ready_and_says_why(tmp_path: Path) -> None:
    """A keeper that cannot sync opens no store for writing: what is held is served, misses pass through, /readyz is 503
    with the reason; once the disk works the store is opened by itself."""
    with (
        scripted_process("--sample", f"{NAME}:latest", "--sample", f"{FRESH}:latest") as parent,
        Node(tmp_path, configuration=parent_toml(parent.url), workers=2) as node,
    ):
        pull_image(node, NAME)
        probe = node.data / "fills" / "probe"
        with failing(node.program.process.pid, {"fdatasync": "error=EIO"}, probe):
            (keeper,) = node.children("keeper")
            os.kill(keeper, signal.SIGKILL)
            wait_until(lambda: "DiskError: the disk failed" in unready(node), "/readyz to say it")
            pull_image(node, NAME)
            pull_image(node, FRESH)
            assert "DiskError: the disk failed" in unready(node)
        wait_until(node.ready, "the store to be opened")
        pull_image(node, FRESH)


def test_case_fault_9_one_process_whose_store_failed_opens_it_anew(tmp_path: Path) -> None:
    """A sync of the journal fails once: the push is not acknowledged, the process lives, and the store is opened anew
    in it. What was acknowledged is there, and what is pushed afterwards is kept."""
    with Node(tmp_path, "--anonymous", "push", workers=0) as node:
        digest, pid = push(node.url, "app", "one", b"layer" * 9000), node.program.process.pid
        log = node.data / "journal" / "log"
        with failing(pid, {"fdatasync": "error=EIO:when=1"}, log):
            refused = fetch(node.url, "/v2/app/blobs/uploads/?digest=" + digest_of(b"x"), "POST", body=b"x")
            assert refused.status == 503
            wait_until(lambda: failures(node) == 1, "the store to be opened anew")
        wait_until(node.ready, "ready")
        assert at(node.url, "app", "one") == digest
        again = push(node.url, "app", "two", b"other" * 9000)
        assert node.program.process.poll() is None
        node.restart()
        assert (at(node.url, "app", "one"), at(node.url, "app", "two")) == (digest, again)


def failures(node: Node) -> int:
    """How often a store that failed was opened anew in the process."""
    return sum(event.get("event") == "store opened anew" for event in node.events())


def unready(node: Node) -> str:
    """Why a node is not ready, as /readyz says; nothing when it is."""
    answer = fetch(node.url, "/readyz")
    return " ".join(json.loads(answer.body)["reasons"]) if answer.status == 503 else ""


@pytest.mark.parametrize(("kind", "workers"), [("ext4", 2), ("xfs", 0)])
def test_case_fault_9_a_node_that_came_up_read_only_writes_once_it_may(
    tmp_path: Path, kind: str, workers: int
) -> None:
    place, refused = tmp_path / "node", "the disk of this node is read-only; nothing was stored"
    with (
        Disk(tmp_path / "disk", kind, DISK_BYTES) as disk,
        Node(data_on(disk, place), "--anonymous", "push", workers=workers) as node,
    ):
        digest = push(node.url, "app", "one", b"layer" * 9000)
        assert node.stop() == 0
        disk.remount("ro")
        node.start()
        assert at(node.url, "app", "one") == digest
        begun = fetch(node.url, "/v2/app/blobs/uploads/", "POST")
        assert (begun.status, json.loads(begun.body)["errors"][0]["message"]) == (503, refused)
        gone = fetch(node.url, f"/v2/app/manifests/{digest}", "DELETE")
        assert (gone.status, json.loads(gone.body)["errors"][0]["message"]) == (503, refused)
        before = node.children("keeper")
        disk.remount("rw")
        wait_until(lambda: not readiness(node)["troubles"], "the disk to be found writable")
        again = push(node.url, "app", "two", b"other" * 9000)
        assert node.children("keeper") == before
        node.restart()
        assert (at(node.url, "app", "one"), at(node.url, "app", "two")) == (digest, again)


def test_case_fault_9_what_is_left_of_a_node_on_a_read_only_disk_is_found(tmp_path: Path) -> None:
    """The supervisor of a node that came up on a read-only disk is killed: the next start ends its keeper, and its
    workers once others serve."""
    place = tmp_path / "node"
    with (
        Disk(tmp_path / "disk", "ext4", DISK_BYTES) as disk,
        Node(data_on(disk, place), "--anonymous", "push", workers=2) as node,
    ):
        digest = push(node.url, "app", "one", b"layer" * 9000)
        assert node.stop() == 0
        disk.remount("ro")
        node.start()
        with node.program:
            left = node.children("keeper") + node.children("worker")
            os.kill(node.program.process.pid, signal.SIGKILL)
            node.program.process.wait()
            node.start()
            wait_until(lambda: not any(map(alive, left)), "the others to be gone")
        assert at(node.url, "app", "one") == digest
        assert node.stop() == 0


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
