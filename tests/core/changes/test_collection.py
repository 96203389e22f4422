"""What leaves the store by itself takes nothing that something still names, protects or waits for, and all that goes
with it; each with literal expectations. Each case is one that a small change of the source would get wrong
(docs/mutation.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import (
    CollectionRule,
    Departure,
    Digest,
    Lock,
    LockChange,
    LockTarget,
    Pin,
    Store,
    space_format,
)
from holdfast_core import format as layout
from holdfast_core.changes import collection
from holdfast_core.errors import Exhausted, NotEvictable, NotHeld
from holdfast_core.record import ImageHolding
from support.image_graph import body_of, cache, index_of, is_here, layer, sound
from support.stores import MEDIA, push, push_file, put_file, without_journal

Opener = Callable[..., Store]
EVERYTHING = CollectionRule(1e9, 1e9, 1e9)


def manifests_here(store: Store, *bodies: bytes) -> list[bool]:
    """Which of these are in the repository."""
    return [store.references.manifest("a", Digest.of(body)) is not None for body in bodies]


# --- what is named stays -------------------------------------------------------------------------------------


def test_a_tagged_platform_stays_when_its_index_goes(store: Store, root: Path) -> None:
    content, other = layer(1), layer(2)
    tagged, untagged = body_of(content), body_of(other)
    cache(store, "a", tagged, content, tag="arm")
    cache(store, "a", untagged, other)
    index = cache(store, "a", index_of(tagged, untagged), tag="v1")
    assert store.space.evict("a", index, now=2.0).result() == Departure(3, 30_000)
    assert manifests_here(store, tagged, untagged) == [True, False]
    assert [is_here(store, "a", each) for each in (content, other)] == [True, False]
    sound(store, root)


def test_a_layer_that_two_platforms_share_goes_once(store: Store, root: Path) -> None:
    shared = layer(1)
    one, two = body_of(shared, x=1), body_of(shared, x=2)
    for body in (one, two):
        cache(store, "a", body, shared)
    index = cache(store, "a", index_of(one, two), tag="v1")
    assert store.space.freed_by("a", index, now=2.0) == Departure(4, 30_000)
    assert store.space.evict("a", index, now=2.0).result() == Departure(4, 30_000)
    sound(store, root)


def test_a_layer_that_is_not_in_the_repository_does_not_count(store: Store, root: Path) -> None:
    """It was deleted there, and its bytes wait for the sweep."""
    content = layer(1)
    digest = cache(store, "a", body_of(content), content, tag="v1")
    store.blobs.delete("a", Digest.of(content), now=2.0).result()
    assert store.space.freed_by("a", digest, now=3.0) == Departure(1, 0)
    assert store.space.evict("a", digest, now=3.0).result() == Departure(1, 0)
    sound(store, root)


def test_all_manifests_that_name_a_layer_are_looked_at(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the last of those that do not fit into one look, which alone keeps it."""
    monkeypatch.setattr(collection, "EDGES", 2)
    shared = layer(1)
    bodies = [body_of(shared, x=number) for number in range(6)]
    *going, staying = sorted(bodies, key=lambda body: Digest.of(body).key)
    for body in bodies:
        cache(store, "a", body, shared)
    index = cache(store, "a", index_of(*going), tag="v1")
    store.references.put_tag("a", "kept", Digest.of(staying), now=1.0).result()
    assert store.space.evict("a", index, now=2.0).result() == Departure(6, 0)
    assert manifests_here(store, staying) == [True]
    assert is_here(store, "a", shared)
    sound(store, root)


def many_platforms(store: Store) -> tuple[Digest, list[bytes], list[bytes]]:
    """An index of more platforms than go in one transaction, each with a layer of its own."""
    layers = [layer(number, 20_000) for number in range(collection.DIGESTS + 4)]
    bodies = [body_of(content) for content in layers]
    for body, content in zip(bodies, layers, strict=True):
        cache(store, "a", body, content)
    return cache(store, "a", index_of(*bodies), tag="v1"), bodies, layers


