"""Three levels of real nodes, with skopeo as the client at the lowest: what the root says arrives two levels down, and
what is below goes on when all above is dead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from holdfast.testing.sample import Sample, build_sample
from support.clients import same_layout
from support.node import Node
from support.programs import program, run, wait_until
from support.push_clients import skopeo as push
from support.push_clients import write_layout
from support.tree import ARRIVES, QUICK, Operator, bearer, child, login, pull, troubles

REPOSITORY = "team/app"
READ = ("content/read", "metadata/read")
#: how long a revocation may take to have effect once it has arrived (seconds)
EFFECT = 5.0


@dataclass
class Levels:
    """The root, a plant below it, a cell below that; one client of each but the root."""

    root: Node
    plant: Node
    cell: Node
    operator: Operator
    passwords: dict[str, str]
    sample: Sample


@pytest.fixture
def levels(tmp_path: Path) -> Iterator[Levels]:
    """Three nodes, connected, with one image at the root."""
    sample = build_sample("app")
    with ExitStack() as stack:
        root = stack.enter_context(
            Node(tmp_path / "root", "--anonymous", "push", configuration=QUICK, workers=1)
        )
        (place := tmp_path / "layout").mkdir()
        push(root.address, place, REPOSITORY, sample)
        operator = Operator(root)
        passwords = {name: operator.token(name, REPOSITORY, *READ) for name in ("plantclient", "cellclient")}
        operator.registry("plant", REPOSITORY, clients=("plantclient",))
        operator.registry("cells", REPOSITORY, parent="plant", clients=("cellclient",))
        plant = stack.enter_context(child(tmp_path / "plant", operator.string("plant", root)))
        cell = stack.enter_context(child(tmp_path / "cell", operator.string("cells", plant)))
        held = Levels(root, plant, cell, operator, passwords, sample)
        wait_until(lambda: troubles(plant) == "" and troubles(cell) == "", "both are connected")
        yield held


def log_in(node: Node, place: Path, name: str, password: str) -> Path:
    """`skopeo login`; the file that holds the login."""
    place.mkdir(parents=True, exist_ok=True)
    authority = place / "auth.json"
    run(
        program("skopeo"),
        *("login", "--tls-verify=false", "--authfile", authority),
        *("--username", name, "--password", password, node.address),
    )
    return authority


def copy(node: Node, authority: Path, sample: Sample) -> None:
    """`skopeo copy` of every platform; every byte is compared."""
    out = authority.parent / f"out{time.monotonic_ns()}"
    run(
        program("skopeo"),
        *("--insecure-policy", "copy", "--all", "--src-tls-verify=false", "--src-authfile", authority),
        f"docker://{node.address}/{REPOSITORY}:latest",
        f"oci:{out}:latest",
    )
    same_layout(out, sample)


def test_what_the_root_says_arrives_two_levels_down(levels: Levels, tmp_path: Path) -> None:
    operator, cell, secret = levels.operator, levels.cell, levels.passwords["cellclient"]
    wait_until(lambda: operator.shown("cells")["connectionState"] == "Online", "the root knows the cell")
    shown = operator.shown("cells")
    assert shown["parent"]["id"] == "/connectedRegistries/plant"
    assert shown["activation"] == {"status": "Active"}
    authority = log_in(cell, tmp_path / "client", "cellclient", secret)
    copy(cell, authority, levels.sample)
    # each node has its own clients, and nobody else's
    assert pull(levels.plant, REPOSITORY, login("cellclient", secret)).status == 401
    assert pull(cell, REPOSITORY, login("plantclient", levels.passwords["plantclient"])).status == 401
    with pytest.raises(AssertionError, match="This operation is not allowed on this registry"):
        run(
            program("skopeo"),
            *("--insecure-policy", "copy", "--all", "--dest-tls-verify=false", "--dest-authfile", authority),
            f"oci:{write_layout(tmp_path / 'new', build_sample('new'))}:latest",
            f"docker://{cell.address}/{REPOSITORY}:new",
        )
    issued = bearer(cell, "cellclient", secret, f"repository:{REPOSITORY}:pull")
    assert pull(cell, REPOSITORY, issued).status == 200
    operator.status("cellclient", "disabled")
    began = time.monotonic()
    wait_until(lambda: pull(cell, REPOSITORY, issued).status == 401, "refused", 2 * ARRIVES + EFFECT)
    print(f"revoked two levels down after {time.monotonic() - began:.2f} s")
    with pytest.raises(AssertionError, match=r"unauthorized|invalid username/password"):
        log_in(cell, tmp_path / "again", "cellclient", secret)


def test_a_cell_that_is_deactivated_at_the_root_learns_it_from_its_plant(levels: Levels) -> None:
    wait_until(lambda: levels.operator.shown("cells")["connectionState"] == "Online", "the root knows it")
    levels.operator.call("POST", "connectedRegistries/cells/deactivate")
    wait_until(lambda: "deactivated this instance" in troubles(levels.cell), "the cell learns")
    wait_until(
        lambda: levels.operator.shown("cells")["activation"] == {"status": "Inactive"}, "the root agrees"
    )
    wait_until(lambda: troubles(levels.cell) == "", "after a lease it asks again")
    wait_until(lambda: levels.operator.shown("cells")["connectionState"] == "Online", "and is listed again")


def test_logins_and_pulls_go_on_when_all_above_is_dead(levels: Levels, tmp_path: Path) -> None:
    plant, cell = levels.plant, levels.cell
    for node, name in ((plant, "plantclient"), (cell, "cellclient")):
        authority = log_in(node, tmp_path / name, name, levels.passwords[name])
        copy(node, authority, levels.sample)
    levels.root.program.kill()
    plant.restart()
    authority = log_in(plant, tmp_path / "plant-again", "plantclient", levels.passwords["plantclient"])
    copy(plant, authority, levels.sample)
    plant.program.kill()
    cell.program.kill()
    cell.start()
    authority = log_in(cell, tmp_path / "cell-again", "cellclient", levels.passwords["cellclient"])
    copy(cell, authority, levels.sample)
    assert "serves what it holds" in troubles(cell)
    assert pull(cell, REPOSITORY, login("cellclient", "wrong")).status == 401
    levels.root.start()
    plant.start()
    wait_until(lambda: troubles(plant) == "" and troubles(cell) == "", "all is well again")
    levels.operator.status("cellclient", "disabled")
    known = login("cellclient", levels.passwords["cellclient"])
    wait_until(lambda: pull(cell, REPOSITORY, known).status == 401, "the root's word arrives again")
