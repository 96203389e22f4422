"""What a scrub of the blob files takes for damage, and what it takes for a disk that cannot be read."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from holdfast_core import Digest, Store
from holdfast_core import format as layout
from holdfast_core.blob_files.uncached_read import read_past_cache
from holdfast_core.errors import FileDamaged, StoreError
from holdfast_core.filesystem.directory import Directory
from holdfast_core.upkeep import disk_scrub
from support.stores import put_file, some_bytes

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
        patched.setattr(disk_scrub, "read_past_cache", lambda *_: False)
        with pytest.raises(StoreError, match="5 reads of blob files failed"):
            found(store)
    assert found(store) == ()


def test_one_sector_that_cannot_be_read_is_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(store)
    calls = [0]

    def fails_twice(*arguments: object) -> bool:
        calls[0] += 1
        return calls[0] > 2 and read_past_cache(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(disk_scrub, "read_past_cache", fails_twice)
    ((digest, start, end),) = found(store)
    assert (digest in map(Digest.of, BODIES), start, end) == (True, 0, 20_000)


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
