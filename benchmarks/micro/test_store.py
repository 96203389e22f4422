"""What the store costs, a call at a time: lookups, the record codec, digests and chunk tables, checked reads.

    PYTHONPATH=core:proxy:tests python -m pytest benchmarks/micro/test_store.py

Everything is in memory (page cache); the index holds 20,000 manifests of 1.5 kB.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_core import CHUNK_BYTES, Blob, ChunkHasher, Digest, Store, chunk_hash
from holdfast_core import format as layout
from pytest_benchmark.fixture import BenchmarkFixture
from support.stores import MEDIA, put_file, some_bytes

MANIFESTS = 20_000
BODY = some_bytes(4 * CHUNK_BYTES)


def manifest_body(n: int) -> bytes:
    return b"%d" % n + b"x" * 1500


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.create_or_open(tmp_path_factory.mktemp("bench") / "store", write=True)
    futures = []
    for n in range(MANIFESTS):
        body = manifest_body(n)
        repository = f"library/r{n % 100}"
        futures.append(
            store.references.put_manifest(repository, Digest.of(body), MEDIA, body, owned=False, now=1.0)
        )
    futures.append(store.references.put_tag("library/r7", "latest", Digest.of(manifest_body(7)), now=1.0))
    for future in futures:
        future.result()
    yield store
    store.close()


@pytest.fixture(scope="module")
def blob(store: Store) -> Blob:
    return put_file(store, "library/r7", BODY)


def test_lookup_manifest(benchmark: BenchmarkFixture, store: Store) -> None:
    digest = Digest.of(manifest_body(7))
    assert benchmark(store.references.manifest, "library/r7", digest).body == manifest_body(7)


def test_lookup_blob(benchmark: BenchmarkFixture, store: Store, blob: Blob) -> None:
    assert benchmark(store.blobs.get, "library/r7", blob.digest) == blob


def test_lookup_blob_not_linked(benchmark: BenchmarkFixture, store: Store, blob: Blob) -> None:
    assert benchmark(store.blobs.get, "library/r8", blob.digest) is None


def test_lookup_tag(benchmark: BenchmarkFixture, store: Store) -> None:
    assert benchmark(store.references.tag, "library/r7", "latest") is not None


def test_digest_parse(benchmark: BenchmarkFixture) -> None:
    text = str(Digest.of(b"x"))
    assert str(benchmark(Digest.parse, text)) == text


def test_record_seal(benchmark: BenchmarkFixture) -> None:
    payload = layout.encode_blob(1 << 30, flags=0)
    benchmark(layout.seal, layout.BLOB + bytes(33), payload)


def test_record_unseal_and_decode(benchmark: BenchmarkFixture) -> None:
    digest = Digest.of(b"x")
    key = layout.BLOB + digest.key
    value = layout.seal(key, layout.encode_blob(1 << 30, flags=0))
    assert benchmark(lambda: layout.decode_blob(digest, layout.unseal(key, value))).size == 1 << 30


def test_digest_and_table_of_4_mib(benchmark: BenchmarkFixture) -> None:
    def both() -> bytes:
        hasher = ChunkHasher()
        hasher.update(BODY)
        hasher.digest()
        return hasher.table()

    assert len(benchmark(both)) == 4 * 32


def test_chunk_hash(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(chunk_hash, BODY[:CHUNK_BYTES])) == 32


def test_open_and_close_a_blob(benchmark: BenchmarkFixture, store: Store, blob: Blob) -> None:
    benchmark(lambda: store.blobs.open(blob).close())


@pytest.mark.parametrize("length", [4096, 65536, 262144, CHUNK_BYTES])
def test_read_of_a_checked_chunk(benchmark: BenchmarkFixture, store: Store, blob: Blob, length: int) -> None:
    with store.blobs.open(blob) as reader:
        reader.read(0, 1)
        assert benchmark(reader.read_nowait, 0, length) == BODY[:length]


def test_first_read_of_a_chunk(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """With the check: the whole chunk is read and hashed."""
    store = Store.create_or_open(tmp_path / "store", write=True, scrub_interval=-1.0)
    try:
        with store.blobs.open(put_file(store, "r", BODY)) as reader:
            assert benchmark(reader.read, 0, CHUNK_BYTES) == BODY[:CHUNK_BYTES]
    finally:
        store.close()