def test_what_is_left_of_an_eviction_and_still_named_is_not_collected(store: Store, root: Path) -> None:
    index, bodies, layers = many_platforms(store)
    departure = store.space.evict("a", index, now=2.0).result()
    assert (departure.digests, departure.left) == (collection.DIGESTS, 5 + len(layers))
    assert manifests_here(store, *bodies[-5:]) == [True] * 5
    kept = [("a", Digest.of(content)) for content in layers[-5:]]
    assert store.space.collect(kept, EVERYTHING, now=3.0).result() == Departure()
    assert all(is_here(store, "a", content) for content in layers[-5:])
    left, _ = store.space.loose()
    rest = [("a", Digest.of(body)) for body in bodies[-5:]]
    assert set(left) == {*rest, *(("a", Digest.of(content)) for content in layers[:-5])}
    sound(store, root)


def test_a_store_is_sound_between_an_eviction_and_the_collection_of_its_rest(
    store: Store, root: Path
) -> None:
    index, bodies, layers = many_platforms(store)
    store.space.evict("a", index, now=2.0).result()
    left, _ = store.space.loose()
    expected = [*bodies[-5:], *layers[:-5]]
    assert set(left) == {("a", Digest.of(content)) for content in expected}
    assert all((store.space.loose_since("a", digest) or 9.0) <= 2.0 for _, digest in left)
    sound(store, root)


def test_the_rest_of_an_eviction_goes_by_collection(store: Store, root: Path) -> None:
    index, _, _ = many_platforms(store)
    store.space.evict("a", index, now=2.0).result()
    while loose := store.space.loose()[0]:
        assert store.space.collect(loose, EVERYTHING, now=3.0).result().digests > 0
    assert store.space.account_of("a").manifests == 0
    assert store.space.account_of("a").blobs == 0
    sound(store, root)


@pytest.mark.parametrize("delete", [False, True])
def test_a_locked_platform_stays_when_its_index_goes(store: Store, root: Path, delete: bool) -> None:
    """With its layers and its lock; a write lock keeps it as well."""
    content, other = layer(1), layer(2)
    locked, free = body_of(content), body_of(other)
    for body, inner in ((locked, content), (free, other)):
        cache(store, "a", body, inner)
    index = cache(store, "a", index_of(locked, free), tag="v1")
    target = LockTarget("manifest", str(Digest.of(locked)))
    change = LockChange(write=False) if delete else LockChange(delete=False)
    store.references.set_lock("a", target, change, now=1.0).result()
    assert store.space.freed_by("a", index, now=2.0) == Departure(3, 30_000)
    assert store.space.evict("a", index, now=2.0).result() == Departure(3, 30_000)
    assert manifests_here(store, locked, free) == [True, False]
    assert [is_here(store, "a", each) for each in (content, other)] == [True, False]
    assert store.references.lock("a", target) == Lock(delete=delete, write=not delete)
    sound(store, root)


def test_a_platform_whose_lock_cannot_be_read_stays(store: Store) -> None:
    content = layer(1)
    body = body_of(content)
    cache(store, "a", body, content)
    index = cache(store, "a", index_of(body), tag="v1")
    target = LockTarget("manifest", str(Digest.of(body)))
    store.references.set_lock("a", target, LockChange(list=False), now=1.0).result()
    without_journal(store)
    damage(store, layout.lock_key("a", target))
    assert store.space.evict("a", index, now=2.0).result() == Departure(1)
    assert is_here(store, "a", content)


