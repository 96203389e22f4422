"""What follows from a change of the index, where the change is an unusual one: bytes that move into a file, a record
that cannot be read, a tag that nobody removed. Literal expectations; `core/test_space.py` has the usual ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from holdfast_core import Blob, Digest, ImageUse, RepositoryAccount, Store, StoreAccount
from holdfast_core import format as layout
from holdfast_core.changes.change import Keep, blob_row, put, remove
from holdfast_core.changes.transaction import commit
from holdfast_core.space_format import loose_key
from support.image_graph import body_of, cache, layer, sound
from support.stores import MEDIA, push, push_file, put_file, without_journal

HOUR = 3600.0


def damage(store: Store, key: bytes) -> None:
    """Change a record of the index so that its seal does not match."""
    with store._index.begin(write=True) as txn:
        value = bytearray(txn.get(key) or b"")
        value[-1] ^= 8
        txn.put(key, bytes(value))


@pytest.mark.parametrize("holders", [1, 2, 3])
def test_bytes_that_move_into_a_file_and_back_move_in_the_accounts(store: Store, holders: int) -> None:
    content = b"some bytes"
    names = ("a", "b", "c")[:holders]
    for name in names:
        put_file(store, name, content)
    inline = store.blobs.get("a", Digest.of(content))
    assert inline is not None
    assert inline.inline == content
    in_file = Blob(inline.digest, 10, inline.owned, inline.boot, None)
    own = 10 if holders == 1 else 0
    for blob, of_each, of_store in (
        (inline, RepositoryAccount(0, 1, 0, 0, 10), StoreAccount(0, 0, 0, 0, 1, 10)),
        (in_file, RepositoryAccount(0, 1, 10, own, 0), StoreAccount(1, 10, own, 10 - own, 0, 0)),
        (inline, RepositoryAccount(0, 1, 0, 0, 10), StoreAccount(0, 0, 0, 0, 1, 10)),
    ):
        commit(store._index, [blob_row(blob, Keep.INDEX)])
        assert [store.space.account_of(name) for name in names] == [of_each] * holders
        assert store.space.account() == of_store


def test_bytes_whose_row_cannot_be_read_are_in_no_account_once_a_link_changed(store: Store) -> None:
    content, other = layer(1), layer(2, 40_000)
    for name in ("a", "b"):
        put_file(store, name, content)
    put_file(store, "a", other)
    damage(store, layout.BLOB + Digest.of(content).key)
    assert store.space.account() == StoreAccount(2, 70_000, 40_000, 30_000, 0, 0)
    with store._index.begin(write=True) as txn:
        txn.delete(layout.CHUNKS + Digest.of(content).key)
    without_journal(store)
    store.blobs.delete("b", Digest.of(content), now=2.0).result()
    assert store.space.account_of("a") == RepositoryAccount(0, 2, 40_000, 40_000, 0)
    assert store.space.account() == StoreAccount(1, 40_000, 40_000, 0, 0, 0)


def test_a_link_that_cannot_be_read_is_used_last_in_the_first_hour(store: Store) -> None:
    """So that it is among the first that go."""
    content = layer(1)
    put_file(store, "a", content, now=5 * HOUR)
    damage(store, layout.link_key("a", layout.AS_BLOB, Digest.of(content).key))
    assert store.space.last_use("a", Digest.of(content)) == 0
    assert store.space.last_use("b", Digest.of(content)) is None


def test_a_manifest_is_loose_when_its_last_tag_goes_whoever_says_so(store: Store) -> None:
    """A planner that knows the time notes it itself; a record that went otherwise is noted all the same."""
    digest = push(store, "a", body_of(), "v1")
    push(store, "a", body_of(), "v2")
    for name, loose in (("v1", []), ("v2", [("a", digest)])):
        commit(store._index, remove([layout.tag_key("a", name), layout.moves_key("a", name)]))
        assert store.space.loose() == (loose, b"")


@pytest.mark.parametrize("others", [0, 1])
def test_what_a_manifest_names_is_forgotten_with_its_last_link(store: Store, root: Path, others: int) -> None:
    content = layer(1)
    for name in ("a", "b", "c")[: 2 + others]:
        digest = cache(store, name, body_of(content), content)
    named = store.space.children(digest)
    assert [child.digest for child in named] == [Digest.of(content)]
    store.references.delete_manifest("a", digest, now=2.0).result()
    assert store.space.children(digest) == named
    store.references.delete_manifest("b", digest, now=2.0).result()
    assert store.space.children(digest) == (named if others else [])
    sound(store, root)


def test_bytes_are_used_when_they_were_linked_last(store: Store, root: Path) -> None:
    """As a blob at first, then as a manifest: one place in the order."""
    body = body_of()
    put_file(store, "a", body, now=2 * HOUR)
    store.references.put_manifest("a", Digest.of(body), MEDIA, body, owned=False, now=5 * HOUR).result()
    assert store.space.uses(10) == [ImageUse(5, "a", Digest.of(body))]
    sound(store, root)


def test_a_manifest_that_is_linked_as_a_blob_alone_names_nothing(store: Store, root: Path) -> None:
    """Another repository has it as a manifest."""
    content = layer(1)
    body = body_of(content)
    cache(store, "b", body, content, tag="v1")
    push_file(store, "a", content)
    put_file(store, "a", body)
    assert set(store.space.loose()[0]) == {("a", Digest.of(content)), ("a", Digest.of(body))}
    sound(store, root)


@pytest.mark.parametrize("name", ["tag", "manifest"])
def test_what_has_a_name_is_never_noted_as_loose(store: Store, root: Path, name: str) -> None:
    """A planner sees what there was before its transaction, and may be wrong about what there is after it."""
    content = layer(1)
    push_file(store, "a", content)
    manifest = push(store, "a", body_of(content), "v1")
    digest = manifest if name == "tag" else Digest.of(content)
    key = loose_key(layout.repository_hash("a"), digest.key)
    commit(store._index, [put(key, layout.encode_time(1.0))])
    assert store.space.loose() == ([], b"")
    sound(store, root)


def test_a_manifest_that_comes_again_with_another_media_type_has_it(store: Store, root: Path) -> None:
    body = body_of()
    digest = Digest.of(body)
    for media, hour in ((MEDIA, 2), ("application/other", 5)):
        store.references.put_manifest("a", digest, media, body, owned=False, now=hour * HOUR).result()
        held = store.references.manifest("a", digest)
        assert held is not None
        assert held.media_type == media
        assert store.space.uses(10) == [ImageUse(hour, "a", digest)]
    sound(store, root)
