"""SIGHUP at bad moments: refused with the reason, or carried out once, and no process left over."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.node import COMMAND, Node
from support.plain_push import push
from support.programs import Program, wait_until
from support.transfer import fetch


def group(node: Node) -> list[int]:
    """Every process of the node's group that lives, the supervisor among them."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            fields = (place / "stat").read_text().rpartition(") ")[2].split()
        except (OSError, NotADirectoryError):
            continue
        if fields[0] != "Z" and int(fields[2]) == node.program.process.pid:
            found.append(int(place.name))
    return sorted(found)


def reloads(node: Node) -> int:
    return sum(event["event"] == "configuration reloaded" for event in node.events())


def test_hanging_up_many_times_at_once_leaves_one_process_a_slot(tmp_path: Path) -> None:
    with Node(tmp_path, workers=2) as node:
        for _ in range(4):
            node.hang_up()
            fetch(node.url, "/healthz")
        wait_until(lambda: reloads(node) >= 1 and len(group(node)) == 4, "one process a slot")
        assert fetch(node.url, "/healthz").status == 200
        members = group(node)
        assert node.stop() == 0
        assert not [pid for pid in members if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("workers", [0, 1])
def test_hanging_up_while_a_node_starts_does_not_end_it(tmp_path: Path, workers: int) -> None:
    """A reload that follows a start at once, as a configuration tool sends it."""
    command = (*COMMAND, "--data", tmp_path / "data", "--listen", "127.0.0.1:0", "--workers", str(workers))
    with Program(command, tmp_path / "log") as node:
        wait_until((tmp_path / "data").exists, "the command has begun")
        while "serving on" not in node.output():
            node.signal(signal.SIGHUP)
            assert node.process.poll() is None, node.output()
            time.sleep(0.001)
        node.wait_for('"configuration reloaded"' if workers else '"configuration refused"')
        assert node.stop() == 0


def test_a_worker_that_dies_while_the_node_reloads_is_replaced_once(tmp_path: Path) -> None:
    with Node(tmp_path, workers=2) as node:
        for pid in node.children("worker"):
            os.kill(pid, signal.SIGKILL)
        node.hang_up()
        wait_until(lambda: reloads(node) == 1, "reloaded")
        wait_until(lambda: len(group(node)) == 4, "one process a slot")
        wait_until(node.ready, "ready")
        assert node.stop() == 0


def test_a_certificate_that_cannot_serve_is_refused_and_the_node_goes_on(tmp_path: Path) -> None:
    with Node(tmp_path, workers=1) as node:
        old = node.children("worker")
        node.file.write_text('[tls]\ncert = "/none.pem"\nkey = "/none.pem"\n')
        node.hang_up()
        refused = node.program.wait_for(r'.*"configuration refused".*|.*configuration refused.*')[0]
        assert "tls.cert" in refused
        assert fetch(node.url, "/healthz").status == 200
        assert node.children("worker") == old


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_change_is_said_and_nothing_stops(tmp_path: Path, workers: int) -> None:
    with Node(tmp_path, workers=workers) as node:
        node.file.write_text("log_level = 'error'\n" if workers == 0 else "data = 'elsewhere'\n")
        node.hang_up()
        if workers == 0:
            assert "restart" in node.program.wait_for(".*configuration refused.*")[0]
        assert fetch(node.url, "/healthz").status == 200
        assert node.stop() == 0


def test_a_budget_below_what_stays_is_refused_with_figures(tmp_path: Path) -> None:
    """What was pushed here is never evicted: a budget that cannot be met would only have every push refused."""
    layer = random.Random(13).randbytes(40 << 20)
    with Node(tmp_path, "--anonymous", "push", workers=1) as node:
        push(node.url, "plant/app", "v1", layer)
        usual = node.file.read_text()
        node.file.write_text(f"{usual}[store]\nmax_bytes = {33 << 20}\n")
        node.hang_up()
        refused = json.loads(node.program.wait_for(r"\{.*configuration refused.*")[0])
        assert f"would be {33 << 20} bytes" in refused["reason"]
        assert f"{len(layer)} pushed here" in refused["reason"]
        push(node.url, "plant/app", "v2", layer[: 1 << 20])  # by the budget that was before
        node.file.write_text(f"{usual}[store]\nmax_bytes = {200 << 20}\n")
        node.hang_up()
        node.program.wait_for(".*configuration reloaded.*")
        assert node.stop() == 0
    with Node(
        tmp_path, "--anonymous", "push", configuration=f"[store]\nmax_bytes = {33 << 20}\n", workers=1
    ) as node:
        node.program.wait_for(".*budget below what cannot be evicted.*")
        assert fetch(node.url, "/v2/plant/app/manifests/v1").status == 200
        assert node.stop() == 0