def test_a_pinned_platform_stays_when_its_index_goes_and_until_its_pin_is_over(
    store: Store, root: Path
) -> None:
    content = layer(1)
    body = body_of(content)
    cache(store, "a", body, content)
    index = cache(store, "a", index_of(body), tag="v1")
    store.space.pin(Pin("a", "manifest", str(Digest.of(body)), 50.0), now=1.0).result()
    assert store.space.freed_by("a", index, now=49.0) == Departure(1)
    assert store.space.freed_by("a", index, now=50.0) == Departure(3, 30_000)
    assert store.space.evict("a", index, now=49.0).result() == Departure(1)
    assert is_here(store, "a", content)
    assert store.space.collect([("a", Digest.of(body))], EVERYTHING, now=49.5).result() == Departure()
    assert store.space.collect([("a", Digest.of(body))], EVERYTHING, now=50.0).result() == Departure(1)
    sound(store, root)


# --- how long a pin holds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pinned", ["manifest", "tag", "referrer of a manifest", "referrer of a tag"])
def test_a_pin_holds_until_its_end_and_not_in_it(store: Store, root: Path, pinned: str) -> None:
    subject = cache(store, "a", body_of(), tag="v1")
    kind, name = ("tag", "v1") if pinned.endswith("tag") else ("manifest", str(subject))
    store.space.pin(Pin("a", kind, name, 50.0, pinned.startswith("referrer")), now=1.0).result()
    kept = signature_of(store, subject) if pinned.startswith("referrer") else subject
    for now in (2.0, 49.9):
        with pytest.raises(NotEvictable, match="is pinned"):
            store.space.evict("a", kept, now=now).result()
    assert store.space.evict("a", kept, now=50.0).result() == Departure(1)
    sound(store, root)


def test_a_pin_is_for_referrers_only_where_it_says_so(store: Store, root: Path) -> None:
    subject = cache(store, "a", body_of(), tag="v1")
    signature = signature_of(store, subject)
    for kind, name in (("tag", "v1"), ("manifest", str(subject))):
        store.space.pin(Pin("a", kind, name, math.inf), now=1.0).result()
    assert store.space.evict("a", signature, now=2.0).result() == Departure(1)
    with pytest.raises(NotEvictable, match="is pinned"):
        store.space.evict("a", subject, now=2.0).result()
    sound(store, root)


def signature_of(store: Store, subject: Digest) -> Digest:
    """A cached manifest that refers to another."""
    body = body_of(subject={"digest": str(subject), "size": 1})
    digest = Digest.of(body)
    store.references.put_manifest("a", digest, MEDIA, body, owned=False, now=1.0, subject=subject).result()
    return digest


def test_pins_are_listed_as_they_were_made(store: Store) -> None:
    pins = [
        Pin("a", "manifest", "sha256:" + "5" * 64, math.inf, False, 3.0),
        Pin("a", "tag", "v1", 50.0, True, 3.0),
    ]
    for pin in pins:
        store.space.pin(pin, now=3.0).result()
    assert store.space.pins() == pins


# --- what is not loose is not collected ------------------------------------------------------------------------


def test_what_went_or_is_named_since_it_was_listed_is_passed_over(store: Store, root: Path) -> None:
    gone, named, loose = layer(1), layer(2), layer(3)
    for content in (gone, named, loose):
        push_file(store, "a", content)
    listed, _ = store.space.loose()
    assert len(listed) == 3
    store.blobs.delete("a", Digest.of(gone), now=2.0).result()
    push(store, "a", body_of(named), "v1")
    assert store.space.collect(listed, EVERYTHING, now=3.0).result() == Departure(1, 30_000)
    assert [is_here(store, "a", content) for content in (gone, named, loose)] == [False, True, False]
    sound(store, root)


def test_what_was_never_here_is_passed_over(store: Store) -> None:
    never = [("a", Digest.of(b"never"))]
    assert store.space.collect(never, EVERYTHING, now=3.0).result() == Departure()


def damage(store: Store, key: bytes) -> None:
    """Change a record of the index so that its seal does not match."""
    with store._index.begin(write=True) as txn:
        value = bytearray(txn.get(key) or b"")
        value[0] ^= 8
        txn.put(key, bytes(value))


