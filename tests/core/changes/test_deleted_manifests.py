"""A manifest that a client deleted and that can be restored: nobody sees it, and all that it names stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import (
    CollectionRule,
    DeletedManifest,
    Departure,
    Digest,
    LockTarget,
    Pin,
    RepositoryAccount,
    Store,
    rebuild,
)
from holdfast_core.errors import NotEvictable, NotHeld
from support.image_graph import body_of, cache, index_of, is_here, layer, sound
from support.stores import MEDIA, keep_index, push, push_file, put_back

Opener = Callable[..., Store]
#: what takes everything but what was deleted
EVERYTHING = CollectionRule(1e9, 1e9, 1e9)


def pushed(store: Store, *tags: str, repository: str = "a") -> tuple[bytes, bytes, Digest]:
    """(a layer, the manifest that names it, its digest), pushed under tags, or without one."""
    content = layer(1)
    push_file(store, repository, content)
    body = body_of(content)
    digest = push(store, repository, body, *tags[:1])
    for tag in tags[1:]:
        push(store, repository, body, tag)
    return content, body, digest


def delete(store: Store, digest: Digest, now: float, repository: str = "a") -> None:
    store.references.delete_manifest(repository, digest, now=now, restorable=True).result()


def collect(store: Store, deleted_before: float | None, now: float = 2e9) -> Departure:
    return store.space.collect(
        store.space.loose()[0], EVERYTHING._replace(deleted_before=deleted_before), now=now
    ).result()


def test_a_deleted_manifest_is_seen_by_nobody_and_holds_what_it_names(store: Store, root: Path) -> None:
    content, body, digest = pushed(store, "v1", "v2")
    delete(store, digest, 10.0)
    references = store.references
    assert (references.manifest("a", digest), references.tag("a", "v1")) == (None, None)
    assert references.tags("a") == []
    assert references.contents("a", limit=9) == []
    assert references.members("a", limit=9).members == ()
    assert not references.is_there("a", LockTarget("manifest", str(digest)))
    assert store.blobs.get("a", digest) is None
    with pytest.raises(NotHeld):
        references.delete_manifest("a", digest, now=11.0, restorable=True).result()
    deleted = DeletedManifest(digest, MEDIA, 10.0, ("v1", "v2"))
    assert references.deleted("a") == [deleted]
    assert references.deleted_manifest("a", digest) == (deleted, body)
    assert store.space.account_of("a") == RepositoryAccount(0, 1, 30_000, 30_000, len(body))
    assert store.space.loose()[0] == [("a", digest)]
    assert collect(store, None) == collect(store, 9.0) == Departure()
    assert is_here(store, "a", content)
    sound(store, root)


def test_it_goes_when_its_time_is_over_and_its_layers_after_their_lease(store: Store, root: Path) -> None:
    content, body, digest = pushed(store, "v1")
    delete(store, digest, 10.0)
    assert collect(store, 10.0, now=50.0) == Departure(1)
    assert store.references.deleted("a") == []
    loose = store.space.loose()[0]
    assert loose == [("a", Digest.of(content))]
    late = CollectionRule(49.0, None, None)
    assert store.space.collect(loose, late, now=60.0).result() == Departure()
    assert store.space.collect(loose, CollectionRule(50.0, None, None), now=60.0).result() == Departure(
        1, 30_000
    )
    assert store.upkeep.sweep(now=100.0, grace=1.0).result() == 30_000 + len(body)
    sound(store, root)


def test_a_push_brings_it_back_with_what_it_names(store: Store, root: Path) -> None:
    content, body, digest = pushed(store, "v1")
    delete(store, digest, 10.0)
    push(store, "a", body, "v1", now=20.0)
    assert store.references.deleted("a") == []
    assert store.references.manifest("a", digest) is not None
    assert store.space.loose()[0] == []
    assert collect(store, 1e9) == Departure()
    assert is_here(store, "a", content)
    assert store.space.account_of("a") == RepositoryAccount(1, 1, 30_000, 30_000, len(body))
    sound(store, root)


def test_it_is_there_after_a_rebuild(store: Store, root: Path) -> None:
    content, _, digest = pushed(store, "v1")
    delete(store, digest, 10.0)
    store.close()
    rebuild(root)
    again = Store.create_or_open(root, write=True)
    assert again.references.deleted("a") == [DeletedManifest(digest, MEDIA, 10.0, ("v1",))]
    assert collect(again, 9.0) == Departure()
    assert is_here(again, "a", content)
    sound(again, root)


@pytest.mark.parametrize("again", [False, True])
def test_a_replayed_delete_is_the_same(store: Store, opener: Opener, root: Path, again: bool) -> None:
    """One whose index commit was lost is done again from the journal."""
    content, body, digest = pushed(store, "v1")
    store.close()
    keep_index(root)
    first = opener()
    delete(first, digest, 10.0)
    if again:
        push(first, "a", body, "v1", now=20.0)
    first.close()
    put_back(root)
    second = opener()
    assert len(second.references.deleted("a")) == (not again)
    assert (second.references.manifest("a", digest) is None) is not again
    assert is_here(second, "a", content)
    sound(second, root)


def test_a_signature_stays_with_what_it_signs(store: Store, root: Path) -> None:
    _, _, subject = pushed(store, "v1")
    signature = body_of(subject={"digest": str(subject), "size": 1})
    signed = push(store, "a", signature, subject=subject)
    delete(store, subject, 10.0)
    assert collect(store, 9.0) == Departure()
    assert store.references.manifest("a", signed) is not None
    assert collect(store, 10.0, now=50.0).digests == 1
    assert store.references.deleted("a") == []
    assert collect(store, 10.0, now=50.0).digests == 2
    sound(store, root)


def test_platforms_of_a_deleted_index_stay_with_it(store: Store, root: Path) -> None:
    content, body, platform = pushed(store, "v1")
    index = push(store, "a", index_of(body), "all")
    store.references.delete_tag("a", "v1", now=5.0).result()
    delete(store, platform, 8.0)
    delete(store, index, 10.0)
    assert {one.digest for one in store.references.deleted("a")} == {platform, index}
    assert store.space.loose()[0] == [("a", index)]
    assert collect(store, 9.0) == Departure()
    assert collect(store, 10.0) == Departure(1)
    assert collect(store, 10.0, now=3e9) == Departure(1)
    assert is_here(store, "a", content)
    sound(store, root)


def test_a_deleted_image_makes_room_whoever_pushed_it(store: Store, root: Path) -> None:
    content, _, digest = pushed(store, "v1")
    with pytest.raises(NotEvictable, match="was pushed here"):
        store.space.evict("a", digest, now=5.0).result()
    delete(store, digest, 3 * 3600.0)
    assert store.space.roots("a", Digest.of(content)) == [digest]
    holding = store.space.holding("a", digest, now=4 * 3600.0)
    assert holding is not None
    assert (holding.kept, holding.hour, holding.freed_bytes) == ("", 3, 30_000)
    assert store.space.evict("a", digest, now=4 * 3600.0).result() == Departure(2, 30_000)
    assert store.space.account_of("a") == RepositoryAccount()
    sound(store, root)


@pytest.mark.parametrize("pending", [False, True])
def test_platforms_that_nobody_deleted_stay_when_their_deleted_index_is_evicted(
    store: Store, root: Path, pending: bool
) -> None:
    content, body, platform = pushed(store)
    push(store, "a", body, pending=pending)
    index = push(store, "a", index_of(body), "all")
    delete(store, index, 10.0)
    holding = store.space.holding("a", index, now=50.0)
    assert holding is not None
    assert (holding.digests, holding.freed_bytes) == ((index,), 0)
    assert store.space.evict("a", index, now=50.0).result() == Departure(1)
    assert store.references.manifest("a", platform) is not None
    assert is_here(store, "a", content)
    assert store.space.loose()[0] == [("a", platform)]
    sound(store, root)


def test_a_pinned_one_stays(store: Store, root: Path) -> None:
    content, _, digest = pushed(store, "v1")
    store.space.pin(Pin("a", "manifest", str(digest), math.inf), now=1.0).result()
    delete(store, digest, 10.0)
    assert collect(store, 1e9) == Departure()
    with pytest.raises(NotEvictable, match="is pinned"):
        store.space.evict("a", digest, now=5.0).result()
    assert is_here(store, "a", content)
    sound(store, root)


def test_what_the_parent_had_is_kept_as_well_and_comes_back_by_a_miss(store: Store, root: Path) -> None:
    content = layer(1)
    body = body_of(content)
    digest = cache(store, "a", body, content, tag="v1")
    delete(store, digest, 10.0)
    assert collect(store, 9.0) == Departure()
    cache(store, "a", body, tag="v1", now=20.0)
    assert store.references.deleted("a") == []
    assert store.references.manifest("a", digest) is not None
    sound(store, root)


def test_a_repository_that_goes_takes_it_along(store: Store, root: Path) -> None:
    content, _, digest = pushed(store, "v1")
    pushed(store, "v1", repository="b")
    delete(store, digest, 10.0)
    store.references.remove_repository("a", now=20.0).result()
    assert store.references.deleted("a") == []
    assert is_here(store, "b", content)
    sound(store, root)


def test_tags_that_were_deleted_are_known_by_where_they_pointed(store: Store, root: Path) -> None:
    _, body, digest = pushed(store, "v1", "v2", "v3")
    for name, now in (("v1", 5.0), ("v2", 6.0)):
        store.references.delete_tag("a", name, now=now).result()
    push(store, "a", body, "v2", now=7.0)
    assert [(name, move.digest, move.moved_at) for name, move in store.references.deleted_tags("a")] == [
        ("v1", digest, 5.0)
    ]
    sound(store, root)


def test_tags_beyond_a_record_are_forgotten(store: Store, root: Path) -> None:
    names = [f"{number:03d}" + "t" * 120 for number in range(20)]
    _, _, digest = pushed(store, *names)
    delete(store, digest, 10.0)
    (deleted,) = store.references.deleted("a")
    assert 10 < len(deleted.tags) < 20
    assert set(deleted.tags) < set(names)
    sound(store, root)
