"""Three nodes in a row, each a connected registry of the one above, on slow wires that are cut and healed while images
go down: a client at the last one pulls everything right, with a token that was made at the root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.namespaces import Row, SiteNode, SiteOperator, require, row
from support.programs import wait_until
from support.tree import troubles
from support.weather import BOUND, holds, images, persistently, pull, push, shares, storms

RATE = 6_000_000.0
#: what is said however little happens costs bytes by time, and time is to decide nothing
SELDOM = "[gateway]\npoll = 30.0\n"
READ = ("content/read", "metadata/read")


def site_node(sites: Row, number: int, place: Path, *flags: str, string: str = "") -> SiteNode:
    """A node on the site with that number; with a connection string, a child."""
    environ = {"ACR_REGISTRY_CONNECTION_STRING": string} if string else None
    return SiteNode(sites.sites[number], place, *flags, configuration=SELDOM, workers=1, env=environ)


def root_of(place: Path, sites: Row) -> SiteNode:
    """The first of a row."""
    return site_node(sites, 0, place / "root", "--anonymous", "push")


def register(root: SiteNode) -> tuple[SiteOperator, str]:
    """Two connected registries below it, one below the other; the password of the lower one's client."""
    operator = SiteOperator(root)
    password = operator.token("reader", "team/*", *READ)
    operator.registry("plant", "team/*")
    operator.registry("cells", "team/*", parent="plant", clients=("reader",))
    return operator, password


@contextmanager
def children(
    place: Path, sites: Row, operator: SiteOperator, root: SiteNode
) -> Iterator[tuple[SiteNode, SiteNode]]:
    """Both at work."""
    string = operator.string("plant", root)
    with site_node(sites, 1, place / "plant", string=string) as plant:
        string = operator.string("cells", plant)
        with site_node(sites, 2, place / "cells", string=string) as cells:
            yield plant, cells


def is_listed(operator: SiteOperator) -> bool:
    """Whether the root tells of the leaf that it is there, where it belongs, and synchronised."""
    shown = operator.shown("cells")
    assert shown["parent"]["id"] == "/connectedRegistries/plant"
    return bool(
        shown["connectionState"] == "Online"
        and shown["activation"] == {"status": "Active"}
        and shown["parent"]["syncProperties"]["lastSyncTime"]
        and shown["registrySyncResult"]["syncState"] == "Succeeded"
    )


def test_everything_comes_down_two_levels_while_the_wires_are_cut(tmp_path: Path) -> None:
    """Half of it is at the root before there is anybody below. Nobody asks before all is at the leaf, and all wires are
    cut when somebody does."""
    require()
    wanted = images()
    with row(3, RATE) as sites, root_of(tmp_path, sites) as root:
        operator, password = register(root)
        for image in wanted[:3]:
            push(root.site, root.port, tmp_path / "pushed", image)
        with storms(sites) as weather, children(tmp_path, sites, operator, root) as (_, leaf):
            for image in wanted[3:]:
                push(root.site, root.port, tmp_path / "pushed", image)
            wait_until(lambda: holds(leaf, wanted), "all images at the leaf", 90)
            assert max(shares(sites, wanted)) <= BOUND
            wait_until(lambda: is_listed(operator), "the root knows that the leaf is synchronised", 60)
            for storm in weather:
                storm.stop()
            for wire in sites.wires:
                wire.cut()
            for number, image in enumerate(wanted):
                pull(leaf.site, leaf.port, tmp_path / f"pulled-{number}", image, f"reader:{password}")
    assert min(storm.cuts for storm in weather) >= 3


def test_a_client_pulls_at_once_what_is_on_its_way_while_the_wires_are_cut(tmp_path: Path) -> None:
    """What it misses is asked for through both nodes, which synchronise the same images: nothing comes twice."""
    require()
    wanted = images()
    with row(3, RATE) as sites, root_of(tmp_path, sites) as root:
        operator, password = register(root)
        with children(tmp_path, sites, operator, root) as below:
            wait_until(lambda: not any(node.site.do(troubles, node) for node in below), "both are connected")
            with storms(sites) as weather:
                for number, image in enumerate(wanted):
                    push(root.site, root.port, tmp_path / "pushed", image)
                    place = tmp_path / f"pulled-{number}"
                    persistently(pull, below[1].site, below[1].port, place, image, f"reader:{password}")
            assert min(storm.cuts for storm in weather) >= 3
            assert max(shares(sites, wanted)) <= BOUND
            wait_until(lambda: is_listed(operator), "the root knows the leaf's state", 60)