def test_what_has_no_readable_lease_is_not_collected_and_holds_nothing_up(store: Store) -> None:
    struck, other = layer(1), layer(2)
    for content in (struck, other):
        push_file(store, "a", content)
    listed, _ = store.space.loose()
    key = space_format.loose_key(layout.repository_hash("a"), Digest.of(struck).key)
    damage(store, key)
    assert store.space.collect(listed, EVERYTHING, now=3.0).result().digests >= 1
    assert not is_here(store, "a", other)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 6])
def test_what_is_loose_is_listed_in_pages_each_once(store: Store, number: int) -> None:
    contents = [b"blob %d" % each for each in range(5)]
    for content in contents:
        push_file(store, "a", content)
    listed, after = [], b""
    for _ in range(10):
        page, after = store.space.loose(after, number)
        listed += page
        if not after:
            break
    assert sorted(listed, key=str) == sorted((("a", Digest.of(content)) for content in contents), key=str)


# --- what goes along ---------------------------------------------------------------------------------------------


def test_what_would_leave_counts_what_was_pushed_and_not_sent(store: Store) -> None:
    content = layer(1)
    push_file(store, "a", content)
    platform = body_of(content)
    push(store, "a", platform, pending=True)
    index = push(store, "a", index_of(platform), "v1")
    assert store.space.freed_by("a", index, now=2.0) == Departure(3, 30_000)


def test_the_lock_of_a_manifest_that_goes_goes_along(store: Store, root: Path) -> None:
    """One that does not keep it; else it would lock what comes later under this digest."""
    body = body_of()
    digest = cache(store, "a", body, tag="v1")
    target = LockTarget("manifest", str(digest))
    store.references.set_lock("a", target, LockChange(list=False), now=1.0).result()
    assert store.space.evict("a", digest, now=2.0).result() == Departure(1)
    assert store.references.lock("a", target) == Lock()
    sound(store, root)


@pytest.mark.parametrize("others", [0, 1, 2])
def test_bytes_that_are_blob_and_manifest_go_once_nobody_has_them(
    store: Store, root: Path, others: int
) -> None:
    body = body_of() + b" " * 20_000
    digest = cache(store, "a", body, body, tag="v1")
    for name in ("b", "c")[:others]:
        put_file(store, name, body)
    assert store.space.evict("a", digest, now=2.0).result() == Departure(1, 0 if others else len(body))
    assert (store._index.get(layout.UNLINKED + digest.key) is None) is bool(others)
    swept = store.upkeep.sweep(now=store._index.written_at() + 2.0, grace=1.0).result()
    assert swept == (0 if others else len(body))
    assert [is_here(store, name, body) for name in ("a", "b", "c")] == [False, others > 0, others > 1]
    sound(store, root)


def test_a_blob_that_another_repository_has_is_no_garbage(store: Store, root: Path) -> None:
    content = layer(1)
    for name in ("a", "b"):
        put_file(store, name, content)
    assert store.space.evict("a", Digest.of(content), now=2.0).result() == Departure(1)
    assert store._index.get(layout.UNLINKED + Digest.of(content).key) is None
    sound(store, root)


def test_what_is_not_in_a_repository_cannot_be_evicted_from_it(store: Store) -> None:
    content = layer(1)
    put_file(store, "b", content)
    with pytest.raises(NotHeld, match="is not in a"):
        store.space.evict("a", Digest.of(content), now=1.0).result()
    assert is_here(store, "b", content)


# --- what the index says wrongly -----------------------------------------------------------------------------------


def note_as_loose(store: Store, digest: Digest, since: float) -> bytes:
    """Say in the index that nothing names a digest, which no writer does; the key of the note."""
    key = space_format.loose_key(layout.repository_hash("a"), digest.key)
    with store._index.begin(write=True) as txn:
        txn.put(key, layout.seal(key, layout.encode_time(since)))
    return key


