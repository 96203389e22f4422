"""A whole node whose disk cannot be read any more: what is in memory is served, the rest passes through, and nobody
starts processes that cannot come up."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from holdfast.process.process_group import members
from holdfast.testing.sample import build_sample
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.disk import Disk
from support.disk_node import data_on, pull_image
from support.failing import failing
from support.node import Node, parent_toml, restarted
from support.plain_push import at, digest_of, push
from support.programs import wait_until
from support.transfer import fetch

NAME, FRESH = "library/held", "library/fresh"
DISK_BYTES = 320 << 20
SETTINGS = '[store]\nmin_free = "0"\n'


@contextmanager
def serving(disk: Disk, place: Path, parent: ScriptedProcess, workers: int) -> Iterator[Node]:
    """A node with its data on the disk and its log elsewhere, that holds an image of the parent."""
    with Node(
        data_on(disk, place), configuration=parent_toml(parent.url) + SETTINGS, workers=workers
    ) as node:
        layer = build_sample(NAME).layers["amd64"][1]

        def is_kept() -> bool:
            asked = gets(parent, layer)
            pull(node, NAME)
            return gets(parent, layer) == asked

        pull(node, NAME)
        wait_until(is_kept, "the image to be kept")
        yield node


def gets(parent: ScriptedProcess, digest: str) -> int:
    return int(parent.stats()["requests"][f"GET /v2/{NAME}/blobs/{digest}"])


def pull(node: Node, name: str) -> None:
    """An image and its list of tags."""
    pull_image(node, name)
    assert json.loads(fetch(node.url, f"/v2/{name}/tags/list").body)["tags"] == ["latest"]


def unready(node: Node) -> str:
    """Why a node is not ready, as /readyz says; nothing when it is."""
    answer = fetch(node.url, "/readyz")
    return " ".join(json.loads(answer.body)["reasons"]) if answer.status == 503 else ""


def names_the_disk(node: Node) -> bool:
    said = unready(node)
    return (
        "DiskError: the disk cannot be read" in said
        and f"{node.data}" in said
        and "Input/output error" in said
    )


@pytest.mark.parametrize(("kind", "workers"), [("ext4", 0), ("ext4", 2), ("xfs", 0), ("xfs", 2)])
def test_case_fault_9_a_disk_that_cannot_be_read(tmp_path: Path, kind: str, workers: int) -> None:
    """Held tags and small content are served from memory, everything else passes through, /readyz names the disk and
    the error, and no process was started in vain."""
    with (
        Disk(tmp_path / "disk", kind, DISK_BYTES) as disk,
        scripted_process("--sample", f"{NAME}:latest", "--sample", f"{FRESH}:latest") as parent,
        serving(disk, tmp_path / "node", parent, workers) as node,
    ):
        disk.cut()
        for _ in range(2):
            pull(node, NAME)
            pull(node, FRESH)
            wait_until(lambda: names_the_disk(node), "/readyz to say it")
        assert node.program.process.poll() is None
        assert not [
            event for event in node.events() if event.get("event") in ("child died", "store not opened")
        ]


def test_case_fault_9_a_keeper_that_comes_to_a_disk_that_cannot_be_read_stays(tmp_path: Path) -> None:
    """Killed on such a disk, the keeper's successor cannot open the store. It refuses at once, and says why; it does
    not end, so nothing starts it again and again."""
    with (
        Disk(tmp_path / "disk", "ext4", DISK_BYTES) as disk,
        scripted_process("--sample", f"{NAME}:latest", "--sample", f"{FRESH}:latest") as parent,
        serving(disk, tmp_path / "node", parent, 2) as node,
    ):
        disk.cut()
        (keeper,) = node.children("keeper")
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: names_the_disk(node), "/readyz to say it")
        assert fetch(node.url, f"/v2/{NAME}/manifests/latest").status == 200, "in memory"
        answer = fetch(node.url, f"/v2/{FRESH}/manifests/latest")
        said = json.loads(answer.body)["errors"][0]
        assert (answer.status, said["message"]) == (503, "the disk of this node cannot be read")
        node.program.wait_for('"again_in": *4.0|again_in=4.0')
        events = [event.get("event") for event in node.events()]
        assert (events.count("child died"), events.count("store not opened")) == (1, 3)
        assert node.stop() == 0


def test_case_fault_9_processes_that_come_to_such_a_disk_answer_and_open_it_later(tmp_path: Path) -> None:
    """Worker and keeper die while the disk cannot be read. Those that follow say so at once, on the sockets of the
    node, and go on from there once it can be read."""
    with (
        scripted_process("--sample", f"{NAME}:latest", "--sample", f"{FRESH}:latest") as parent,
        Node(tmp_path, configuration=parent_toml(parent.url), workers=1) as node,
    ):
        pull(node, NAME)
        with failing(node.program.process.pid, {"openat": "error=EIO"}, node.data / "store.json"):
            for role in ("keeper", "worker"):
                (pid,) = node.children(role)
                os.kill(pid, signal.SIGKILL)
                wait_until(partial(restarted, node, role, [pid]), f"a new {role}")
            wait_until(lambda: "DiskError: the disk cannot be read" in unready(node), "/readyz to say it")
            assert "store.json: Input/output error" in unready(node)
            answer = fetch(node.url, f"/v2/{NAME}/manifests/latest")
            said = json.loads(answer.body)["errors"][0]
            assert (answer.status, said["message"]) == (503, "the disk of this node cannot be read")
            assert fetch(node.url, "/healthz").status == 200
        node.wait_ready()
        pull(node, NAME)
        pull(node, FRESH)
        assert [event.get("event") for event in node.events()].count("child died") == 2


def test_case_fault_9_processes_that_join_late_are_seen_by_the_next_supervisor(tmp_path: Path) -> None:
    """The data directory cannot be opened when keeper and worker start. They wait for it, and are seen from then on."""
    with Node(tmp_path, "--anonymous", "push", workers=1) as node:
        before = {role: node.children(role) for role in ("keeper", "worker")}
        with failing(node.program.process.pid, {"openat": "error=EIO"}, node.data):
            for role, old in before.items():
                os.kill(old[0], signal.SIGKILL)
                wait_until(partial(restarted, node, role, old), f"a new {role}")
            wait_until(lambda: answers(node), "the new worker to answer")
        node.wait_ready()
        living = {(pid, role) for role in before for pid in node.children(role)}
        assert {(member.pid, member.role) for member in members(node.data)} == living


def answers(node: Node) -> bool:
    """Whether somebody answers, be it to say why the node is not ready."""
    with suppress(OSError):
        return fetch(node.url, "/readyz").status in (200, 503)
    return False


def test_case_fault_9_one_process_whose_disk_cannot_be_read_when_it_opens_its_store_anew(
    tmp_path: Path,
) -> None:
    """Its store failed, and then cannot be opened. It answers meanwhile, says why, and goes on by itself."""
    with Node(tmp_path, "--anonymous", "push", workers=0) as node:
        digest, small = push(node.url, "app", "one", b"layer" * 9000), digest_of(b"x")
        faults = {"fdatasync": "error=EIO:when=1", "openat": "error=EIO"}
        with failing(
            node.program.process.pid, faults, node.data / "journal" / "log", node.data / "store.json"
        ):
            refused = fetch(node.url, f"/v2/app/blobs/uploads/?digest={small}", "POST", body=b"x")
            assert refused.status == 503
            wait_until(lambda: "DiskError: the disk cannot be read" in unready(node), "/readyz to say it")
            assert "store.json: Input/output error" in unready(node)
            assert fetch(node.url, "/v2/app/manifests/one").status == 503
        node.wait_ready()
        assert at(node.url, "app", "one") == digest
        assert push(node.url, "app", "two", b"other" * 9000)
        assert node.program.process.poll() is None
