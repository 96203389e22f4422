"""What a scrub of the blob files takes for damage, and what it takes for a disk that cannot be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from holdfast_core import Digest, Store
from holdfast_core import format as layout
from holdfast_core.blob_files import disk_check
from holdfast_core.blob_files.uncached_read import read_past_cache
from holdfast_core.digest import CHUNK_BYTES
from holdfast_core.errors import FileDamaged, StoreError
from holdfast_core.filesystem.directory import Directory
from support.stores import file_of, flip_bit, push_file, put_file, read_all, some_bytes

BODIES = [some_bytes(20_000, number) for number in range(5)]


def filled(store: Store) -> list[Digest]:
    return [put_file(store, "a", body, owned=True).digest for body in BODIES]


def found(store: Store) -> tuple[tuple[Digest, int, int], ...]:
    return store.upkeep.scrub_blobs(b"", 1 << 30).result(60).found


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_files_that_a_disk_does_not_open_are_not_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    filled(store)

    def refuses(_: Directory, digest: Digest, *__: object, **___: object) -> None:
        raise FileDamaged(f"{digest}: its file cannot be opened") from OSError(code, "no")

    with monkeypatch.context() as patched:
        patched.setattr(Directory, "open_blob", refuses)
        with pytest.raises(StoreError, match="nothing is noted as damaged"):
            found(store)
    assert found(store) == ()


def test_a_disk_that_gives_nothing_to_read_damages_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store)
    with monkeypatch.context() as patched:
        patched.setattr(disk_check, "read_past_cache", lambda *_: False)
        with pytest.raises(StoreError, match="5 reads of blob files failed"):
            found(store)
    assert found(store) == ()


def unreadable(monkeypatch: pytest.MonkeyPatch, *places: int) -> None:
    """The disk does not give the chunks that begin at these offsets of files longer than a chunk."""

    def fails(fd: int, offset: int, length: int, target: bytearray) -> bool:
        is_bad = offset in places and os.fstat(fd).st_size > CHUNK_BYTES
        return not is_bad and read_past_cache(fd, offset, length, target)

    monkeypatch.setattr(disk_check, "read_past_cache", fails)


def test_one_sector_that_cannot_be_read_is_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(store)
    long = push_file(store, "a", some_bytes(2 * CHUNK_BYTES)).digest
    unreadable(monkeypatch, CHUNK_BYTES)
    assert found(store) == ((long, CHUNK_BYTES, 2 * CHUNK_BYTES),)


def test_a_scratch_below_a_whole_slice_is_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the slice can be read, and yet the disk gives other files: the scrub goes on."""
    filled(store)
    long = push_file(store, "a", some_bytes(9 * CHUNK_BYTES)).digest
    unreadable(monkeypatch, *range(0, 9 * CHUNK_BYTES, CHUNK_BYTES))
    chunks = [(long, at, at + CHUNK_BYTES) for at in range(0, 9 * CHUNK_BYTES, CHUNK_BYTES)]
    assert list(store.upkeep.scrub_blobs(long.key + bytes(4), 9 * CHUNK_BYTES).result(60).found) == chunks


def test_a_file_that_was_pushed_anew_since_is_not_damaged(store: Store) -> None:
    """The scrub read the file that a push replaced before the damage was noted."""
    body = some_bytes(2 * CHUNK_BYTES)
    digest = push_file(store, "a", body).digest
    flip_bit(file_of(store.path, digest), CHUNK_BYTES + 9)
    ((_, start, end),) = found(store)
    blob = push_file(store, "a", body)
    assert store.blobs.quarantine_damaged(digest, start, end).result(60) is False
    assert (store.blobs.damage(limit=10), read_all(store, blob)) == ([], body)


def test_what_the_disk_still_has_damaged_is_quarantined_and_nothing_beside_it(store: Store) -> None:
    digest = push_file(store, "a", some_bytes(3 * CHUNK_BYTES)).digest
    flip_bit(file_of(store.path, digest), CHUNK_BYTES + 9)
    assert store.blobs.quarantine_damaged(digest, 0, 3 * CHUNK_BYTES).result(60) is True
    assert [one.chunks for one in store.blobs.damage(limit=10)] == [(1,)]
    assert store.blobs.quarantine_damaged(digest, 0, 3 * CHUNK_BYTES).result(60) is False


def test_a_file_whose_hashes_are_damaged_is_left_to_the_repair_of_records(store: Store, root: Path) -> None:
    digests = filled(store)
    key = layout.segment_key(layout.CHUNKS + digests[2].key, 0)
    with store._index.begin(write=True) as txn:
        txn.put(key, b"nothing that was sealed")
    path = root / "blobs/sha256" / str(digests[4])[7:9] / str(digests[4])[7:]
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    assert found(store) == ((digests[4], 0, 20_000),)
