"""containerd names the registry that it means by `ns`: at any depth below a root its names mean its content."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from holdfast.demo.seed import seed
from holdfast.testing.sample import build_sample
from support.node import Node
from support.programs import wait_until
from support.transfer import fetch
from support.tree import QUICK, Operator, child

NAME = "library/sample"
PULL = ("--anonymous", "pull")


def answers(node: Node, namespace: str) -> int:
    return fetch(node.url, f"/v2/{NAME}/manifests/latest?ns={namespace}").status


def is_answered(node: Node, namespace: str) -> bool:
    return answers(node, namespace) == 200


def test_case_trust_4_the_names_of_the_root_are_answered_for_at_every_level(tmp_path: Path) -> None:
    """Its login server and the names that its configuration adds; a level may add its own, for itself and those below;
    what nobody named is refused, and a wildcard takes all. A restart without the parent forgets none."""
    (tmp_path / "root").mkdir()
    seed(tmp_path / "root" / "data", NAME, "latest", build_sample(NAME), 1.0)
    root_file = with_namespaces(QUICK, "docker.io", "root.example")
    with Node(tmp_path / "root", configuration=root_file, workers=1) as root:
        root.file.write_text(f'{root_file}\n[login]\nserver = "{root.address}"\n')
        root.restart()
        operator = Operator(root)
        operator.registry("plant", "library/*")
        operator.registry("cells", "library/*", parent="plant")
        plant_file = with_namespaces(QUICK, "plant.example:5000")
        with child(
            tmp_path / "plant", operator.string("plant", root), *PULL, configuration=plant_file
        ) as plant:
            operator.wait_online("plant")
            string = operator.string("cells", plant)
            with child(tmp_path / "cells", string, *PULL, configuration=QUICK) as cells:
                for node in (plant, cells):
                    for name in (root.address, "docker.io", "plant.example:5000", "ROOT.example"):
                        wait_until(partial(is_answered, node, name), f"{name} at {node.url}")
                    assert answers(node, "quay.io") == 404
                root.program.kill()
                cells.restart()
                assert answers(cells, "root.example") == 200
                wait_until(lambda: "root.example" in [line.get("ns") for line in cells.events()], "the log")


def test_case_trust_4_a_wildcard_takes_every_name(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    seed(tmp_path / "root" / "data", NAME, "latest", build_sample(NAME), 1.0)
    with Node(tmp_path / "root", configuration=QUICK, workers=1) as root:
        operator = Operator(root)
        operator.registry("plant", "library/*")
        everything = with_namespaces(QUICK, "*")
        with child(
            tmp_path / "plant", operator.string("plant", root), *PULL, configuration=everything
        ) as plant:
            operator.wait_online("plant")
            assert answers(plant, "registry.nobody.named") == 200


def with_namespaces(configuration: str, *names: str) -> str:
    """The configuration with `gateway.namespaces`."""
    assert configuration.count("[gateway]\n") == 1
    listed = ", ".join(f'"{name}"' for name in names)
    return configuration.replace("[gateway]\n", f"[gateway]\nnamespaces = [{listed}]\n")
