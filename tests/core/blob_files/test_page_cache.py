"""What was hashed counts as long as the pages that were hashed stay in memory, and not a read longer."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast_core import CHUNK_BYTES, Blob, BlobReader, Digest, Store
from holdfast_core.blob_files.blob_reader import IDLE_SECONDS, Readers
from holdfast_core.blob_files.page_cache import PageMap
from holdfast_core.digest import chunk_hash
from holdfast_core.errors import ChunkDamaged
from support.disk import Disk
from support.pages import PAGE, drop_cached, evict, maps_of
from support.stores import file_of, put_file, read_all, some_bytes

pytestmark = pytest.mark.disk

Opener = Callable[..., Store]
SIZE = 3 * CHUNK_BYTES + 300_000
BODY = some_bytes(SIZE)
#: bytes that a connection reads at once
PIECE = 64 * 1024


class Clock:
    """Seconds, moved by the test."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path / "disk", request.param, 400 << 20) as made:
        yield made


@pytest.fixture
def rotting(disk: Disk, clock: Clock) -> Iterator[tuple[Store, Blob, Path]]:
    """A store on a disk of its own, and a blob of it that was read whole."""
    store = Store.create_or_open(disk.root / "data", write=True, clock=clock)
    blob = put_file(store, "r", BODY)
    assert read_all(store, blob) == BODY
    yield store, blob, file_of(disk.root / "data", blob.digest)
    store.close()


def opened(path: Path, pages: PageMap, clock: Clock) -> tuple[Readers, BlobReader]:
    """A reader of a file that holds BODY."""
    readers = Readers(lambda _, chunk: chunk_hash(slice_of(chunk)), clock, 1e9, pages=pages)
    state = readers.verification(Digest.of(BODY), SIZE, (1,), ())
    return readers, BlobReader(readers, Digest.of(BODY), SIZE, os.open(path, os.O_RDONLY), state, None)


def slice_of(chunk: int) -> bytes:
    return chunk_of(BODY, chunk)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(BODY)
    return path


PAGE_MAPS = {"scan": PageMap, "entries": lambda: PageMap(scan=False)}


@pytest.mark.parametrize("make", PAGE_MAPS.values(), ids=PAGE_MAPS)
def test_case_fault_1_one_evicted_page_is_enough(
    file: Path, clock: Clock, make: Callable[[], PageMap]
) -> None:
    """Whatever page it is; others may go with it, where the kernel keeps several in one folio."""
    readers, reader = opened(file, make(), clock)
    with reader:
        last = (SIZE - 1) // PAGE
        for number in (0, 1, 255, 256, 300, 767, 768, last):
            for chunk in range(4):
                reader.read(chunk * CHUNK_BYTES, 1)
            assert reader.verified(0, SIZE)
            checked, at = readers.checked, number * PAGE
            evict(file, at, at + PAGE)
            assert not reader.verified(0, SIZE)
            assert not reader.verified(at, 1)
            assert reader.read_nowait(at, 1) is None
            assert readers.checked == checked
            assert reader.read(at, PAGE) == BODY[at : at + PAGE]
            assert readers.checked == checked + 1
            assert reader.verified(at, 1)


def test_case_fault_1_rot_below_a_verified_chunk_is_found(
    rotting: tuple[Store, Blob, Path], disk: Disk
) -> None:
    """The bit changes on the device; inode and times do not."""
    store, blob, path = rotting
    with store.blobs.open(blob) as reader:
        assert reader.verified(0, SIZE)
        evict(path)
        disk.flip(path, CHUNK_BYTES + 70_000, 3)
        assert_only_second_is_bad(reader)


def test_case_fault_1_somebody_else_read_it_into_memory(
    rotting: tuple[Store, Blob, Path], disk: Disk
) -> None:
    """A backup, or another worker: all of it is in memory, and nobody here hashed it."""
    store, blob, path = rotting
    with store.blobs.open(blob) as reader:
        evict(path)
        disk.flip(path, CHUNK_BYTES + 70_000, 3)
        assert path.read_bytes() != BODY
        assert reader.read_nowait(CHUNK_BYTES, 1) is None
        assert_only_second_is_bad(reader)


def test_case_fault_1_what_is_read_beside_is_not_hashed(
    rotting: tuple[Store, Blob, Path], disk: Disk
) -> None:
    """Readahead and the faults of a neighbour bring pages in, and make none of them verified."""
    store, blob, path = rotting
    with store.blobs.open(blob) as reader:
        evict(path)
        disk.flip(path, CHUNK_BYTES + 100, 3)
        disk.flip(path, 2 * CHUNK_BYTES - 100, 3)
        for neighbour in (0, 2):
            reader.read(neighbour * CHUNK_BYTES, 1)
        assert_only_second_is_bad(reader)


