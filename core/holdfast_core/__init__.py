"""Holdfast's native store. Knows no HTTP, no parent, no event loop.

digest      content addresses, and the hashes taken while bytes arrive
format      every key and value layout (docs/format.md is its prose)
record      what the store hands out: Blob, Manifest, Tag, …
index       the LMDB environment: opening, refusing, reading
writer      the one thread that commits, in groups
journal     the append-only copy of what a rebuild needs
change      what a write puts into the index, decided without touching it
opening     refusals and crash recovery
directory   paths, the identity file, the lock; part: a fill's growing file
reading     blob bytes, checked before they leave
lookup      the reads; store: the Store, with the writes
check       fsck: says what is wrong; reindex: rebuild, makes the index again
"""

from holdfast_core.check import Report, fsck
from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash
from holdfast_core.part import FillPart
from holdfast_core.reading import BlobReader
from holdfast_core.record import (
    Blob,
    Descriptor,
    FillState,
    Manifest,
    ReferrersList,
    Statistics,
    Tag,
    TagList,
    TagMove,
)
from holdfast_core.reindex import rebuild
from holdfast_core.store import Store

__all__ = [
    "CHUNK_BYTES",
    "Blob",
    "BlobReader",
    "ChunkHasher",
    "Descriptor",
    "Digest",
    "FillPart",
    "FillState",
    "Manifest",
    "ReferrersList",
    "Report",
    "Statistics",
    "Store",
    "Tag",
    "TagList",
    "TagMove",
    "chunk_hash",
    "fsck",
    "rebuild",
]
