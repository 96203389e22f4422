"""What a parent has no longer goes in every mode, whole, without tombstone; what is locked or unsent stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import Descriptor, Digest, Lock, LockTarget, Store, fsck
from holdfast_core.errors import ContentLocked, NotHeld, StoreReadOnly, Unsent
from support.stores import MEDIA, dump, push, put_file, put_manifest, some_bytes

Opener = Callable[..., Store]
MANIFEST, OTHER = b'{"schemaVersion":2}', b'{"schemaVersion":2,"a":1}'
LAYER = some_bytes(50_000)


def brought(store: Store, repository: str = "r") -> Digest:
    """An image as synchronisation brings it, with tags v1 and v2 and the parent's list of them."""
    put_file(store, repository, LAYER)
    digest = put_manifest(store, repository, MANIFEST)
    for name in ("v1", "v2"):
        store.references.put_tag(repository, name, digest, now=1.0).result()
    store.references.lists.put_tag_list(repository, ["v1", "v2", "v3"], now=2.0).result()
    return digest


def test_a_tag_goes_where_clients_may_delete_nothing(opener: Opener) -> None:
    store = opener(mode="ReadOnly")
    digest = brought(store)
    with pytest.raises(StoreReadOnly):
        store.references.delete_tag("r", "v1", now=3.0)
    store.references.remove_tag("r", "v1", now=3.0).result()
    assert store.references.tags("r") == ["v2"]
    listed = store.references.lists.tag_list("r")
    assert listed is not None
    assert (listed.tags, listed.fetched_at) == (("v2", "v3"), 2.0)
    assert store.references.manifest("r", digest) is not None
    assert not store.references.is_deleted("r", "tag", "v1")
    assert next((move.digest, move.origin) for move in store.references.tag_moves("r", "v1")) == (
        None,
        "parent",
    )
    store.references.put_tag("r", "v1", digest, now=4.0).result()
    assert store.references.tags("r") == ["v1", "v2"]


def test_a_manifest_takes_its_tags_along_and_may_come_again(opener: Opener) -> None:
    store = opener(mode="ReadOnly")
    digest = brought(store)
    artifact = put_manifest(store, "r", OTHER, subject=digest)
    store.references.remove_manifest("r", digest, now=3.0).result()
    assert store.references.tags("r") == []
    listed = store.references.lists.tag_list("r")
    assert listed is not None
    assert listed.tags == ("v3",)
    store.references.remove_manifest("r", artifact, now=3.0).result()
    assert store.references.lists.referrers("r", digest) is None
    assert brought(store) == digest
    assert store.references.tags("r") == ["v1", "v2"]


def test_nothing_is_left_of_a_repository(opener: Opener, root: Path) -> None:
    store = opener(mode="ReadOnly")
    before = dump(store, root)
    digest = brought(store)
    put_manifest(store, "r", OTHER, subject=digest)
    store.references.lists.put_referrers("r", digest, [Descriptor(MEDIA, str(digest), 1)], now=2.0).result()
    store.set_mode("root")
    store.references.set_lock("r", LockTarget("tag", "v1"), Lock(read=False), now=2.0).result()
    store.blobs.delete("r", Digest.of(LAYER), now=2.0, tombstone=True).result()
    store.blobs.push_inline("r", Digest.of(MANIFEST), MANIFEST, now=2.0).result()
    store.blobs.seen("r", digest, 2.0)
    store.upkeep.sync_cached().result()
    store.references.remove_repository("r", now=3.0).result()
    assert store.upkeep.sweep(now=10.0, grace=1.0).result() == len(LAYER) + len(MANIFEST) + len(OTHER)
    assert dump(store, root) == before
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_bytes_that_another_repository_has_stay(store: Store) -> None:
    digest = brought(store, "a")
    brought(store, "b")
    store.references.remove_repository("a", now=3.0).result()
    assert store.upkeep.sweep(now=10.0, grace=1.0).result() == 0
    assert store.references.repositories() == ["b"]
    assert store.references.manifest("b", digest) is not None
    assert store.references.tags("b") == ["v1", "v2"]


@pytest.mark.parametrize("kind", ["repository", "tag", "manifest"])
@pytest.mark.parametrize("lock", [Lock(delete=False), Lock(write=False)], ids=["delete", "write"])
def test_what_is_locked_stays(store: Store, root: Path, kind: str, lock: Lock) -> None:
    digest = brought(store)
    name = {"repository": "", "tag": "v1", "manifest": str(digest)}[kind]
    store.references.set_lock("r", LockTarget(kind, name), lock, now=2.0).result()
    before = dump(store, root)
    wanted = "repository r" if kind == "repository" else f"{kind} {name} of r"
    for removal in (
        store.references.remove_repository("r", now=3.0),
        store.references.remove_manifest("r", digest, now=3.0),
    ):
        with pytest.raises(ContentLocked, match=wanted):
            removal.result()
    if kind != "manifest":
        with pytest.raises(ContentLocked, match=wanted):
            store.references.remove_tag("r", "v1", now=3.0).result()
    assert dump(store, root) == before


@pytest.mark.parametrize("pushed", ["manifest", "tag"])
def test_what_is_still_to_go_up_stays(store: Store, root: Path, pushed: str) -> None:
    """A manifest that the parent does not know; a tag that was moved here to one that it knows."""
    digest = brought(store)
    push(store, "r", MANIFEST, *(["v1"] if pushed == "tag" else []), pending=pushed == "manifest")
    before = dump(store, root)
    for removal in (
        store.references.remove_repository("r", now=3.0),
        store.references.remove_manifest("r", digest, now=3.0),
    ):
        with pytest.raises(Unsent, match="not at the parent yet"):
            removal.result()
    if pushed == "tag":
        with pytest.raises(Unsent, match="tag v1 of r"):
            store.references.remove_tag("r", "v1", now=3.0).result()
    assert dump(store, root) == before


def test_what_is_not_here_is_said(store: Store) -> None:
    brought(store)
    removals = [
        store.references.remove_tag("r", "v9", now=3.0),
        store.references.remove_manifest("r", Digest.of(b"never"), now=3.0),
        store.references.remove_repository("never", now=3.0),
    ]
    for removal in removals:
        with pytest.raises(NotHeld):
            removal.result()
