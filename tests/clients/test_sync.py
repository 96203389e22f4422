"""A node fetches everything wanted from a real registry, which then goes away; a real client pulls it all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from holdfast.testing.sample import build_sample
from support.clients import skopeo
from support.node import Node
from support.programs import wait_until
from support.registry import DockerRegistry

SYNC = """
[sync]
schedule = "* * * * *"
[[sync.repositories]]
name = "team/app"
tags = ["latest"]
[[sync.repositories]]
name = "team/base"
tags = ["latest", "1.*"]
"""


def said(node: Node, *words: str) -> Any:
    """The JSON that `holdfast sync` prints."""
    command = (sys.executable, "-m", "holdfast", "sync", *words, "--data", str(node.data), "-o", "json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_is_wanted_is_here_before_anybody_asks(tmp_path: Path) -> None:
    samples = {"team/app": build_sample("team/app"), "team/base": build_sample("team/base")}
    with DockerRegistry(tmp_path / "parent") as parent:
        for name, sample in samples.items():
            parent.push(name, sample, "latest", "1.0", "unwanted")
        where = f'[[parent]]\nurl = "{parent.url}"\ninsecure = true\n'
        with Node(tmp_path / "node", configuration=where + SYNC) as node:

            def is_done() -> bool:
                found = said(node, "status")
                return bool(found["lastSyncTime"]) and not found["running"]

            wait_until(is_done, "the first synchronisation")
            assert said(node, "plan")["images"] == []
            assert said(node, "status")["troubles"] == []
            assert said(node, "run")["asked"] in ("ManualResync", "")
            parent.forget()
            parent.stop()
            for name, sample in samples.items():
                (place := tmp_path / name).mkdir(parents=True)
                skopeo(node.address, place, name, sample)
