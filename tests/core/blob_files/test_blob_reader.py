"""No byte leaves that was not checked, whatever happened to the file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import CHUNK_BYTES, Blob, BlobReader, Store
from holdfast_core.errors import ChunkDamaged, Damaged, DigestMismatch, Exhausted, Mistake, NotHeld
from support.stores import file_of, flip_bit, put_file, put_manifest, read_all, some_bytes

Opener = Callable[..., Store]
SIZE = 2 * CHUNK_BYTES + 500_000
BODY = some_bytes(SIZE)


class Clock:
    """Seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(opener: Opener, clock: Clock) -> Store:
    return opener(clock=clock, scrub_interval=100.0)


@pytest.fixture
def blob(store: Store) -> Blob:
    return put_file(store, "r", BODY)


def test_nothing_is_read_on_the_loop_before_it_was_checked(store: Store, blob: Blob) -> None:
    with store.blobs.open(blob) as reader:
        assert reader.read_nowait(0, 10) is None
        assert not reader.verified(0, 10)
        assert reader.read(5, 10) == BODY[5:15]
        assert reader.verified(0, CHUNK_BYTES)
        assert not reader.verified(0, CHUNK_BYTES + 1)
        assert reader.read_nowait(CHUNK_BYTES, 1) is None
        assert reader.read_nowait(7, 9) in (BODY[7:16], None)
    assert store.statistics().checked_chunks == 1


def test_one_call_ends_with_its_chunk(store: Store, blob: Blob) -> None:
    with store.blobs.open(blob) as reader:
        assert len(reader.read(CHUNK_BYTES - 10, 1000)) == 10
        assert len(reader.read(SIZE - 10, 1000)) == 10
        assert len(reader.read(0, SIZE)) == CHUNK_BYTES
        for offset, length in [(-1, 1), (0, 0), (0, -1), (SIZE, 1)]:
            with pytest.raises(ValueError, match="outside"):
                reader.read(offset, length)
            with pytest.raises(ValueError, match="outside"):
                reader.read_nowait(offset, length)
        for offset, length in [(-1, 1), (0, -1), (0, SIZE + 1)]:
            with pytest.raises(ValueError, match="outside"):
                reader.verified(offset, length)


def test_what_one_reader_checked_counts_for_all(store: Store, blob: Blob) -> None:
    with store.blobs.open(blob) as first, store.blobs.open(blob) as second:
        first.read(0, 1)
        assert second.verified(0, CHUNK_BYTES)
    with store.blobs.open(blob) as third:
        assert third.verified(0, CHUNK_BYTES)
        assert third.read(3, 4) == BODY[3:7]
    assert store.statistics().checked_chunks == 1


def test_a_chunk_is_checked_again_after_the_scrub_interval(store: Store, blob: Blob, clock: Clock) -> None:
    with store.blobs.open(blob) as reader:
        reader.read(0, 1)
        clock.now += 100
        assert reader.verified(0, 1)
        clock.now += 1
        assert not reader.verified(0, 1)
        assert reader.read_nowait(0, 1) is None
        reader.read(0, 1)
        assert reader.verified(0, 1)
    assert store.statistics().checked_chunks == 2


