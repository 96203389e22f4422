"""Every client logs in and pulls at a connected registry whose parent is dead, after a restart."""

from __future__ import annotations

from pathlib import Path

from holdfast.testing.sample import build_sample
from support.login import ALL, READ
from support.login_clients import CLIENTS, Client
from support.node import Node
from support.programs import wait_until
from support.tree import QUICK, Operator, child, troubles


def test_clients_log_in_while_the_parent_is_dead_and_the_node_was_restarted(
    tmp_path: Path, short_path: Path
) -> None:
    samples = {tool: build_sample(f"away-{tool}") for tool in CLIENTS}
    with Node(tmp_path / "root", "--anonymous", "none", configuration=QUICK, workers=1) as root:
        operator = Operator(root)
        pusher, reader = (operator.token(n, "team/*", *r) for n, r in (("pusher", ALL), ("reader", READ)))
        operator.registry("plant", "team/*", clients=("reader",))
        with child(tmp_path / "plant", operator.string("plant", root)) as plant:
            wait_until(lambda: troubles(plant) == "", "the plant is connected")

            def pull_all(when: str) -> None:
                for tool, (_, pull) in CLIENTS.items():
                    place = short_path / f"{when}-{tool}"
                    pull(Client(plant.address, place, "reader", reader), f"team/{tool}", samples[tool])

            for tool, (push, _) in CLIENTS.items():
                place = short_path / f"push-{tool}"
                push(Client(root.address, place, "pusher", pusher), f"team/{tool}", samples[tool])
            pull_all("cold")
            root.program.kill()
            plant.restart()
            pull_all("away")
            assert "serves what it holds" in troubles(plant)
