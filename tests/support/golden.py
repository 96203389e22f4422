"""The golden store: small, with a record of every kind, made once for each format and read for ever.

    PYTHONPATH=core:tests python -m support.golden      writes tests/data/store-format-<n>.tar.xz

Run it when the format changes, and only then; the files of earlier formats stay as they are.
"""

from __future__ import annotations

import math
import os
import tarfile
import tempfile
from pathlib import Path

from holdfast_core import (
    CHUNK_BYTES,
    Descriptor,
    Digest,
    EventRecord,
    FillState,
    Lock,
    LockTarget,
    Pin,
    ResourceChange,
    Store,
)
from holdfast_core import format as layout
from support.stores import confirm, file_of, hashed, push, push_file, put_file, put_manifest

ARCHIVE = Path(__file__).parent.parent / "data" / f"store-format-{layout.FORMAT}.tar.xz"
# zeros, so that the archive stays small
LAYER = bytes(61 * CHUNK_BYTES + 5)
CACHED = b"cached layer" + bytes(20_000)
SMALL = b"small layer"
MANIFEST = b'{"schemaVersion":2}'
SIGNATURE = b'{"schemaVersion":2,"subject":{}}'
LARGE_MANIFEST = b'{"schemaVersion":2,"layers":[]}' + b" " * 20_000
SHA512 = Digest.of(SMALL, "sha512")
DESCRIPTOR = Descriptor("application/m", str(Digest.of(b"sbom")), 4, "application/sbom", {"key": "väl"})
FILL = FillState(
    "library/a",
    Digest.of(b"unfinished"),
    62 * CHUNK_BYTES,
    '"etag"',
    ((0, CHUNK_BYTES), (61 * CHUNK_BYTES, 61 * CHUNK_BYTES + 5)),
    {0: b"a" * 32, 60: b"b" * 32},
    True,
    7.5,
)
TAGS = tuple(f"tag-{n:03}" for n in range(300))
# since format 2
PUSHED = b'{"schemaVersion":2,"pushed":1}'
PUSHED_SHA512 = Digest.of(PUSHED, "sha512")
UNLINKED = b"nobody's layer" + bytes(20_000)
LOCK = Lock(write=False, list=False)
NOTE = b"what the parent is to be told"
DOCUMENT = b'{"name":"Plant"}'
# since format 3
LOGGED = b'{"schemaVersion":2,"logged":1}'
RELAYED = EventRecord("push", "tag", "below/d", 11.0, "v1", str(PUSHED_SHA512), registry="plant")
# since format 4
CHILD = b"a layer of an image"
IMAGE = b'{"schemaVersion":2,"layers":[{"digest":"%s","size":%d}]}' % (
    str(Digest.of(CHILD)).encode(),
    len(CHILD),
)
PIN = Pin("library/b", "tag", "pinned", math.inf, True, 13.0)

# since format 5
CONFIRMED_BY = bytes(range(16))


def build(path: Path) -> None:
    """A store with a record of every kind."""
    store = Store.create_or_open(path, write=True)
    layer = put_file(store, "library/a", LAYER, owned=True)
    put_file(store, "library/b", CACHED)
    put_file(store, "docker.io:library/b", SMALL, algorithm="sha512")
    subject = put_manifest(store, "library/a", MANIFEST, owned=True)
    put_manifest(store, "library/a", SIGNATURE, subject=subject)
    put_manifest(store, "library/a", LARGE_MANIFEST)
    store.references.put_tag("library/a", "v1", Digest.of(SIGNATURE), now=1.0)
    store.references.put_tag("library/a", "v1", subject, now=2.0, origin="local")
    store.references.lists.put_tag_list("library/a", TAGS, now=3.0)
    store.references.lists.put_referrers("library/a", subject, [DESCRIPTOR], now=4.0)
    store.blobs.fills.open_part(FILL.repository, FILL.digest, FILL.size).close()
    store.blobs.fills.checkpoint(FILL)
    store.blobs.seen("library/a", subject, 5.0)
    push(
        store,
        "pushed/c",
        PUSHED,
        "gone",
        "kept",
        algorithm="sha512",
        now=6.0,
        pending=True,
        notes=lambda before: [NOTE, NOTE],
    )
    store.references.set_lock("pushed/c", LockTarget("tag", "kept"), LOCK, now=7.0)
    store.references.delete_tag("pushed/c", "gone", now=8.0, tombstone=True)
    unlinked = push_file(store, "pushed/c", UNLINKED)
    store.blobs.delete("pushed/c", unlinked.digest, now=9.0)
    store.references.outbox.change([(2, NOTE * 2)], [1])
    document = ResourceChange("token", "Plant", DOCUMENT)
    store.documents.change(lambda view: [document], quiet=frozenset()).result()
    put_file(store, "library/b", CHILD)
    put_manifest(store, "library/b", IMAGE)
    store.events.keep(True)
    push(store, "pushed/c", LOGGED, "logged", now=10.0)
    store.documents.change(lambda view: [], quiet=frozenset(), events=lambda: [RELAYED]).result()
    store.blobs.quarantine(layer.digest, 60 * CHUNK_BYTES, 60 * CHUNK_BYTES + 1).result()
    confirm(store, "pushed/c", CONFIRMED_BY, Digest.of(LOGGED))
    store.space.pin(PIN, now=13.0).result()
    store.close()


def zeros(path: Path) -> dict[Path, int]:
    """Files that are nothing but zeros, with their lengths: left out of the archive, made again sparse."""
    layer = hashed(LAYER)[0]
    return {file_of(path, layer): len(LAYER), path / "fills" / f"sha256-{FILL.digest.hex}": FILL.size}


def pack(source: Path, archive: Path) -> None:
    """The store as an archive, without lock files."""
    left_out = {f"store/{file.relative_to(source)}" for file in zeros(source)} | {
        "store/lock",
        "store/index/lock.mdb",
    }
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(source, "store", filter=lambda item: None if item.name in left_out else item)


def unpack(archive: Path, place: Path) -> Path:
    """The store out of an archive, below `place`."""
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    for file, size in zeros(place / "store").items():
        file.touch()
        os.truncate(file, size)
    return place / "store"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        build(Path(place) / "store")
        pack(Path(place) / "store", ARCHIVE)
    print(ARCHIVE, ARCHIVE.stat().st_size)
