"""A whole node on a disk that is really full: nothing that is held stops, nothing that is not held is refused,
and once there is space again things are kept again."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from holdfast.testing.content import Generated
from holdfast.testing.sample import Sample, build_sample
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.node import Node, parent_toml, restarted
from support.programs import wait_until
from support.transfer import connect, fetch

NAME, FRESH = "library/held", "library/fresh"
DISK_BYTES = 32 << 20
#: more than the socket buffers on the way hold, less than the disk
SLOW_BYTES = 24_000_000
#: no reserve, so that it is the kernel who says that the disk is full
SETTINGS = "[fills]\nreserve_bytes = 0\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    with scripted_process(
        "--sample", f"{NAME}:latest", "--sample", f"{FRESH}:latest", "--blob", f"{FRESH}={SLOW_BYTES}:slow"
    ) as started:
        yield started


def fill_up(disk: Path) -> Path:
    """A file that takes every byte that is left."""
    path = disk / "ballast"
    with path.open("wb", buffering=0) as ballast:
        for step in (1 << 16, 1):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                take(ballast, step)
    return path


def take(ballast: FileIO, step: int) -> None:
    while True:
        ballast.write(bytes(step))


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
    """A pull of more than the disk has, in the middle of which /readyz says what is the matter."""
    content, said = Generated(SLOW_BYTES, "slow"), "pass through unstored"
    with closing(connect(node.url)) as connection:
        connection.request("GET", f"/v2/{FRESH}/blobs/{digest}")
        answer = connection.getresponse()
        assert answer.status == 200
        wait_until(lambda: said in " ".join(readiness(node)["troubles"]), f"/readyz to say: {said}")
        assert answer.read() == content.read(0, SLOW_BYTES)
    wait_until(lambda: not readiness(node)["troubles"], "the trouble to be over")


def kill(node: Node, role: str) -> None:
    """All children of a role at once; others take their places."""
    old = node.children(role)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_until(partial(restarted, node, role, old), f"a new {role}")
    wait_until(node.ready, "ready")


def test_a_full_disk_refuses_nothing_and_space_is_used_again(
    disk: Path, parent: ScriptedProcess, tmp_path: Path
) -> None:
    held, fresh = build_sample(NAME), build_sample(FRESH)
    (slow,) = parent.hello["blobs"].values()
    settings = parent_toml(parent.url).replace("[tags]\n", "[tags]\nlist_ttl = 0.0\n") + SETTINGS
    # the store lies on the small disk, the log does not: the test reads it
    (disk / "store").mkdir()
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "data").symlink_to(disk / "store")
    with Node(tmp_path / "node", configuration=settings, workers=2) as node:
        everything_held(node, held)
        ballast = fill_up(disk)
        everything_held(node, held)
        pull(node, FRESH, fresh)
        slow_pull(node, slow)
        for role in ("worker", "keeper"):
            kill(node, role)
            everything_held(node, held)
            pull(node, FRESH, fresh)
        layer = fresh.layers["amd64"][1]
        unstored = gets(parent, layer)
        assert unstored == 3, "nothing was kept"
        ballast.unlink()
        pull(node, FRESH, fresh)
        asked = gets(parent, layer)
        pull(node, FRESH, fresh)
        assert gets(parent, layer) == asked == unstored + 1
        everything_held(node, held)
        node.restart()
        pull(node, FRESH, fresh)
        assert gets(parent, layer) == asked