@pytest.mark.parametrize("name", ["tag", "manifest"])
def test_a_note_alone_lets_nothing_go_that_is_named(store: Store, root: Path, name: str) -> None:
    """The names decide; the note goes."""
    content = layer(1)
    push_file(store, "a", content)
    manifest = push(store, "a", body_of(content), "v1")
    digest = manifest if name == "tag" else Digest.of(content)
    key = note_as_loose(store, digest, 1.0)
    assert store.space.loose() == ([("a", digest)], b"")
    assert store.space.collect([("a", digest)], EVERYTHING, now=3.0).result() == Departure()
    assert store._index.get(key) is None
    assert is_here(store, "a", content)
    assert store.references.tag("a", "v1") is not None
    sound(store, root)


def test_a_note_of_what_is_not_there_holds_nothing_up(store: Store) -> None:
    content = layer(1)
    push_file(store, "a", content)
    never = Digest.of(b"never")
    note_as_loose(store, never, 1.0)
    both = [("a", never), ("a", Digest.of(content))]
    assert store.space.collect(both, EVERYTHING, now=3.0).result() == Departure(1, 30_000)


# --- pages, dry runs, a full disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 4, 5, 6])
def test_who_has_what_is_listed_in_pages_each_once(store: Store, number: int) -> None:
    body = body_of()
    cache(store, "a", body, body)
    for name, content in (("a", b"one"), ("b", b"one"), ("b", b"two")):
        put_file(store, name, content)
    listed, after = [], b""
    for _ in range(10):
        page, after = store.space.links(after, number)
        listed += page
        if not after:
            break
    one, two = Digest.of(b"one"), Digest.of(b"two")
    expected = [(Digest.of(body), "a")] * 2 + [(one, "a"), (one, "b"), (two, "b")]
    assert sorted(map(str, listed)) == sorted(map(str, expected))


def test_a_dry_run_says_what_a_collection_would_take_and_takes_nothing(store: Store) -> None:
    """Bytes that two repositories have count with the second of them, also in another call."""
    shared, own, named = layer(1), layer(2, 40_000), layer(3)
    for name, contents in (("a", (shared, own, named)), ("b", (shared,))):
        for content in contents:
            push_file(store, name, content)
    listed, _ = store.space.loose()
    push(store, "a", body_of(named), "v1")
    gone: dict[Digest, set[bytes]] = {}
    of = {name: [row for row in listed if row[0] == name] for name in ("a", "b")}
    assert len(of["a"]) == 3
    dry = store.space.collectable
    assert dry(of["a"], EVERYTHING, now=3.0, gone=gone) == Departure(2, 40_000)
    assert dry(of["b"], EVERYTHING, now=3.0, gone=gone) == Departure(1, 30_000)
    assert dry(of["b"], EVERYTHING, now=3.0, gone={}) == Departure(1, 0)
    assert dry(listed, CollectionRule(0.5, None, None), now=3.0, gone={}) == Departure()
    assert [is_here(store, "a", content) for content in (shared, own, named)] == [True] * 3
    assert store.space.collect(listed, EVERYTHING, now=3.0).result() == Departure(3, 70_000)


def test_what_platforms_share_and_is_left_of_an_eviction_is_loose_since_then(
    store: Store, root: Path
) -> None:
    layers = [layer(number, 20_000) for number in range(collection.DIGESTS)]
    bodies = [body_of(*layers, x=number) for number in range(2)]
    for body in bodies:
        cache(store, "a", body, *layers)
    index = cache(store, "a", index_of(*bodies), tag="v1")
    departure = store.space.evict("a", index, now=2.0).result()
    assert (departure.digests, departure.left) == (collection.DIGESTS, 3)
    left, _ = store.space.loose()
    assert set(left) == {("a", Digest.of(content)) for content in layers[-3:]}
    assert all((store.space.loose_since("a", digest) or 9.0) <= 2.0 for _, digest in left)
    sound(store, root)


def test_bytes_go_that_all_repositories_lose_in_one_transaction(store: Store, root: Path) -> None:
    content = layer(1)
    for name in ("a", "b", "c"):
        push_file(store, name, content)
    listed, _ = store.space.loose()
    assert len(listed) == 3
    assert store.space.collect(listed, EVERYTHING, now=2.0).result() == Departure(3, 30_000)
    assert store.upkeep.sweep(now=1e12, grace=1.0).result() == 30_000
    sound(store, root)


