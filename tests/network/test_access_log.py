"""The access log of a real node: who asked, by what, for which registry, and whether it was here."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from holdfast.demo.seed import seed
from holdfast.testing.sample import build_sample
from support.node import Node
from support.programs import wait_until
from support.transfer import fetch
from support.tree import Operator, login

NAME = "library/sample"
LATEST = f"/v2/{NAME}/manifests/latest"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "root").mkdir()
    seed(tmp_path / "root" / "data", NAME, "latest", build_sample(NAME), 1.0)
    with Node(tmp_path / "root", "--anonymous", "pull", workers=1) as node:
        yield node


def below(root: Node, *lines: str) -> str:
    parent = f'[[parent]]\nurl = "{root.url}"\nname = "registry.example"\ndefault = true\ninsecure = true\n'
    return "\n".join((*lines, parent))


def lines_of(node: Node, path: str) -> list[dict[str, Any]]:
    return [
        event for event in node.events() if event["event"] == "request answered" and event["path"] == path
    ]


def logged(node: Node, path: str, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(lines_of(node, path)) >= count, f"{count} lines of {path}")
    return lines_of(node, path)


def test_case_trust_27_who_asked_by_what_and_whether_it_was_here(tmp_path: Path, root: Node) -> None:
    with Node(tmp_path / "node", "--anonymous", "none", configuration=below(root), workers=1) as node:
        secret = Operator(node).token("phil1", "library/*", "content/read", "metadata/read")
        known = {**login("phil1", secret), "User-Agent": "containerd/1.6"}
        first = fetch(node.url, LATEST, headers=known)
        assert first.status == 200, first
        assert fetch(node.url, f"{LATEST}?ns=registry.example", headers=known).status == 200
        assert fetch(node.url, LATEST, method="HEAD", headers=known).status == 200
        assert fetch(node.url, LATEST, headers=login("phil1", "wrong")).status == 401
        found = logged(node, LATEST, 4)
        assert [(one["status"], one.get("user"), one.get("cache")) for one in found] == [
            (200, "phil1", "miss"),
            (200, "phil1", "hit"),
            (200, "phil1", "hit"),
            (401, None, None),
        ]
        assert [one.get("agent") for one in found[:3]] == ["containerd/1.6"] * 3
        assert [one.get("ns") for one in found] == [None, "registry.example", None, None]

        image = json.loads(first.body)
        digest = (image.get("config") or image["manifests"][0])["digest"]
        kind = "blobs" if "config" in image else "manifests"
        other = f"/v2/{NAME}/{kind}/{digest}"
        absent = f"/v2/{NAME}/blobs/sha256:{'0' * 64}"
        for target, status in ((other, 200), (other, 200), (absent, 404)):
            assert fetch(node.url, target, headers=known).status == status
        assert [one["cache"] for one in logged(node, other, 2)] == ["miss", "hit"]
        assert [one["cache"] for one in logged(node, absent, 1)] == ["miss"]

        denied = "/v2/secret/app/manifests/latest"
        assert fetch(node.url, denied, headers=known).status in (401, 403)
        (refused,) = logged(node, denied, 1)
        assert (refused["user"], refused.get("cache")) == ("phil1", None)


def test_case_trust_27_what_clients_call_themselves_is_bounded_and_drives_no_terminal(root: Node) -> None:
    with socket.create_connection(("127.0.0.1", root.port)) as client:
        agent = b"\x9b31m" + b"x" * 5000
        client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nUser-Agent: " + agent + b"\r\n\r\n")
        assert b" 200 " in client.recv(4096)
    wait_until(lambda: any(len(one.get("agent", "")) == 200 for one in lines_of(root, "/v2/")), "its line")
    assert '"agent":"\\u009b31mxxx' in root.text()
    assert "\x9b" not in root.text()


def test_case_trust_27_the_access_log_can_be_switched_off_alone(tmp_path: Path, root: Node) -> None:
    configuration = below(root, "access_log = false")
    with Node(tmp_path / "node", configuration=configuration, workers=1) as node:
        assert fetch(node.url, LATEST).status == 200
    events = {event["event"] for event in node.events()}
    assert "request answered" not in events
    assert "worker ended" in events
