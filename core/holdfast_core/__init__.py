"""Holdfast's native store. Knows no HTTP, no parent, no event loop.

store          the Store: opens, closes, wires its facets
write_access   what all writes share: the writer, the file threads, the mode
opening        refusals and crash recovery
record         what the store hands out: Blob, Manifest, Tag, …
digest         content addresses, and the hashes taken while bytes arrive
format         every key and value layout of the index (docs/format.md is its prose); in list_format those of lists,
               in space_format those of what is counted and collected
errors         what can go wrong

In packages, each of which uses only those above it:

filesystem/    the directory, its identity and lock; what the disk lets a store do
index/         the LMDB environment, and lists out of it
changes/       what a write puts into the index, decided without touching it
journal/       the append-only copy that a rebuild needs, and the thread that commits
blob_files/    files of blobs: reading, growing, on their way in
upkeep/        fsck, garbage, repair of records: what is done to a store from time to time
facets/        blobs, references, documents, events: what a caller needs of an open store
recovery/      repair, rebuild, compaction, backup: the only one that uses the store
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast_core.blob_files.blob_reader import BlobReader
    from holdfast_core.blob_files.fill_file import FillPart
    from holdfast_core.blob_files.upload_files import Uploads
    from holdfast_core.digest import CHUNK_BYTES, ChunkHasher, Digest, chunk_hash
    from holdfast_core.record import (
        Blob,
        Child,
        CollectionRule,
        DeletedManifest,
        Departure,
        Descriptor,
        DiskUse,
        EventHead,
        EventRecord,
        FillState,
        ImageHolding,
        ImageUse,
        Lock,
        LockChange,
        LockTarget,
        Manifest,
        MemberPage,
        Pin,
        ReferrerPage,
        ReferrersList,
        RepositoryAccount,
        RepositoryMember,
        Resource,
        ResourceChange,
        StoreAccount,
        StoreStatistics,
        Tag,
        TagList,
        TagMove,
    )
    from holdfast_core.recovery.rebuild import rebuild
    from holdfast_core.store import Store
    from holdfast_core.upkeep.fsck import FsckReport, fsck

__all__ = [
    "CHUNK_BYTES",
    "Blob",
    "BlobReader",
    "Child",
    "ChunkHasher",
    "CollectionRule",
    "DeletedManifest",
    "Departure",
    "Descriptor",
    "Digest",
    "DiskUse",
    "EventHead",
    "EventRecord",
    "FillPart",
    "FillState",
    "FsckReport",
    "ImageHolding",
    "ImageUse",
    "Lock",
    "LockChange",
    "LockTarget",
    "Manifest",
    "MemberPage",
    "Pin",
    "ReferrerPage",
    "ReferrersList",
    "RepositoryAccount",
    "RepositoryMember",
    "Resource",
    "ResourceChange",
    "Store",
    "StoreAccount",
    "StoreStatistics",
    "Tag",
    "TagList",
    "TagMove",
    "Uploads",
    "chunk_hash",
    "fsck",
    "rebuild",
]

_RECORDS = (
    "Blob Child CollectionRule DeletedManifest Departure Descriptor DiskUse EventHead EventRecord FillState"
    " ImageHolding"
    " ImageUse Lock LockChange LockTarget Manifest MemberPage Pin ReferrerPage ReferrersList RepositoryAccount"
    " RepositoryMember Resource ResourceChange StoreAccount StoreStatistics Tag TagList TagMove"
)
_PLACES = {
    **dict.fromkeys(("FsckReport", "fsck"), "upkeep.fsck"),
    **dict.fromkeys(("CHUNK_BYTES", "ChunkHasher", "Digest", "chunk_hash"), "digest"),
    **dict.fromkeys(_RECORDS.split(), "record"),
    "FillPart": "blob_files.fill_file",
    "BlobReader": "blob_files.blob_reader",
    "rebuild": "recovery.rebuild",
    "Store": "store",
    "Uploads": "blob_files.upload_files",
}


def __getattr__(name: str) -> Any:
    """Names are loaded when they are asked for (PEP 562): a process that only knows the errors of a store, as the
    supervisor, holds neither LMDB nor the rest (2 MB)."""
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{place}"), name)
