"""A full disk can be emptied: what makes room has room."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from holdfast_core import Digest, Store, fsck
from holdfast_core.errors import Exhausted
from holdfast_core.filesystem.disk_state import DiskState
from holdfast_core.filesystem.reserved_space import LEAST_BYTES, MOST_BYTES, NAME, ReservedSpace, usual_bytes
from support.disk import SMALL, Disk
from support.stores import MEDIA, put_file, some_bytes

pytestmark = pytest.mark.disk

Opener = Callable[..., Store]
IMAGES = 60


@pytest.fixture(params=sorted(SMALL))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path, request.param, SMALL[request.param]) as made:
        yield made


def filled(store: Store) -> list[Digest]:
    """Repositories with a manifest and a layer each."""
    manifests = []
    for number in range(IMAGES):
        body = b"manifest %d" % number
        put_file(store, f"r{number}", some_bytes(20_000, number), owned=True)
        digest = Digest.of(body)
        store.references.push_manifest(f"r{number}", digest, MEDIA, body, tags=["latest"], now=1.0).result()
        manifests.append(digest)
    return manifests


def use_up(store: Store) -> None:
    """Push until the last free page of the index is used, too."""
    for number in range(10_000):
        body = some_bytes(10_000, 1000 + number)
        try:
            store.blobs.push_inline("more", Digest.of(body), body, now=2.0).result()
        except Exhausted:
            return
    raise AssertionError("the disk never became full")


def test_case_fault_3_a_full_disk_is_emptied_by_deletes(opener: Opener, disk: Disk) -> None:
    store = opener(disk.root / "store", ballast_bytes=LEAST_BYTES)
    assert (disk.root / "store" / NAME).stat().st_blocks * 512 >= LEAST_BYTES
    manifests = filled(store)
    filler = disk.fill_up()
    use_up(store)
    for number, digest in enumerate(manifests):
        blob = Digest.of(some_bytes(20_000, number))
        store.references.delete_manifest(f"r{number}", digest, now=3.0).result()
        store.blobs.delete(f"r{number}", blob, now=3.0).result()
    assert store.upkeep.is_pressed
    swept = store.upkeep.sweep(now=4.0, grace=86400.0).result()
    assert swept >= IMAGES * 20_000
    filler.unlink()
    store.upkeep.sync_cached().result()
    store.close()
    assert fsck(disk.root / "store").problems == []
    again = opener(disk.root / "store", ballast_bytes=LEAST_BYTES)
    body = b"again"
    again.blobs.push_inline("r", Digest.of(body), body, now=5.0).result()
    again.close()


def test_case_fault_3_nothing_else_is_committed_until_the_ballast_is_whole(
    opener: Opener, disk: Disk
) -> None:
    store = opener(disk.root / "store", ballast_bytes=LEAST_BYTES)
    manifests = filled(store)
    filler = disk.fill_up()
    assert store._directory.reserved_space.give()
    with pytest.raises(Exhausted, match="kept for deletes"):
        push_small(store)
    assert store.condition.state is DiskState.FULL, "nothing else would have it fill the ballast"
    store.references.delete_manifest("r0", manifests[0], now=3.0).result()
    filler.unlink()
    assert store.upkeep.is_pressed
    store.upkeep.sweep(now=4.0, grace=86400.0).result()
    assert not store.upkeep.is_pressed
    push_small(store)
    store.close()


def test_case_fault_3_a_node_starts_on_a_full_disk(opener: Opener, disk: Disk) -> None:
    store = opener(disk.root / "store", ballast_bytes=LEAST_BYTES)
    store.events.keep(True).result()  # every start writes then
    manifests = filled(store)
    store.close()
    disk.fill_up()
    again = opener(disk.root / "store", ballast_bytes=LEAST_BYTES)
    assert again.references.manifest("r0", manifests[0]) is not None
    again.references.delete_manifest("r0", manifests[0], now=3.0).result()
    again.close()


def test_case_fault_3_there_is_to_be_room_beside_the_ballast(opener: Opener, disk: Disk) -> None:
    """What the ballast takes the next push does not find."""
    store = opener(disk.root / "store", ballast_bytes=LEAST_BYTES)
    filler = disk.fill_up()
    assert store._directory.reserved_space.give()
    with pytest.raises(Exhausted, match="kept for deletes"):
        push_small(store)
    os.truncate(filler, filler.stat().st_size - (1 << 19))
    assert not store.probe()
    assert store.condition.state is DiskState.FULL
    os.truncate(filler, filler.stat().st_size - (2 << 20))
    assert store.probe()
    push_small(store)
    store.close()


def push_small(store: Store) -> None:
    store.blobs.push_inline("r", Digest.of(b"small"), b"small", now=2.0).result()


def give_all(store: Store) -> None:
    """Nothing of the ballast is left."""
    while store._directory.reserved_space.give():
        pass


def test_case_fault_3_a_disk_is_full_until_the_ballast_is_whole(opener: Opener, disk: Disk) -> None:
    """Whatever it takes: nothing is committed before."""
    root = disk.root / "store"
    store = opener(root, ballast_bytes=MOST_BYTES)
    filler = disk.fill_up()
    give_all(store)
    (disk.root / "more").write_bytes(bytes(MOST_BYTES - (2 << 20)))
    assert store.probe(), "there is room for more than the probe"
    assert store.condition.state is DiskState.FULL
    give_all(store)
    store.close()
    again = opener(root, ballast_bytes=MOST_BYTES)
    assert str(again.condition.state) == "full"
    filler.unlink()
    assert again.probe()
    assert str(again.condition.state) == "writable"
    put_file(again, "r", b"kept", owned=True)
    again.close()


def test_the_ballast_is_given_up_in_parts_and_made_again(tmp_path: Path) -> None:
    ballast = ReservedSpace(tmp_path, 4 << 20)
    assert not ballast.is_whole
    assert ballast.take()
    parts = 0
    while ballast.give():
        assert not ballast.is_whole
        parts += 1
    assert (parts, (tmp_path / NAME).stat().st_size) == (4, 0)
    assert ballast.take()
    assert (tmp_path / NAME).stat().st_blocks * 512 >= 4 << 20
    assert ReservedSpace(tmp_path, 1 << 20).take()
    assert (tmp_path / NAME).stat().st_size == 1 << 20
    nothing = ReservedSpace(tmp_path / "absent", 0)
    assert (nothing.is_whole, nothing.give()) == (True, False)


def test_two_probes_at_once_find_no_fault(root: Path, opener: Opener) -> None:
    """One that found the other's file gone would take that for a broken disk, and end the keeper."""
    store = opener()
    with ThreadPoolExecutor(4) as threads:
        assert all(done.result() for done in [threads.submit(store.probe) for _ in range(200)])
    assert store.condition.state is DiskState.WRITABLE
    store.close()


@pytest.mark.parametrize(
    ("blocks", "size"),
    [(25_600, 4 << 20), (256_000, 10_485_760), (256_000_000, 16 << 20)],
    ids=["100 MiB", "1000 MiB", "1 TB"],
)
def test_the_ballast_is_a_hundredth_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, size: int
) -> None:
    """Within 4 and 16 MiB."""
    found = SimpleNamespace(f_frsize=4096, f_blocks=blocks)
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    assert usual_bytes(tmp_path) == size
