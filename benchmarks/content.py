"""What every server is given: the same bytes, under the same names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.sample import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST

NAME, TAG = "bench/image", "latest"
SLICE_BYTES = 8 << 20
KB, MB = 1000, 1000 * 1000


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes on disk, known by digest."""

    digest: str
    size: int
    path: Path

    @property
    def target(self) -> str:
        """Where it is served."""
        return f"/v2/{NAME}/blobs/{self.digest}"


@dataclass(frozen=True, slots=True)
class Content:
    """One repository: a manifest of twelve layers, and blobs by size in bytes."""

    manifest: bytes
    blobs: dict[int, Blob]

    @property
    def manifest_digest(self) -> str:
        """The manifest's digest."""
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"

    @property
    def manifest_target(self) -> str:
        """Where the manifest is served."""
        return f"/v2/{NAME}/manifests/{self.manifest_digest}"

    @property
    def tag_target(self) -> str:
        """Where it is served by tag."""
        return f"/v2/{NAME}/manifests/{TAG}"


def generate(place: Path, size: int, seed: str = "bench") -> Blob:
    """A file of pseudo-random bytes."""
    source, hasher, path = GeneratedContent(size, seed), hashlib.sha256(), place / f"{seed}-{size}"
    with path.open("wb") as file:
        for offset in range(0, size, SLICE_BYTES):
            hasher.update(piece := source.read(offset, SLICE_BYTES))
            file.write(piece)
    return Blob(f"sha256:{hasher.hexdigest()}", size, path)


def build(place: Path, sizes: Iterable[int]) -> Content:
    """A manifest the size of a real one (2.4 kB) and one blob of each size."""
    place.mkdir(parents=True, exist_ok=True)
    layers = [_descriptor(OCI_LAYER, n) for n in range(12)]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(OCI_CONFIG, -1),
        "layers": layers,
    }
    return Content(json.dumps(document, indent=1).encode(), {size: generate(place, size) for size in sizes})


def _descriptor(media_type: str, number: int) -> dict[str, object]:
    digest = hashlib.sha256(b"layer %d" % number).hexdigest()
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": 31_000_000 + number}


def put_files(content: Content, root: Path) -> None:
    """As static files at the very paths of the API, for nginx. Blobs are hard links."""
    where = root / "v2" / NAME
    for kind in ("manifests", "blobs"):
        (where / kind).mkdir(parents=True)
    for reference in (content.manifest_digest, TAG):
        (where / "manifests" / reference).write_bytes(content.manifest)
    for blob in content.blobs.values():
        os.link(blob.path, where / "blobs" / blob.digest)


def put_registry(content: Content, root: Path) -> None:
    """In the layout of docker-registry's file system driver. Blobs are hard links."""
    top = root / "docker/registry/v2"
    links = top / "repositories" / NAME
    held = {content.manifest_digest: None, **{blob.digest: blob.path for blob in content.blobs.values()}}
    for digest, path in held.items():
        place = top / "blobs/sha256" / digest[7:9] / digest[7:]
        place.mkdir(parents=True)
        if path is None:
            (place / "data").write_bytes(content.manifest)
        else:
            os.link(path, place / "data")
        kind = "_manifests/revisions" if path is None else "_layers"
        (links / kind / "sha256" / digest[7:]).mkdir(parents=True)
        (links / kind / "sha256" / digest[7:] / "link").write_text(digest)
    (links / "_manifests/tags" / TAG / "current").mkdir(parents=True)
    (links / "_manifests/tags" / TAG / "current/link").write_text(content.manifest_digest)


def put_store(content: Content, root: Path) -> None:
    """In a Holdfast store, owned, as a root holds it."""
    from holdfast_core.digest import Digest
    from holdfast_core.store import Store

    store = Store.create_or_open(root, write=True)
    manifest = Digest.parse(content.manifest_digest)
    store.references.put_manifest(
        NAME, manifest, OCI_MANIFEST, content.manifest, owned=True, now=0.0, tag=TAG
    ).result()
    for blob in content.blobs.values():
        _put_blob(store, blob)
    store.close()


def _put_blob(store: object, blob: Blob) -> None:
    from holdfast_core.digest import ChunkHasher, Digest
    from holdfast_core.store import Store

    assert isinstance(store, Store)
    digest, hasher = Digest.parse(blob.digest), ChunkHasher()
    part = store.blobs.fills.open_part(NAME, digest, blob.size)
    with blob.path.open("rb") as file:
        while piece := file.read(SLICE_BYTES):
            part.write(hasher.size, piece)
            hasher.update(piece)
    store.blobs.fills.commit(part, NAME, digest, hasher.table(), owned=True, now=0.0).result()
    part.close()
