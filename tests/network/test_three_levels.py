"""Three nodes in a row, each a connected registry of the one above, on slow wires that are cut and healed while images
go down: a client at the last one pulls everything right, with a token that was made at the root."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from holdfast.testing.sample import Sample, build_sample
from support.clients import everything, same_layout
from support.namespaces import Row, SiteNode, SiteOperator, Wire, require, row
from support.programs import program, run, wait_until
from support.push_clients import write_layout
from support.tree import QUICK, troubles

RATE = 3_000_000.0
READ = ("content/read", "metadata/read")
APP, BASE = "team/app", "team/base"
#: link bytes ÷ unique bytes (issue 5), headers of Ethernet, IP and TCP aside
BOUND = 1.02


@dataclass(frozen=True, slots=True)
class Image:
    """One image at the root."""

    repository: str
    tag: str
    sample: Sample


def images() -> list[Image]:
    """Versions of one image that share their larger layer, and another repository that holds one of them as well."""
    versions = [build_sample("app", layer_bytes=(2_000_000, 700_000 + 1000 * number)) for number in range(5)]
    found = [Image(APP, f"1.{number}", sample) for number, sample in enumerate(versions)]
    return [*found, Image(BASE, "stable", versions[0])]


def unique_bytes(wanted: list[Image]) -> int:
    """Bytes of everything below the images' indexes, each digest once."""
    held = {digest: body for image in wanted for digest, body in everything(image.sample).items()}
    return sum(map(len, held.values()))


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


def push(levels: Levels, place: Path, image: Image) -> None:
    """`skopeo copy` into the root, from its site."""
    layout = write_layout(place / f"{image.repository}-{image.tag}", image.sample)
    target = f"docker://127.0.0.1:{levels.root.port}/{image.repository}:{image.tag}"
    flags = ("--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false")
    levels.root.site.do(run, program("skopeo"), *flags, f"oci:{layout}:latest", target)


def pull(levels: Levels, place: Path, image: Image) -> None:
    """`skopeo copy` from the leaf, as a client at its site does; every byte is compared."""
    source = f"docker://127.0.0.1:{levels.leaf.port}/{image.repository}:{image.tag}"
    flags = ("--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false")
    login = ("--src-creds", f"reader:{levels.password}")
    levels.leaf.site.do(run, program("skopeo"), *flags, *login, source, f"oci:{place}:latest")
    same_layout(place, image.sample)


class Storm(threading.Thread):
    """Cuts the wires in turn, each time more bytes have come down, unplugged or silent; heals them a while later."""

    EVERY_BYTES, DARK_SECONDS = 2_000_000, 1.5

    def __init__(self, wires: tuple[Wire, ...]) -> None:
        super().__init__(daemon=True)
        self._wires, self._over, self.cuts = wires, threading.Event(), 0

    def run(self) -> None:
        marks = [wire.count().down_bytes for wire in self._wires]
        while not self._over.wait(0.05):
            for number, wire in enumerate(self._wires):
                if wire.count().down_bytes - marks[number] > self.EVERY_BYTES:
                    wire.cut(unplugged=self.cuts % 3 == 2)
                    self._over.wait(self.DARK_SECONDS)
                    wire.heal()
                    self.cuts += 1
                    marks[number] = wire.count().down_bytes

    def __enter__(self) -> Storm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def persistently(work: Callable[..., Any], *args: Any) -> None:
    """A client that tries again, as they do: what fails while a wire is cut must work after it is healed."""

    def done() -> bool:
        try:
            work(*args)
        except AssertionError as failed:
            print(failed)
            return False
        return True

    wait_until(done, f"{work.__name__} {args}")


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Levels]:
    require()
    with row(3, RATE) as sites, levels(tmp_path, sites) as made:
        yield made


def test_pulls_through_two_nodes_while_the_wires_are_cut(three: Levels, tmp_path: Path) -> None:
    wanted, wires = images(), three.sites.wires
    for image in wanted:
        push(three, tmp_path / "pushed", image)
    before = [wire.count() for wire in wires]
    with Storm(wires) as storm:
        for number, image in enumerate(wanted):
            persistently(pull, three, tmp_path / f"pulled-{number}", image)
    print(f"{storm.cuts} cuts")
    assert storm.cuts >= 6
    for number, wire in enumerate(wires):
        crossed = wire.count() - before[number]
        share = crossed.payload / unique_bytes(wanted)
        print(f"wire {number}: {share:.4f} of the unique bytes, {crossed.raw / unique_bytes(wanted):.4f} raw")
        assert share <= BOUND
    operator = three.operator
    wait_until(
        lambda: operator.shown("cells")["connectionState"] == "Online", "the root knows the leaf's state"
    )
    assert operator.shown("cells")["activation"] == {"status": "Active"}
    assert operator.shown("cells")["parent"]["id"] == "/connectedRegistries/plant"
