"""Holdfast's native store. Knows no HTTP, no parent, no event loop.

digest      content addresses, and the hashes taken while bytes arrive
format      every key and value layout (docs/format.md is its prose)
record      what the store hands out: Blob, Manifest, Tag, …
index       the LMDB environment: opening, refusing, reading
writer      the one thread that commits, in groups
journal     the append-only copy of what a rebuild needs; frame: its layout
change      what a write puts into the index, decided without touching it; ownership: what a client's does;
            removal: what a parent's loss does; events: what changed, logged for those who follow
lock        what is allowed on a repository, manifest or tag
opening     refusals and crash recovery
directory   paths, the identity file, the lock; part: a fill's growing file
reading     blob bytes, checked before they leave
upload      clients' uploads on their way in
lookup      the reads; listing: what a repository has, part by part
writes      what all writes share; file_work: work on files that ends in a commit
resources   documents of the control plane
pushing     the writes for clients; fallback: referrers out of fallback tags; sweep: space given back
store       the Store, with the writes that bring in what a parent has
check       fsck: says what is wrong; reindex: rebuild, makes the index again
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast_core.check import Report, fsck
    from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash
    from holdfast_core.part import FillPart
    from holdfast_core.reading import BlobReader
    from holdfast_core.record import (
        Blob,
        Descriptor,
        Event,
        EventHead,
        FillState,
        Lock,
        LockChange,
        Manifest,
        Member,
        Members,
        ReferrersList,
        Resource,
        ResourceChange,
        Statistics,
        Tag,
        TagList,
        TagMove,
        Target,
    )
    from holdfast_core.reindex import rebuild
    from holdfast_core.store import Store
    from holdfast_core.upload import Uploads

__all__ = [
    "CHUNK_BYTES",
    "Blob",
    "BlobReader",
    "ChunkHasher",
    "Descriptor",
    "Digest",
    "Event",
    "EventHead",
    "FillPart",
    "FillState",
    "Lock",
    "LockChange",
    "Manifest",
    "Member",
    "Members",
    "ReferrersList",
    "Report",
    "Resource",
    "ResourceChange",
    "Statistics",
    "Store",
    "Tag",
    "TagList",
    "TagMove",
    "Target",
    "Uploads",
    "chunk_hash",
    "fsck",
    "rebuild",
]

_RECORDS = (
    "Blob Descriptor Event EventHead FillState Lock LockChange Manifest Member Members ReferrersList Resource"
    " ResourceChange Statistics Tag TagList TagMove Target"
)
_PLACES = {
    **dict.fromkeys(("Report", "fsck"), "check"),
    **dict.fromkeys(("CHUNK_BYTES", "ChunkHasher", "Digest", "chunk_hash"), "digest"),
    **dict.fromkeys(_RECORDS.split(), "record"),
    "FillPart": "part",
    "BlobReader": "reading",
    "rebuild": "reindex",
    "Store": "store",
    "Uploads": "upload",
}


def __getattr__(name: str) -> Any:
    """Names are loaded when they are asked for (PEP 562): a process that only knows the errors of a store, as the
    supervisor, holds neither LMDB nor the rest (2 MB)."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{place}"), name)
