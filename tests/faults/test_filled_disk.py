"""A small disk that is filled in every way, by pulls, pushes and uploads that nobody ends: pulls go on, cached images
make room for what is pushed, and it is emptied again by DELETE and by a smaller budget."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.disk import Disk
from support.disk_node import data_on
from support.node import Node, parent_toml
from support.plain_push import digest_of
from support.programs import wait_until
from support.transfer import Answer, fetch, target_of

MIB = 1 << 20
#: xfs is not made smaller than 300 MB
SIZES = {"ext4": 256 * MIB, "xfs": 320 * MIB}
BLOB_BYTES, BLOBS, PUSHED_BYTES = 12 * MIB, 30, 40 * MIB
MODE = 'mode = "ReadWrite"\nanonymous = "push"\n'
SWEEP = "[push]\nsweep_interval = 1.0\nsweep_grace = 0.0\n"


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    blobs = [part for number in range(BLOBS) for part in ("--blob", f"app={BLOB_BYTES}:part{number}")]
    with scripted_process(*blobs) as started:
        yield started


def pull_all(node: Node) -> None:
    """Every blob of the parent, every byte."""
    for number in range(BLOBS):
        content = GeneratedContent(BLOB_BYTES, f"part{number}")
        answer = fetch(node.url, f"/v2/app/blobs/{content.digest}")
        assert (answer.status, answer.body == content.read(0, BLOB_BYTES)) == (200, True), number


def begin(node: Node) -> str:
    """The target of a new upload."""
    begun = fetch(node.url, "/v2/own/app/blobs/uploads/", "POST")
    assert begun.status == 202, begun
    return target_of(begun.headers["location"])


def put(node: Node, body: bytes) -> Answer:
    """Push a blob in one request."""
    place = begin(node)
    return fetch(node.url, f"{place}{'&' if '?' in place else '?'}digest={digest_of(body)}", "PUT", body=body)


def body_of(number: int) -> bytes:
    return random.Random(number).randbytes(PUSHED_BYTES)


def stored(place: Path) -> int:
    """Bytes of blobs on the disk."""
    return sum(file.stat().st_size for file in (place / "data" / "blobs").glob("*/*/*") if file.is_file())


@pytest.mark.parametrize("kind", SIZES)
def test_a_disk_that_is_filled_in_every_way_serves_and_is_emptied(
    tmp_path: Path, parent: ScriptedProcess, kind: str
) -> None:
    usual = f"{MODE}{parent_toml(parent.url)}\n{SWEEP}"
    with Disk(tmp_path / "disk", kind, SIZES[kind]) as disk:
        place = data_on(disk, tmp_path / "node")
        free = os.statvfs(disk.root)
        room = free.f_bavail * free.f_frsize
        with Node(place, configuration=usual, workers=1) as node:
            pull_all(node)
            assert stored(place) > room // 2
            pushed = {}
            for number in range(20):
                body = body_of(number)
                answer = put(node, body)
                if answer.status != 201:
                    break
                pushed[digest_of(body)] = body
            assert (answer.status, answer.body.count(b"BLOB_UPLOAD_INVALID")) == (507, 1), answer
            # what is cached made room for nearly all of the disk
            assert len(pushed) * PUSHED_BYTES > room - 100 * MIB
            for _ in range(12):  # uploads that nobody ends
                fetch(node.url, begin(node), "PATCH", body=bytes(9 * MIB))
            pull_all(node)
            for digest, body in pushed.items():
                answer = fetch(node.url, f"/v2/own/app/blobs/{digest}")
                assert (answer.status, answer.body == body) == (200, True)
            for digest in pushed:
                assert fetch(node.url, f"/v2/own/app/blobs/{digest}", "DELETE").status == 202
            wait_until(lambda: stored(place) < 100 * MIB, "the deleted bytes to go", 30.0)

            def used_again() -> bool:
                pull_all(node)
                return stored(place) > 30 * MIB

            wait_until(used_again, "space to be used again", 60.0)
            node.file.write_text(f"{usual}[store]\nmax_bytes = {64 * MIB}\n")
            node.hang_up()
            wait_until(lambda: stored(place) <= 64 * MIB, "the smaller budget", 60.0)
            pull_all(node)
            assert stored(place) <= 64 * MIB
