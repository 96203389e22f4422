"""Images of manifests and layers in a store, as pushes and misses bring them in."""

from __future__ import annotations

import json
from pathlib import Path

from holdfast_core import Digest, Store, fsck
from support.format_reader import FormatReader
from support.stores import MEDIA, put_file, some_bytes


def body_of(*layers: bytes, **more: object) -> bytes:
    """A manifest that names these layers."""
    rows = [{"mediaType": "layer", "digest": str(Digest.of(layer)), "size": len(layer)} for layer in layers]
    return json.dumps({"schemaVersion": 2, "layers": rows, **more}).encode()


def index_of(*manifests: bytes) -> bytes:
    """An index that names these manifests."""
    rows = [{"mediaType": MEDIA, "digest": str(Digest.of(body)), "size": len(body)} for body in manifests]
    return json.dumps({"schemaVersion": 2, "manifests": rows}).encode()


def layer(number: int, size: int = 30_000) -> bytes:
    """The bytes of a layer; over 16 KiB they lie in a file."""
    return some_bytes(size, number)


def cache(
    store: Store, repository: str, body: bytes, *layers: bytes, tag: str = "", now: float = 1.0
) -> Digest:
    """An image as a miss brings it in."""
    for content in layers:
        put_file(store, repository, content, now=now)
    digest = Digest.of(body)
    store.references.put_manifest(repository, digest, MEDIA, body, owned=False, now=now, tag=tag).result()
    return digest


def is_here(store: Store, repository: str, content: bytes) -> bool:
    """Whether a repository has the bytes."""
    return store.blobs.get(repository, Digest.of(content)) is not None


def sound(store: Store, root: Path) -> None:
    """Two readers of the format find nothing wrong, after the store is closed."""
    store.close()
    assert fsck(root).problems == []
    assert FormatReader(root).run() == []
