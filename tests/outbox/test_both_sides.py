"""Real nodes: a tag that is new at a root and at a connected registry below it, while neither knew of the other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.node import Node
from support.plain_push import has, push
from support.programs import wait_until
from support.receiver import Receiver
from support.transfer import fetch
from support.tree import QUICK, Operator, child

NAME = "plant/app"


def outbox(node: Node) -> list[dict[str, Any]]:
    """What `outbox list` shows of a node."""
    return [row["properties"] for row in Operator(node).call("GET", "outbox")["value"]]


@pytest.mark.parametrize(
    ("policy", "workers", "state"),
    [("parent-wins", 2, "overruled"), ("child-wins", 0, "arrived"), ("reject", 0, "conflict")],
)
def test_case_fault_8_a_tag_pushed_here_in_an_outage_and_there_in_another(
    tmp_path: Path, policy: str, workers: int, state: str
) -> None:
    """Root down: the plant pushes. Root back, plant down: the root gets its own. Plant back: the policy decides, both
    ends show it, and the webhooks of both are told of it once, whoever is killed after that."""
    flags = ("--anonymous", "push")
    with (
        Receiver() as hears_root,
        Receiver() as hears_plant,
        Node(tmp_path / "root", *flags, configuration=QUICK + hook(hears_root), workers=1) as root,
    ):
        operator = Operator(root)
        operator.registry("plant", "plant/*", mode="ReadWrite")
        configuration = f'{QUICK}\n[sync]\nconflict = "{policy}"\n{hook(hears_plant)}'
        string = operator.string("plant", root)
        with child(tmp_path / "plant", string, *flags, configuration=configuration, workers=workers) as plant:
            operator.wait_online("plant")
            wait_until(lambda: not Operator(plant).call("GET", "sync")["running"], "the plant is in sync")
            root.stop()
            ours = push(plant.url, NAME, "fresh", b"the plant's")
            plant.stop()
            root.start()
            theirs = push(root.url, NAME, "fresh", b"the root's")
            plant.start()
            wait_until(lambda: [row for row in outbox(plant) if row["state"] == state], f"it is {state}")
            (found,) = [row for row in outbox(plant) if row["conflict"]]
            assert (found["tag"], found["conflict"]["ours"], found["conflict"]["theirs"]) == (
                "fresh",
                ours,
                theirs,
            )
            wanted = ours if policy == "child-wins" else theirs
            wait_until(has(root.url, NAME, {"fresh": wanted}), "the root's tag is as the policy says")
            if policy == "parent-wins":
                wait_until(has(plant.url, NAME, {"fresh": theirs}), "the plant has the root's")
            image = f"/v2/{NAME}/manifests/{ours}"
            wait_until(lambda: fetch(root.url, image).status == 200, "the bytes are at the root")
            wait_until(lambda: told(operator), "the root shows it")
            (detail,) = told(operator)
            assert (theirs in detail["description"], policy in detail["description"]) == (True, True)
            wanted_event = {"ours": ours, "theirs": theirs, "winner": found["conflict"]["winner"]}
            for receiver in (hears_root, hears_plant):
                wait_until(partial(conflicts, receiver), "the webhook hears of it")
            for node in (plant, root):
                node.program.kill()
                node.start()
            # what is pushed now comes after all that is told twice
            push(plant.url, NAME, "after", b"after the kill")
            for receiver in (hears_root, hears_plant):
                wait_until(partial(heard, receiver, "after"), "the webhook hears of what came later")
                (event,) = conflicts(receiver).values()
                assert event["eventType"] == "Holdfast.TagConflict"
                assert event["subject"] == f"{NAME}:fresh"
                assert event["data"]["conflict"] == wanted_event
                assert event["data"]["connectedregistry"] == {"name": "plant"}
            for node, place in ((plant, ""), (root, "?registry=plant")):
                rows = [row["properties"] for row in Operator(node).call("GET", f"events{place}")["value"]]
                (row,) = [row for row in rows if row["action"] == "conflict"]
                assert (row["digest"], row["theirs"]) == (ours, theirs)


def hook(receiver: Receiver) -> str:
    """A webhook of everything."""
    return f'[[webhook]]\nname = "ci"\nurl = "{receiver.url}"\ninsecure = true\n'


def conflicts(receiver: Receiver) -> dict[str, dict[str, Any]]:
    """Those that a receiver was told of, by id: the same one again is known by that."""
    return {event["id"]: event for event in receiver.events if event["data"]["action"] == "conflict"}


def heard(receiver: Receiver, tag: str) -> bool:
    """Whether a receiver was told of a push of a tag."""
    return any(event["data"]["target"].get("tag") == tag for event in receiver.events)


def told(operator: Operator) -> list[dict[str, Any]]:
    """Conflicts that a root shows of the plant."""
    details = operator.shown("plant")["statusDetails"]
    return [detail for detail in details if detail["code"] == "TagConflict"]
