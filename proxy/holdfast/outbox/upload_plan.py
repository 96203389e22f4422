"""Plans the upload of one entry of the outbox: blobs, then the manifest, then, as an entry of its own, the tag. Pure.

A blob that the parent has is skipped; one that it has in another repository is mounted, which costs no byte; any other
is uploaded, from the byte where an upload of it stopped.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from holdfast.oci.image import Facts
from holdfast.outbox.entry import OutboxEntry


class UploadStepKind(StrEnum):
    """Kinds of steps."""

    MOUNT = "mount"
    UPLOAD = "upload"
    PUT = "put"
    TAG = "tag"
    UNTAG = "untag"
    DELETE = "delete"


class UploadStep(Struct, frozen=True):
    """One request or upload. `source` is the repository to mount from, `offset` the byte to go on at. A MOUNT that the
    parent answers with 202 has begun an upload instead, and goes on as UPLOAD from 0."""

    kind: UploadStepKind
    digest: str
    size: int = 0
    source: str = ""
    offset: int = 0


class KnownAtParent(Protocol):
    """What the parent has, as far as it is known: by HEAD, or because it confirmed it."""

    def has(self, repository: str, digest: str) -> bool:
        """Whether a repository at the parent has a blob or manifest."""

    def elsewhere(self, digest: str) -> str:
        """Another repository at the parent to mount the blob from, "" for none."""

    def received(self, repository: str, digest: str) -> int:
        """Bytes that an open upload at the parent has."""


def plan_upload(entry: OutboxEntry, facts: Facts | None, known: KnownAtParent) -> list[UploadStep]:
    """The steps of one entry, in order. `facts` are those of its manifest; None for other deeds. Children of an index
    are entries of their own, sent before it."""
    if entry.deed == "tag":
        return [UploadStep(UploadStepKind.TAG, entry.digest)]
    if entry.deed in ("untag", "delete"):
        return [
            UploadStep(UploadStepKind.UNTAG if entry.deed == "untag" else UploadStepKind.DELETE, entry.digest)
        ]
    steps = []
    for digest, size in dict.fromkeys((p.digest, p.size) for p in (facts.pieces if facts else ())):
        if known.has(entry.repository, digest):
            continue
        if source := known.elsewhere(digest):
            steps.append(UploadStep(UploadStepKind.MOUNT, digest, size, source))
        else:
            steps.append(
                UploadStep(
                    UploadStepKind.UPLOAD, digest, size, offset=known.received(entry.repository, digest)
                )
            )
    return [*steps, UploadStep(UploadStepKind.PUT, entry.digest, facts.size if facts else 0)]
