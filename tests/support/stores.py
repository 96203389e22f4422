"""Making stores and blobs for tests."""

from __future__ import annotations

import os
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from holdfast_core import CHUNK_BYTES, Blob, ChunkHasher, Digest, Store
from holdfast_core import format as layout
from holdfast_core.changes import outbox_rows

MEDIA = "application/vnd.oci.image.manifest.v1+json"


def some_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes that do not repeat and are the same in every run."""
    return random.Random(seed).randbytes(size)


def hashed(body: bytes, algorithm: str = "sha256") -> tuple[Digest, bytes]:
    """(digest, chunk table)."""
    hasher = ChunkHasher(algorithm)
    hasher.update(body)
    return hasher.digest(), hasher.table()


def put_file(
    store: Store,
    repository: str,
    body: bytes,
    *,
    owned: bool = False,
    now: float = 1.0,
    algorithm: str = "sha256",
) -> Blob:
    """Bring a blob in as a fill does."""
    digest, table = hashed(body, algorithm)
    part = store.blobs.fills.open_part(repository, digest, len(body))
    try:
        part.write(0, body)
        store.blobs.fills.commit(part, repository, digest, table, owned=owned, now=now).result()
    finally:
        part.close()
    blob = store.blobs.get(repository, digest)
    assert blob is not None
    return blob


def put_manifest(
    store: Store, repository: str, body: bytes, *, owned: bool = False, subject: Digest | None = None
) -> Digest:
    """Store a manifest; its digest."""
    digest = Digest.of(body)
    store.references.put_manifest(
        repository, digest, MEDIA, body, owned=owned, now=1.0, subject=subject
    ).result()
    return digest


def read_all(store: Store, blob: Blob) -> bytes:
    """All bytes, by the checked way."""
    with store.blobs.open(blob) as reader:
        return b"".join(reader.read(at, CHUNK_BYTES) for at in range(0, blob.size, CHUNK_BYTES))


def file_of(root: Path, digest: Digest) -> Path:
    """Where a blob's file lies."""
    return root / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def strike(path: Path, wanted: bytes, length: int, *, behind: bool = False) -> None:
    """Overwrite `length` bytes of a journal where `wanted` is first, or of an index wherever it is; with `behind` those
    that follow it."""
    whole = path.read_bytes()
    at = whole.index(wanted)
    with path.open("r+b") as file:
        while at >= 0:
            file.seek(at + behind * len(wanted))
            file.write(bytes(length))
            at = whole.find(wanted, at + 1) if path.suffix == ".mdb" else -1


def keep_index(root: Path) -> None:
    """A copy of the index as it is."""
    shutil.copytree(root / "index", root.parent / "copy")


def put_back(root: Path) -> None:
    """The copy in the place of the index."""
    shutil.rmtree(root / "index")
    shutil.copytree(root.parent / "copy", root / "index")


def without_journal(store: Store) -> None:
    """From here on there is no copy of the records that were committed so far."""
    os.truncate(store.path / "journal" / "log", 40)


# --- as clients do -----------------------------------------------------------------------------------------


def stage(store: Store, body: bytes, name: str | None = None) -> str:
    """A staging file with all of its bytes; its name."""
    name = name or Digest.of(b"session of " + body).hex
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=store._directory.uploads_fd)
    with os.fdopen(fd, "wb") as file:
        file.write(body)
    return name


def push_file(
    store: Store, repository: str, body: bytes, *, now: float = 1.0, algorithm: str = "sha256"
) -> Blob:
    """Push a blob as an upload that was closed."""
    digest, table = hashed(body, algorithm)
    store.blobs.push_upload(repository, stage(store, body), len(body), digest, table, now=now).result(60)
    blob = store.blobs.get(repository, digest)
    assert blob is not None
    return blob


def push(
    store: Store, repository: str, body: bytes, *tags: str, algorithm: str = "sha256", **more: Any
) -> Digest:
    """Push a manifest with tags; its digest."""
    digest = Digest.of(body, algorithm)
    more = {"now": 1.0, **more}
    store.references.push_manifest(repository, digest, MEDIA, body, tags=tags, **more).result(60)
    return digest


def dump(store: Store, root: Path) -> tuple[dict[bytes, bytes], dict[str, bytes]]:
    """All that a store is: every record of the index but the journal's place, and every file but the index,
    the journal's and where the sweep is."""
    with store._index.begin() as txn, txn.cursor() as cursor:
        rows = {key: value for key, value in cursor if key[:1] != layout.JOURNALED}
    files = (f for f in root.rglob("*") if f.is_file() and f.parent.name not in ("index", "journal"))
    return rows, {str(f.relative_to(root)): f.read_bytes() for f in files if f != root / "sweep"}


def confirm(store: Store, repository: str, parent: bytes, *digests: Digest) -> None:
    """Note what the sender notes when a parent has digests of a repository."""
    settled = partial(
        outbox_rows.confirmed, repository=repository, digests=list(map(str, digests)), parent=parent
    )
    store.references.outbox.change([], [], settled).result()
