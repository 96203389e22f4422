"""An image put into a store by its owner: what a root holds before its first push."""

from __future__ import annotations

from pathlib import Path

from holdfast_core import ChunkHasher, Digest, Store

from holdfast.testing.sample import Sample


def seed(data: Path, name: str, tag: str, sample: Sample, now: float) -> None:
    """Make a store in `data` that owns the sample as `name:tag`. No other process may have the store open."""
    store = Store.create_or_open(data, write=True)
    try:
        for digest, body in sample.blobs.items():
            _put_blob(store, name, Digest.parse(digest), body, now)
        for digest, media_type, body in sample.manifests:
            store.references.put_manifest(
                name, Digest.parse(digest), media_type, body, owned=True, now=now
            ).result()
        store.references.put_tag(name, tag, Digest.parse(sample.index), now=now, origin="local").result()
    finally:
        store.close()


def _put_blob(store: Store, name: str, digest: Digest, body: bytes, now: float) -> None:
    hasher = ChunkHasher(digest.algorithm)
    hasher.update(body)
    part = store.blobs.fills.open_part(name, digest, len(body))
    part.write(0, body)
    store.blobs.fills.commit(part, name, digest, hasher.table(), owned=True, now=now).result()
    part.close()
