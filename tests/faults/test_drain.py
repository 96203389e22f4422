"""A node that ends: who has asked is answered, who asks for readiness is told no, who is new is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPResponse
from pathlib import Path

import pytest
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from support.node import Node, parent_toml
from support.patience import PROGRAM_PATIENCE
from support.programs import wait_until
from support.transfer import connect, fetch, target_of

NAME = "library/drain"
#: more than the socket buffers on the way hold
BLOB_BYTES = 32_000_000
#: bytes a second: most of a blob is still to come when its first megabyte is there
SLOW = 4_000_000.0
#: a request, and a head of which the last line has not come, in one segment: who got the answer to the first
#: knows that the second has begun
HALF_ASKED = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\nGET /readyz HTTP/1.1\r\nHost: node\r\n"


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    with scripted_process("--blob", f"{NAME}={BLOB_BYTES}:drain") as started:
        yield started


def half_asked(node: Node) -> socket.socket:
    """A connection that has begun to ask for readiness."""
    begun = socket.create_connection(("127.0.0.1", node.port), timeout=PROGRAM_PATIENCE)
    begun.sendall(HALF_ASKED)
    answered(begun).read()
    return begun


def answered(asked: socket.socket) -> HTTPResponse:
    """The next answer's head on a connection."""
    said = HTTPResponse(asked)
    said.begin()
    return said


def refused(node: Node) -> bool:
    """Whether no process of the node takes a new connection."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", node.port)) != 0


@pytest.mark.parametrize("workers", [0, 2])
def test_readiness_is_refused_while_a_slow_client_is_served(
    parent: ScriptedProcess, tmp_path: Path, workers: int
) -> None:
    (digest,) = parent.hello["blobs"].values()
    with Node(tmp_path, configuration=parent_toml(parent.url), workers=workers) as node, ExitStack() as held:
        slow = held.enter_context(closing(connect(node.url)))
        slow.request("GET", f"/v2/{NAME}/blobs/{digest}")
        body = slow.getresponse()
        # some for every worker: the kernel deals connections out
        asking = [held.enter_context(half_asked(node)) for _ in range(8)]
        node.program.signal(signal.SIGTERM)
        wait_until(lambda: refused(node), "new connections to be refused")
        for begun in asking:
            begun.sendall(b"\r\n")
            said = answered(begun)
            assert said.status == 503
            assert json.loads(said.read())["reasons"] == ["draining"]
            assert said.getheader("connection") == "close"
            assert begun.recv(1) == b""
            begun.close()
        found = hashlib.sha256()
        while piece := body.read(1 << 20):
            found.update(piece)
        assert f"sha256:{found.hexdigest()}" == digest
        slow.close()
        assert node.program.process.wait(PROGRAM_PATIENCE) == 0


def system_signal(node: Node) -> None:
    """SIGTERM as systemd sends it: to every process of the control group, here the children first."""
    for pid in (*node.children("keeper"), *node.children("worker")):
        os.kill(pid, signal.SIGTERM)
    node.program.signal(signal.SIGTERM)


def timeout_signal(node: Node) -> None:
    """SIGTERM as timeout(1) sends it: to its child, and at once to the group, in which that is as well."""
    node.program.signal(signal.SIGTERM)
    node.program.wait_for("node draining")
    os.killpg(node.program.process.pid, signal.SIGTERM)


@pytest.mark.parametrize("end", [system_signal, timeout_signal])
def test_case_trust_7_sigterm_to_the_group_finishes_a_fill(
    parent: ScriptedProcess, tmp_path: Path, end: Callable[[Node], None]
) -> None:
    """The keeper is needed until the last worker has sent what it fills."""
    (digest,) = parent.hello["blobs"].values()
    parent.control("settings", {"rate": SLOW})
    with Node(tmp_path, configuration=parent_toml(parent.url)) as node, closing(connect(node.url)) as client:
        client.request("GET", f"/v2/{NAME}/blobs/{digest}")
        body = client.getresponse()
        keeper, found = node.children("keeper"), hashlib.sha256(body.read(1 << 20))
        end(node)
        wait_until(lambda: refused(node), "new connections to be refused")
        parent.control("settings", {"rate": 0.0})
        while piece := body.read(1 << 20):
            found.update(piece)
        assert f"sha256:{found.hexdigest()}" == digest
        client.close()
        assert node.program.process.wait(PROGRAM_PATIENCE) == 0
        assert node.children("keeper") == keeper
        assert not [event for event in node.events() if event.get("event") == "child died"]


@pytest.mark.parametrize("workers", [0, 2])
def test_uploads_that_are_cut_off_by_the_end_are_no_failures(tmp_path: Path, workers: int) -> None:
    """Their files are closed when what wrote them has ended, and the sessions go on after the restart."""
    settings = "[limits]\ndrain_timeout = 0.2\n"
    open_node = Node(tmp_path, "--anonymous", "push", configuration=settings, workers=workers)
    with open_node as node, ExitStack() as held:
        places = []
        for _ in range(4):
            begun = fetch(node.url, "/v2/app/blobs/uploads/", "POST")
            places.append(target_of(begun.headers["location"]))
            client = held.enter_context(socket.create_connection(("127.0.0.1", node.port), PROGRAM_PATIENCE))
            head = f"PATCH {places[-1]} HTTP/1.1\r\nHost: node\r\nContent-Length: 900000\r\n\r\n"
            client.sendall(head.encode() + bytes(300_000))
        node.restart()
        assert "push failed unseen" not in node.text()
        assert {fetch(node.url, place).status for place in places} == {204}
