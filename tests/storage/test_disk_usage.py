"""What `usage` says is what a delete gives back, measured on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from holdfast.config import CollectionSection
from holdfast.storage.collection_rounds import CollectionRounds
from holdfast.storage.disk_usage import allocated, node_usage, outside_bytes, repository_usage, tag_usage
from holdfast.storage.usage_report import OutsideBytes, ParentUsage, RepositoryUsage, TagUsage
from holdfast.testing.manual_clock import START, FakeClock
from holdfast_core import Store
from support.images import body_of, cached, layer, pushed
from support.stores import put_file, put_manifest

DAY = 86_400.0
NOTHING = OutsideBytes(fills=0, uploads=0, quarantine=0, journal=0, index=0, replaced_indexes=0, reserve=0)


async def test_a_delete_frees_what_was_said(store: Store) -> None:
    """Deleted, collected, swept: the blocks that are gone are the figure."""
    base, one, two = layer(1), layer(2), layer(3, 1 << 20)
    first = pushed(store, "a", base, one, two, tag="v1", now=START)
    pushed(store, "a", base, tag="v2", now=START)
    pushed(store, "b", one, tag="v1", now=START)
    said = tag_usage(store, "a", "v1", first, START)
    assert said == TagUsage(
        tag="v1", digest=str(first), bytes=1_130_496, freed_digests=3, freed_bytes=1_048_576
    )
    before = allocated(store.path / "blobs")
    store.references.delete_manifest("a", first, now=START).result()
    clock = FakeClock(START + 2 * DAY, jump=False)
    report = (await _rounds(store, clock).order(False, "x")).report
    assert report is not None
    assert (report.digests, report.bytes) == (2, 1_048_576)
    store.upkeep.sweep(now=START + 4 * DAY, grace=DAY).result()
    assert before - allocated(store.path / "blobs") == said.freed_bytes


def test_of_an_image_counts_what_its_repository_has(store: Store) -> None:
    """A layer that another repository has and this one does not is none of it."""
    put_file(store, "b", layer(1), now=START)
    body = body_of(layer(1), layer(2))
    put_file(store, "a", layer(2), now=START)
    digest = put_manifest(store, "a", body)
    said = tag_usage(store, "a", "v1", digest, START)
    assert (said.bytes, said.freed_digests, said.freed_bytes) == (40_960, 2, 40_960)


async def test_a_repository_frees_what_it_alone_has(store: Store) -> None:
    cached(store, "a", layer(1), layer(2), tag="v1", now=START)
    pushed(store, "b", layer(2), tag="v1", now=START)
    assert repository_usage(store, "a", "shown", START) == RepositoryUsage(
        name="shown",
        manifests=1,
        blobs=2,
        bytes=81_920,
        own_bytes=40_960,
        shared_bytes=40_960,
        inline_bytes=store.space.account_of("a").inline_bytes,
    )
    before = allocated(store.path / "blobs")
    store.references.remove_repository("a", now=START).result()
    store.upkeep.sweep(now=START + 2 * DAY, grace=DAY).result()
    assert before - allocated(store.path / "blobs") == 40_960


async def test_a_parent_has_what_its_repositories_have_together(store: Store) -> None:
    """Bytes that two repositories of one parent share are its own; those that another parent has as well are not."""
    for repository in ("one:a", "one:b", "two:a"):
        cached(store, repository, layer(1), tag="v1", now=START)
    for repository in ("one:a", "one:b"):
        cached(store, repository, layer(1), layer(2, 81_920), tag="v2", now=START)
    put_file(store, "two:a", layer(3), now=START)
    usage = await node_usage(store, NOTHING, 5)
    assert usage.parents == (
        ParentUsage(name="one", repositories=2, manifests=4, blobs=4, bytes=122_880, own_bytes=81_920),
        ParentUsage(name="two", repositories=1, manifests=1, blobs=2, bytes=81_920, own_bytes=40_960),
    )
    assert (usage.free_bytes, usage.files, usage.bytes) == (5, 3, 163_840)
    assert (usage.own_bytes, usage.shared_bytes, usage.unlinked_bytes) == (40_960, 122_880, 0)


async def test_of_one_parent_all_is_its_own_but_what_waits_for_the_sweep(store: Store) -> None:
    cached(store, "a", layer(1), tag="v1", now=START)
    cached(store, "b", layer(1), layer(2), tag="v1", now=START)
    store.references.remove_repository("b", now=START).result()
    usage = await node_usage(store, NOTHING, 0)
    assert (usage.bytes, usage.own_bytes, usage.shared_bytes, usage.unlinked_bytes) == (
        81_920,
        40_960,
        0,
        40_960,
    )
    assert usage.parents == (
        ParentUsage(name="", repositories=1, manifests=1, blobs=1, bytes=40_960, own_bytes=40_960),
    )


async def test_more_holders_than_a_page_of_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest whose holders stand on two pages counts once."""
    monkeypatch.setattr("holdfast.storage.disk_usage.SLICE", 3)
    for repository in ("one:a", "one:b", "one:c", "one:d", "two:a"):
        put_file(store, repository, layer(1), now=START)
        put_file(store, repository, layer(2), now=START)
    parents = {one.name: (one.bytes, one.own_bytes) for one in (await node_usage(store, NOTHING, 0)).parents}
    assert parents == {"one": (81_920, 0), "two": (81_920, 0)}


def test_what_lies_beside_the_content_is_counted_in_blocks(store: Store) -> None:
    root = store.path
    (root / "uploads" / "session").write_bytes(bytes(8192))
    (root / "quarantine" / "old").write_bytes(bytes(12_288))
    with (root / "fills" / "sparse").open("wb") as file:
        file.seek(1 << 30)
        file.write(bytes(4096))
    old = root / "index.old-1"
    old.mkdir()
    (old / "data.mdb").write_bytes(bytes(16_384))
    found = outside_bytes(root)
    assert (found.uploads, found.quarantine, found.fills) == (8192, 12_288, 4096)
    assert found.replaced_indexes == 16_384
    assert found.index == _blocks(root / "index")
    assert found.journal == _blocks(root / "journal")
    assert found.index > 0


def test_a_file_that_goes_meanwhile_counts_as_nothing(tmp_path: Path) -> None:
    assert allocated(tmp_path / "gone") == 0


def _blocks(path: Path) -> int:
    return sum(os.stat(path / name).st_blocks * 512 for name in os.listdir(path))


def _rounds(store: Store, clock: FakeClock) -> CollectionRounds:
    return CollectionRounds(store, CollectionSection(), lambda: None, lambda _: float("inf"), clock)
