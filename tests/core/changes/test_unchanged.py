"""What is as it was is not written, neither into the index nor into the journal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from holdfast_core import Descriptor, Digest, Store
from holdfast_core import format as layout
from holdfast_core.changes.access_times import WRITE_SECONDS
from holdfast_core.changes.change import Keep, put
from support.stores import MEDIA, put_manifest, some_bytes

Opener = Callable[..., Store]
SUBJECT = Digest.of(b"subject")


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def hands() -> HandClock:
    return HandClock()


@pytest.fixture
def store(opener: Opener, hands: HandClock) -> Store:
    return opener(clock=hands)


def written(store: Store) -> tuple[int, int]:
    """(commits that wrote to the index, bytes of the journal)."""
    return store._index._env.info()["last_txnid"], store.statistics().journal_bytes


def refreshed(store: Store, now: float) -> None:
    """Everything that a look at a parent without news does."""
    store.references.lists.put_tag_list("r", [f"v{n:05}" for n in range(20_000)], now=now).result()
    store.references.lists.put_referrers("r", SUBJECT, [Descriptor(MEDIA, str(SUBJECT), 7)], now=now).result()
    digest = Digest.of(b"{}")
    store.references.put_manifest(
        "r", digest, MEDIA, b"{}", owned=False, now=now, subject=SUBJECT, tag="v00001"
    ).result()
    store.references.put_tag("r", "v00001", digest, now=now).result()
    store.blobs.link("r", digest, now=now).result()
    store.upkeep.sync_cached().result()


def test_case_fault_11_a_look_without_news_writes_nothing(store: Store) -> None:
    refreshed(store, 1.0)
    before = written(store)
    for now in range(2, 12):
        refreshed(store, float(now))
    assert written(store) == before
    told, tag, referrers = (
        store.references.lists.tag_list("r"),
        store.references.tag("r", "v00001"),
        store.references.lists.referrers("r", SUBJECT),
    )
    assert told is not None
    assert tag is not None
    assert referrers is not None
    assert (told.fetched_at, tag.checked_at, tag.moved_at, referrers.fetched_at) == (11.0, 11.0, 1.0, 11.0)


def test_case_fault_11_what_was_confirmed_is_written_once_an_hour(opener: Opener, hands: HandClock) -> None:
    store = opener(clock=hands)
    refreshed(store, 1.0)
    commits, journal = written(store)
    hands.at += WRITE_SECONDS
    refreshed(store, 3601.0)
    refreshed(store, 3602.0)
    assert written(store) == (commits + 1, journal)
    keys = layout.segment_key(layout.tag_list_prefix("r"), 0), layout.tag_key("r", "v00001")
    assert [layout.decode_time((store._index.get(key) or b"")[:8]) for key in keys] == [3601.0, 3601.0]
    store.close()  # a proper end loses none of it
    again = opener(clock=hands).references.lists.tag_list("r")
    assert again is not None
    assert again.fetched_at == 3602.0


def test_case_fault_11_access_times_are_written_once_an_hour(store: Store, hands: HandClock) -> None:
    digests = [Digest.of(b"%d" % n) for n in range(100)]
    before = written(store)
    for second in range(0, int(WRITE_SECONDS), 5):
        store.blobs.seen("r", digests[second % 100], float(second))
        store.upkeep.sync_cached().result()
        hands.at += 5
    assert written(store) == before
    assert store.blobs.last_seen("r", digests[95]) == WRITE_SECONDS - 5
    store.upkeep.sync_cached().result()
    assert written(store) == (before[0] + 1, before[1])
    assert store.blobs.last_seen("r", digests[95]) == WRITE_SECONDS - 5


def test_one_news_is_written_at_once_and_is_not_older_for_a_note(store: Store) -> None:
    refreshed(store, 5.0)
    refreshed(store, 9.0)
    other = put_manifest(store, "r", b"{ }")
    store.references.put_tag("r", "v00001", other, now=10.0).result()
    store.references.lists.put_tag_list("r", ["one"], now=10.0).result()
    store.references.lists.put_referrers("r", SUBJECT, [], now=10.0).result()
    tag, told, referrers = (
        store.references.tag("r", "v00001"),
        store.references.lists.tag_list("r"),
        store.references.lists.referrers("r", SUBJECT),
    )
    assert tag is not None
    assert told is not None
    assert referrers is not None
    assert (tag.digest, tag.checked_at, told.tags, told.fetched_at) == (other, 10.0, ("one",), 10.0)
    assert referrers.fetched_at == 10.0


def test_a_tag_is_not_confirmed_for_what_it_names_no_more(store: Store) -> None:
    first, second = put_manifest(store, "r", b"{}"), put_manifest(store, "r", b"{ }")
    store.references.put_tag("r", "x", first, now=1.0).result()
    store.references.put_tag("r", "x", second, now=2.0).result()
    store.references.confirm_tag("r", "x", first, 50.0)
    store.references.confirm_tag("r", "absent", first, 50.0)
    store.references.lists.confirm_tag_list("r", 50.0)
    tag = store.references.tag("r", "x")
    assert tag is not None
    assert tag.checked_at == 2.0
    assert store.references.lists.tag_list("r") is None


def test_what_was_fetched_is_on_the_disk_when_it_is_pushed(store: Store) -> None:
    body = some_bytes(100)
    store.blobs.put_inline("r", Digest.of(body), body, owned=False, now=1.0).result()
    assert not store._access.writer().settled()
    digest = Digest.of(body)
    store.blobs.push_inline("r", digest, body, now=2.0).result()
    assert store._access.writer().settled()


def test_an_owned_change_that_says_nothing_new_still_settles_the_journal(store: Store) -> None:
    key = layout.repository_key("r")

    def change(keep: Keep) -> None:
        store._access.submit(lambda view: [put(key, layout.encode_time(1.0), keep)]).result()

    change(Keep.JOURNAL)
    assert not store._access.writer().settled()
    change(Keep.DISK)
    assert store._access.writer().settled()
    before = written(store)
    change(Keep.DISK)
    assert written(store) == before
