"""A root, a connected registry below it that is synchronised, and a relay on this machine between the two that has a
round trip and a rate; a new connection costs a round trip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from holdfast.testing.link import RelayLink
from holdfast.testing.sample import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from holdfast_core.digest import Digest

from benchmarks.images import administer, ask, manifest, some, string, wait
from benchmarks.load import split
from benchmarks.peers import Holdfast

NAME = "bench/app"
ROUND_TRIP, MBIT_10 = 0.2, 10e6 / 8
#: of the link's rate, of images of 1 MB
SHARE_BOUND = 0.9


class Tree(NamedTuple):
    """Both nodes take pushes, of anybody, as far as the child's mode allows them."""

    root: Holdfast
    child: Holdfast
    way: RelayLink

    def switch(self, to: str) -> None:
        """Set the child's switch for its parent: "offline", "auto"."""
        (parent,) = administer(self.child, "GET", "parents")["value"]
        administer(self.child, "PATCH", f"parents/{parent['name']}", {"switch": to})


@contextmanager
def planted(place: Path, mode: str, round_trip: float = 0.0, rate: float = 0.0) -> Iterator[Tree]:
    """The tree in `place`, with a child of this mode."""
    with Holdfast(place / "root", data=place / "root/data", workers=1, anonymous="push") as root:
        host, port, _ = split(root.url)
        with RelayLink(host, port, round_trip=round_trip, rate=rate) as way:
            properties = {"mode": mode, "parent": {}, "repositories": ["bench/*"]}
            administer(root, "PUT", "connectedRegistries/plant", {"properties": properties})
            environ = {"ACR_REGISTRY_CONNECTION_STRING": string(root, "plant", f"127.0.0.1:{way.port}")}
            with Holdfast(
                place / "plant", data=place / "plant/data", workers=1, environ=environ, anonymous="push"
            ) as child:
                wait(lambda: administer(child, "GET", "sync")["lastSyncTime"], "the child is synchronised")
                yield Tree(root, child, way)


def pushed(url: str, count: int, layers: int, size: int) -> dict[str, str]:
    """So many images over the API, each of so many layers of so many bytes; digests by tag."""
    bodies = ([some(size, f"{number} {layer}") for layer in range(layers)] for number in range(count))
    return {f"v{number}": _push(url, f"v{number}", body) for number, body in enumerate(bodies)}


def _push(url: str, tag: str, layers: list[bytes]) -> str:
    """One image; its digest."""
    rows = []
    for body in (json.dumps({"tag": tag}).encode(), *layers):
        digest = str(Digest.of(body))
        ask(url, "POST", f"/v2/{NAME}/blobs/uploads/?digest={quote(digest)}", 201, body)
        rows.append({"mediaType": OCI_LAYER, "digest": digest, "size": len(body)})
    body = manifest({**rows[0], "mediaType": OCI_CONFIG}, rows[1:])
    return str(
        ask(url, "PUT", f"/v2/{NAME}/manifests/{tag}", 201, body, OCI_MANIFEST)["Docker-Content-Digest"]
    )
