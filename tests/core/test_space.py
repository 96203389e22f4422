"""The image graph, the accounts, the order of use, pins, eviction and collection, each with literal expectations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import (
    Child,
    CollectionRule,
    Departure,
    Digest,
    ImageUse,
    LockChange,
    LockTarget,
    Pin,
    RepositoryAccount,
    Store,
    StoreAccount,
)
from holdfast_core import format as layout
from holdfast_core.changes.collection import DIGESTS
from holdfast_core.changes.manifest_children import children_of
from holdfast_core.errors import Mistake, NotEvictable, NotHeld
from support.image_graph import body_of, cache, index_of, is_here, layer, sound
from support.stores import MEDIA, push, push_file, put_file, stage

Opener = Callable[..., Store]
HOUR = 3600.0


# --- the image graph ---------------------------------------------------------------------------------------


def test_a_manifest_names_its_config_layers_blobs_and_manifests() -> None:
    one, two, three = (Digest.of(name) for name in (b"1", b"2", b"3"))
    body = {
        "config": {"digest": str(one), "size": 1},
        "layers": [{"digest": str(two), "size": 2}, {"digest": str(one), "size": 1}],
        "manifests": [{"digest": str(three), "size": 3}],
        "subject": {"digest": str(Digest.of(b"4")), "size": 4},
    }
    children = [Child(b"m", three, 3), Child(b"b", one, 1), Child(b"b", two, 2)]
    assert children_of(json.dumps(body).encode()) == children
    blobs = {"blobs": [{"digest": str(one), "size": 5}]}
    assert children_of(json.dumps(blobs).encode()) == [Child(b"b", one, 5)]


@pytest.mark.parametrize(
    "body",
    [
        b'{"layers": {"a": "%s"}}',
        b'{"layers": [{"digest": "%s", "size": "many"}]}',
        b'{"fsLayers": [{"digest": "%s"}], "layers": 1}',
        b'{"layers": [{"digest": "nonsense"}], "x": "%s"}',
        b"[" * 100_000 + b'"%s"',
        b"not JSON, but %s stands in it",
    ],
)
def test_a_body_that_is_not_understood_names_all_that_stands_in_it(body: bytes) -> None:
    """What is kept is decided by it: too much is better than too little."""
    digest = Digest.of(b"layer")
    assert children_of(body.replace(b"%s", str(digest).encode())) == [Child(b"b", digest, 0)]


def test_children_of_a_manifest_with_many_layers_come_back(store: Store) -> None:
    layers = [b"layer %d" % number for number in range(500)]
    digest = cache(store, "a", body_of(*layers))
    children = [Child(b"b", Digest.of(layer), len(layer)) for layer in layers]
    assert store.space.children(digest) == children


# --- accounts ----------------------------------------------------------------------------------------------


def test_accounts_tell_what_is_shared_and_what_is_a_repositorys_own(store: Store, root: Path) -> None:
    shared, own = layer(1), layer(2, 40_000)
    body = body_of(shared, own)
    cache(store, "a", body, shared, own)
    put_file(store, "b", shared)
    put_file(store, "b", b"small")
    assert store.space.account_of("a") == RepositoryAccount(1, 2, 70_000, 40_000, len(body))
    assert store.space.account_of("b") == RepositoryAccount(0, 2, 30_000, 0, 5)
    assert store.space.account() == StoreAccount(2, 70_000, 40_000, 30_000, 2, len(body) + 5)
    put_file(store, "c", shared)
    store.blobs.delete("a", Digest.of(shared), now=2.0).result()
    assert store.space.account_of("a") == RepositoryAccount(1, 1, 40_000, 40_000, len(body))
    assert store.space.account() == StoreAccount(2, 70_000, 40_000, 30_000, 2, len(body) + 5)
    store.blobs.delete("c", Digest.of(shared), now=2.0).result()
    assert store.space.account_of("c") == RepositoryAccount()
    assert store.space.account_of("b") == RepositoryAccount(0, 2, 30_000, 30_000, 5)
    assert store.space.account() == StoreAccount(2, 70_000, 70_000, 0, 2, len(body) + 5)
    store.blobs.delete("b", Digest.of(shared), now=2.0).result()
    assert store.space.account() == StoreAccount(2, 70_000, 40_000, 0, 2, len(body) + 5)
    assert store.upkeep.sweep(now=100.0, grace=1.0).result() == 30_000
    assert store.space.account() == StoreAccount(1, 40_000, 40_000, 0, 2, len(body) + 5)
    sound(store, root)


def test_a_digest_that_is_blob_and_manifest_counts_once(store: Store, root: Path) -> None:
    body = body_of() + b" " * 20_000
    cache(store, "a", body, body)
    assert store.space.account_of("a") == RepositoryAccount(1, 1, len(body), len(body), 0)
    store.blobs.delete("a", Digest.of(body), now=2.0).result()
    assert store.space.account_of("a") == RepositoryAccount(1, 0, len(body), len(body), 0)
    sound(store, root)


@pytest.mark.parametrize("change", ["mended", "deleted", "linked", "forgotten"])
def test_accounts_are_right_after_a_record_that_could_not_be_read(
    store: Store, root: Path, change: str
) -> None:
    content = layer(1)
    put_file(store, "a", content)
    put_file(store, "b", content)
    key = layout.BLOB + Digest.of(content).key
    with store._index.begin(write=True) as txn:
        value = bytearray(txn.get(key) or b"")
        value[3] ^= 8
        txn.put(key, bytes(value))
    if change == "deleted":
        store.references.remove_repository("b", now=2.0).result()
    if change == "linked":
        put_file(store, "c", content)
    if change == "forgotten":
        store.blobs.discard(Digest.of(content)).result()
    store.upkeep.mend([key]).result()
    own = {"mended": 0, "linked": 0, "deleted": 30_000, "forgotten": 0}[change]
    held = 0 if change == "forgotten" else 30_000
    assert store.space.account_of("a") == (
        RepositoryAccount(0, 1, held, own, 0) if held else RepositoryAccount()
    )
    assert store.space.account() == StoreAccount(1 if held else 0, held, own, held - own, 0, 0)
    sound(store, root)


# --- order of use ------------------------------------------------------------------------------------------


def test_what_was_read_is_used_later_than_what_was_only_linked(store: Store, root: Path) -> None:
    old, read = layer(1), layer(2)
    put_file(store, "a", old, now=5 * HOUR)
    put_file(store, "a", read, now=2 * HOUR)
    assert store.space.uses(10) == [ImageUse(2, "a", Digest.of(read)), ImageUse(5, "a", Digest.of(old))]
    store.blobs.seen("a", Digest.of(read), 9 * HOUR + 1)
    store.upkeep.write_recent()
    store.references.lists.put_tag_list("a", [], now=1.0).result()  # after it
    assert store.space.uses(10) == [ImageUse(5, "a", Digest.of(old)), ImageUse(9, "a", Digest.of(read))]
    assert (store.space.uses(1), store.space.last_use("a", Digest.of(read))) == (
        [ImageUse(5, "a", Digest.of(old))],
        9,
    )
    assert store.space.last_use("b", Digest.of(read)) is None
    sound(store, root)


# --- eviction ----------------------------------------------------------------------------------------------


def test_an_image_goes_with_what_it_alone_names(store: Store, root: Path) -> None:
    base, one, two = layer(1), layer(2), layer(3)
    first, second = body_of(base, one), body_of(base, two)
    cache(store, "a", first, base, one, tag="v1")
    cache(store, "a", second, base, two, tag="v2")
    cache(store, "b", body_of(one), one, tag="v1")
    digest = Digest.of(first)
    assert store.space.freed_by("a", digest, now=2.0) == Departure(2, 0)
    assert store.space.evict("a", digest, now=2.0).result() == Departure(2, 0)
    assert (store.references.tag("a", "v1"), store.references.manifest("a", digest)) == (None, None)
    assert not is_here(store, "a", one)
    assert is_here(store, "b", one)
    assert is_here(store, "a", base)
    assert is_here(store, "a", two)
    assert store.references.tag("a", "v2") is not None
    last = Digest.of(second)
    assert store.space.freed_by("a", last, now=3.0) == Departure(3, 60_000)
    assert store.space.evict("a", last, now=3.0).result() == Departure(3, 60_000)
    assert store.upkeep.sweep(now=100.0, grace=1.0).result() == 60_000 + len(first) + len(second)
    assert store.space.account_of("a") == RepositoryAccount()
    sound(store, root)


def test_an_index_takes_the_platforms_along_that_no_other_index_has(store: Store, root: Path) -> None:
    amd, arm, shared = layer(1), layer(2), layer(3)
    of_amd, of_arm = body_of(amd, shared), body_of(arm, shared)
    for body, layers in ((of_amd, (amd, shared)), (of_arm, (arm, shared))):
        cache(store, "a", body, *layers)
    first, second = index_of(of_amd, of_arm), index_of(of_arm)
    cache(store, "a", first, tag="v1")
    cache(store, "a", second, tag="v2")
    with pytest.raises(NotEvictable, match="is named by a manifest that is here"):
        store.space.evict("a", Digest.of(of_amd), now=2.0).result()
    assert store.space.evict("a", Digest.of(first), now=2.0).result() == Departure(3, 30_000)
    assert [is_here(store, "a", content) for content in (amd, arm, shared)] == [False, True, True]
    assert store.references.manifest("a", Digest.of(of_arm)) is not None
    sound(store, root)


def test_more_than_a_transaction_takes_is_loose_and_goes_after_it(store: Store, root: Path) -> None:
    layers = [layer(number, 20_000) for number in range(DIGESTS + 5)]
    body = body_of(*layers)
    digest = cache(store, "a", body, *layers, tag="v1")
    departure = store.space.evict("a", digest, now=2.0).result()
    assert (departure.digests, departure.left) == (DIGESTS, 6)
    loose, more = store.space.loose()
    assert (len(loose), more) == (6, b"")
    rule = CollectionRule(None, None, cached_before=2 * HOUR)
    assert store.space.collect(loose, rule, now=2.0).result().digests == 6
    assert store.space.account_of("a") == RepositoryAccount()
    sound(store, root)


@pytest.mark.parametrize(
    "why", ["owned", "local tag", "pending", "pinned tag", "pinned digest", "locked", "subject"]
)
def test_what_may_not_go_stays_and_says_why(store: Store, root: Path, why: str) -> None:
    content = layer(1)
    body = body_of(content)
    digest = Digest.of(body)
    if why in ("owned", "pending"):
        push_file(store, "a", content)
        push(store, "a", body, "v1", pending=why == "pending")
    else:
        cache(store, "a", body, content, tag="v1")
    if why == "local tag":
        store.references.put_tag("a", "here", digest, now=1.0, origin="local").result()
    if why == "pinned tag":
        store.space.pin(Pin("a", "tag", "v1", math.inf), now=1.0).result()
    if why == "pinned digest":
        store.space.pin(Pin("a", "manifest", str(digest), 50.0), now=1.0).result()
    if why == "locked":
        store.references.set_lock("a", LockTarget("tag", "v1"), LockChange(delete=False), now=1.0).result()
    if why == "subject":
        signature = body_of(subject={"digest": str(digest), "size": 1})
        cached = Digest.of(signature)
        store.references.put_manifest(
            "a", cached, MEDIA, signature, owned=False, now=1.0, subject=digest
        ).result()
        store.space.pin(Pin("a", "tag", "v1", math.inf, with_referrers=True), now=1.0).result()
        digest = cached
    reasons = {
        "owned": "was pushed here",
        "local tag": "has the tag here, which was moved here",
        "pending": "the parent does not have it yet",
        "pinned tag": "is pinned",
        "pinned digest": "is pinned",
        "locked": "is locked",
        "subject": "is pinned",
    }
    with pytest.raises(NotEvictable, match=reasons[why]):
        store.space.evict("a", digest, now=2.0).result()
    assert is_here(store, "a", content)
    assert store.references.manifest("a", digest) is not None
    if why == "pinned digest":
        assert store.space.evict("a", digest, now=51.0).result().digests == 2
    sound(store, root)


def test_pushed_layers_of_a_cached_image_stay(store: Store, root: Path) -> None:
    pushed, fetched = layer(1), layer(2)
    push_file(store, "a", pushed)
    cache(store, "a", body_of(pushed, fetched), fetched, tag="v1")
    assert store.space.evict("a", Digest.of(body_of(pushed, fetched)), now=2.0).result() == Departure(
        2, 30_000
    )
    assert [is_here(store, "a", content) for content in (pushed, fetched)] == [True, False]
    sound(store, root)


def test_what_is_not_there_cannot_be_evicted(store: Store) -> None:
    with pytest.raises(NotHeld):
        store.space.evict("a", Digest.of(b"never"), now=1.0).result()


def test_an_eviction_is_no_event(store: Store) -> None:
    """Those who follow must not take it for a delete at the parent."""
    content = layer(1)
    digest = cache(store, "a", body_of(content), content, tag="v1")
    store.events.keep(True).result()
    head = store.events.head()
    store.space.evict("a", digest, now=2.0).result()
    assert store.events.head() == head


# --- what nothing names ------------------------------------------------------------------------------------


def test_a_pushed_blob_is_loose_until_its_manifest_comes(store: Store, root: Path) -> None:
    content = layer(1)
    push_file(store, "a", content, now=10.0)
    assert store.space.loose() == ([("a", Digest.of(content))], b"")
    assert store.space.loose_since("a", Digest.of(content)) == 10.0
    push(store, "a", body_of(content), "v1")
    assert store.space.loose() == ([], b"")
    assert store.space.loose_since("a", Digest.of(content)) is None
    sound(store, root)


def test_a_lease_begins_anew_with_each_push(store: Store) -> None:
    content = layer(1)
    push_file(store, "a", content, now=10.0)
    rule = CollectionRule(100.0, None, None)
    push_file(store, "a", content, now=20_000.0)
    assert store.space.collect([("a", Digest.of(content))], rule, now=20_001.0).result() == Departure()
    assert is_here(store, "a", content)
    late = CollectionRule(20_000.0, None, None)
    assert store.space.collect([("a", Digest.of(content))], late, now=40_000.0).result() == Departure(
        1, 30_000
    )
    assert not is_here(store, "a", content)


def test_a_manifest_is_refused_whose_blob_was_collected_since_it_was_seen(store: Store, root: Path) -> None:
    kept, gone = layer(1), layer(2)
    for content in (kept, gone):
        push_file(store, "a", content, now=10.0)
    push_file(store, "b", gone, now=10.0)
    seen = [Digest.of(kept), Digest.of(gone)]
    rule = CollectionRule(100.0, None, None)
    assert store.space.collect([("a", Digest.of(gone))], rule, now=101.0).result() == Departure(1)
    body = body_of(kept, gone)
    with pytest.raises(NotHeld, match=f"{Digest.of(gone)} is not in a any more"):
        push(store, "a", body, "v1", blobs=seen)
    assert store.references.tags("a") == []
    assert store.references.manifest("a", Digest.of(body)) is None
    push_file(store, "a", gone, now=102.0)
    push(store, "a", body, "v1", blobs=seen)
    assert store.space.loose()[0] == [("b", Digest.of(gone))]
    sound(store, root)


def test_layers_are_loose_when_the_last_manifest_that_names_them_goes(store: Store, root: Path) -> None:
    base, one = layer(1), layer(2)
    for content in (base, one):
        push_file(store, "a", content)
    first, second = push(store, "a", body_of(base, one), "v1"), push(store, "a", body_of(base), "v2")
    store.references.delete_manifest("a", first, now=50.0).result()
    assert store.space.loose() == ([("a", Digest.of(one))], b"")
    store.references.delete_manifest("a", second, now=60.0).result()
    loose, _ = store.space.loose()
    assert set(loose) == {("a", Digest.of(base)), ("a", Digest.of(one))}
    rule = CollectionRule(55.0, None, None)
    assert store.space.collect(loose, rule, now=70.0).result() == Departure(1, 30_000)
    assert [is_here(store, "a", content) for content in (base, one)] == [True, False]
    sound(store, root)


def test_layers_of_a_manifest_whose_bytes_are_lost_are_loose(store: Store, root: Path) -> None:
    content = layer(1)
    push_file(store, "a", content)
    digest = push(store, "a", body_of(content))
    store.blobs.discard(digest).result()
    assert store.space.loose() == ([("a", Digest.of(content))], b"")
    assert (store.space.loose_since("a", Digest.of(content)) or 0.0) > 1e9, "its lease begins now"
    sound(store, root)


@pytest.mark.parametrize("first", ["layer", "manifest"])
def test_only_what_is_linked_is_loose(store: Store, root: Path, first: str) -> None:
    """A layer that never came, or that was deleted before its manifest."""
    content = layer(1)
    push_file(store, "a", content)
    body = body_of(content, b"a layer that never came")
    digest = push(store, "a", body, "v1")
    steps = [
        lambda: store.blobs.delete("a", Digest.of(content), now=2.0).result(),
        lambda: store.references.delete_manifest("a", digest, now=2.0).result(),
    ]
    for step in steps if first == "layer" else reversed(steps):
        step()
    assert store.space.loose() == ([], b"")
    sound(store, root)


def test_a_referrer_that_was_deleted_is_not_loose_with_its_subject(store: Store, root: Path) -> None:
    subject = push(store, "a", body_of(), "v1")
    signed = push(store, "a", body_of(subject={"digest": str(subject), "size": 1}), subject=subject)
    store.references.delete_manifest("a", signed, now=2.0).result()
    store.references.delete_manifest("a", subject, now=2.0).result()
    assert store.space.loose() == ([], b"")
    sound(store, root)


def test_an_untagged_manifest_goes_only_by_its_rule_and_its_layers_after_it(store: Store, root: Path) -> None:
    content = layer(1)
    push_file(store, "a", content)
    old = push(store, "a", body_of(content), "v1", now=5.0)
    push(store, "a", body_of(), "v1", now=20.0)
    loose, _ = store.space.loose()
    assert loose == [("a", old)]
    assert store.space.collect(loose, CollectionRule(1e9, None, 1e9), now=30.0).result() == Departure()
    assert store.space.collect(loose, CollectionRule(None, 19.0, None), now=30.0).result() == Departure()
    assert store.space.collect(loose, CollectionRule(None, 20.0, None), now=30.0).result() == Departure(1)
    assert store.space.loose()[0] == [("a", Digest.of(content))]
    sound(store, root)


def test_a_referrer_stays_as_long_as_its_subject(store: Store, root: Path) -> None:
    subject = push(store, "a", body_of(), "v1")
    signature = body_of(subject={"digest": str(subject), "size": 1})
    signed = push(store, "a", signature, subject=subject)
    everything = CollectionRule(1e9, 1e9, 1e9)
    assert store.space.loose()[0] == [("a", signed)]
    assert store.space.collect([("a", signed)], everything, now=2.0).result() == Departure()
    store.references.delete_manifest("a", subject, now=50.0).result()
    late = CollectionRule(None, 49.0, None)
    assert store.space.collect([("a", signed)], late, now=60.0).result() == Departure()
    assert store.space.collect([("a", signed)], everything, now=60.0).result() == Departure(1)
    assert store.references.manifest("a", signed) is None
    sound(store, root)


@pytest.mark.parametrize("why", ["pending", "pinned", "locked", "tagged"])
def test_what_may_not_be_collected_stays(store: Store, root: Path, why: str) -> None:
    body = body_of()
    digest = push(store, "a", body, now=1.0, pending=why == "pending")
    if why == "pinned":
        store.space.pin(Pin("a", "manifest", str(digest), math.inf), now=1.0).result()
    if why == "locked":
        store.references.set_lock(
            "a", LockTarget("manifest", str(digest)), LockChange(delete=False), now=1.0
        ).result()
    loose, _ = store.space.loose()
    if why == "tagged":
        push(store, "a", body, "v1", now=1.0)
    everything = CollectionRule(1e9, 1e9, 1e9)
    assert store.space.collect(loose, everything, now=2.0).result() == Departure()
    assert store.references.manifest("a", digest) is not None
    sound(store, root)


def test_cached_content_counts_from_its_last_use(store: Store, root: Path) -> None:
    content = layer(1)
    put_file(store, "a", content, now=HOUR)
    store.blobs.seen("a", Digest.of(content), 30 * HOUR)
    store.upkeep.write_recent()
    store.references.lists.put_tag_list("a", [], now=1.0).result()
    loose, _ = store.space.loose()
    rule = CollectionRule(1e9, 1e9, cached_before=29 * HOUR)
    assert store.space.collect(loose, rule, now=40 * HOUR).result() == Departure()
    rule = CollectionRule(None, None, cached_before=30 * HOUR)
    assert store.space.collect(loose, rule, now=40 * HOUR).result() == Departure(1, 30_000)
    sound(store, root)


def test_a_tag_that_moves_from_a_manifest_to_an_index_of_it_leaves_it_named(store: Store, root: Path) -> None:
    body = body_of()
    push(store, "a", body, "v1")
    push(store, "a", index_of(body), "v1")
    assert store.space.loose() == ([], b"")
    sound(store, root)


# --- pins --------------------------------------------------------------------------------------------------


def test_pins_outlive_a_restart_and_end(store: Store, opener: Opener) -> None:
    pin = Pin("a", "tag", "v1", 50.0, True, 10.0)
    store.space.pin(Pin("a", "tag", "v1", 20.0), now=5.0).result()
    store.space.pin(pin, now=10.0).result()
    store.close()
    again = opener()
    assert again.space.pins() == [pin]
    again.space.unpin("a", "tag", "v1").result()
    assert again.space.pins() == []
    with pytest.raises(NotHeld, match="no pin on the tag v1 of a"):
        again.space.unpin("a", "tag", "v1").result()


@pytest.mark.parametrize(
    ("pin", "words"),
    [
        (Pin("a", "tag", "v1", 10.0), "would be over"),
        (Pin("a", "tag", "v1", math.nan), "would be over"),
        (Pin("a", "blob", "sha256:" + "0" * 64, math.inf), "cannot be pinned; allowed: tag, manifest"),
    ],
)
def test_a_pin_that_cannot_be_is_refused(store: Store, pin: Pin, words: str) -> None:
    with pytest.raises(Mistake, match=words):
        store.space.pin(pin, now=10.0).result()
    assert store.space.pins() == []


# --- images as eviction sees them --------------------------------------------------------------------------


def test_a_holding_is_what_an_eviction_takes(store: Store) -> None:
    shared, own, pushed = layer(1), layer(2), layer(3)
    first, second = body_of(shared, own), body_of(shared, pushed)
    digest = cache(store, "a", first, shared, own, tag="one", now=2 * HOUR)
    push_file(store, "a", pushed)
    cache(store, "a", second, tag="two", now=5 * HOUR)
    store.blobs.seen("a", Digest.of(own), 7 * HOUR)
    store.upkeep.write_recent()
    store.upkeep.sync_cached().result()
    holding = store.space.holding("a", digest, now=8 * HOUR)
    assert holding is not None
    assert (holding.digests, holding.freed, holding.hour) == ((digest, Digest.of(own)), (0, 30_000), 2)
    assert (set(holding.named), holding.pushed, holding.kept) == (
        {Digest.of(shared), Digest.of(own)},
        (),
        "",
    )
    assert store.space.holding("a", Digest.of(b"never"), now=1.0) is None
    kept = store.space.holding("a", Digest.of(shared), now=1.0)
    assert kept is not None
    assert kept.kept == "is named by a manifest that is here"


def test_the_roots_of_a_layer_are_what_no_manifest_names(store: Store) -> None:
    shared = layer(1)
    amd, arm = body_of(shared), body_of(shared, layer(2))
    index, alone = index_of(amd, arm), body_of(shared, layer(3))
    for body in (amd, arm, index, alone):
        cache(store, "a", body)
    put_file(store, "a", shared)
    assert set(store.space.roots("a", Digest.of(shared))) == {Digest.of(index), Digest.of(alone)}
    assert store.space.roots("a", Digest.of(index)) == [Digest.of(index)]
    assert store.space.roots("b", Digest.of(shared)) == [Digest.of(shared)]


def test_uses_go_on_where_they_ended(store: Store) -> None:
    bodies = [body_of(layer(number)) for number in range(5)]
    for hour, body in enumerate(bodies):
        cache(store, "a", body, now=hour * HOUR)
    first, place = store.space.uses_after(b"", 3)
    rest, end = store.space.uses_after(place, 3)
    assert [use.digest for use in (*first, *rest)] == [Digest.of(body) for body in bodies]
    assert end == b""


def test_what_was_evicted_gives_its_space_back_at_once_and_what_is_linked_stays(
    store: Store, tmp_path: Path
) -> None:
    gone, elsewhere = layer(1), layer(2)
    digest = cache(store, "a", body_of(gone, elsewhere), gone, elsewhere)
    put_file(store, "b", elsewhere)
    blob = store.blobs.get("a", Digest.of(gone))
    assert blob is not None
    reader = store.blobs.open(blob)
    store.space.evict("a", digest, now=2.0).result()
    both = [Digest.of(gone), Digest.of(elsewhere)]
    assert store.upkeep.reclaim(both).result() == 30_000
    assert reader.read(0, 30_000) == gone
    assert is_here(store, "b", elsewhere)
    assert store.space.account().file_bytes == 30_000
    assert store.upkeep.reclaim(both).result() == 0


def test_the_disk_in_use_counts_what_is_allocated(store: Store) -> None:
    before = store.space.disk_use()
    part = store.blobs.fills.open_part("a", Digest.of(layer(1)), 1 << 30)
    part.write(512 << 20, bytes(64 << 10))
    name = stage(store, bytes(100_000))
    after = store.space.disk_use()
    assert before.parts == {}
    assert [size // 1024 for size in after.parts.values()] == [64]
    assert 100_000 <= after.uploads - before.uploads < 110_000
    assert min(after.journal, after.index) > 0
    store.uploads.remove(name)
    assert store.space.disk_use().uploads == before.uploads
    part.close()
