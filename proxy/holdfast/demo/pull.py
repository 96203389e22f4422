"""A pull over plain HTTP with the standard library: tag, index, image, configuration, layers.

One connection, one object after the other, every digest checked. Slower than a real client on purpose: each
line of the table is one request.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from holdfast.clock import Clock

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
BLOCK_BYTES = 1 << 20
#: A parent may be slow and a layer large; each wait for bytes ends after this long (s).
PATIENCE_SECONDS = 120.0


class PullFailed(Exception):
    """An answer was no success, or its bytes do not match their digest."""


@dataclass(frozen=True, slots=True)
class Object:
    """One thing that was pulled. `first_byte` and `seconds` count from the request; `warning` is the node's."""

    kind: str
    digest: str
    size: int
    first_byte: float
    seconds: float
    warning: str = ""


class Puller:
    """Pulls from one registry. Raises PullFailed, OSError and http.client.HTTPException."""

    def __init__(self, url: str, clock: Clock) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port or 80, timeout=PATIENCE_SECONDS
        )
        self._clock = clock

    def pull(self, name: str, reference: str) -> list[Object]:
        """Everything of an image for this machine's platform, in the order it was pulled."""
        fetched, document = self._manifest("tag", name, reference)
        objects = [fetched]
        if "manifests" in document:
            child = for_this_machine(document["manifests"])
            fetched, document = self._manifest("image", name, child)
            objects.append(fetched)
        objects.append(self._blob("config", name, document["config"]["digest"]))
        objects += [self._blob("layer", name, layer["digest"]) for layer in document["layers"]]
        return objects

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _manifest(self, kind: str, name: str, reference: str) -> tuple[Object, Any]:
        kept: list[bytes] = []
        fetched = self._get(kind, f"/v2/{name}/manifests/{reference}", kept.append)
        return fetched, json.loads(b"".join(kept))

    def _blob(self, kind: str, name: str, digest: str) -> Object:
        fetched = self._get(kind, f"/v2/{name}/blobs/{digest}", lambda _: None)
        if fetched.digest != digest:
            raise PullFailed(f"requested {digest}, got {fetched.digest}")
        return fetched

    def _get(self, kind: str, target: str, take: Callable[[bytes], None]) -> Object:
        started = self._clock.monotonic()
        self._connection.request("GET", target, headers={"Accept": ACCEPT})
        answer = self._connection.getresponse()
        first_byte = self._clock.monotonic() - started
        if answer.status != 200:
            raise PullFailed(f"GET {target}: {answer.status} {answer.read().decode(errors='replace')}")
        digest, size = answer.headers.get("Docker-Content-Digest", "sha256:"), 0
        hasher = hashlib.new(digest.partition(":")[0])
        while block := answer.read(BLOCK_BYTES):
            hasher.update(block)
            take(block)
            size += len(block)
        if digest.partition(":")[2] != hasher.hexdigest():
            raise PullFailed(f"GET {target}: the bytes do not match {digest}")
        seconds = self._clock.monotonic() - started
        return Object(kind, digest, size, first_byte, seconds, answer.headers.get("Warning", ""))


def for_this_machine(entries: list[dict[str, Any]]) -> str:
    """The digest of the entry of an index that this machine would run. Raises PullFailed when there is none."""
    architecture = MACHINES.get(platform.machine(), platform.machine())
    for entry in entries:
        target = entry.get("platform", {})
        if (target.get("os"), target.get("architecture")) == ("linux", architecture):
            return str(entry["digest"])
    raise PullFailed(f"the image has no linux/{architecture}")