def test_case_fault_1_a_fault_next_to_it_puts_no_page_back(
    rotting: tuple[Store, Blob, Path], disk: Disk
) -> None:
    """Pages at either end of a chunk are evicted, rot, and are read in by somebody else. A fault in the next chunk
    maps what it finds in memory around it; the chunk is not whole by that."""
    store, blob, path = rotting
    with store.blobs.open(blob) as reader:
        for at in (CHUNK_BYTES, 2 * CHUNK_BYTES - PAGE):
            evict(path, at, at + PAGE)
            disk.flip(path, at + 9)
        path.read_bytes()
        for neighbour in (0, 2):
            evict(path, neighbour * CHUNK_BYTES, (neighbour + 1) * CHUNK_BYTES)
            path.read_bytes()
            reader.read(neighbour * CHUNK_BYTES, 1)
        assert_only_second_is_bad(reader)


def test_case_fault_1_wherever_the_map_lies_a_fault_next_to_it_puts_no_page_back(
    disk: Disk, clock: Clock
) -> None:
    """The kernel looks around a fault by 64 KiB of the address space, so how the map lies in it decides. No whole huge
    page, which would be aligned, and each time a page further on."""
    path, body, pads = disk.root / "file", BODY[: 2 * CHUNK_BYTES + 300_000], list[mmap.mmap]()
    path.write_bytes(body)
    for _ in range(16):
        pads.append(mmap.mmap(-1, PAGE))
        readers = Readers(lambda _, chunk: chunk_hash(chunk_of(body, chunk)), clock, 1e9, pages=PageMap())
        state = readers.verification(Digest.of(body), len(body), (1,), ())
        fd = os.open(path, os.O_RDONLY)
        with BlobReader(readers, Digest.of(body), len(body), fd, state, None) as reader:
            for chunk in range(3):
                reader.read(chunk * CHUNK_BYTES, 1)
            for at in (CHUNK_BYTES, 2 * CHUNK_BYTES - PAGE):
                evict(path, at, at + PAGE)
            path.read_bytes()
            for neighbour in (0, 2):
                evict(path, neighbour * CHUNK_BYTES, (neighbour + 1) * CHUNK_BYTES)
                path.read_bytes()
                reader.read(neighbour * CHUNK_BYTES, 1)
            for at in (CHUNK_BYTES, 2 * CHUNK_BYTES - PAGE):
                assert not reader.verified(at, 1)
    for pad in pads:
        pad.close()


def chunk_of(body: bytes, chunk: int) -> bytes:
    return body[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]


def test_case_fault_1_a_manifest_of_its_own_file(disk: Disk) -> None:
    """What the keeper reads goes the same way."""
    body = b'{"schemaVersion":2,"annotations":{"a":"' + b"x" * 100_000 + b'"}}'
    with_file = Store.create_or_open(disk.root / "data", write=True)
    digest = Digest.of(body)
    with_file.references.put_manifest("r", digest, "application/json", body, owned=False, now=1.0).result()
    path = file_of(disk.root / "data", digest)
    found = with_file.references.manifest("r", digest)
    assert found is not None
    assert found.body == body
    evict(path)
    disk.flip(path, 50_000)
    with pytest.raises(ChunkDamaged):
        with_file.references.manifest("r", digest)
    with_file.close()


def test_a_bad_copy_in_memory_is_let_go(rotting: tuple[Store, Blob, Path], disk: Disk) -> None:
    """The next read asks the disk again, so what only memory had wrong is right then."""
    store, blob, path = rotting
    with store.blobs.open(blob) as reader:
        evict(path)
        disk.flip(path, CHUNK_BYTES + 5)
        path.read_bytes()
        with pytest.raises(ChunkDamaged):
            reader.read(CHUNK_BYTES, 1)
        with pytest.raises(BlockingIOError):
            os.preadv(reader.fd, [bytearray(1)], CHUNK_BYTES + 5, os.RWF_NOWAIT)
        disk.flip(path, CHUNK_BYTES + 5)
        assert reader.read(CHUNK_BYTES, CHUNK_BYTES) == slice_of(1)


def assert_only_second_is_bad(reader: BlobReader) -> None:
    """Every piece of every chunk but the second is to be had, and of that one no byte."""
    for at in range(0, SIZE, PIECE):
        if at // CHUNK_BYTES != 1:
            piece = reader.read(at, PIECE)
            assert piece == BODY[at : at + len(piece)]
            continue
        assert not reader.verified(at, 1)
        assert reader.read_nowait(at, PIECE) is None
        with pytest.raises(ChunkDamaged):
            reader.read(at, PIECE)


