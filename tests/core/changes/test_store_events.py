"""The log of what changed here: one event a change, in its transaction, while somebody reads them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
from holdfast_core import Digest, EventRecord, LockTarget, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.changes import store_events
from holdfast_core.errors import ContentLocked, NotHeld, RecordDamaged, Unsent
from holdfast_core.record import Lock
from support.stores import MEDIA, dump, push, push_file, put_file, put_manifest, without_journal

Opener = Callable[..., Store]


@pytest.fixture
def store(opener: Opener) -> Store:
    """A store whose log is kept."""
    store = opener()
    store.events.keep(True).result()
    return store


def told(store: Store, after: int = 0) -> list[tuple[str, str, str, str, str]]:
    """(verb, kind, tag, digest, origin) of each event."""
    rows = store.events.after(after, 1000)
    return [(row.verb, row.kind, row.tag, row.digest, row.origin) for row in rows]


def last(store: Store) -> int:
    """The number of the last event."""
    head = store.events.head()
    assert head is not None
    return head.last


def test_a_push_with_tags_is_one_event_a_tag(store: Store) -> None:
    subject = Digest.of(b"subject")
    digest = push(store, "a", b"one", "x", "y", now=5.0, artifact_type="sbom", subject=subject)
    size, about = len(b"one"), str(subject)
    first = EventRecord("push", "tag", "a", 5.0, "x", str(digest), MEDIA, size, "sbom", about, number=1)
    assert store.events.after(0, 1) == [first]
    assert [(row.number, row.tag) for row in store.events.after(0, 10)] == [(1, "x"), (2, "y")]


def test_what_only_confirms_is_no_event(store: Store) -> None:
    digest = push(store, "a", b"one", "x")
    put_manifest(store, "a", b"two")
    store.references.put_tag("a", "z", digest, now=2.0).result()
    before = last(store)
    push(store, "a", b"one", "x", now=3.0)
    push(store, "a", b"one", now=3.0)
    put_manifest(store, "a", b"two")
    store.references.put_tag("a", "z", digest, now=3.0).result()
    store.references.put_tag(
        "a", "x", Digest.of(b"two"), now=3.0
    ).result()  # pushed here: the parent's word moves it not
    assert last(store) == before


def test_a_fill_tells_the_manifest_then_its_tag(store: Store) -> None:
    digest = put_manifest(store, "a", b"one", subject=Digest.of(b"subject"))
    store.references.put_tag("a", "x", digest, now=2.0).result()
    assert told(store) == [
        ("push", "manifest", "", str(digest), "parent"),
        ("push", "tag", "x", str(digest), "parent"),
    ]
    found = store.events.after(1, 10)[0]
    assert (found.media_type, found.size, found.subject) == (MEDIA, 3, str(Digest.of(b"subject")))


def test_a_fill_by_a_tag_is_one_event(store: Store) -> None:
    def filled(body: bytes, now: float) -> str:
        digest = Digest.of(body)
        store.references.put_manifest(
            "a", digest, MEDIA, body, owned=False, now=now, artifact_type="b/c", tag="x"
        ).result()
        return str(digest)

    first = filled(b"one", 1.0)
    filled(b"one", 2.0)
    found = store.references.tag("a", "x")
    assert found is not None
    assert (found.checked_at, found.moved_at, found.origin) == (2.0, 1.0, "parent")
    second = filled(b"two", 3.0)
    assert [(e.kind, e.tag, e.digest, e.artifact_type) for e in store.events.after(0, 10)] == [
        ("tag", "x", first, "b/c"),
        ("tag", "x", second, "b/c"),
    ]
    mine = push(store, "a", b"mine", "x")
    third = filled(b"three", 4.0)
    assert told(store, 2) == [
        ("push", "tag", "x", str(mine), "local"),
        ("push", "manifest", "", third, "parent"),
    ]
    store.references.delete_tag("a", "x", now=5.0, tombstone=True).result()
    with pytest.raises(NotHeld):
        filled(b"four", 6.0)
    assert store.references.manifest("a", Digest.of(b"four")) is None


def test_a_delete_tells_each_tag_then_the_manifest(store: Store) -> None:
    digest = push(store, "a", b"one", "x", "y", "z")
    before = last(store)
    store.references.delete_tag("a", "y", now=2.0).result()
    store.references.delete_manifest("a", digest, now=3.0).result()
    text = str(digest)
    assert told(store, before) == [
        ("delete", "tag", "y", text, "local"),
        ("delete", "tag", "x", text, "local"),
        ("delete", "tag", "z", text, "local"),
        ("delete", "manifest", "", text, "local"),
    ]
    assert {(row.media_type, row.size) for row in store.events.after(before, 10)} == {(MEDIA, 3)}
    push(store, "a", b"one")
    assert told(store, before + 4) == [("push", "manifest", "", text, "local")]


def test_a_tag_that_cannot_be_read_is_told_when_it_goes(store: Store) -> None:
    push(store, "a", b"one", "x")
    with store._index.begin(write=True) as txn:
        txn.put(layout.tag_key("a", "x"), b"\x01damaged")
    without_journal(store)
    store.references.delete_tag("a", "x", now=2.0).result()
    assert told(store, 1) == [("delete", "tag", "x", "", "local")]


def test_what_is_removed_is_told_as_the_parents_doing(store: Store) -> None:
    digest = put_manifest(store, "a", b"one")
    for name in ("x", "y"):
        store.references.put_tag("a", name, digest, now=1.0).result()
    before, text = last(store), str(digest)
    store.references.remove_tag("a", "x", now=2.0).result()
    store.references.remove_manifest("a", digest, now=2.0).result()
    store.references.remove_repository("a", now=2.0).result()
    assert told(store, before) == [
        ("delete", "tag", "x", text, "parent"),
        ("delete", "tag", "y", text, "parent"),
        ("delete", "manifest", "", text, "parent"),
        ("delete", "repository", "", "", "parent"),
    ]


REPOSITORIES, TAGS, BODIES = ("a", "b"), ("x", "y", "z"), (b"1", b"2", b"3", b"4")


class Follower:
    """What somebody knows who began with nothing and heard every event."""

    def __init__(self) -> None:
        self.tags: dict[tuple[str, str], str] = {}
        self.manifests: set[tuple[str, str]] = set()

    def hear(self, event: EventRecord) -> None:
        place, named = (event.repository, event.digest), (event.repository, event.tag)
        if event.kind == "repository":
            self.tags = {key: digest for key, digest in self.tags.items() if key[0] != event.repository}
            self.manifests = {key for key in self.manifests if key[0] != event.repository}
        elif event.kind == "tag" and event.verb == "delete":
            assert self.tags.pop(named) == event.digest
        elif event.verb == "delete":
            self.manifests.remove(place)
            assert place[1] not in {digest for key, digest in self.tags.items() if key[0] == place[0]}
        else:
            # a parent's tag may come for a manifest that was deleted a moment before: nothing is known of it then
            self.manifests |= {place} if event.media_type else set()
            if event.tag:
                assert self.tags.get(named) != event.digest
                self.tags[named] = event.digest


def change_something(store: Store, die: random.Random) -> Future[Any]:
    """One change, or one that is refused, in any of the ways there are."""
    repository, tag, body = die.choice(REPOSITORIES), die.choice(TAGS), die.choice(BODIES)
    digest, now = Digest.of(body), 1.0
    new = {"owned": False, "now": now}
    held = any(member.digest == digest for member in store.references.members(repository, limit=100).members)
    ways: list[Callable[[], Future[Any]]] = [
        lambda: store.references.push_manifest(
            repository, digest, MEDIA, body, tags=die.sample(TAGS, 2), now=now
        ),
        lambda: store.references.push_manifest(repository, digest, MEDIA, body, now=now),
        lambda: store.references.put_manifest(repository, digest, MEDIA, body, **new),  # type: ignore[arg-type]
        lambda: store.references.put_manifest(repository, digest, MEDIA, body, **new),  # type: ignore[arg-type]
        lambda: store.references.delete_tag(repository, tag, now=now, tombstone=die.random() < 0.5),
        lambda: store.references.delete_manifest(repository, digest, now=now, tombstone=die.random() < 0.5),
        lambda: store.references.drop_tag(repository, tag, now=now),
        lambda: store.references.remove_tag(repository, tag, now=now),
        lambda: store.references.remove_manifest(repository, digest, now=now),
        lambda: store.references.set_lock(
            repository, LockTarget("tag", tag), Lock(delete=die.random() < 0.7), now=now
        ),
    ]
    if held:
        ways += 3 * [lambda: store.references.put_tag(repository, tag, digest, now=now)]
    if die.random() < 0.05:
        return store.references.remove_repository(repository, now=now)
    return die.choice(ways)()


def known(store: Store) -> tuple[dict[tuple[str, str], str], set[tuple[str, str]]]:
    """Tags and manifests of a store."""
    tags, manifests = {}, set()
    for repository in REPOSITORIES:
        keys = store._index.scan(layout.link_key(repository, layout.AS_MANIFEST, b""))
        manifests |= {(repository, str(layout.digest_from(key, key[18:]))) for key, _ in keys}
        for name in store.references.tags(repository):
            tag = store.references.tag(repository, name)
            assert tag is not None
            tags[repository, name] = str(tag.digest)
    return tags, manifests


@pytest.mark.parametrize("seed", range(20))
def test_who_hears_everything_knows_everything(seed: int, store: Store) -> None:
    """Whatever is changed, in whatever way: the events say it all, each once, in the order of the commits."""
    die, follower, after = random.Random(seed), Follower(), 0
    for _ in range(40):
        futures = [change_something(store, die) for _ in range(die.randint(1, 4))]
        wait(futures)
        assert {type(f.exception()) for f in futures} <= {type(None), ContentLocked, NotHeld, Unsent}
        for event in store.events.after(after, 1000):
            assert event.number > after
            after = event.number
            follower.hear(event)
        assert (follower.tags, follower.manifests) == known(store)
    head = store.events.head()
    assert head is not None
    assert (head.last, head.count) == (after, after)


def test_what_is_refused_tells_nothing(store: Store) -> None:
    digest, before = push(store, "a", b"one", "x"), last(store)
    store.references.set_lock("a", LockTarget("tag", "x"), Lock(write=False, delete=False), now=1.0).result()
    with pytest.raises(ContentLocked):
        push(store, "a", b"two", "x")
    with pytest.raises(ContentLocked):
        store.references.delete_manifest("a", digest, now=1.0).result()
    with pytest.raises(NotHeld):
        store.references.delete_tag("a", "none", now=1.0).result()
    assert last(store) == before


def test_a_log_that_nobody_reads_writes_no_row(opener: Opener) -> None:
    store = opener()
    digest = push(store, "a", b"one", "x")
    put_manifest(store, "a", b"two")
    store.references.delete_manifest("a", digest, now=2.0).result()
    assert store.events.head() is None
    assert list(store._index.scan(layout.EVENT)) == []


def filled_and_pushed(store: Store) -> tuple[dict[bytes, bytes], int, int]:
    """Work of each kind; then every row but the log's, the rows of the log, and the length of the journal."""
    layer = put_file(store, "a", b"layer" * 5000)
    digest = put_manifest(store, "a", b"one", subject=Digest.of(b"subject"))
    store.references.put_tag("a", "x", digest, now=2.0).result()
    store.references.put_tag("a", "x", digest, now=3.0).result()
    push_file(store, "a", b"blob" * 5000)
    pushed = push(store, "a", b"two", "x", "y", now=4.0, pending=True)
    push(store, "a", b"two", "x", now=5.0)
    store.references.set_lock("a", LockTarget("tag", "y"), Lock(write=False), now=6.0).result()
    store.references.delete_tag("a", "x", now=7.0, tombstone=True).result()
    store.references.set_lock("a", LockTarget("tag", "y"), Lock(), now=8.0).result()
    store.references.delete_manifest("a", pushed, now=9.0).result()
    store.blobs.delete("a", layer.digest, now=10.0).result()
    rows, _ = dump(store, store._directory.path)
    logged = [key for key in rows if key[:1] == layout.EVENT]
    journal = store.statistics().journal_bytes
    return {key: row for key, row in rows.items() if key not in logged}, len(logged), journal


