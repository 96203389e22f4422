"""How one entry of the outbox goes up: blobs, then the manifest, then, as an entry of its own, the tag. Pure.

A blob that the parent has is skipped; one that it has in another repository is mounted there, which costs no byte; any
other is uploaded, from the byte where an upload of it stopped.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from holdfast.sync.entry import Entry
from holdfast.sync.image import Facts


class Rise(StrEnum):
    """Kinds of steps."""

    MOUNT = "mount"
    UPLOAD = "upload"
    PUT = "put"
    TAG = "tag"
    UNTAG = "untag"
    DELETE = "delete"


class UpStep(Struct, frozen=True):
    """One request or upload. `source` is the repository to mount from, `offset` the byte to go on at. A MOUNT that the
    parent answers with 202 has begun an upload instead, and goes on as UPLOAD from 0."""

    rise: Rise
    digest: str
    size: int = 0
    source: str = ""
    offset: int = 0


class Above(Protocol):
    """What is known of the parent; asked by HEAD before, or remembered from what it confirmed."""

    def has(self, repository: str, digest: str) -> bool:
        """Whether a repository there has a blob or manifest."""

    def elsewhere(self, digest: str) -> str:
        """Another repository there that has the blob and may be read from, "" for none."""

    def received(self, repository: str, digest: str) -> int:
        """Bytes that an open upload session there has."""


def ascent(entry: Entry, facts: Facts | None, above: Above) -> list[UpStep]:
    """The steps of one entry, in order. `facts` are those of its manifest; None for other deeds. Children of an index
    are entries of their own and are there before it."""
    if entry.deed == "tag":
        return [UpStep(Rise.TAG, entry.digest)]
    if entry.deed in ("untag", "delete"):
        return [UpStep(Rise.UNTAG if entry.deed == "untag" else Rise.DELETE, entry.digest)]
    steps = []
    for digest, size in dict.fromkeys((p.digest, p.size) for p in (facts.pieces if facts else ())):
        if above.has(entry.repository, digest):
            continue
        if source := above.elsewhere(digest):
            steps.append(UpStep(Rise.MOUNT, digest, size, source))
        else:
            steps.append(UpStep(Rise.UPLOAD, digest, size, offset=above.received(entry.repository, digest)))
    return [*steps, UpStep(Rise.PUT, entry.digest, facts.size if facts else 0)]
