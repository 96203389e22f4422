"""Whole images in a store, and a node that says over its admin API where it stands."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from holdfast.testing.content import Generated
from holdfast.testing.sample import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from holdfast_core.digest import ChunkHasher, Digest
from holdfast_core.store import Store

from benchmarks.load import LoadFailed
from benchmarks.peers import Holdfast

POLL_SECONDS = 0.01


class Images:
    """A root's store that is being filled. `unique` counts the bytes that it holds, each once."""

    def __init__(self, root: Path) -> None:
        self._store = Store.create_or_open(root, write=True)
        self._waiting: list[Future[None]] = []
        self.unique = 0

    def blob(self, name: str, body: bytes) -> dict[str, Any]:
        """A blob; its descriptor as a layer."""
        digest, hasher = Digest.of(body), ChunkHasher()
        hasher.update(body)
        if self._store.blob_anywhere(digest) is None:
            self.unique += len(body)
        part = self._store.open_part(digest, len(body))
        part.write(0, body)
        self._store.commit_fill(part, name, digest, hasher.table(), owned=True, now=0.0).result()
        part.close()
        return {"mediaType": OCI_LAYER, "digest": str(digest), "size": len(body)}

    def image(self, name: str, tag: str, layers: Sequence[dict[str, Any]]) -> str:
        """An image with a config of its own, under a tag; its digest."""
        config = {**self.blob(name, json.dumps({"tag": tag}).encode()), "mediaType": OCI_CONFIG}
        body = manifest(config, layers)
        digest = Digest.of(body)
        self.unique += len(body)
        self._store.put_manifest(name, digest, OCI_MANIFEST, body, owned=True, now=0.0).result()
        self._store.put_tag(name, tag, digest, now=0.0).result()
        return str(digest)

    def close(self) -> None:
        """All of it is there."""
        self._store.close()


def manifest(config: dict[str, Any], layers: Sequence[dict[str, Any]]) -> bytes:
    """An image's manifest."""
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": list(layers)}
    return json.dumps(document).encode()


def some(size: int, seed: str) -> bytes:
    """Pseudo-random bytes."""
    return Generated(size, seed).read(0, size)


def administer(node: Holdfast, method: str, path: str, body: object = None) -> Any:
    """One request to a node's admin API, by the credentials in its data directory; the JSON of its answer."""
    url = json.loads((node.data / "admin.json").read_text())["url"]
    said = json.loads((node.data / "operator.json").read_text())
    login = base64.b64encode(f"{said['username']}:{said['password']}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/api/v1/{path}", content, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def wait(condition: Callable[[], object], what: str, limit: float = 300.0) -> None:
    """Look until it holds. Raises LoadFailed that says what was waited for."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise LoadFailed(f"waited {limit:g} s in vain: {what}")
        time.sleep(POLL_SECONDS)


class Held:
    """What a node has, looked up in its store from outside: asking the node could make it fetch."""

    def __init__(self, node: Holdfast) -> None:
        self._store = Store.create_or_open(node.data, write=False)

    def has(self, name: str, wanted: dict[str, str]) -> bool:
        """Whether these tags name these digests."""
        found = (self._store.tag(name, tag) for tag in wanted)
        return all(
            tag is not None and str(tag.digest) == wanted[name]
            for tag, name in zip(found, wanted, strict=True)
        )

    def close(self) -> None:
        """Let go of it."""
        self._store.close()