def test_the_log_costs_its_rows_and_nothing_else(opener: Opener, tmp_path: Path) -> None:
    """Off, not a row; on, one for each event and the head, and not a byte of the journal."""
    quiet, kept = opener(tmp_path / "quiet"), opener(tmp_path / "kept")
    kept.events.keep(True).result()
    one, other = filled_and_pushed(quiet), filled_and_pushed(kept)
    assert one[0].keys() == other[0].keys()
    assert one[2] == other[2]
    verbs = [(row.verb, row.kind) for row in kept.events.after(0, 100)]
    assert (one[1], other[1]) == (0, 1 + len(verbs))
    pushes = [("push", "manifest"), ("push", "tag"), ("push", "tag"), ("push", "tag")]
    assert verbs == [*pushes, ("delete", "tag"), ("delete", "tag"), ("delete", "manifest")]


def test_ending_and_beginning_again(store: Store) -> None:
    push(store, "a", b"one", "x")
    old = store.events.head()
    assert old is not None
    assert store.events.since(old.log, 0, 10) == store.events.after(0, 10)
    store.events.keep(True).result()
    assert store.events.head() == old
    store.events.keep(False).result()
    push(store, "a", b"two", "x")
    assert store.events.head() is None
    assert store.events.since(old.log, 1, 10) is None
    store.events.keep(True).result()
    push(store, "a", b"three", "x")
    new = store.events.head()
    assert new is not None
    assert (new.log != old.log, new.floor, new.last, new.count) == (True, 1, 2, 1)
    assert store.events.since(old.log, 1, 10) is None
    assert store.events.since(new.log, 1, 10) == store.events.after(1, 10)
    store.events.trim(before=0.0, keep=10).result()
    assert [row.number for row in store.events.after(0, 10)] == [2]
    for _ in range(2):
        store.events.keep(False).result()
    store.events.trim(before=0.0, keep=10).result()
    store.events.trim(before=0.0, keep=10).result()
    assert list(store._index.scan(layout.EVENT)) == []


