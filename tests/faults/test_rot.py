"""A bit changes on the device below a file that was read and verified: no client ever gets it, whichever process
hashed the file before, and whoever reads it into memory afterwards."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from holdfast.fill.repair import TRIES
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from holdfast_core import Digest
from support.disk import Disk
from support.disk_node import data_on
from support.node import Node, parent_toml
from support.pages import drop_cached, maps_of
from support.plain_push import put_blob
from support.programs import wait_until
from support.stores import file_of
from support.transfer import Answer, fetch

NAME, SIZE = "library/rot", 5_000_000
MIB = 1 << 20
#: so many that each of two workers has served some: connections are spread by their ports
GETS = 12


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    with scripted_process("--blob", f"{NAME}={SIZE}:rot") as started:
        yield started


def get(node: Node, digest: str, **headers: str) -> Answer:
    return fetch(node.url, f"/v2/{NAME}/blobs/{digest}", headers=headers)


def all_have_read(node: Node, digest: str, body: bytes) -> bool:
    """One more pull by each of several connections; whether every process that serves has hashed the blob by now."""
    for _ in range(GETS):
        assert get(node, digest).body == body
    return all(maps_of(blob_file(node, digest), pid) for pid in serving(node))


def serving(node: Node) -> list[int]:
    """The processes that answer clients."""
    return node.children("worker") or [node.program.process.pid]


def blob_file(node: Node, digest: str) -> Path:
    return file_of(node.data.resolve(), Digest.parse(digest))


def rots(disk: Disk, node: Node, digest: str, *offsets: int) -> None:
    """Once no process has the file mapped any more, and so would keep it in memory."""
    path = blob_file(node, digest)
    wait_until(lambda: not any(maps_of(path, pid) for pid in serving(node)), "the file to be let go")
    for offset in offsets:
        disk.flip(path, offset)


def found_damaged(node: Node) -> set[int]:
    """Where damage was found, by the log."""
    return {event["start"] for event in node.events() if event.get("event") == "chunk found damaged"}


@pytest.mark.parametrize(("kind", "workers"), [("ext4", 2), ("xfs", 0)])
def test_case_fault_1_rot_below_a_file_that_was_served(
    kind: str, workers: int, parent: ScriptedProcess, tmp_path: Path
) -> None:
    body = GeneratedContent(SIZE, "rot").read(0, SIZE)
    (digest,) = parent.hello["blobs"].values()
    asked = f"GET /v2/{NAME}/blobs/{digest}"
    settings = parent_toml(parent.url)
    with (
        Disk(tmp_path / "disk", kind, 700 << 20) as disk,
        Node(disk.root / "child", configuration=settings, workers=workers) as child,
        Node(disk.root / "root", "--anonymous", "push", workers=workers) as root,
    ):
        assert put_blob(root.url, NAME, body) == digest
        for node in (child, root):
            wait_until(partial(all_have_read, node, digest, body), "every process to have read it")
        assert parent.stats()["requests"][asked] == 1

        for node in (child, root):
            rots(disk, node, digest, 1000, MIB + 7, 3 * MIB)
        # a backup reads it: all of it is in memory now, hashed by nobody
        assert blob_file(root, digest).read_bytes() != body
        for _ in range(GETS):
            assert get(child, digest).body == body
            with suppress(http.client.IncompleteRead):
                assert get(root, digest).status == 404
            assert get(root, digest, Range=f"bytes={2 * MIB}-{3 * MIB - 1}").body == body[2 * MIB : 3 * MIB]
        # the second chunk comes with the first
        assert {0, 3 * MIB} <= found_damaged(child) <= {0, MIB, 3 * MIB}
        assert 0 in found_damaged(root)
        # the child's file is right again, to the bit
        drop_cached(blob_file(child, digest))
        assert blob_file(child, digest).read_bytes() == body
        assert parent.stats()["bytes"][digest] == SIZE + 3 * MIB


@pytest.mark.parametrize(("workers", "known"), [(2, True), (0, False)])
def test_case_fault_9_rot_on_a_disk_that_turned_read_only(
    workers: int, known: bool, parent: ScriptedProcess, tmp_path: Path
) -> None:
    """Nothing can be put in place there: what is bad passes through from the parent, and nothing else crosses the link,
    whether it was known to be bad before or not. Of the request that finds out, what was under way is lost."""
    body = GeneratedContent(SIZE, "rot").read(0, SIZE)
    (digest,) = parent.hello["blobs"].values()

    def crossed() -> int:
        return int(parent.stats()["bytes"][digest])

    with (
        Disk(tmp_path / "disk", "ext4", 700 << 20) as disk,
        Node(
            data_on(disk, tmp_path / "node"), configuration=parent_toml(parent.url), workers=workers
        ) as node,
    ):
        wait_until(partial(all_have_read, node, digest, body), "every process to have read it")
        rots(disk, node, digest, 1000, MIB + 7, 3 * MIB)
        if known:
            parent.script(ScriptedFault(method="GET", path="/blobs/", cut_after=0, times=TRIES))
            assert get(node, digest).status == 503
        disk.error()
        before = crossed()
        assert get(node, digest).body == body
        assert 3 * MIB <= crossed() - before <= 4 * MIB
        before = crossed()
        assert get(node, digest).body == body
        assert get(node, digest, Range=f"bytes={2 * MIB}-{3 * MIB - 1}").body == body[2 * MIB : 3 * MIB]
        assert crossed() - before == 3 * MIB
