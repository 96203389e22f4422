"""A whole node on a disk that is really full: nothing that is held stops, nothing that is not held is refused, what is
pushed gets a clean answer, and once there is space again things are kept again, with no restart."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.sample import Sample, build_sample
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.disk import Disk
from support.node import Node, parent_toml, restarted
from support.plain_push import at, digest_of, push
from support.programs import wait_until
from support.pushing import OCI_MANIFEST, image
from support.transfer import Answer, fetch, target_of

NAME, FRESH = "library/held", "library/fresh"
DISK_BYTES = 320 << 20
KINDS = ("ext4", "xfs")
#: more than the socket buffers on the way hold
SLOW_BYTES = 24_000_000
#: no budget, so that it is the kernel who says that the disk is full, and nothing is evicted
SETTINGS = '[store]\nmin_free = "0"\n'


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A small file system of its own, with the data directory of the node in `tmp_path / "node"` on it; the log of the
    node lies elsewhere, because the test reads it."""
    with Disk(tmp_path / "disk", request.param, DISK_BYTES) as made:
        (made.root / "store").mkdir()
        (tmp_path / "node").mkdir()
        (tmp_path / "node" / "data").symlink_to(made.root / "store")
        yield made


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    with scripted_process(
        "--sample", f"{NAME}:latest", "--sample", f"{FRESH}:latest", "--blob", f"{FRESH}={SLOW_BYTES}:slow"
    ) as started:
        yield started


def pull(node: Node, name: str, sample: Sample) -> None:
    """A tag, its image and the image's layers, every byte checked."""
    bodies = {digest: body for digest, _, body in sample.manifests}
    tagged = fetch(node.url, f"/v2/{name}/manifests/latest")
    assert (tagged.status, tagged.body) == (200, bodies[sample.index])
    image = sample.images["amd64"]
    assert fetch(node.url, f"/v2/{name}/manifests/{image}").body == bodies[image]
    for layer in sample.layers["amd64"]:
        answer = fetch(node.url, f"/v2/{name}/blobs/{layer}")
        assert (answer.status, answer.body == sample.blobs[layer]) == (200, True)


def referrers(node: Node, name: str, sample: Sample) -> list[str]:
    answer = fetch(node.url, f"/v2/{name}/referrers/{sample.index}")
    assert answer.status == 200
    return [row["digest"] for row in json.loads(answer.body)["manifests"]]


def tags(node: Node, name: str) -> list[str]:
    answer = fetch(node.url, f"/v2/{name}/tags/list")
    assert answer.status == 200
    return list(json.loads(answer.body)["tags"])


def readiness(node: Node) -> dict[str, Any]:
    answer = fetch(node.url, "/readyz")
    assert answer.status == 200, "a full disk does not make a node unready"
    return dict(json.loads(answer.body))


def everything_held(node: Node, sample: Sample) -> None:
    pull(node, NAME, sample)
    assert tags(node, NAME) == ["latest"]
    assert referrers(node, NAME, sample) == [sample.artifact]


def gets(parent: ScriptedProcess, digest: str) -> int:
    return int(parent.stats()["requests"].get(f"GET /v2/{FRESH}/blobs/{digest}", 0))


def slow_pull(node: Node, digest: str) -> None:
    """A pull of more than the disk has."""
    content = GeneratedContent(SLOW_BYTES, "slow")
    answer = fetch(node.url, f"/v2/{FRESH}/blobs/{digest}")
    assert (answer.status, answer.body == content.read(0, SLOW_BYTES)) == (200, True)


def says(node: Node, what: str) -> bool:
    """Whether /readyz tells of a trouble."""
    return any(what in trouble for trouble in readiness(node)["troubles"])


def kill(node: Node, role: str) -> None:
    """All children of a role at once; others take their places."""
    old = node.children(role)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_until(partial(restarted, node, role, old), f"a new {role}")
    wait_until(node.ready, "ready")


