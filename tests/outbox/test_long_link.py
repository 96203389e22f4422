"""Real nodes over a link with a round trip: what goes up is counted in requests, and how many are side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from holdfast.testing.link import RelayLink
from support.node import Node
from support.plain_push import digest_of, has, put_blob
from support.programs import wait_until
from support.transfer import fetch
from support.tree import QUICK, Operator, child

NAME, LAYERS, MOST = "plant/app", 5, 12
KIND = "application/vnd.oci.image.manifest.v1+json"
FLAGS = ("--anonymous", "push")


def push(url: str, tag: str, size: int) -> str:
    """An image of five layers; its digest."""
    bodies = [
        json.dumps({"tag": tag}).encode(),
        *(f"{tag} {n} ".encode() * (size // 8) for n in range(LAYERS)),
    ]
    rows = [{"mediaType": "a/b", "digest": put_blob(url, NAME, body), "size": len(body)} for body in bodies]
    document = {"schemaVersion": 2, "mediaType": KIND, "config": rows[0], "layers": rows[1:]}
    body = json.dumps(document).encode()
    answer = fetch(url, f"/v2/{NAME}/manifests/{tag}", "PUT", headers={"Content-Type": KIND}, body=body)
    assert answer.status == 201, answer
    return digest_of(body)


@pytest.mark.parametrize("workers", [0, 2])
def test_case_fault_15_an_image_of_five_layers_costs_at_most_twelve_requests(
    tmp_path: Path, workers: int
) -> None:
    """Those for its content, and for what is there already; what the gateway tells besides goes by time."""
    with (
        Node(tmp_path / "root", *FLAGS, configuration=QUICK, workers=1) as root,
        RelayLink("127.0.0.1", root.port, round_trip=0.05) as link,
    ):
        operator = Operator(root)
        operator.registry("plant", "plant/*", mode="ReadWrite")
        string = operator.string("plant", root).replace(f":{root.port}", f":{link.port}")
        with child(tmp_path / "plant", string, *FLAGS, workers=workers) as plant:
            operator.wait_online("plant")
            turn(plant, "offline")
            wanted = {f"v{number}": push(plant.url, f"v{number}", 20_000) for number in range(10)}
            wait_until(lambda: waiting(plant) == 20, "twenty entries wait")
            before = len(link.heads)
            turn(plant, "auto")
            wait_until(has(root.url, NAME, wanted), "all tags at the root")
            asked = [
                head for head in link.heads[before:] if "/v2/" in head.target or "/exists" in head.target
            ]
            assert len(asked) <= MOST * len(wanted)
            assert sum(head.method == "POST" for head in asked if "/uploads/" in head.target) == 60
            assert sum("/manifests/" in head.target for head in asked) == 10
            wait_until(lambda: waiting(plant) == 0, "nothing waits")


def test_case_fault_15_no_bytes_go_up_before_it_is_known_who_may_send_them(tmp_path: Path) -> None:
    """Nothing was fetched from this parent before, so how it wants to be logged in to is not known either: a blob that
    were sent to find out would be sent twice."""
    with (
        Node(tmp_path / "root", configuration=QUICK, workers=1) as root,
        RelayLink("127.0.0.1", root.port, round_trip=0.05) as link,
    ):
        operator = Operator(root)
        operator.registry("plant", "plant/*", mode="ReadWrite")
        string = operator.string("plant", root).replace(f":{root.port}", f":{link.port}")
        with child(tmp_path / "plant", string, *FLAGS) as plant:
            operator.wait_online("plant")
            turn(plant, "offline")
            for number in range(4):
                push(plant.url, f"v{number}", 20_000)
            before = len(link.heads)
            turn(plant, "auto")
            wait_until(lambda: waiting(plant) == 0, "everything went up")
            posts = [head.target for head in link.heads[before:] if head.method == "POST"]
            assert sum("/uploads/" in target for target in posts) == 4 * (LAYERS + 1)


def turn(node: Node, switch: str) -> None:
    """The operator's word about the one parent."""
    (parent,) = Operator(node).call("GET", "parents")["value"]
    Operator(node).call("PATCH", f"parents/{parent['name']}", {"switch": switch})


def waiting(node: Node) -> int:
    """Entries that are still to go up."""
    return int(Operator(node).call("GET", "outbox/status")["entries"])