def test_bytes_that_one_more_repository_has_stay_when_the_others_lose_them(store: Store, root: Path) -> None:
    content = layer(1)
    for name in ("a", "b", "c"):
        push_file(store, name, content)
    listed, _ = store.space.loose()
    push(store, "c", body_of(content), "v1")
    digest = Digest.of(content)
    assert store.space.collect([("a", digest)], EVERYTHING, now=2.0).result() == Departure(1)
    assert store._index.get(layout.UNLINKED + digest.key) is None
    push_file(store, "a", content)
    assert store.space.collect(listed, EVERYTHING, now=2.0).result() == Departure(2)
    assert store._index.get(layout.UNLINKED + digest.key) is None
    assert store.upkeep.sweep(now=100.0, grace=1.0).result() == 0
    assert is_here(store, "c", content)
    sound(store, root)


def test_what_an_eviction_would_take_is_told_before_it(store: Store) -> None:
    shared, own, pushed = layer(1), layer(2, 40_000), layer(3)
    push_file(store, "a", pushed)
    body = body_of(shared, own, pushed)
    digest = cache(store, "a", body, shared, own, tag="v1")
    put_file(store, "b", shared)
    expected = ImageHolding(
        "a",
        digest,
        tuple(map(Digest.of, (body, shared, own))),
        (0, 0, 40_000),
        (1.0, 1.0, 1.0),
        30_000,
        0,
        tuple(map(Digest.of, (shared, own, pushed))),
        (),
        "",
    )
    assert store.space.holding("a", digest, now=1.0) == expected
    named = store.space.holding("a", Digest.of(own), now=2.0)
    assert named is not None
    assert named.kept == "is named by a manifest that is here"


def test_the_uses_of_an_image_outlive_the_process_and_the_other_repositories_of_its_bytes(
    store: Store, opener: Opener
) -> None:
    shared = layer(1)
    first, second = (cache(store, name, body_of(shared, x=name), shared) for name in "ab")
    for now in (1.0, 1.0, 2.0):
        store.blobs.seen("a", Digest.of(shared), now)
    store.blobs.seen("b", first, 1.0)
    store.close()
    store = opener()
    assert store.space.evict("a", first, now=3.0).result().digests == 2
    held = store.space.holding("b", second, now=1.0)
    assert held is not None
    assert held.digests == (second, Digest.of(shared))
    assert held.uses == pytest.approx((1.0, 4.0), rel=1e-4)
    later = store.space.holding("b", second, now=space_format.HALF_LIFE_SECONDS)
    assert later is not None
    assert later.uses == pytest.approx((0.5, 2.0), rel=1e-4)


def test_at_most_so_many_roots_of_a_digest_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest, and two indexes that name another."""
    shared = layer(1)
    platform, alone = body_of(shared), body_of(shared, x=1)
    cache(store, "a", platform, shared)
    bodies = [alone, index_of(platform), index_of(platform, platform)]
    roots = {cache(store, "a", body) for body in bodies}
    of = store.space.roots
    assert set(of("a", Digest.of(shared))) == roots
    monkeypatch.setattr(collection, "ROOTS", 2)
    assert len(of("a", Digest.of(shared))) == 2


def test_what_leaves_makes_room_on_a_full_disk(store: Store) -> None:
    """While the room that is kept for deletes is not whole, nothing else is committed."""
    digest = cache(store, "a", body_of(), tag="v1")
    push_file(store, "a", layer(1))
    writer = store._writer
    assert writer is not None
    writer.is_short = lambda: True
    with pytest.raises(Exhausted):
        put_file(store, "b", layer(2))
    assert store.space.evict("a", digest, now=2.0).result() == Departure(1)
    loose, _ = store.space.loose()
    assert store.space.collect(loose, EVERYTHING, now=2.0).result() == Departure(1, 30_000)