def test_where_the_kernel_says_nothing_every_chunk_is_hashed_by_each_reader(file: Path, clock: Clock) -> None:
    """Once, though it leaves in small pieces."""
    pages = PageMap(file.parent / "no-such-file")
    assert not pages.works
    readers, reader = opened(file, pages, clock)
    with reader:
        for turn in (1, 2):
            assert pieces(reader) == BODY
            assert readers.checked == 4 * turn
            assert not reader.verified(0, 1)
    assert pages.mapped == 0


def pieces(reader: BlobReader) -> bytes:
    """All of it as a connection reads it: on the loop when it can be, else on a thread."""
    found = bytearray()
    while len(found) < SIZE:
        wanted = min(PIECE, SIZE - len(found))
        found += reader.read_nowait(len(found), wanted) or reader.read(len(found), wanted)
    return bytes(found)


def test_a_map_that_was_closed_knows_of_no_page(file: Path, clock: Clock) -> None:
    pages = PageMap()
    _, reader = opened(file, pages, clock)
    with reader:
        reader.read(0, 1)
        assert reader.verified(0, 1)
        pages.close()
        assert not pages.works
        assert not reader.verified(0, 1)
        assert reader.read(0, 5) == BODY[:5]


def test_no_more_is_mapped_than_is_allowed(file: Path, clock: Clock) -> None:
    pages = PageMap(limit=2)
    readers, reader = opened(file, pages, clock)
    with reader:
        assert pieces(reader) == BODY
        assert pages.mapped == 2
        assert reader.verified(0, 2 * CHUNK_BYTES)
        assert not reader.verified(2 * CHUNK_BYTES, 1)
        assert pieces(reader) == BODY
    assert readers.checked == 4 + 2


def test_a_chunk_in_quarantine_is_not_served_from_what_was_kept(file: Path, clock: Clock) -> None:
    readers, reader = opened(file, PageMap(limit=0), clock)
    with reader:
        assert reader.read(0, 10) == BODY[:10]
        assert reader.read_nowait(10, 10) == BODY[10:20]
        readers.mark_bad(reader.digest, 0)
        assert reader.read_nowait(10, 10) is None
        with pytest.raises(ChunkDamaged):
            reader.read(10, 10)


def test_a_chunk_that_was_mended_elsewhere_is_looked_at_again(file: Path, clock: Clock) -> None:
    """A worker opened it while the keeper had it in quarantine; what the file says then decides."""
    readers, reader = opened(file, PageMap(), clock)
    with reader:
        readers.mark_bad(reader.digest, 1)
        with pytest.raises(ChunkDamaged):
            reader.read(CHUNK_BYTES, 1)
        assert readers.checked == 0
        reader.mended(CHUNK_BYTES)
        assert reader.read(CHUNK_BYTES, CHUNK_BYTES) == slice_of(1)
        assert readers.checked == 1


def test_a_removed_file_gets_its_space_back(opener: Opener, root: Path, clock: Clock) -> None:
    """Nothing is mapped of what nobody read for a while, an open reader or not; it is hashed again then."""
    store = opener(clock=clock)
    blob = put_file(store, "r", BODY)
    path = file_of(root, blob.digest)
    with store.blobs.open(blob) as reader:
        reader.read(0, 1)
        path.unlink()
        clock.now += IDLE_SECONDS
        store.blobs.let_go()
        assert maps_of(path)
        assert reader.verified(0, 1)
        clock.now += IDLE_SECONDS + 1
        store.blobs.let_go()
        assert not maps_of(path)
        assert not reader.verified(0, 1)
        assert reader.read(0, 5) == BODY[:5]
        assert maps_of(path)
    assert store.statistics().checked_chunks == 2


def test_a_forgotten_blob_is_not_mapped(file: Path, clock: Clock) -> None:
    readers, reader = opened(file, PageMap(), clock)
    with reader:
        reader.read(0, 1)
        readers.forget(reader.digest)
        assert not maps_of(file)
        assert reader.read(5, 5) == BODY[5:10]
        assert reader.verified(0, 1)
    del reader
    assert not maps_of(file)
    assert readers.pages.mapped == 0


def test_many_threads_read_while_pages_come_and_go(file: Path, clock: Clock) -> None:
    """Right bytes each time, and the map is nobody's that was given up."""
    readers, reader = opened(file, PageMap(), clock)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for turn in range(60):
            at = int.from_bytes(some_bytes(4, seed * 1000 + turn)) % SIZE
            piece = reader.read(at, PIECE)
            if piece != BODY[at : at + len(piece)]:
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        clock.now += IDLE_SECONDS + 1
        readers.let_go()
        drop_cached(file)
    for thread in threads:
        thread.join()
    reader.close()
    assert wrong == []
