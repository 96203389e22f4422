"""Real nodes: what is pushed at a grandchild is delivered by the root's webhook, whichever node was down or killed in
between."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from holdfast.resources.notification import SIGNATURE_HEADER, signature
from support.node import Node
from support.programs import wait_until
from support.pushing import OCI_MANIFEST, image
from support.receiver import Receiver
from support.transfer import fetch, target_of
from support.tree import QUICK, Operator, child, login

REPOSITORY = "team/app"
RIGHTS = ("content/read", "content/write", "metadata/read")


def put_blob(node: Node, headers: dict[str, str], body: bytes) -> str:
    """Upload; the digest."""
    begun = fetch(node.url, f"/v2/{REPOSITORY}/blobs/uploads/", "POST", headers=headers)
    assert begun.status == 202, begun
    place, digest = target_of(begun.headers["location"]), f"sha256:{hashlib.sha256(body).hexdigest()}"
    closed = fetch(
        node.url, f"{place}{'&' if '?' in place else '?'}digest={digest}", "PUT", headers=headers, body=body
    )
    assert closed.status == 201, closed
    return digest


def push(node: Node, headers: dict[str, str], tag: str) -> tuple[str, int]:
    """An image of its own; digest and size of its manifest."""
    body = image(put_blob(node, headers, f"config {tag}".encode()), put_blob(node, headers, tag.encode()))
    path = f"/v2/{REPOSITORY}/manifests/{tag}"
    answer = fetch(node.url, path, "PUT", headers={**headers, "Content-Type": OCI_MANIFEST}, body=body)
    assert answer.status == 201, answer
    return answer.headers["docker-content-digest"], len(body)


def of(receiver: Receiver, registry: str) -> dict[str, bytes]:
    """The bodies that tell of a connected registry, by tag; the same event always has the same one."""
    bodies: dict[str, bytes] = {}
    for post in list(receiver.posts):
        data = post.event["data"]
        if data.get("connectedregistry", {}).get("name") == registry:
            tag = data["target"].get("tag", "")
            assert bodies.setdefault(tag, post.body) == post.body
            assert post.headers[SIGNATURE_HEADER.lower()] == signature(b"s3cret", post.body)
    return bodies


def test_a_push_at_a_grandchild_is_delivered_by_the_root_through_outages_and_kills(tmp_path: Path) -> None:
    with Receiver() as receiver:
        hook = f'[[webhook]]\nname = "ci"\nurl = "{receiver.url}"\ninsecure = true\nsecret = "s3cret"\n'
        with Node(tmp_path / "root", configuration=QUICK + hook, workers=1) as root:
            operator = Operator(root)
            password = operator.token("pusher", REPOSITORY, *RIGHTS)
            operator.registry("plantA", REPOSITORY, mode="ReadWrite")
            operator.registry("plantB", REPOSITORY, mode="ReadWrite", parent="plantA", clients=("pusher",))
            operator.change("plantB", notificationsList=[f"{REPOSITORY}:*:push"])
            with child(tmp_path / "a", operator.string("plantA", root)) as middle:
                operator.wait_online("plantA")
                with child(tmp_path / "b", operator.string("plantB", middle)) as last:
                    follow(receiver, operator, middle, last, login("pusher", password))


def follow(receiver: Receiver, operator: Operator, middle: Node, last: Node, who: dict[str, str]) -> None:
    """Push at the last one, with everything up, with the middle down, and with everybody killed."""
    operator.wait_online("plantB")
    wait_until(lambda: "changes are logged" in last.text(), "the list has arrived at the last one")
    digest, size = push(last, who, "v1")
    wait_until(lambda: "v1" in of(receiver, "plantB"), "the first event")
    event = json.loads(of(receiver, "plantB")["v1"])
    assert event["eventType"] == "Microsoft.ContainerRegistry.ImagePushed"
    assert event["topic"] == "/connectedRegistries/plantB"
    assert event["subject"] == f"{REPOSITORY}:v1"
    assert event["id"].startswith("plantB/")
    assert event["data"]["connectedregistry"] == {"name": "plantB"}
    assert event["data"]["target"] == {
        "mediaType": OCI_MANIFEST,
        "size": size,
        "digest": digest,
        "length": size,
        "repository": REPOSITORY,
        "tag": "v1",
    }
    repeated = [one for one in receiver.events if one["id"] == event["id"]]
    assert len(repeated) == 1
    killed(receiver, operator, middle, last, who)
    from_above(receiver, operator.root, who)
    assert set(of(receiver, "plantA")) == set()  # its list is empty
    for node in (operator.root, middle, last):
        assert "s3cret" not in node.text()
        assert "/hook" not in node.text()


def killed(receiver: Receiver, operator: Operator, middle: Node, last: Node, who: dict[str, str]) -> None:
    """A push while the middle is down; every node is killed before it is delivered."""
    root, first = operator.root, json.loads(of(receiver, "plantB")["v1"])
    middle.program.kill()
    push(last, who, "v2")
    last.program.kill()
    last.start()
    root.program.kill()
    root.start()
    middle.start()
    wait_until(lambda: "v2" in of(receiver, "plantB"), "what was pushed while the middle was down")
    shown = operator.call("GET", "events?registry=plantB")["value"]
    assert [row["properties"]["tag"] for row in shown] == ["v1", "v2"]
    assert shown[0]["properties"]["eventId"] == first["id"]
    wait_until(lambda: operator.call("GET", "webhooks/ci")["properties"]["pending"] == 0, "all is delivered")
    # the push itself went up, too: the root tells of its own copy without a registry
    wait_until(
        lambda: (
            {"v1", "v2"}
            <= {
                one["data"]["target"].get("tag")
                for one in receiver.events
                if "connectedregistry" not in one["data"]
            }
        ),
        "the images at the root",
    )


def from_above(receiver: Receiver, root: Node, who: dict[str, str]) -> None:
    """What a connected registry synchronises is an event of it as well, without any pull."""
    push(root, who, "v3")
    wait_until(lambda: "v3" in of(receiver, "plantB"), "what came from the root to the last one")
