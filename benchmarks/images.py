"""Whole images in a store, and a node that says over its admin API where it stands."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.sample import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from holdfast_core.digest import ChunkHasher, Digest
from holdfast_core.store import Store

from benchmarks.load import PATIENCE_SECONDS, LoadFailed, split
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
        if self._store.blobs.anywhere(digest) is None:
            self.unique += len(body)
        part = self._store.blobs.fills.open_part(name, digest, len(body))
        part.write(0, body)
        self._store.blobs.fills.commit(part, name, digest, hasher.table(), owned=True, now=0.0).result()
        part.close()
        return {"mediaType": OCI_LAYER, "digest": str(digest), "size": len(body)}

    def image(self, name: str, tag: str, layers: Sequence[dict[str, Any]]) -> str:
        """An image with a config of its own, under a tag; its digest."""
        config = {**self.blob(name, json.dumps({"tag": tag}).encode()), "mediaType": OCI_CONFIG}
        body = manifest(config, layers)
        digest = Digest.of(body)
        self.unique += len(body)
        self._store.references.put_manifest(name, digest, OCI_MANIFEST, body, owned=True, now=0.0).result()
        self._store.references.put_tag(name, tag, digest, now=0.0).result()
        return str(digest)

    def close(self) -> None:
        """All of it is there."""
        self._store.close()


def manifest(config: dict[str, Any], layers: Sequence[dict[str, Any]]) -> bytes:
    """An image's manifest."""
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": list(layers)}
    return json.dumps(document).encode()


def push_image(url: str, name: str, tag: str) -> str:
    """A small image over the API; its digest, when it was acknowledged. Raises LoadFailed."""
    digests = []
    for body in (f"config {tag}".encode(), f"layer_ {tag}".encode()):
        opened = ask(url, "POST", f"/v2/{name}/blobs/uploads/", 202)
        target = urlsplit(opened["Location"])
        digests.append(str(Digest.of(body)))
        query = f"{target.query}&" if target.query else ""
        ask(url, "PUT", f"{target.path}?{query}digest={digests[-1]}", 201, body)
    config, layer = ({"mediaType": OCI_CONFIG, "digest": d, "size": 7 + len(tag)} for d in digests)
    body = manifest(config, [{**layer, "mediaType": OCI_LAYER}])
    return str(
        ask(url, "PUT", f"/v2/{name}/manifests/{tag}", 201, body, OCI_MANIFEST)["Docker-Content-Digest"]
    )


def ask(
    url: str, method: str, target: str, status: int, body: bytes = b"", kind: str = "application/octet-stream"
) -> Message:
    """One request that must have this status; the headers of its answer. Raises LoadFailed."""
    host, port, _ = split(url)
    connection = HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, target, body, {"Content-Type": kind})
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    if answer.status != status:
        raise LoadFailed(f"{method} {target}: {answer.status} {said[:200]!r}")
    return answer.headers


def some(size: int, seed: str) -> bytes:
    """Pseudo-random bytes."""
    return GeneratedContent(size, seed).read(0, size)


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


def wait(
    condition: Callable[[], object], what: str, limit: float = 300.0, pause: float = POLL_SECONDS
) -> None:
    """Look until it holds, every `pause` seconds. Raises LoadFailed that says what was waited for."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise LoadFailed(f"waited {limit:g} s in vain: {what}")
        time.sleep(pause)


def string(root: Holdfast, name: str, place: str) -> str:
    """The connection string of a connected registry, with a new password, to a parent at host:port."""
    wanted = {"parentProtocol": "http", "generatePassword": 1, "parentEndpoint": place}
    found = administer(root, "POST", f"connectedRegistries/{name}/settings", wanted)
    return str(found["ACR_REGISTRY_CONNECTION_STRING"])


class Held:
    """What a node has, looked up in its store from outside: asking the node could make it fetch."""

    def __init__(self, node: Holdfast) -> None:
        self._store = Store.create_or_open(node.data, write=False)

    def has(self, name: str, wanted: dict[str, str]) -> bool:
        """Whether these tags name these digests."""
        found = (self._store.references.tag(name, tag) for tag in wanted)
        return all(
            tag is not None and str(tag.digest) == wanted[name]
            for tag, name in zip(found, wanted, strict=True)
        )

    def close(self) -> None:
        """Let go of it."""
        self._store.close()