def test_trimming_by_age_and_by_count(store: Store) -> None:
    for number in range(1, 9):
        push(store, "a", b"%d" % number, "x", now=float(number))
    head = store.events.head()
    assert head is not None
    store.events.trim(before=3.0, keep=100).result()
    assert [row.number for row in store.events.after(0, 100)] == [3, 4, 5, 6, 7, 8]
    assert store.events.since(head.log, 1, 100) is None
    assert store.events.since(head.log, 2, 1) == store.events.after(2, 1)
    store.events.trim(before=0.0, keep=3, limit=2).result()
    assert [row.number for row in store.events.after(0, 100)] == [5, 6, 7, 8]
    store.events.trim(before=0.0, keep=3, limit=2).result()
    store.events.trim(before=0.0, keep=3, limit=2).result()
    assert [row.number for row in store.events.after(0, 100)] == [6, 7, 8]
    store.events.trim(before=9.0, keep=3).result()
    empty = store.events.head()
    assert empty is not None
    assert (empty.last, empty.floor, empty.count) == (8, 8, 0)
    assert store.events.since(head.log, 8, 10) == []
    push(store, "a", b"9", "x", now=9.0)
    assert [row.number for row in store.events.since(head.log, 8, 10) or []] == [9]


def test_numbers_never_repeat_and_a_lost_one_is_no_point(store: Store, opener: Opener) -> None:
    """A commit that somebody saw goes with the power: its number, and all up to the next, are none."""
    push(store, "a", b"one", "x")
    head = store.events.head()
    assert head is not None
    store.close()
    store = opener()
    assert store.events.head() == head
    push(store, "a", b"two", "x")
    after = last(store)
    assert after > store_events.GAP
    assert [row.number for row in store.events.after(0, 10)] == [1, after]
    for lost in (0, 2, 3, store_events.GAP + 1, after - 1, after + 1):
        found = store.events.since(head.log, lost, 10)
        assert (found is None) == (lost != 0), lost
    assert [row.number for row in store.events.since(head.log, 1, 10) or []] == [after]


