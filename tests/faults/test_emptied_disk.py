"""A whole node on a file system of its own that is filled to the last byte: deletes make room, without a restart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import command
from support.disk import SMALL, Disk
from support.disk_node import data_on
from support.failing import failing
from support.node import Node
from support.plain_push import digest_of, push
from support.programs import wait_until
from support.transfer import fetch

IMAGES = 60
LAYER_BYTES = 50_000


@pytest.fixture(params=sorted(SMALL))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path, request.param, SMALL[request.param]) as made:
        yield made


def pushed(node: Node, number: int) -> tuple[str, list[str]]:
    """An image in a repository of its own: the digests of its manifest and of its blobs."""
    name, layer = f"r{number}", number.to_bytes(4, "big") + os.urandom(LAYER_BYTES - 4)
    manifest = push(node.url, name, "latest", layer)
    return manifest, [digest_of(layer), digest_of(b"latest")]


def push_small(node: Node, body: bytes) -> int:
    """A blob in one request, small enough for the index; the status."""
    target = f"/v2/more/blobs/uploads/?digest={digest_of(body)}"
    return fetch(node.url, target, "POST", body=body).status


def delete(node: Node, target: str) -> None:
    answer = fetch(node.url, target, "DELETE")
    assert answer.status == 202, (target, answer)


@pytest.mark.parametrize("workers", [0, 2])
def test_case_fault_3_sixty_deletes_empty_a_full_disk(disk: Disk, workers: int, tmp_path: Path) -> None:
    with Node(data_on(disk, tmp_path / "node"), "--anonymous", "push", workers=workers) as node:
        images = [pushed(node, number) for number in range(IMAGES)]
        disk.fill_up()
        statuses = (push_small(node, os.urandom(10_000)) for _ in range(5000))
        assert next(status for status in statuses if status != 201) == 507
        keepers, before = node.children("keeper"), free_bytes(disk)
        for number, (manifest, blobs) in enumerate(images):
            delete(node, f"/v2/r{number}/manifests/{manifest}")
            for blob in blobs:
                delete(node, f"/v2/r{number}/blobs/{blob}")
        wanted = IMAGES * LAYER_BYTES // 2
        wait_until(lambda: free_bytes(disk) - before > wanted, "the bytes to come back", 60.0)
        wait_until(lambda: push_small(node, os.urandom(10_000)) == 201, "pushes to work again", 60.0)
        assert pushed(node, IMAGES)
        assert node.children("keeper") == keepers


def test_case_fault_3_a_collection_makes_room_on_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    """Images are deleted by their manifests alone, as clients do; their layers go by a collection."""
    short = '[garbage_collection]\nlease = "PT1S"\n'
    place = data_on(disk, tmp_path / "node")
    with Node(place, "--anonymous", "push", configuration=short, workers=1) as node:
        images = [pushed(node, number) for number in range(IMAGES)]
        disk.fill_up()
        statuses = (push_small(node, os.urandom(10_000)) for _ in range(5000))
        assert next(status for status in statuses if status != 201) == 507
        before = free_bytes(disk)
        for number, (manifest, _) in enumerate(images):
            delete(node, f"/v2/r{number}/manifests/{manifest}")

        def is_emptied() -> bool:
            done = command("gc", "--data", str(node.data))
            assert done.code == 0, done
            return free_bytes(disk) - before > IMAGES * LAYER_BYTES // 2

        wait_until(is_emptied, "the bytes to come back", 60.0)
        wait_until(lambda: push_small(node, os.urandom(10_000)) == 201, "pushes to work again", 60.0)


def test_case_fault_2_the_log_of_a_node_lies_on_its_full_disk(tmp_path: Path) -> None:
    """What it would say is lost, and what it does is not: the thread that writes to the store goes on."""
    with (
        Disk(tmp_path, "ext4", SMALL["ext4"]) as disk,
        Node(disk.root / "node", "--anonymous", "push", workers=0) as node,
        failing(node.program.process.pid, {"write": "error=ENOSPC"}, node.log),
    ):
        disk.fill_up()
        statuses = (push_small(node, os.urandom(10_000)) for _ in range(5000))
        assert next(status for status in statuses if status != 201) == 507
        assert push_small(node, os.urandom(10_000)) == 507


def free_bytes(disk: Disk) -> int:
    """What the file system says is free."""
    found = os.statvfs(disk.root)
    return found.f_bfree * found.f_frsize
