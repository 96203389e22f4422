"""Real nodes: a child takes pushes while its parent is away, is killed twice, and the parent has all of them after."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from holdfast.testing.link import RelayLink
from support.node import Node, parent_toml, restarted
from support.plain_push import digest_of, has, push
from support.programs import wait_until
from support.registry import DockerRegistry
from support.transfer import fetch

PUSHES, LAYER_BYTES = 50, 512 * 1024
FLAGS = ("--anonymous", "push")
READ_WRITE = (*FLAGS, "--mode", "ReadWrite")


def test_fifty_pushes_arrive_after_an_outage_and_two_kills(tmp_path: Path) -> None:
    with (
        Node(tmp_path / "root", *FLAGS, workers=1) as root,
        RelayLink("127.0.0.1", root.port) as link,
    ):
        root.stop()
        configuration = parent_toml(link.url, probe_interval=0.5)
        with Node(tmp_path / "child", *READ_WRITE, configuration=configuration, workers=1) as child:
            wanted: dict[str, str] = {}
            size = 0
            for number in range(PUSHES):
                layer = os.urandom(LAYER_BYTES)
                wanted[f"t{number:02}"] = push(child.url, "team/app", f"t{number:02}", layer)
                size += len(layer)
                if number == 20:
                    old = child.children("keeper")
                    os.kill(old[0], signal.SIGKILL)
                    wait_until(lambda old=old: restarted(child, "keeper", old), "a new keeper")  # type: ignore[misc]
                if number == 40:
                    child.program.kill()
                    child.start()
            before = link.up
            root.start()
            wait_until(has(root.url, "team/app", wanted), "all tags at the root")
            assert link.up - before <= 1.02 * size
            look = f"/acr/v1/team/app/_manifests/{wanted['t49']}"
            wait_until(
                lambda: json.loads(fetch(child.url, look).body)["manifest"].get("pushed"), "the mark is gone"
            )


def test_docker_registry_takes_what_was_pushed(tmp_path: Path) -> None:
    """A layer that three images share goes up once, in pieces; a second repository mounts it; a tag is moved."""
    registry = DockerRegistry(tmp_path / "registry")
    try:
        configuration = parent_toml(registry.url)
        with Node(tmp_path / "child", *READ_WRITE, configuration=configuration, workers=1) as child:
            layer = os.urandom(9 << 20)
            wanted = {tag: push(child.url, "team/app", tag, layer) for tag in ("a", "b", "c")}
            wait_until(has(registry.url, "team/app", wanted), "the tags at docker-registry")
            puts = [one.target.rpartition("/")[2] for one in registry.asked() if one.method == "PUT"]
            assert sorted(tag for tag in puts if tag in wanted) == sorted(wanted)
            registry.forget()
            moved = {"a": push(child.url, "team/app", "a", b"another layer")}
            other = {"x": push(child.url, "other", "x", layer)}
            wait_until(has(registry.url, "team/app", moved), "the moved tag")
            wait_until(has(registry.url, "other", other), "the other repository")
            mounts = [one for one in registry.asked() if "mount=" in one.target]
            assert [one.status for one in mounts if digest_of(layer) in one.target.replace("%3A", ":")] == [
                201
            ]
            assert not [one for one in registry.asked() if one.method == "PATCH"]
    finally:
        registry.stop()
