"""The content that a manifest refers to, for the plan of a synchronisation: small values, so that those of 100,000 tags
fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from holdfast.oci.manifest import Inspected

#: BuildKit's platform of an attestation, and its annotation with the digest of the child that it describes
NO_PLATFORM = "unknown/unknown"
DESCRIBES = "vnd.docker.reference.digest"


class ImageBlob(Struct, frozen=True, gc=False):
    """A blob of an image."""

    digest: str
    size: int


class Branch(Struct, frozen=True, gc=False):
    """A child of an index. `platform` is "" when it has none; `describes` is the digest of the child of which it is an
    attestation."""

    digest: str
    size: int
    platform: str = ""
    describes: str = ""


class Facts(Struct, frozen=True, gc=False):
    """One manifest: config and layers of an image, or children of an index, in its own order. Foreign layers, which a
    registry need not hold, are left out."""

    size: int
    pieces: tuple[ImageBlob, ...] = ()
    branches: tuple[Branch, ...] = ()


class Referrer(Struct, frozen=True, gc=False):
    """A manifest whose subject is another (references.md 2.8)."""

    digest: str
    size: int
    artifact_type: str = ""


class Graph(Protocol):
    """The manifests that are known: held here, or read from the parent for the plan alone."""

    def facts(self, repository: str, digest: str) -> Facts | None:
        """The facts of a manifest; None when it was not read yet, which the plan then orders."""

    def referrers(self, repository: str, digest: str) -> Sequence[Referrer]:
        """The referrers of a subject, from the parent's list and from those held here."""


class HeldImages(Protocol):
    """The content that this node holds. Bytes are stored once; each repository links them."""

    def has(self, digest: str) -> bool:
        """Whether all bytes of a blob or manifest are here, linked by any repository."""

    def linked(self, repository: str, digest: str) -> bool:
        """Whether the repository links them."""

    def part(self, digest: str) -> int:
        """Bytes of a blob that a stopped fill left here."""

    def tag(self, repository: str, name: str) -> str:
        """The digest of a tag here, "" for none."""


def facts_of(manifest: Inspected, size: int) -> Facts:
    """The facts of a manifest of `size` bytes."""
    if not manifest.is_index:
        return Facts(size, tuple(ImageBlob(c.digest, c.size) for c in manifest.children if not c.is_foreign))
    return Facts(
        size,
        tuple(
            ImageBlob(c.digest, c.size) for c in manifest.children if not c.is_manifest and not c.is_foreign
        ),
        tuple(
            Branch(
                c.digest,
                c.size,
                "" if c.platform == NO_PLATFORM else c.platform,
                c.annotations.get(DESCRIBES, "") if c.platform == NO_PLATFORM else "",
            )
            for c in manifest.children
            if c.is_manifest
        ),
    )
