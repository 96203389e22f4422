"""Real clients and replayed sequences through a node: cold, warm, parent dead, node restarted with it dead."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from holdfast.testing.link import RelayLink
from holdfast.testing.sample import Sample, build_sample
from support.clients import CLIENTS, ORIGIN, everything
from support.node import Node, parent_toml
from support.registry import Asked, DockerRegistry
from support.sequences import LAZY, SEQUENCES, layer_of, verified

ALL = {**CLIENTS, **SEQUENCES}
NAME = "library/sample"
#: clients that know mirrors say which registry they mean
WITH_NAMESPACE = {"containerd", "containerd_ranges", "stargz", "soci"}


def once_each(parent: DockerRegistry, sample: Sample) -> None:
    """What the client wanted crossed the link, and nothing crossed it twice."""
    gets = Counter(a.target.rpartition("/")[2] for a in fetches(parent) if a.status in (200, 206))
    gets[sample.index] += gets.pop("latest", 0)
    fetched = {digest: gets[digest] for digest in everything(sample) if gets[digest]}
    assert {sample.index, layer_of(sample)[0]} <= set(fetched)
    assert set(fetched.values()) == {1}, fetched


def fetches(parent: DockerRegistry) -> list[Asked]:
    """GETs of manifests and blobs."""
    content = ("/blobs/", "/manifests/")
    return [a for a in parent.asked() if a.method == "GET" and any(c in a.target for c in content)]


@pytest.mark.parametrize("client", ALL)
def test_four_states(client: str, tmp_path: Path, short_path: Path) -> None:
    sample = build_sample(NAME, layer_bytes=(4_000, 3_000_000))
    places = iter(short_path / str(number) for number in range(4))

    def pull(through: RelayLink) -> None:
        (place := next(places)).mkdir()
        ALL[client](f"127.0.0.1:{through.port}", place, NAME, sample)

    with DockerRegistry(tmp_path / "parent") as parent:
        parent.push(NAME, sample, "latest", "1.0")
        with (
            Node(tmp_path / "node", configuration=parent_toml(parent.url)) as node,
            RelayLink("127.0.0.1", node.port) as link,
        ):
            pull(link)
            if client in LAZY:
                verified(node.address, NAME, sample)
            else:
                once_each(parent, sample)
            parent.forget()
            pull(link)
            assert fetches(parent) == []
            parent.stop()
            pull(link)
            node.restart()
            pull(link)
            asked = [h.target for h in link.heads if h.target != "/v2/"]
            assert all(f"ns={ORIGIN}" in target for target in asked) == (client in WITH_NAMESPACE)
