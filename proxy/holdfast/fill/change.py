"""What a fill tells its readers, in this process or over the keeper's socket. Small, plain, ordered.

A reader takes a `Snapshot` and then every change after it, without a gap.
"""

from __future__ import annotations

import msgspec


class Grown(msgspec.Struct, frozen=True, array_like=True, tag="g"):
    """Bytes [start, end) are on disk now. Coalesced: one a few milliseconds, not one a read."""

    start: int
    end: int


class Verified(msgspec.Struct, frozen=True, array_like=True, tag="v"):
    """The whole blob matched its digest and is in the store (or, unstored, was all streamed)."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """The bytes will not come. `kind` is the name of an exception class of `holdfast.errors`."""

    kind: str
    message: str
    retry_after: int | None = None


class Moved(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """From `offset` on, bytes are found in the file at `path` (the disk is full; see unstored fills). Several
    of these in ascending order alternate between files: what was on disk stays there."""

    offset: int
    path: str


FillChange = Grown | Verified | Failed | Moved


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """A fill as it stands: blob size, (offset, path) of the files that hold bytes in ascending order (a byte
    is in the last one whose offset is not above it), extents that are there, whether the digest matched."""

    size: int
    sources: tuple[tuple[int, str], ...]
    extents: tuple[tuple[int, int], ...]
    verified: bool
