"""Small images for stores: bodies of manifests and indexes, and images as a push or a miss brings them."""

from __future__ import annotations

import json
from typing import Any

from holdfast_core import Digest, Store
from support.stores import MEDIA, push, push_file, put_file, some_bytes

#: of a layer; whole blocks of every file system
LAYER_BYTES = 40_960


def layer(number: int, size: int = LAYER_BYTES) -> bytes:
    """The bytes of a layer; over 16 KiB they lie in a file."""
    return some_bytes(size, number)


def body_of(*layers: bytes, **more: Any) -> bytes:
    """A manifest that names these layers."""
    rows = [{"mediaType": "layer", "digest": str(Digest.of(one)), "size": len(one)} for one in layers]
    return json.dumps({"schemaVersion": 2, "layers": rows, **more}).encode()


def pushed(store: Store, repository: str, *layers: bytes, tag: str = "", now: float = 1.0) -> Digest:
    """An image that a client pushed; its digest."""
    for one in layers:
        push_file(store, repository, one, now=now)
    return push(store, repository, body_of(*layers), *([tag] if tag else []), now=now)


def cached(store: Store, repository: str, *layers: bytes, tag: str = "", now: float = 1.0) -> Digest:
    """An image as a miss brings it in; its digest."""
    for one in layers:
        put_file(store, repository, one, now=now)
    body = body_of(*layers)
    digest = Digest.of(body)
    store.references.put_manifest(repository, digest, MEDIA, body, owned=False, now=now, tag=tag).result()
    return digest


def has(store: Store, repository: str, content: bytes) -> bool:
    """Whether a repository has the bytes."""
    return store.blobs.get(repository, Digest.of(content)) is not None
