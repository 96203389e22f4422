"""Whole nodes whose data lies on a disk of a test, and the images that are pulled through them."""

from __future__ import annotations

from pathlib import Path

from holdfast.testing.sample import build_sample
from support.disk import Disk
from support.node import Node
from support.transfer import fetch


def data_on(disk: Disk, place: Path) -> Path:
    """The directory of a node whose data lies on the disk and whose log does not."""
    (disk.root / "store").mkdir()
    place.mkdir()
    (place / "data").symlink_to(disk.root / "store")
    return place


def pull_image(node: Node, name: str) -> None:
    """A tag, its image and the image's layers, every byte checked."""
    sample = build_sample(name)
    bodies = {digest: body for digest, _, body in sample.manifests}
    tagged = fetch(node.url, f"/v2/{name}/manifests/latest")
    assert (tagged.status, tagged.body) == (200, bodies[sample.index])
    assert fetch(node.url, f"/v2/{name}/manifests/{sample.images['amd64']}").status == 200
    for layer in sample.layers["amd64"]:
        answer = fetch(node.url, f"/v2/{name}/blobs/{layer}")
        assert (answer.status, answer.body == sample.blobs[layer]) == (200, True)
