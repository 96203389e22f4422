"""Pushes and deletes are seen by the next request in every worker, and a restart changes nothing."""

from __future__ import annotations

import http.client
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from holdfast_core.digest import Digest
from support.node import Node
from support.programs import wait_until
from support.pushing import OCI_INDEX, index
from support.transfer import Answer, connect, fetch

#: connections kept open; the kernel spreads them over the workers' sockets
CONNECTIONS = 16
READ_ONLY = (405, "This operation is not allowed on this registry.")
TYPED = {"Content-Type": OCI_INDEX}


class Everywhere:
    """Keep-alive connections to a node, so that every worker is asked."""

    def __init__(self, node: Node) -> None:
        self.connections = [connect(node.url) for _ in range(CONNECTIONS)]

    def ask(self, target: str, method: str = "GET") -> set[tuple[int, bytes]]:
        """The answers of all, each once."""
        return {self._one(connection, target, method) for connection in self.connections}

    def _one(self, connection: http.client.HTTPConnection, target: str, method: str) -> tuple[int, bytes]:
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, body if answer.status == 200 else b""

    def close(self) -> None:
        """Hang up."""
        for connection in self.connections:
            connection.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_case_40_44_75_every_worker_sees_a_change_at_once(tmp_path: Path, workers: int) -> None:
    with Node(tmp_path, "--anonymous", "push", workers=workers) as node:
        everywhere = Everywhere(node)
        for number in range(5):
            body = index(annotations={"n": str(number)})
            digest = Digest.of(body)
            pushed = fetch(node.url, "/v2/a/manifests/x", "PUT", body=body, headers=TYPED)
            assert pushed.status == 201
            assert everywhere.ask("/v2/a/manifests/x") == {(200, body)}
            assert everywhere.ask(f"/v2/a/manifests/{digest}", "HEAD") == {(200, b"")}
            assert everywhere.ask("/v2/a/tags/list") == {(200, b'{"name":"a","tags":["x"]}')}
            path = f"/v2/a/manifests/{digest if number % 2 else 'x'}"
            assert fetch(node.url, path, "DELETE").status == 202
            assert everywhere.ask("/v2/a/manifests/x") == {(404, b"")}
            assert everywhere.ask(path, "HEAD") == {(404, b"")}
            assert everywhere.ask("/v2/a/tags/list") == {(200, b'{"name":"a","tags":[]}')}
        assert fetch(node.url, "/v2/a/manifests/x", "PUT", body=body, headers=TYPED).status == 201
        for allowed in (False, True):
            lock(node, "a", readEnabled=allowed)
            assert everywhere.ask("/v2/a/manifests/x", "HEAD") == {(200 if allowed else 405, b"")}
        everywhere.close()


def lock(node: Node, path: str, **changes: bool) -> Answer:
    """Change attributes."""
    answer = fetch(node.url, f"/acr/v1/{path}", "PATCH", body=json.dumps(changes).encode())
    assert answer.status == 200
    return answer


def test_what_was_answered_is_there_after_a_restart_and_the_mode_changes_by_a_signal(
    tmp_path: Path,
) -> None:
    body = index()
    with Node(tmp_path, "--anonymous", "push", workers=1) as node:
        assert "strangers may push" in node.text()
        assert fetch(node.url, "/v2/a/manifests/x", "PUT", body=body, headers=TYPED).status == 201
        lock(node, "a/_tags/x", deleteEnabled=False)
        node.restart()
        assert fetch(node.url, "/v2/a/manifests/x").body == body
        assert fetch(node.url, "/v2/a/manifests/x", "DELETE").status == 405
        lock(node, "a/_tags/x", deleteEnabled=True)
        node.file.write_text('mode = "Mirror"\n')
        node.hang_up()
        wait_until(lambda: "configuration reloaded" in node.text(), "the reload")
        wait_until(lambda: refusal(node) == READ_ONLY, "the last worker of the old configuration to end")
        assert fetch(node.url, "/v2/a/manifests/x").body == body


def refusal(node: Node) -> tuple[int, str]:
    """How a delete is refused."""
    answer = fetch(node.url, "/v2/b/manifests/x", "DELETE")
    return answer.status, json.loads(answer.body)["errors"][0]["message"]


def test_a_killed_keeper_costs_a_pause_and_no_answered_push(tmp_path: Path) -> None:
    with Node(tmp_path, "--anonymous", "push", workers=1) as node:
        pushed: dict[str, bytes] = {}
        for number in range(6):
            if number in (2, 4):
                os.kill(node.children("keeper")[-1], signal.SIGKILL)
            body, name = index(annotations={"n": str(number)}), f"t{number}"
            wait_until(partial(is_pushed, node, name, body), f"the push of {name}")
            pushed[name] = body
        for name, body in pushed.items():
            assert fetch(node.url, f"/v2/a/manifests/{name}").body == body
        assert json.loads(fetch(node.url, "/v2/a/tags/list").body)["tags"] == sorted(pushed)


def is_pushed(node: Node, name: str, body: bytes) -> bool:
    """Push; without a keeper a client is told to come again, and nothing else."""
    answer = fetch(node.url, f"/v2/a/manifests/{name}", "PUT", body=body, headers=TYPED)
    assert answer.status == 201 or (answer.status, "retry-after" in answer.headers) == (503, True)
    return answer.status == 201


def test_strangers_are_refused_by_default(tmp_path: Path) -> None:
    with Node(tmp_path, workers=1) as node:
        answer = fetch(node.url, "/v2/a/manifests/x", "PUT", body=index(), headers=TYPED)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith(f'Bearer realm="{node.url}/acr/oauth2/token",')
        assert b"--anonymous push" in answer.body
        assert "strangers may push" not in node.text()
