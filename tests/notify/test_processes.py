"""Real processes: a ping goes by way of the keeper, and a webhook that is configured later begins with what follows."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.node import Node
from support.programs import wait_until
from support.receiver import Receiver, answer
from support.transfer import fetch
from support.tree import Operator

INDEX = "application/vnd.oci.image.index.v1+json"


def hook(receiver: Receiver, name: str = "ci") -> str:
    """A table of the configuration."""
    return f'[[webhook]]\nname = "{name}"\nurl = "{receiver.url}"\ninsecure = true\n'


def push(node: Node, tag: str) -> None:
    """An index of its own without children."""
    body = b'{"schemaVersion": 2, "manifests": [], "annotations": {"tag": "%s"}}' % tag.encode()
    path, kind = f"/v2/team/app/manifests/{tag}", {"Content-Type": INDEX}
    assert fetch(node.url, path, "PUT", headers=kind, body=body).status == 201


def tags(receiver: Receiver) -> list[str]:
    """The tags that were delivered."""
    return [event["data"]["target"]["tag"] for event in receiver.events]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_ping_and_an_event(workers: int, tmp_path: Path) -> None:
    with (
        Receiver(answer(202)) as receiver,
        Node(tmp_path, "--anonymous", "push", configuration=hook(receiver), workers=workers) as node,
    ):
        operator = Operator(node)
        pinged = operator.call("POST", "webhooks/ci/ping")
        assert pinged == {"name": "ci", "taken": True, "answer": "answered 202"}
        push(node, "v1")
        receiver.wait_for(2)
        assert receiver.events[1]["subject"] == "team/app:v1"
        shown = operator.call("GET", "webhooks/ci")["properties"]
        assert shown["url"] == receiver.url.removesuffix("/hook")
        assert [row["properties"]["tag"] for row in operator.call("GET", "events")["value"]] == ["v1"]


def test_a_reload_brings_a_webhook_in_and_leaves_the_other_where_it_is(tmp_path: Path) -> None:
    with (
        Receiver() as first,
        Receiver() as second,
        Node(tmp_path, "--anonymous", "push", configuration=hook(first), workers=1) as node,
    ):
        push(node, "v1")
        first.wait_for(1)
        node.file.write_text(hook(first) + hook(second, "second"))
        node.hang_up()
        operator = Operator(node)

        def are_followed() -> bool:
            rows = operator.call("GET", "webhooks")["value"]
            return len(rows) == 2 and all(row["properties"]["cursor"] for row in rows)

        wait_until(are_followed, "the new keeper has both")
        push(node, "v2")
        second.wait_for(1)
        first.wait_for(2)
        assert (tags(first), tags(second)) == (["v1", "v2"], ["v2"])
