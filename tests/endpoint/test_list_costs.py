"""What a page of a list costs: records, whatever the list has before the page and behind it, and never many of them
while others wait."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from holdfast.config import Configuration, LimitsSection, ParentSection
from holdfast.endpoint import lists, referrers
from holdfast.endpoint.lists import PART
from holdfast.endpoint.node import Answer, Node
from holdfast.keeper.api import ListAnswer
from holdfast.login.caller import Stranger
from holdfast.routing import Router
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.port import ScriptedPort
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import read
from holdfast_core import format as layout
from holdfast_core import list_format
from holdfast_core.changes import change
from holdfast_core.digest import Digest
from holdfast_core.errors import MalformedDigest, RecordDamaged
from holdfast_core.record import Descriptor, LockChange, LockTarget, NamePage
from holdfast_core.store import Store
from hypothesis import example, given
from hypothesis import strategies as st
from support.rows import Rows

DIGEST = Digest.of(b"manifest")
MANY = 5000
EVERYBODY = Stranger(frozenset({"content/read", "metadata/read"}), re.compile("(?!)"))
#: pages of ten read so many records: those of the page, of the parent's list and of held tags, the segments that a
#: search looks at, and marks
FEW = 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.create_or_open(tmp_path / "store", write=True)
    yield opened
    opened.close()


def node_of(store: Store, *parents: ParentSection, on_miss: Literal["strict", "parent"] = "strict") -> Node:
    clock = FakeClock()
    config = Configuration(
        catalog=True, parent=parents, on_miss=on_miss, limits=LimitsSection(page_size=MANY * 4)
    )
    return Node(store, ScriptedPort(store, clock), Router(config), config, clock)


def asked(target: str, caller: Stranger = EVERYBODY) -> Request:
    found = read(target)
    return Request("GET", found.path, found.query, route=found.route, caller=caller)


def listed(reply: Reply) -> list[str]:
    found = json.loads(reply.body)  # type: ignore[arg-type]
    return list(found.get("tags", found.get("repositories")))


def at_once(answer: Answer) -> list[str]:
    assert isinstance(answer, Reply)
    return listed(answer)


def hold(store: Store, repository: str, names: list[str]) -> None:
    for future in [store.references.put_tag(repository, name, DIGEST, now=1.0) for name in names]:
        future.result()


#: long ones, so that the parent's list has many segments
NAMES = [f"v{number:06}{'x' * 100}" for number in range(MANY)]


@pytest.mark.parametrize("last", ["", "v002500", "v004990", "w"])
def test_case_trust_24_a_page_of_tags_reads_what_it_shows(store: Store, last: str) -> None:
    hold(store, "a", NAMES[::2])
    store.references.lists.put_tag_list("a", NAMES, now=1.0).result()
    node, rows = node_of(store), Rows(store)
    found = at_once(lists.tag_list(node, asked(f"/v2/a/tags/list?n=10&last={last}")))
    assert found == [name for name in NAMES if name > last][:10]
    assert rows.taken() <= FEW


@pytest.mark.parametrize("last", ["", "r002500", "r004990", "s"])
def test_case_trust_24_a_page_of_the_catalog_reads_what_it_shows(store: Store, last: str) -> None:
    repositories = [f"r{number:06}" for number in range(MANY)]
    for future in [store.references.put_tag(name, "v1", DIGEST, now=1.0) for name in repositories]:
        future.result()
    node, rows = node_of(store), Rows(store)
    found = at_once(lists.catalog_list(node, asked(f"/v2/_catalog?n=10&last={last}")))
    assert found == [name for name in repositories if name > last][:10]
    assert rows.taken() <= FEW


def test_case_trust_24_repositories_of_other_parents_are_passed_over(store: Store) -> None:
    """They stand between those of the parent without a name."""
    keys = ["a", *(f"hub:r{number:06}" for number in range(MANY)), "hub-x", "z", "gone:b"]
    for future in [store.references.put_tag(key, "v1", DIGEST, now=1.0) for key in keys]:
        future.result()
    node = node_of(store, ParentSection(url="http://p"), ParentSection(url="http://hub", name="hub"))
    rows = Rows(store)
    whole = [*sorted(["a", "hub-x", *(f"hub/r{number:06}" for number in range(MANY))]), "z"]
    at, found = "", list[str]()
    for _ in range(MANY):
        page = finished(lists.catalog_list(node, asked(f"/v2/_catalog?n=1000&last={at}")), rows)
        if not page:
            break
        found, at = found + page, page[-1]
    assert found == whole
    for last, expected in (("", ["a", "hub-x"]), ("hub/r004998", ["hub/r004999", "z"]), ("hub", whole[1:3])):
        read = rows.total
        assert finished(lists.catalog_list(node, asked(f"/v2/_catalog?n=2&last={last}")), rows) == expected
        assert rows.total - read <= FEW


def finished(answer: Answer, rows: Rows) -> list[str]:
    """Go on with an answer until it is there, others having their turn in between."""
    most = rows.taken()
    while not isinstance(answer, Reply):
        most = max(most, rows.taken())
        try:
            answer.send(None)
        except StopIteration as end:
            answer = end.value
    assert max(most, rows.taken()) <= 5 * PART
    return listed(answer)


def test_case_trust_24_a_list_that_is_read_far_lets_others_have_their_turn(store: Store) -> None:
    hold(store, "a", NAMES)
    store.references.lists.put_tag_list("a", NAMES, now=1.0).result()
    for name in NAMES[10 : MANY - 10]:
        store.references.set_lock("a", LockTarget("tag", name), LockChange(list=False), now=1.0)
    store.references.delete_tag("a", NAMES[-1], now=1.0, tombstone=True).result()
    node, rows = node_of(store), Rows(store)
    left = [*NAMES[:10], *NAMES[MANY - 10 : -1]]
    assert finished(lists.tag_list(node, asked("/v2/a/tags/list")), rows) == left
    assert finished(lists.tag_list(node, asked("/v2/a/tags/list?n=15")), rows) == left[:15]


def test_case_trust_24_who_may_see_little_keeps_nobody_waiting(store: Store) -> None:
    for future in [
        store.references.put_tag(f"r{number:06}", "v1", DIGEST, now=1.0) for number in range(MANY)
    ]:
        future.result()
    node, rows = node_of(store), Rows(store)
    few = Stranger(frozenset(), re.compile("r004[0-9]99"))
    found = finished(lists.catalog_list(node, asked("/v2/_catalog?n=3", few)), rows)
    assert found == ["r004099", "r004199", "r004299"]


def test_a_list_from_before_lists_were_sorted_is_paged_as_well(store: Store) -> None:
    items = [name.encode() for name in reversed(NAMES)]
    prefix = layout.tag_list_prefix("a")
    store._access.submit(lambda view: change.fetched_list(view, "a", prefix, items, 1.0)).result()
    node = node_of(store)
    asks = asked(f"/v2/a/tags/list?n=2&last={NAMES[2500]}")
    assert at_once(lists.tag_list(node, asks)) == NAMES[2501:2503]
    store.references.lists.put_tag_list("a", NAMES, now=2.0).result()
    rows = Rows(store)
    assert at_once(lists.tag_list(node, asks)) == NAMES[2501:2503]
    assert rows.taken() <= FEW


def test_a_segment_that_is_missing_is_no_end_of_the_list(store: Store) -> None:
    store.references.lists.put_tag_list("a", NAMES, now=1.0).result()
    prefix = layout.tag_list_prefix("a")
    store._access.submit(lambda view: change.remove([layout.segment_key(prefix, 5)])).result()
    assert store.references.tag_names("a", last="", limit=5) == NamePage(tuple(NAMES[:5]), NAMES[4])
    with pytest.raises(RecordDamaged) as caught:
        store.references.tag_names("a", last="", limit=MANY)
    assert caught.value.key == layout.segment_key(prefix, 0)


SUBJECT = Digest.of(b"subject")


def row_of(number: int, kind: str = "a/b") -> Descriptor:
    return Descriptor("m", str(Digest.of(f"referrer {number}".encode())), number, kind, {"k": "x" * 100})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The descriptors that were read, whole or their digest."""
    found = list[bytes]()

    def counted(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def read(item: bytes) -> Any:
            found.append(item)
            return decode(item)

        return read

    place, bit = list_format.LIST_ORDERS[layout.REFERRER_LIST]
    monkeypatch.setitem(
        list_format.LIST_ORDERS, layout.REFERRER_LIST, list_format.ListOrder(counted(place), bit)
    )
    monkeypatch.setattr(layout, "decode_descriptor", counted(layout.decode_descriptor))
    return found


def hold_referrers(store: Store, rows: list[Descriptor]) -> None:
    """As manifests here that name the subject."""
    changes = [part for row in rows for part in change.referrer("a", SUBJECT, row, change.Keep.INDEX)]
    store._access.submit(lambda view: changes).result()


@pytest.mark.parametrize("place", [-1, 2500, 4990, 5000])
def test_case_trust_24_a_page_of_referrers_reads_what_it_shows(
    store: Store, decoded: list[bytes], place: int
) -> None:
    rows = [row_of(number) for number in range(MANY)]
    hold_referrers(store, rows[::2])
    store.references.lists.put_referrers("a", SUBJECT, rows, now=1.0).result()
    digests = sorted(row.digest for row in rows)
    last = "" if place < 0 else "sha256:g" if place == MANY else digests[place]
    node, read = node_of(store), Rows(store)
    decoded.clear()
    reply = referrers.answer(node, asked(f"/v2/a/referrers/{SUBJECT}?n=10&last={last}"))
    assert shown(reply) == [digest for digest in digests if digest > last][:10]
    assert read.taken() <= FEW
    assert len(decoded) <= 2 * FEW


def shown(reply: Answer) -> list[str]:
    assert isinstance(reply, Reply)
    return [row["digest"] for row in json.loads(reply.body)["manifests"]]  # type: ignore[arg-type]


@pytest.mark.parametrize("unstored", [False, True])
def test_case_trust_24_referrers_without_end_let_others_have_their_turn(
    store: Store, decoded: list[bytes], unstored: bool
) -> None:
    rows = [row_of(number, "rare" if number == 3000 else "a/b") for number in range(MANY)]
    hold_referrers(store, rows[1::2])
    told = list_format.encode_descriptors(rows)
    if not unstored:
        store.references.lists.put_referrers("a", SUBJECT, rows, now=1.0).result()
    node = node_of(store, ParentSection(url="http://p"), on_miss="parent")
    port = cast(Any, node.port)
    port.referrers = lambda *_: answered(ListAnswer(unstored=tuple(told) if unstored else None))
    digests = sorted(row.digest for row in rows)
    for query, expected in (("", digests), ("?artifactType=rare", [rows[3000].digest])):
        decoded.clear()
        reply, most = in_parts(referrers.answer(node, asked(f"/v2/a/referrers/{SUBJECT}{query}")), decoded)
        assert shown(reply) == expected
        assert most <= 5 * PART


async def answered(answer: ListAnswer) -> ListAnswer:
    return answer


def in_parts(answer: Answer, counted: list[bytes]) -> tuple[Reply, int]:
    """The reply, and the most that was read before others had their turn."""
    most, before = 0, 0
    while not isinstance(answer, Reply):
        try:
            answer.send(None)
        except StopIteration as end:
            answer = end.value
        most, before = max(most, len(counted) - before), len(counted)
    return answer, most


def test_case_trust_24_the_keeper_asks_whether_referrers_are_known_with_two_looks(
    store: Store, decoded: list[bytes]
) -> None:
    rows = [row_of(number) for number in range(MANY)]
    assert not store.references.lists.has_referrers("a", SUBJECT)
    hold_referrers(store, rows[:50])
    assert (
        store.references.lists.has_referrers("a", SUBJECT),
        store.references.lists.referrers_time("a", SUBJECT),
    ) == (True, None)
    store.references.lists.put_referrers("a", SUBJECT, rows, now=7.0).result()
    read = Rows(store)
    decoded.clear()
    assert (
        store.references.lists.has_referrers("a", SUBJECT),
        store.references.lists.referrers_time("a", SUBJECT),
    ) == (True, 7.0)
    assert (len(decoded), read.taken()) == (0, 2)


def test_referrers_that_came_in_another_order_are_paged_as_well(store: Store) -> None:
    """As lists were written before: in the parent's order, a digest maybe twice, the bit of tags set where it is."""
    rows = [Descriptor(kind, row_of(number).digest, number) for kind in "ab" for number in range(50)]
    items = sorted(map(layout.encode_descriptor, rows))
    prefix = layout.referrer_list_prefix("a", SUBJECT)
    old = list_format.encode_list(items, 1.0, list_format.LIST_ORDERS[layout.TAG_LIST])
    assert list_format.decode_list_head(old[0])[2] == list_format.TAGS_RISE
    puts = [change.put(layout.segment_key(prefix, number), part) for number, part in enumerate(old)]
    store._access.submit(lambda view: puts).result()
    first = sorted(rows[:50], key=lambda row: row.digest)
    for limit in (7, 50, 1000):
        found, last = list[Descriptor](), ""  # type: tuple[list[Descriptor], str | None]
        while last is not None:
            part, last = store.references.lists.referrer_page("a", SUBJECT, last=last, limit=limit)
            found += part
        assert found == first


@example("sha256:" + "0" * 63, [Digest.parse("sha256:" + "0" * 64)])
@example(
    "sha512:" + "0" * 126 + "1", [Digest.parse("sha512:" + "0" * 126 + last) for last in ("0f", "10", "11")]
)
@given(
    st.text("0123456789abcdef:sh512G`/", max_size=140)
    | st.builds(
        lambda digest, cut, more: str(digest)[:cut] + more,
        st.builds(Digest.of, st.binary(), st.sampled_from(["sha256", "sha512"])),
        st.integers(0, 140),
        st.sampled_from(["", "0", "f", "g", ":", "/", "A", "\u00e9", "\udc80"]),
    ),
    st.lists(st.builds(Digest.of, st.binary(), st.sampled_from(["sha256", "sha512"])), max_size=20),
)
def test_the_floor_of_any_text_parts_the_digests_as_the_text_does(text: str, digests: list[Digest]) -> None:
    near = [text.ljust(71, fill)[:71] for fill in "0f"] + [text.ljust(135, fill)[:135] for fill in "0f"]
    for beside in near:
        with suppress(MalformedDigest):
            digests.append(Digest.parse(beside))
    floor = list_format.digest_floor(text)
    assert [digest for digest in digests if digest.key > floor] == [d for d in digests if str(d) > text]
