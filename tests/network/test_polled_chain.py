"""A registry that is no Holdfast, a mirror that polls it, and one more that polls the first, on slow wires that are cut
and healed: what is wanted is at the last one before anybody asks, and what nobody named comes when somebody does."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from holdfast.testing.sample import build_sample
from holdfast_core.digest import Digest
from holdfast_core.store import Store
from support.cue import CueRegistry
from support.namespaces import SiteNode, SiteOperator, require, row
from support.programs import program, run, wait_until
from support.push_clients import write_layout
from support.registry import DockerRegistry
from support.transfer import fetch
from support.weather import (
    APP,
    BASE,
    BOUND,
    Image,
    holds,
    images,
    persistently,
    pull,
    push,
    shares,
    storms,
)

RATE = 6_000_000.0
MIRROR = """
[[parent]]
url = "{url}"
insecure = true
default = true
probe_interval = 1.0

[sync]
schedule = "* * * * *"
[[sync.repositories]]
name = "team/app"
[[sync.repositories]]
name = "team/base"
"""


Peer = DockerRegistry | CueRegistry


def push_with_referrers(parent: Peer, place: Path, image: Image) -> None:
    """`oras copy` of the graph with what refers to it."""
    layout = write_layout(place / "graph", image.sample, referrers=True)
    target = f"127.0.0.1:{parent.port}/{image.repository}:{image.tag}"
    copy = (program("oras"), "copy", "--recursive", "--from-oci-layout", f"{layout}:latest")
    run(*copy, "--to-plain-http", target)


def arrived(node: SiteNode, wanted: list[Image]) -> bool:
    """Whether a node has all images and what refers to the last; asks it for a run where none is coming."""
    if holds(node, wanted) and refers(node, wanted[-1]):
        return True
    operator = SiteOperator(node)
    found: dict[str, Any] = operator.call("GET", "sync")
    if not found["running"] and found["asked"] != "ManualResync":
        operator.call("POST", "sync/run")
    return False


def refers(node: SiteNode, image: Image) -> bool:
    """Whether it has the artifact."""
    store = Store.create_or_open(node.data, write=False)
    try:
        return store.references.manifest(image.repository, Digest.parse(image.sample.artifact)) is not None
    finally:
        store.close()


@pytest.mark.parametrize("registry", [DockerRegistry, CueRegistry])
def test_everything_comes_down_a_chain_below_a_polled_parent(
    registry: Callable[[Path, str], Peer], tmp_path: Path
) -> None:
    require()
    *first, last = images()
    assert (first[0].repository, last.repository) == (APP, BASE)
    unnamed = Image("team/other", "x", build_sample("other"))
    with row(3, RATE) as sites:
        top, middle, bottom = sites.sites
        parent = top.do(registry, tmp_path / "parent", "0.0.0.0")
        with parent:
            for image in first[:3]:
                push(top, parent.port, tmp_path / "pushed", image)
            toml = MIRROR.format(url=f"http://{top.below}:{parent.port}")
            with (
                storms(sites) as weather,
                SiteNode(middle, tmp_path / "mirror", configuration=toml, workers=1) as mirror,
                SiteNode(
                    bottom,
                    tmp_path / "leaf",
                    configuration=MIRROR.format(url=f"http://{mirror.address}"),
                    workers=1,
                ) as leaf,
            ):
                for image in first[3:]:
                    push(top, parent.port, tmp_path / "pushed", image)
                top.do(push_with_referrers, parent, tmp_path, last)
                push(top, parent.port, tmp_path / "pushed", unnamed)
                persistently(pull, bottom, leaf.port, tmp_path / "through", unnamed)
                for node in (mirror, leaf):
                    wait_until(partial(arrived, node, [*first, last]), f"all is at {node.log}")
                found = shares(sites, [*first, last, unnamed])
                for storm in weather:
                    storm.stop()
                for wire in sites.wires:
                    wire.cut()
                for number, image in enumerate([*first, last, unnamed]):
                    pull(bottom, leaf.port, tmp_path / f"pulled-{number}", image)
                listed = bottom.do(fetch, leaf.url, f"/v2/{BASE}/referrers/{last.sample.index}")
                assert [one["digest"] for one in json.loads(listed.body)["manifests"]] == [
                    last.sample.artifact
                ]
                assert min(storm.cuts for storm in weather) >= 3
                assert max(found) <= BOUND