def test_a_copy_that_is_put_back_gives_other_numbers(store: Store, opener: Opener, tmp_path: Path) -> None:
    """Who followed the life that is no more is told so, though the id of the log is the same."""
    push(store, "a", b"one", "x")
    root, copy = store._directory.path, tmp_path / "copy"
    store.close()
    shutil.copytree(root, copy)
    store = opener()
    for number in range(10):
        push(store, "a", b"never %d" % number, "x")
    head = store.events.head()
    assert head is not None
    store.close()
    shutil.rmtree(root)
    copy.rename(root)
    store = opener()
    for number in range(10):
        push(store, "a", b"%d" % number, "x")
    assert store.events.since(head.log, head.last, 10) is None
    assert store.events.since(head.log, 1, 100) == store.events.after(1, 100)


@pytest.mark.parametrize("keep", range(11))
def test_what_is_trimmed_under_a_reader_is_never_left_out_in_silence(
    keep: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first and the second look of one answer some of ten events go."""
    for number in range(10):
        push(store, "a", b"%d" % number, "x")
    head, looks = store.events.head(), 0
    assert head is not None

    def trimming(look: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            nonlocal looks
            found, looks = look(*arguments), looks + 1
            if looks == 1:
                store.events.trim(before=0.0, keep=keep).result()
            return found

        return wrapped

    for name in ("after", "head"):
        monkeypatch.setattr(store.events, name, trimming(getattr(store.events, name)))
    found = store.events.since(head.log, 4, 3)
    assert looks == 2
    numbers = None if found is None else [event.number for event in found]
    assert numbers == ([5, 6, 7] if keep >= 6 else None)


def test_a_row_that_cannot_be_read_is_told_and_goes(store: Store) -> None:
    for number in range(3):
        push(store, "a", b"%d" % number, "x", now=5.0)
    head = store.events.head()
    assert head is not None
    with store._index.begin(write=True) as txn:
        txn.put(layout.event_key(2), b"\x01damaged")
    with pytest.raises(RecordDamaged):
        store.events.since(head.log, 1, 10)
    assert [row.number for row in store.events.since(head.log, 2, 10) or []] == [3]
    store.events.trim(before=0.0, keep=2).result()
    assert [row.number for row in store.events.after(0, 10)] == [3]


def test_a_head_that_cannot_be_read_begins_anew(store: Store) -> None:
    push(store, "a", b"one", "x")
    with store._index.begin(write=True) as txn:
        txn.put(layout.EVENT, b"\x01damaged")
    with pytest.raises(RecordDamaged):
        store.events.head()
    push(store, "a", b"two", "x")
    store.events.keep(True).result()
    push(store, "a", b"three", "x")
    head = store.events.head()
    assert head is not None
    assert (head.floor, [row.number for row in store.events.after(head.floor, 10)]) == (1, [2])


def test_fsck_compares_the_head_with_the_events(store: Store, opener: Opener) -> None:
    for number in range(3):
        push(store, "a", b"%d" % number, "x")
    root = store._directory.path
    store.events.trim(before=0.0, keep=2).result()
    store.close()
    assert fsck(root).problems == []
    store = opener()
    with store._index.begin(write=True) as txn:
        txn.delete(layout.event_key(2))
    store.close()
    assert ["the head of the log" in problem for problem in fsck(root).problems] == [True]


def test_a_rebuild_ends_the_log(store: Store, tmp_path: Path) -> None:
    push(store, "a", b"one", "x")
    root = store._directory.path
    store.close()
    assert rebuild(root).problems == []
    store = Store.create_or_open(root, write=True)
    assert store.events.head() is None
    store.close()
    assert fsck(root).problems == []
