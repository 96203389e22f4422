"""A ReadWrite child takes pushes while it is cut off, is killed twice, and its parent has each of them once after.
Images with tags of their own go up side by side, in whatever order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from holdfast_core.store import Store
from support.cue import CueRegistry
from support.namespaces import SiteNode, SiteOperator, Wire, require, row
from support.node import parent_toml
from support.plain_push import has, push
from support.programs import wait_until
from support.registry import DockerRegistry
from support.transfer import fetch
from support.tree import QUICK, login
from support.weather import BOUND

RATE = 50_000_000.0
REPOSITORY = "team/app"
Peer = DockerRegistry | CueRegistry
#: whether tags have these digests at the parent
There = Callable[[dict[str, str]], bool]


def kill(node: SiteNode) -> None:
    """kill -9 of every process of it, and another start."""
    node.program.kill()
    node.start()


def tags_taken(root: SiteNode) -> list[str]:
    """The tag of each move that a root committed, by its log of events."""
    store = Store.create_or_open(root.data, write=False)
    try:
        assert store.events.head() is not None
        return [
            event.tag
            for event in store.events.after(0, 10_000)
            if (event.verb, event.kind) == ("push", "tag")
        ]
    finally:
        store.close()


def outage(
    wire: Wire, child: SiteNode, known: Mapping[str, str], there: There, pushes: int, layer_bytes: int
) -> list[str]:
    """So many pushes while the wire is cut, with two kills; it is healed, cut once more while they go up, and healed.
    The tags, when all are at the parent and the wire has not carried much more than their bytes."""
    wire.cut()
    wanted: dict[str, str] = {}
    for number in range(pushes):
        tag = f"t{number:03}"
        wanted[tag] = child.site.do(push, child.url, REPOSITORY, tag, os.urandom(layer_bytes), known)
        if number in (pushes // 3, 2 * pushes // 3):
            kill(child)
    before = wire.unique()
    wire.heal()
    wait_until(lambda: there({"t000": wanted["t000"]}), "the first tag at the parent")
    wire.cut(unplugged=True)
    assert not there(wanted)
    wire.heal()
    wait_until(lambda: there(wanted), "all tags at the parent", 300)
    share = (wire.unique() - before) / (pushes * layer_bytes)
    print(f"{share:.4f} of the unique bytes")
    assert 1 <= share <= BOUND
    return list(wanted)


def test_two_hundred_pushes_arrive_once_each_after_two_cuts_and_two_kills(tmp_path: Path) -> None:
    require()
    with (
        row(2, RATE) as sites,
        SiteNode(
            sites.sites[0], tmp_path / "root", "--anonymous", "pull", configuration=QUICK, workers=1
        ) as root,
    ):
        operator = SiteOperator(root)
        password = operator.token("pusher", REPOSITORY, "content/read", "content/write", "metadata/read")
        operator.registry("plant", REPOSITORY, mode="ReadWrite", clients=("pusher",))
        environ = {"ACR_REGISTRY_CONNECTION_STRING": operator.string("plant", root)}
        with SiteNode(
            sites.sites[1], tmp_path / "child", configuration=QUICK, workers=1, env=environ
        ) as child:
            known, begin = login("pusher", password), f"/v2/{REPOSITORY}/blobs/uploads/"
            wait_until(
                lambda: child.site.do(fetch, child.url, begin, "POST", headers=known).status == 202,
                "the mode is taken up",
            )

            def there(wanted: dict[str, str]) -> bool:
                return root.site.do(has(root.url, REPOSITORY, wanted))

            tags = outage(sites.wires[0], child, known, there, 200, 5 << 18)
            assert sorted(tags_taken(root)) == tags


@pytest.mark.parametrize("registry", [DockerRegistry, CueRegistry])
def test_other_registries_have_them_once_each_as_well(
    registry: Callable[[Path, str], Peer], tmp_path: Path
) -> None:
    require()
    with row(2, RATE) as sites:
        top, below = sites.sites
        with top.do(registry, tmp_path / "parent", "0.0.0.0") as parent:
            toml = parent_toml(f"http://{top.below}:{parent.port}", probe_interval=1.0)
            flags = ("--anonymous", "push", "--mode", "ReadWrite")
            with SiteNode(below, tmp_path / "child", *flags, configuration=toml, workers=1) as child:

                def there(wanted: dict[str, str]) -> bool:
                    return top.do(has(parent.url, REPOSITORY, wanted))

                tags = outage(sites.wires[0], child, {}, there, 40, 1 << 20)
                assert sorted(one for one in parent.taken() if one in tags) == tags
