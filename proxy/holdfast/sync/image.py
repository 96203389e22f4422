"""What a manifest needs, as the plan reads it: small values that 100,000 tags fit into memory with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from holdfast.manifest import Inspected

#: what BuildKit calls the platform of an attestation, and how it says of which child it is one
NO_PLATFORM = "unknown/unknown"
DESCRIBES = "vnd.docker.reference.digest"


class Piece(Struct, frozen=True, gc=False):
    """A blob."""

    digest: str
    size: int


class Branch(Struct, frozen=True, gc=False):
    """A child of an index. `platform` is "" when it says none; `describes` is the child that it is an attestation
    of."""

    digest: str
    size: int
    platform: str = ""
    describes: str = ""


class Facts(Struct, frozen=True, gc=False):
    """One manifest: config and layers of an image, or children of an index, in its own order. Foreign layers, which no
    registry has to have, are left out."""

    size: int
    pieces: tuple[Piece, ...] = ()
    branches: tuple[Branch, ...] = ()


class Referrer(Struct, frozen=True, gc=False):
    """A manifest whose subject is another (oci-spec 1.13)."""

    digest: str
    size: int
    artifact_type: str = ""


class Graph(Protocol):
    """What is known of manifests, whether held here or read from the parent only to plan."""

    def facts(self, repository: str, digest: str) -> Facts | None:
        """None while the manifest's bytes were not seen: the plan then says that it must be read first."""

    def referrers(self, repository: str, digest: str) -> Sequence[Referrer]:
        """The parent's list for a subject, and the held ones."""


class Held(Protocol):
    """What is here. Bytes are kept once; a repository has them by a link."""

    def has(self, digest: str) -> bool:
        """Whether all bytes of a blob or manifest are here, through whichever repository."""

    def linked(self, repository: str, digest: str) -> bool:
        """Whether the repository has them."""

    def part(self, digest: str) -> int:
        """Bytes that a stopped fill of it left here."""

    def tag(self, repository: str, name: str) -> str:
        """The digest that a tag names here, "" for none."""


def facts_of(found: Inspected, size: int) -> Facts:
    """From a manifest that was read."""
    if not found.is_index:
        return Facts(size, tuple(Piece(c.digest, c.size) for c in found.children if not c.is_foreign))
    return Facts(
        size,
        tuple(Piece(c.digest, c.size) for c in found.children if not c.is_manifest and not c.is_foreign),
        tuple(
            Branch(
                c.digest,
                c.size,
                "" if c.platform == NO_PLATFORM else c.platform,
                c.annotations.get(DESCRIBES, "") if c.platform == NO_PLATFORM else "",
            )
            for c in found.children
            if c.is_manifest
        ),
    )
