"""Three nodes in a row, each a connected registry of the one above, on slow wires that are cut and healed while images
go down: a client at the last one pulls everything right, with a token that was made at the root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.namespaces import Row, SiteNode, SiteOperator, require, row
from support.programs import wait_until
from support.tree import QUICK, troubles
from support.weather import BOUND, images, persistently, pull, push, shares, storms, unique_bytes

RATE = 6_000_000.0
READ = ("content/read", "metadata/read")


@dataclass(slots=True)
class Levels:
    """The root, the middle and the leaf, on their sites; and the password of the leaf's client."""

    sites: Row
    root: SiteNode
    middle: SiteNode
    leaf: SiteNode
    operator: SiteOperator
    password: str


@contextmanager
def levels(place: Path, sites: Row) -> Iterator[Levels]:
    """Three nodes, connected."""
    with ExitStack() as stack:

        def node(number: int, name: str, *flags: str, string: str = "") -> SiteNode:
            environ = {"ACR_REGISTRY_CONNECTION_STRING": string} if string else None
            made = SiteNode(
                sites.sites[number], place / name, *flags, configuration=QUICK, workers=1, env=environ
            )
            return stack.enter_context(made)

        root = node(0, "root", "--anonymous", "push")
        operator = SiteOperator(root)
        password = operator.token("reader", "team/*", *READ)
        operator.registry("plant", "team/*")
        operator.registry("cells", "team/*", parent="plant", clients=("reader",))
        middle = node(1, "middle", string=operator.string("plant", root))
        leaf = node(2, "leaf", string=operator.string("cells", middle))
        wait_until(
            lambda: not any(one.site.do(troubles, one) for one in (middle, leaf)), "both are connected"
        )
        yield Levels(sites, root, middle, leaf, operator, password)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Levels]:
    require()
    with row(3, RATE) as sites, levels(tmp_path, sites) as made:
        yield made


def test_pulls_through_two_nodes_while_the_wires_are_cut(three: Levels, tmp_path: Path) -> None:
    wanted = images()
    for image in wanted:
        push(three.root.site, three.root.port, tmp_path / "pushed", image)
    before = [wire.count() for wire in three.sites.wires]
    with storms(three.sites) as weather:
        for number, image in enumerate(wanted):
            place = tmp_path / f"pulled-{number}"
            persistently(pull, three.leaf.site, three.leaf.port, place, image, f"reader:{three.password}")
    assert min(storm.cuts for storm in weather) >= 3
    assert max(shares(three.sites, before, unique_bytes(wanted))) <= BOUND
    operator = three.operator
    wait_until(
        lambda: operator.shown("cells")["connectionState"] == "Online", "the root knows the leaf's state"
    )
    assert operator.shown("cells")["activation"] == {"status": "Active"}
    assert operator.shown("cells")["parent"]["id"] == "/connectedRegistries/plant"
