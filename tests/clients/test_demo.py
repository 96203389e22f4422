"""`holdfast demo`: what `make run` shows is true, and nothing is left behind."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from holdfast.testing.sample import build_sample
from support.clients import skopeo
from support.programs import Program
from support.registry import DockerRegistry
from support.transfer import fetch

COMMAND = [sys.executable, "-m", "holdfast", "demo"]
NAME = "library/sample"
#: wide enough that no line is broken
WIDE = {"COLUMNS": "200"}


def ended(demo: Program) -> None:
    """Ctrl-C ends it in order, and its children with it."""
    children = re.findall(r"http://(?:localhost|127\.0\.0\.1):(\d+)", demo.output())
    demo.signal(signal.SIGINT)
    assert demo.process.wait(30) == 0
    for port in set(children):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_the_root_is_stopped_and_the_node_serves(tmp_path: Path) -> None:
    with Program([*COMMAND, "--listen", "localhost:0"], tmp_path / "log", WIDE) as demo:
        port = demo.wait_for(r"Serving http://localhost:(\d+) until Ctrl-C")[1]
        said = demo.output()
        assert re.search(r"1 +the node is empty.*[1-9]\d* requests, [\d.]+ MB over the link", said)
        assert len(re.findall(r"nothing over the link", said)) == 2
        for wanted in ('"registry-mirrors"', "[host.", "[[registry.mirror]]"):
            assert wanted in said
        assert fetch(f"http://127.0.0.1:{port}", f"/v2/{NAME}/manifests/latest").status == 200
        ended(demo)


def test_a_real_parent(tmp_path: Path) -> None:
    sample = build_sample(NAME)
    with DockerRegistry(tmp_path / "parent") as parent:
        parent.push(NAME, sample, "latest", "1.0")
        flags = ("--listen", "localhost:0", "--parent", parent.url, "--parent-insecure", "--image", NAME)
        with Program([*COMMAND, *flags], tmp_path / "log", WIDE) as demo:
            port = demo.wait_for(r"Serving http://localhost:(\d+) until Ctrl-C")[1]
            (tmp_path / "out").mkdir()
            skopeo(f"127.0.0.1:{port}", tmp_path / "out", NAME, sample)
            parent.stop()
            ended(demo)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*COMMAND, "--listen", listen], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert listen in done.stderr
    assert "docker-registry" in done.stderr
