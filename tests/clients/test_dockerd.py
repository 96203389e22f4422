"""Classic dockerd, which sends its mirrors no credentials, at a node that wants a login from everybody else: a
connected registry whose file names the addresses of its machines."""

from __future__ import annotations

from pathlib import Path

from holdfast.demo.seed import seed
from holdfast.testing.sample import build_sample
from support.node import Node
from support.programs import wait_until
from support.sequences import dockerd
from support.transfer import fetch
from support.tree import QUICK, Operator, child, troubles

NAME = "library/sample"


def test_it_pulls_by_its_address_cold_and_with_the_parent_dead(tmp_path: Path) -> None:
    sample = build_sample(NAME)
    (tmp_path / "root").mkdir()
    seed(tmp_path / "root" / "data", NAME, "latest", sample, 1.0)
    with Node(tmp_path / "root", configuration=QUICK, workers=1) as root:
        operator = Operator(root)
        operator.registry("plant", "library/*")
        near = f'{QUICK}[login]\nclient_addresses = ["127.0.0.0/8"]\n'
        with child(tmp_path / "plant", operator.string("plant", root), configuration=near) as plant:
            wait_until(lambda: troubles(plant) == "", "the plant is connected")
            dockerd(plant.address, tmp_path, NAME, sample)
            assert fetch(plant.url, f"/v2/{NAME}/blobs/uploads/", "POST").status == 405
            assert fetch(root.url, "/v2/").status == 401  # nobody is near to the root
            root.program.kill()
            plant.restart()
            dockerd(plant.address, tmp_path, NAME, sample)