def test_flipped_bits_are_found_and_never_returned(store: Store, blob: Blob, root: Path) -> None:
    """60 of them, anywhere in the file; the readers open before and after the flip."""
    for seed in range(60):
        at = int.from_bytes(some_bytes(4, seed)) % SIZE
        with store.blobs.open(blob) as before:
            flip_bit(file_of(root, blob.digest), at, seed % 8)
            assert_only_bad(before, at // CHUNK_BYTES, at)
        with store.blobs.open(blob) as after:
            assert_only_bad(after, at // CHUNK_BYTES, at)
        flip_bit(file_of(root, blob.digest), at, seed % 8)
    assert store.statistics().damaged_chunks == 60 * 6


def assert_only_bad(reader: BlobReader, bad: int, at: int) -> None:
    """Every chunk but one is right, and no byte of that one is returned."""
    for chunk in range(3):
        start, end = chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, SIZE)
        if chunk != bad:
            assert reader.read(start, CHUNK_BYTES) == BODY[start:end]
            continue
        for offset in (start, at, end - 1):
            with pytest.raises(ChunkDamaged) as found:
                reader.read(offset, 1)
            assert (found.value.start, found.value.end) == (start, end)
            assert reader.read_nowait(offset, 1) is None
        assert not reader.verified(start, 1)


def test_a_write_to_the_file_ends_its_verification(store: Store, blob: Blob, root: Path) -> None:
    with store.blobs.open(blob) as reader:
        reader.read(0, 1)
    flip_bit(file_of(root, blob.digest), 3)
    with store.blobs.open(blob) as reader:
        assert not reader.verified(0, 1)
        with pytest.raises(ChunkDamaged):
            reader.read(0, 1)


def test_a_file_cut_short_while_it_is_read(store: Store, blob: Blob, root: Path) -> None:
    with store.blobs.open(blob) as reader:
        reader.read(0, SIZE)
        os.truncate(file_of(root, blob.digest), 100)
        for offset in (50, CHUNK_BYTES):
            with pytest.raises(ChunkDamaged):
                reader.read(offset, 1000)
        assert reader.read_nowait(200, 10) is None
    with pytest.raises(Damaged, match="not a plain file of"):
        store.blobs.open(blob)


def swap_symlink(file: Path) -> None:
    os.rename(file, file.with_suffix(".moved"))
    file.symlink_to(file.with_suffix(".moved"))


def swap_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def swap_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("swap", [swap_symlink, swap_fifo, swap_directory])
def test_what_is_not_a_plain_file_is_refused_without_waiting(
    store: Store, blob: Blob, root: Path, swap: Callable[[Path], None]
) -> None:
    swap(file_of(root, blob.digest))
    with pytest.raises(Damaged):
        store.blobs.open(blob)


def test_a_gone_file_is_not_held(store: Store, blob: Blob, root: Path) -> None:
    file_of(root, blob.digest).unlink()
    with pytest.raises(NotHeld):
        store.blobs.open(blob)


def test_no_descriptor_left(store: Store, blob: Blob, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Exhausted):
        store.blobs.open(blob)


def test_a_quarantined_chunk_is_not_served_until_it_is_repaired(
    store: Store, blob: Blob, root: Path, opener: Opener
) -> None:
    body = BODY[CHUNK_BYTES : 2 * CHUNK_BYTES]
    with store.blobs.open(blob) as reader:
        read_all(store, blob)
        flip_bit(file_of(root, blob.digest), CHUNK_BYTES + 5)
        quarantined = store.blobs.quarantine(blob.digest, CHUNK_BYTES + 5, CHUNK_BYTES + 6)
        assert_refused(reader)
        quarantined.result()
    store.close()
    store = opener()
    damaged = store.blobs.get("r", blob.digest)
    assert damaged is not None
    assert damaged.damaged
    with store.blobs.open(damaged) as reader:
        assert_refused(reader)
        assert reader.read(0, 5) == BODY[:5]
        with pytest.raises(DigestMismatch):
            store.blobs.repair_chunk(blob.digest, CHUNK_BYTES, bytes(CHUNK_BYTES)).result()
        assert_refused(reader)
        store.blobs.repair_chunk(blob.digest, CHUNK_BYTES, body).result()
        assert reader.read(CHUNK_BYTES + 3, 9) == body[3:12]
    repaired = store.blobs.get("r", blob.digest)
    assert repaired is not None
    assert not repaired.damaged
    assert read_all(store, repaired) == BODY


def assert_refused(reader: BlobReader) -> None:
    """The second chunk is not to be had."""
    assert reader.read_nowait(CHUNK_BYTES, 10) is None
    assert not reader.verified(CHUNK_BYTES, 10)
    with pytest.raises(ChunkDamaged):
        reader.read(2 * CHUNK_BYTES - 1, 1)


def test_quarantine_holds_until_the_last_bad_chunk_is_repaired(store: Store, blob: Blob) -> None:
    store.blobs.quarantine(blob.digest, 0, SIZE).result()
    for chunk in (2, 0, 1):
        found = store.blobs.get("r", blob.digest)
        assert found is not None
        assert found.damaged
        start = chunk * CHUNK_BYTES
        store.blobs.repair_chunk(blob.digest, start, BODY[start : start + CHUNK_BYTES]).result()
    assert store.blobs.get("r", blob.digest) == blob


def test_repairs_that_make_no_sense(store: Store, blob: Blob) -> None:
    inline = put_manifest(store, "r", b"small")
    for start, length in [(1, 10), (0, 10), (-CHUNK_BYTES, CHUNK_BYTES), (3 * CHUNK_BYTES, 0)]:
        with pytest.raises(Mistake):
            store.blobs.repair_chunk(blob.digest, start, bytes(length))
    for start, end in [(0, 0), (5, 4), (-1, 4), (0, SIZE + 1)]:
        with pytest.raises(Mistake):
            store.blobs.quarantine(blob.digest, start, end)
    with pytest.raises(NotHeld):
        store.blobs.quarantine(inline, 0, 1)
    with pytest.raises(NotHeld):
        store.blobs.repair_chunk(inline, 0, b"small")


def test_a_chunk_of_a_blob_that_has_gone_is_not_a_wrong_one(store: Store, blob: Blob) -> None:
    """It was removed after the repair was asked for: that is no fault of the parent that sent the chunk."""
    store.blobs.discard(blob.digest).result()
    with pytest.raises(NotHeld):
        store.blobs.check_chunk(blob.digest, 0, BODY[:CHUNK_BYTES])


def test_a_damaged_blob_is_replaced_by_a_new_fill(store: Store, blob: Blob, root: Path) -> None:
    flip_bit(file_of(root, blob.digest), 9)
    store.blobs.quarantine(blob.digest, 0, 10).result()
    again = put_file(store, "r", BODY)
    assert not again.damaged
    assert read_all(store, again) == BODY


@pytest.mark.parametrize(
    "swap", [Path.unlink, swap_symlink, swap_directory, lambda file: os.truncate(file, 9)]
)
def test_a_lost_file_is_repaired_chunk_by_chunk(
    store: Store, blob: Blob, root: Path, swap: Callable[[Path], None]
) -> None:
    swap(file_of(root, blob.digest))
    store.blobs.quarantine(blob.digest, 0, SIZE).result()
    store.blobs.repair_chunk(blob.digest, CHUNK_BYTES, BODY[CHUNK_BYTES : 2 * CHUNK_BYTES]).result()
    with store.blobs.open(blob) as reader:
        assert reader.read(CHUNK_BYTES, CHUNK_BYTES) == BODY[CHUNK_BYTES : 2 * CHUNK_BYTES]
        for hole in (0, 2 * CHUNK_BYTES):
            with pytest.raises(ChunkDamaged):
                reader.read(hole, 1)
    for start in (0, 2 * CHUNK_BYTES):
        store.blobs.repair_chunk(blob.digest, start, BODY[start : start + CHUNK_BYTES]).result()
    found = store.blobs.get("r", blob.digest)
    assert found is not None
    assert not found.damaged
    assert read_all(store, found) == BODY


def test_discarded_bytes_are_set_aside_and_unlinked_everywhere(store: Store, blob: Blob, root: Path) -> None:
    store.blobs.link("q", blob.digest, now=1.0).result()
    os.truncate(file_of(root, blob.digest), 5)
    store.blobs.discard(blob.digest).result()
    assert store.blobs.get("r", blob.digest) is None
    assert store.blobs.get("q", blob.digest) is None
    assert store.blobs.anywhere(blob.digest) is None
    assert len(os.listdir(root / "quarantine")) == 1
    assert read_all(store, put_file(store, "q", BODY)) == BODY
    assert store.blobs.get("r", blob.digest) is None


def test_a_closed_reader_reads_nothing(store: Store, blob: Blob) -> None:
    reader = store.blobs.open(blob)
    reader.read(0, 1)
    reader.close()
    reader.close()
    assert reader.fd == -1
    assert not reader.verified(0, 1)
    for read in (reader.read, reader.read_nowait):
        with pytest.raises(ValueError, match="closed"):
            read(0, 1)


def test_an_abandoned_reader_gives_its_descriptor_back(store: Store, blob: Blob) -> None:
    reader = store.blobs.open(blob)
    assert store.statistics().open_readers == 1
    fd = reader.fd
    del reader
    assert store.statistics().open_readers == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_close_waits_for_the_read_on_another_thread(opener: Opener, root: Path, tmp_path: Path) -> None:
    held, go = threading.Event(), threading.Event()
    calls: list[int] = []

    def clock() -> float:
        calls.append(1)
        if held_back and not go.is_set():
            held.set()
            go.wait(60)
        return 1.0

    held_back = False
    store = opener(clock=clock)
    blob = put_file(store, "r", BODY)
    reader = store.blobs.open(blob)
    held_back, result = True, []
    thread = threading.Thread(target=lambda: result.append(reader.read(0, 100)))
    thread.start()
    assert held.wait(60)
    reader.close()
    assert reader.fd >= 0
    go.set()
    thread.join(60)
    assert result == [BODY[:100]]
    assert reader.fd == -1


def test_inline_bytes_are_read_the_same_way(store: Store) -> None:
    blob = put_file(store, "r", b"small layer")
    with store.blobs.open(blob) as reader:
        assert reader.fd == -1
        assert reader.verified(0, 11)
        assert reader.read_nowait(2, 100) == b"all layer"
        assert reader.read(0, 5) == b"small"


def test_only_so_many_checks_are_remembered(store: Store) -> None:
    from holdfast_core.blob_files.blob_reader import Readers

    readers = Readers(lambda digest, chunk: b"", lambda: 0.0, 1.0, remembered_chunks=10)
    digests = [put_manifest(store, "r", bytes([n])) for n in range(4)]
    first = readers.verification(digests[0], 4 * CHUNK_BYTES, (1,), ())
    assert readers.verification(digests[0], 4 * CHUNK_BYTES, (1,), ()) is first
    assert readers.verification(digests[0], 4 * CHUNK_BYTES, (2,), ()) is not first
    kept = [readers.verification(d, 4 * CHUNK_BYTES, (1,), ()) for d in digests]
    assert readers.verification(digests[3], 4 * CHUNK_BYTES, (1,), ()) is kept[3]
    assert readers.verification(digests[0], 4 * CHUNK_BYTES, (1,), ()) is not kept[0]


def test_a_chunk_that_its_file_cannot_have_is_served_from_memory(store: Store, blob: Blob) -> None:
    """In this reader alone, until another chunk takes its place, and only if it is the chunk."""
    body = BODY[CHUNK_BYTES : 2 * CHUNK_BYTES]
    store.blobs.quarantine(blob.digest, CHUNK_BYTES, CHUNK_BYTES + 1).result()
    damaged = store.blobs.get("r", blob.digest)
    assert damaged is not None
    with store.blobs.open(damaged) as reader, store.blobs.open(damaged) as other:
        with pytest.raises(ChunkDamaged):
            reader.take(CHUNK_BYTES, bytes(CHUNK_BYTES))
        assert_refused(reader)
        reader.take(CHUNK_BYTES, body)
        assert reader.read_nowait(CHUNK_BYTES + 3, 9) == body[3:12]
        assert reader.read(2 * CHUNK_BYTES - 1, 1) == body[-1:]
        assert not reader.verified(CHUNK_BYTES, 10), "the file is as it was"
        assert_refused(other)
