"""containerd itself, pointed by its hosts file at connected registries of the second and third level: it asks each of
them for a registry that only the root knows the name of."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from holdfast.demo.seed import seed
from holdfast.testing.sample import build_sample
from support.clients import ORIGIN, containerd
from support.node import Node
from support.programs import wait_until
from support.transfer import fetch
from support.tree import QUICK, Operator, child

NAME = "library/sample"


def test_case_trust_4_containerd_pulls_from_the_second_and_third_level(tmp_path: Path) -> None:
    sample = build_sample(NAME)
    (tmp_path / "root").mkdir()
    seed(tmp_path / "root" / "data", NAME, "latest", sample, 1.0)
    named = QUICK.replace("[gateway]\n", f'[gateway]\nnamespaces = ["{ORIGIN}"]\n')
    with Node(tmp_path / "root", configuration=named, workers=1) as root:
        operator = Operator(root)
        operator.registry("plant", "library/*")
        operator.registry("cells", "library/*", parent="plant")
        pull = ("--anonymous", "pull")
        with child(tmp_path / "plant", operator.string("plant", root), *pull) as plant:
            operator.wait_online("plant")
            with child(tmp_path / "cells", operator.string("cells", plant), *pull) as cells:
                for level, node in enumerate((plant, cells), 2):
                    wait_until(partial(is_answered, node), "the root's name is known")
                    (place := tmp_path / f"c{level}").mkdir()
                    containerd(node.address, place, NAME, sample)
                    asked = [line for line in node.events() if "containerd" in line.get("agent", "")]
                    assert asked
                    assert {line.get("ns") for line in asked} == {ORIGIN}
                    assert {line["status"] for line in asked} <= {200, 206}


def is_answered(node: Node) -> bool:
    """Whether it answers for the name."""
    return fetch(node.url, f"/v2/{NAME}/manifests/latest?ns={ORIGIN}").status == 200
