"""Uploads at a real node whose processes are killed: what was in place is gone on with, what was acknowledged is
there, and nobody has to tidy up."""

from __future__ import annotations

import http.client
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from support.node import Node
from support.patience import PROGRAM_PATIENCE
from support.programs import wait_until
from support.pushing import request
from support.stores import some_bytes
from support.uploads import BLOBS, UPLOADS, digest_of

HALF = 2 << 20
SIZE = (4 << 20) + 11


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("uploads") / "node", "--anonymous", "push", workers=2) as found:
        yield found


class Push:
    """One blob on its way to a node, each request on a connection of its own."""

    def __init__(self, node: Node, seed: int) -> None:
        self.node, self.body = node, some_bytes(SIZE, seed)
        self.digest = digest_of(self.body)
        status, headers, _ = ask(node, "POST", UPLOADS, b"")
        assert status == 202
        self.location = headers["location"]

    @property
    def closing(self) -> str:
        """The target of the closing PUT."""
        return f"{self.location}?digest={self.digest}"

    def patch(self, start: int, end: int) -> None:
        """One chunk."""
        span = f"{start}-{end - 1}"
        status, headers, _ = ask(self.node, "PATCH", self.location, self.body[start:end], span)
        assert (status, headers["range"]) == (202, f"0-{end - 1}")

    def finish(self) -> None:
        """Go on from where the session says it is, and close it."""
        status, headers, _ = ask(self.node, "GET", self.location)
        assert status == 204
        offset = int(headers["range"].removeprefix("0-")) + 1
        if offset < SIZE:
            self.patch(offset, SIZE)
        status, headers, _ = ask(self.node, "PUT", self.closing)
        assert (status, headers["location"]) == (201, BLOBS + self.digest)

    def is_stored(self) -> bool:
        """Whether the blob is there, and then all of it and nothing else."""
        status, headers, body = ask(self.node, "GET", BLOBS + self.digest)
        assert status in (200, 404)
        assert status == 404 or (body, headers["docker-content-digest"]) == (self.body, self.digest)
        return status == 200

    def is_over(self) -> bool:
        """Close it once more: it is closed now, or it was before; never is it lost."""
        status, _, _ = ask(self.node, "PUT", self.closing)
        assert status in (201, 404, 416)
        return status == 201 or (status == 404 and self.is_stored())


def ask(
    node: Node, method: str, target: str, body: bytes | None = None, span: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: any worker may get it."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=PROGRAM_PATIENCE)
    try:
        connection.request(method, target, body, {"Content-Range": span} if span else {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def staged(node: Node) -> dict[str, int]:
    """Staging files and their lengths; one that is renamed meanwhile is not in it."""
    found = {}
    for path in (node.data / "uploads").iterdir():
        with suppress(FileNotFoundError):
            found[path.name] = path.stat().st_size
    return found


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it was killed
            os.kill(pid, signal.SIGCONT)


@contextmanager
def waiting(node: Node, raw: bytes) -> Iterator[socket.socket]:
    """A client that sent something and waits."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=PROGRAM_PATIENCE) as client:
        client.sendall(raw)
        yield client


def kill(node: Node, role: str) -> None:
    """SIGKILL all children of a role, and wait until others stand in their place."""
    old = node.children(role)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(node.children(role)) & set(old), f"a new {role}, see {node.log}")
    node.wait_ready()


def test_a_session_goes_on_in_any_worker(node: Node) -> None:
    push = Push(node, 1)
    for start in range(0, SIZE, 300_000):
        push.patch(start, min(start + 300_000, SIZE))
    push.finish()
    assert push.is_stored()
    assert staged(node) == {}


def test_case_29_75_a_worker_killed_in_a_patch(node: Node) -> None:
    push = Push(node, 2)
    with waiting(node, request("PATCH", push.location, push.body)[: HALF - SIZE]):
        wait_until(lambda: list(staged(node).values()) == [HALF], "half of the body in place")
        kill(node, "worker")
    assert list(staged(node).values()) == [HALF]
    push.finish()
    assert push.is_stored()
    assert staged(node) == {}


def test_a_keeper_killed_between_two_chunks(node: Node) -> None:
    push = Push(node, 3)
    push.patch(0, HALF)
    kill(node, "keeper")
    push.finish()
    assert push.is_stored()
    assert staged(node) == {}


@pytest.mark.parametrize("victim", ["keeper", "worker"])
def test_case_29_a_process_killed_in_a_commit(node: Node, victim: str) -> None:
    push, (keeper,) = Push(node, 4 + (victim == "worker")), node.children("keeper")
    with (
        waiting(node, request("PUT", push.closing, None, Content_Length=str(SIZE))) as client,
        stopped(keeper),
    ):
        client.sendall(push.body)
        wait_until(lambda: any("." in name for name in staged(node)), "the upload was sealed")
        for pid in node.children(victim):
            os.kill(pid, signal.SIGKILL)
        if victim == "keeper":  # the worker asks the next one
            assert client.recv(100).startswith(b"HTTP/1.1 201 ")
    node.wait_ready()
    if victim == "worker":  # the keeper commits what it was asked, or nobody did and the session is there
        wait_until(push.is_over, "the upload is closed")
    assert push.is_stored()
    wait_until(lambda: staged(node) == {}, "nothing left of the upload")


def test_case_75_sessions_outlive_the_node(node: Node) -> None:
    push = Push(node, 20)
    push.patch(0, HALF)
    node.restart()
    push.finish()
    assert push.is_stored()
    assert staged(node) == {}
