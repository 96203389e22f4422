"""Real clients push to a root and pull back; every byte is compared with what went in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path

import pytest
from holdfast.testing.sample import Sample, build_sample
from holdfast_core.digest import Digest
from support.clients import CLIENTS
from support.node import Node
from support.push_clients import EXACT, PACKED, holds, holds_packed
from support.stores import file_of, flip_bit
from support.transfer import fetch

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


@pytest.mark.parametrize("damage", ["rot", "gone", "short"])
def test_case_fault_4_skopeo_heals_a_damaged_layer_by_pushing_it_again(
    damage: str, root: Node, short_path: Path
) -> None:
    client = "skopeo"
    sample, name = (
        build_sample(f"damaged/{client}-{damage}", layer_bytes=(4_000, 3_000_000)),
        f"healed/{client}",
    )
    for place in "12":
        (short_path / place).mkdir()
    EXACT[client](root.address, short_path / "1", name, sample)
    digest = max(sample.blobs, key=lambda one: len(sample.blobs[one]))
    file = file_of(root.data, Digest.parse(digest))
    if damage == "rot":
        flip_bit(file, 1_500_000)
        with pytest.raises(IncompleteRead):  # found while it is on its way
            fetch(root.url, f"/v2/{name}/blobs/{digest}")
    elif damage == "short":
        os.truncate(file, 1000)
    else:
        file.unlink()
    assert fetch(root.url, f"/v2/{name}/blobs/{digest}", "HEAD").status == 404
    assert any(digest in one for one in fetch(root.url, "/readyz").body.decode().split(";"))
    EXACT[client](root.address, short_path / "2", name, sample)
    holds(root.address, name, sample, artifact=client in WITH_REFERRERS)
    assert digest not in fetch(root.url, "/readyz").body.decode()


def test_case_fault_4_crane_heals_a_damaged_layer_once_its_manifests_are_gone(
    root: Node, short_path: Path
) -> None:
    """It asks for the manifest alone: while that is there it sends nothing, and says nothing of it (operate.md)."""
    sample, name = build_sample("damaged/crane", layer_bytes=(4_000, 3_000_000)), "healed/crane"
    for place in "1234":
        (short_path / place).mkdir()
    EXACT["crane"](root.address, short_path / "1", name, sample)
    digest = max(sample.blobs, key=lambda one: len(sample.blobs[one]))
    file_of(root.data, Digest.parse(digest)).unlink()
    target = f"/v2/{name}/blobs/{digest}"
    assert fetch(root.url, target, "HEAD").status == 404
    for place, gone in (("2", [sample.index]), ("3", [sample.index, *sample.images.values()])):
        EXACT["crane"](root.address, short_path / place, name, sample)
        assert fetch(root.url, target, "HEAD").status == 404
        for manifest in gone:
            assert fetch(root.url, f"/v2/{name}/manifests/{manifest}", "DELETE").status == 202
    EXACT["crane"](root.address, short_path / "4", name, sample)
    holds(root.address, name, sample, artifact=False)
