"""Real clients push to a root and pull back; every byte is compared with what went in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast.testing.sample import Sample, build_sample
from support.clients import CLIENTS
from support.node import Node
from support.push_clients import EXACT, PACKED, holds, holds_packed

#: clients that send the sample's artifact along with its index
WITH_REFERRERS = {"oras", "regctl"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A root that takes pushes from anybody."""
    with Node(tmp_path_factory.mktemp("root"), "--anonymous", "push", workers=2) as node:
        yield node


def sample_of(client: str) -> Sample:
    """Bytes that no other client has pushed."""
    return build_sample(f"pushed/by-{client}", layer_bytes=(4_000, 3_000_000))


@pytest.mark.parametrize("client", EXACT)
def test_a_multi_platform_index_keeps_its_bytes(client: str, root: Node, short_path: Path) -> None:
    sample, name = sample_of(client), f"exact/{client}"
    EXACT[client](root.address, short_path, name, sample)
    holds(root.address, name, sample, artifact=client in WITH_REFERRERS)
    (short_path / "back").mkdir()
    CLIENTS[client](root.address, short_path / "back", name, sample)


@pytest.mark.parametrize("client", PACKED)
def test_an_image_packed_by_the_client_unpacks_the_same(client: str, root: Node, short_path: Path) -> None:
    sample, name = sample_of(client), f"packed/{client}"
    PACKED[client](root.address, short_path, name, sample)
    holds_packed(root.address, name, sample)


def test_what_one_client_pushed_the_others_pull(root: Node, short_path: Path) -> None:
    sample, name = sample_of("one"), "exact/shared"
    EXACT["oras"](root.address, short_path, name, sample)
    root.restart()
    for client, pull in CLIENTS.items():
        (short_path / client).mkdir()
        pull(root.address, short_path / client, name, sample)
