"""What a repository has, part by part: everything once, in order, whatever the size of the parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from holdfast_core import Digest, Lock, LockTarget, RepositoryMember, Store
from holdfast_core import format as layout
from holdfast_core.errors import RecordDamaged
from holdfast_core.index import list_pages
from support.stores import MEDIA, push, put_manifest

Opener = Callable[..., Store]


def parts(store: Store, repository: str, limit: int) -> list[RepositoryMember]:
    """All of it; no part looks at more than it may, and none looks at nothing for ever."""
    found, at = list[RepositoryMember](), list_pages.FIRST
    while at:
        part = store.references.members(repository, after=at, limit=limit)
        assert part.looked <= limit
        found += part.members
        at = part.end
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_every_untagged_manifest_by_digest_then_every_tag_by_name(limit: int, store: Store) -> None:
    image = push(store, "a", b"image", "v2", "v1")
    alone = push(store, "a", b"alone")
    longer = push(store, "a", b"longer", algorithm="sha512")
    signature = put_manifest(store, "a", b"signature", subject=image)
    push(store, "ab", b"image", "beside")
    store.references.put_tag("a", "zero", Digest.of(b"not held"), now=1.0).result()
    plain = sorted(
        [
            RepositoryMember("", alone, MEDIA, 5, None),
            RepositoryMember("", longer, MEDIA, 6, None),
            RepositoryMember("", signature, MEDIA, 9, image),
        ],
        key=lambda member: member.digest.key,
    )
    tags = [RepositoryMember(tag, image, MEDIA, 5, None) for tag in ("v1", "v2")]
    assert parts(store, "a", limit) == [
        *plain,
        *tags,
        RepositoryMember("zero", Digest.of(b"not held"), "", 0, None),
    ]
    assert parts(store, "nothing", limit) == []


@pytest.mark.parametrize("limit", [1, 100])
def test_what_a_lock_hides_is_left_out(limit: int, store: Store) -> None:
    image, other = push(store, "a", b"image", "v1", "v2"), push(store, "a", b"other", "v3")
    alone = push(store, "a", b"alone")

    def lock(kind: str, name: str, value: Lock) -> None:
        store.references.set_lock("a", LockTarget(kind, name), value, now=1.0).result()

    def shown() -> list[str]:
        return [member.tag for member in parts(store, "a", limit)]

    lock("tag", "v1", Lock(write=False, delete=False))
    assert shown() == ["", "v1", "v2", "v3"]
    lock("tag", "v1", Lock(list=False))
    lock("manifest", str(other), Lock(read=False))
    lock("manifest", str(alone), Lock(list=False))
    assert shown() == ["v2"]
    assert store.references.hides("a", LockTarget("tag", "v1"))
    assert not store.references.hides("a", LockTarget("tag", "v2"), LockTarget("manifest", str(image)))
    lock("repository", "", Lock(read=False))
    assert shown() == []
    assert store.references.hides("a", LockTarget("tag", "v2"))


def test_what_cannot_be_read_is_an_error_and_not_left_out(store: Store) -> None:
    """Who compares takes what is not listed for gone."""
    image = push(store, "a", b"image", "v1")
    push(store, "a", b"alone")
    keys = (
        layout.tag_key("a", "v1"),
        layout.link_key("a", layout.AS_MANIFEST, image.key),
        layout.BLOB + image.key,
    )
    for key in keys:
        with store._index.begin(write=True) as txn:
            good = txn.get(key)
            txn.put(key, b"\x01damaged")
        with pytest.raises(RecordDamaged):
            parts(store, "a", 100)
        with store._index.begin(write=True) as txn:
            assert good is not None
            txn.put(key, good)
    store.references.set_lock("a", LockTarget("tag", "v1"), Lock(list=False), now=1.0).result()
    with store._index.begin(write=True) as txn:
        txn.put(layout.lock_key("a", LockTarget("tag", "v1")), b"\x01damaged")
    with pytest.raises(RecordDamaged):
        parts(store, "a", 100)
    assert store.references.hides("a", LockTarget("tag", "v1"))
