"""What one worker changes ends the answers that the other ones know, with the answer to the change; so does a new
configuration."""

from __future__ import annotations

import http.client
from pathlib import Path

from holdfast_core.digest import Digest
from support.node import Node
from support.programs import wait_until
from support.pushing import OCI_INDEX
from support.transfer import fetch

FIRST, SECOND = b'{"schemaVersion":2,"manifests":[]}', b'{"schemaVersion":2,"manifests":[] }'
TARGET = "/v2/a/manifests/v1"
#: connections, so that every worker has some
CONNECTIONS = 12


def push(node: Node, body: bytes) -> None:
    headers = {"Content-Type": OCI_INDEX}
    assert fetch(node.url, TARGET, method="PUT", body=body, headers=headers).status == 201


def pull(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    connection.request("GET", TARGET)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_change_counts_at_once_in_every_worker(tmp_path: Path) -> None:
    with Node(tmp_path, "--anonymous", "push", workers=2) as node:
        push(node, FIRST)
        connections = [http.client.HTTPConnection("127.0.0.1", node.port) for _ in range(CONNECTIONS)]
        bodies = [SECOND, FIRST] * 3
        for body in bodies:
            for _ in range(4):
                known = [pull(connection) for connection in connections]
            assert {status for status, _ in known} == {200}
            push(node, body)
            assert [pull(connection) for connection in connections] == [(200, body)] * CONNECTIONS
        for _ in range(4):
            known = [pull(connection) for connection in connections]
        digest = str(Digest.of(bodies[-1]))
        assert fetch(node.url, f"/v2/a/manifests/{digest}", method="DELETE").status == 202
        assert [status for status, _ in map(pull, connections)] == [404] * CONNECTIONS
        for connection in connections:
            connection.close()
        assert node.stop() == 0


def test_a_new_configuration_ends_what_was_known(tmp_path: Path) -> None:
    with Node(tmp_path, configuration="anonymous = 'push'\n", workers=1) as node:
        push(node, FIRST)
        for _ in range(4):
            assert fetch(node.url, TARGET).status == 200
        node.file.write_text("anonymous = 'none'\n")
        old = node.children("worker")
        node.hang_up()
        wait_until(lambda: node.children("worker") != old, "a new worker")
        wait_until(lambda: fetch(node.url, TARGET).status == 401, "the new configuration")
        for _ in range(20):
            assert fetch(node.url, TARGET).status == 401
        assert node.stop() == 0