def test_case_fault_2_a_full_disk_refuses_nothing_and_space_is_used_again(
    disk: Disk, parent: ScriptedProcess, tmp_path: Path
) -> None:
    held, fresh = build_sample(NAME), build_sample(FRESH)
    (slow,) = parent.hello["blobs"].values()
    settings = parent_toml(parent.url).replace("[tags]\n", "[tags]\nlist_ttl = 0.0\n") + SETTINGS
    with Node(tmp_path / "node", configuration=settings, workers=2) as node:
        everything_held(node, held)
        filler = disk.fill_up()
        everything_held(node, held)
        pull(node, FRESH, fresh)
        assert (tags(node, FRESH), referrers(node, FRESH, fresh)) == (["latest"], [fresh.artifact])
        slow_pull(node, slow)
        assert says(node, "DiskError: the disk is full")
        for role in ("worker", "keeper"):
            kill(node, role)
            everything_held(node, held)
            pull(node, FRESH, fresh)
        node.restart()
        everything_held(node, held)
        layer = fresh.layers["amd64"][1]
        unstored = gets(parent, layer)
        assert unstored == 3, "nothing was kept"
        filler.unlink()
        wait_until(lambda: not says(node, "DiskError"), "the disk to be found writable")
        for _ in range(2):
            pull(node, FRESH, fresh)
            assert gets(parent, layer) == unstored + 1
        assert not [event for event in node.events() if event.get("event") in ("keeper failed", "child died")]


def says_held(node: Node, digest: str) -> bool:
    """Whether a blob lies among the finished ones."""
    return (node.data / "blobs" / "sha256" / digest[7:9] / digest[7:]).exists()


def refused(answer: Answer, code: str) -> None:
    """A push that found no room: the status, and a body that a client shows to a person."""
    said = json.loads(answer.body)["errors"][0]
    assert (answer.status, said["code"]) == (507, code)
    assert said["message"] == "the disk of this node is full; nothing was stored"
    assert "frees space" in said["detail"]


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_case_fault_2_a_push_that_was_refused_is_told_to_the_operator(
    disk: Disk, tmp_path: Path, what: str
) -> None:
    """Workers write uploads, so no write of the keeper met the full disk."""
    with Node(tmp_path / "node", "--anonymous", "push", configuration=SETTINGS, workers=2) as node:
        fillers = [disk.fill_up()] if what == "bytes" else disk.fill_up_inodes()
        body = bytes(1 << 20)
        target = f"/v2/app/blobs/uploads/?digest={digest_of(body)}"
        refused(fetch(node.url, target, "POST", body=body), "BLOB_UPLOAD_INVALID")
        wait_until(lambda: says(node, "DiskError: the disk is full"), "the operator to be told")
        for filler in fillers:
            filler.unlink()
        wait_until(lambda: not says(node, "DiskError"), "the disk to be found writable")
        push(node.url, "app", "after", b"after" * 9000)


def test_case_fault_2_pushes_to_a_full_root_are_refused_and_what_was_acknowledged_stays(
    disk: Disk, tmp_path: Path
) -> None:
    """An upload goes on at the offset that was acknowledged once there is room, and no process was restarted."""
    layer, kind = random.Random(1).randbytes(3 << 20), {"Content-Type": OCI_MANIFEST}
    with Node(tmp_path / "node", "--anonymous", "push", configuration=SETTINGS, workers=2) as node:
        images = {tag: push(node.url, "app", tag, tag.encode() * 9000) for tag in ("one", "two", "three")}
        before = node.children("keeper")
        begun = fetch(node.url, "/v2/app/blobs/uploads/", "POST")
        place = target_of(begun.headers["location"])
        assert fetch(node.url, place, "PATCH", body=layer[: 1 << 20]).status == 202
        filler = disk.fill_up()
        cut = fetch(node.url, place, "PATCH", body=layer[1 << 20 :])
        refused(cut, "BLOB_UPLOAD_INVALID")
        assert fetch(node.url, place).headers["range"] == f"0-{(1 << 20) - 1}"
        fetch(node.url, "/v2/app/blobs/uploads/?digest=" + digest_of(layer), "POST", body=layer)
        body = image(*(put for put in (digest_of(b"one"), digest_of(b"one" * 9000))))
        answers = [
            fetch(node.url, f"/v2/app/manifests/full{n}", "PUT", headers=kind, body=body) for n in range(40)
        ]
        assert {answer.status for answer in answers} <= {201, 507}
        images |= {f"full{n}": digest_of(body) for n in range(40) if answers[n].status == 201}
        for tag, digest in images.items():
            assert at(node.url, "app", tag) == digest
        filler.unlink()
        wait_until(lambda: not says(node, "DiskError"), "the disk to be found writable")
        assert fetch(node.url, place, "PATCH", body=layer[1 << 20 :]).status == 202
        closed = fetch(node.url, f"{place}{'&' if '?' in place else '?'}digest={digest_of(layer)}", "PUT")
        assert closed.status == 201
        images["after"] = push(node.url, "app", "after", b"after" * 9000)
        assert node.children("keeper") == before
        node.restart()
        for tag, digest in images.items():
            assert at(node.url, "app", tag) == digest
        assert fetch(node.url, f"/v2/app/blobs/{digest_of(layer)}").body == layer
