"""A small image that real clients can pull and unpack: two layers, two platforms, an index, and an artifact."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any

from holdfast.testing.random_content import GeneratedContent, digest_of

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
SBOM = "application/spdx+json"
LAYER_BYTES = (4_000, 200_000)


@dataclass(slots=True)
class Sample:
    """Everything of the sample, ready to be put into any registry: blobs, then manifests in this order.

    `index`, `images` (by architecture), `artifact` and `layers` are digests. The artifact's subject is the
    index. `manifests` holds (digest, media type, body) with children before parents.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: list[tuple[str, str, bytes]] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    layers: dict[str, list[str]] = field(default_factory=dict)
    index: str = ""
    artifact: str = ""

    def blob(self, body: bytes) -> str:
        """Add a blob and return its digest."""
        digest = digest_of(body)
        self.blobs[digest] = body
        return digest

    def manifest(self, document: dict[str, Any]) -> dict[str, Any]:
        """Add a manifest and return a descriptor of it."""
        body = json.dumps(document, indent=2).encode()
        digest = digest_of(body)
        self.manifests.append((digest, document["mediaType"], body))
        return {"mediaType": document["mediaType"], "digest": digest, "size": len(body)}


def build_sample(
    name: str = "sample",
    *,
    layer_bytes: tuple[int, int] = LAYER_BYTES,
    architectures: tuple[str, ...] = ("amd64", "arm64"),
) -> Sample:
    """The same bytes for the same arguments, on any machine with the same zlib.

    `layer_bytes` are the sizes of the one file in each layer (pseudo-random, so it hardly compresses).
    """
    sample = Sample()
    entries = []
    for architecture in architectures:
        descriptor = _image(sample, name, architecture, layer_bytes)
        sample.images[architecture] = descriptor["digest"]
        entries.append({**descriptor, "platform": {"architecture": architecture, "os": "linux"}})
    index = sample.manifest({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    sample.index = index["digest"]
    sample.artifact = _artifact(sample, index)["digest"]
    return sample


def _image(sample: Sample, name: str, architecture: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    layers: list[dict[str, Any]] = []
    diff_ids: list[str] = []
    for number, size in enumerate(sizes):
        content = GeneratedContent(size, f"{name}/{architecture}/{number}").read(0, size)
        archive = _tar(f"opt/{name.replace('/', '-')}/{number}.bin", content)
        packed = gzip.compress(archive, compresslevel=1, mtime=0)
        diff_ids.append(digest_of(archive))
        layers.append({"mediaType": OCI_LAYER, "digest": sample.blob(packed), "size": len(packed)})
    sample.layers[architecture] = [layer["digest"] for layer in layers]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()
    described = {"mediaType": OCI_CONFIG, "digest": sample.blob(config), "size": len(config)}
    return sample.manifest(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": layers}
    )


def _artifact(sample: Sample, subject: dict[str, Any]) -> dict[str, Any]:
    empty = {"mediaType": OCI_EMPTY, "digest": sample.blob(b"{}"), "size": 2}
    bill = b'{"spdxVersion":"SPDX-2.3","name":"sample"}'
    return sample.manifest(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": SBOM,
            "config": empty,
            "layers": [{"mediaType": SBOM, "digest": sample.blob(bill), "size": len(bill)}],
            "subject": subject,
            "annotations": {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
        }
    )


def _tar(path: str, body: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(path)
        entry.size = len(body)
        archive.addfile(entry, io.BytesIO(body))
    return buffer.getvalue()
