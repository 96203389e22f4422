"""Documents of the control plane: by kind and name, together, and for good."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from holdfast_core import Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.changes.resource_rows import REVISION_GAP, ResourceView
from holdfast_core.errors import Mistake, RecordDamaged, StoreError, StoreReadOnly
from holdfast_core.record import Resource, ResourceChange
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import without_journal

Opener = Callable[..., Store]
QUIET = frozenset({"status"})


def put(kind: str, name: str, body: bytes | None = b"{}") -> ResourceChange:
    return ResourceChange(kind, name, body)


def do(store: Store, *changes: ResourceChange) -> None:
    store.documents.change(lambda view: changes, quiet=QUIET).result(30)


def names(rows: Sequence[Resource]) -> list[str]:
    return [row.name for row in rows]


def damage(store: Store, key: bytes) -> None:
    """Flip a bit of a record, as a disk does."""
    with store._index.begin(write=True) as txn:
        value = bytearray(txn.get(key) or b"")
        value[len(value) // 2] ^= 1
        txn.put(key, bytes(value))


def checked(store: Store, root: Path) -> list[str]:
    """What fsck says once the store is closed: an index is open once a process."""
    store.close()
    return fsck(root).problems


def test_a_name_keeps_its_casing_and_compares_without_it(store: Store) -> None:
    do(store, put("token", "Plant", b"one"))
    assert store.documents.get("token", "pLANT") == Resource("token", "Plant", 1, b"one")
    assert store.documents.get("scope-map", "plant") is None
    do(store, put("token", "PLANT", b"one"))
    assert store.documents.get("token", "plant") == Resource("token", "PLANT", 2, b"one")
    assert store.documents.count("token") == 1


def test_case_fault_10_only_ascii_letters_compare_without_casing() -> None:
    """U+212A in lower case is an ASCII k to `str.lower`: a second spelling of a name that is there."""
    alone = {layout.resource_name(chr(code)) for code in range(128, sys.maxunicode + 1)}
    assert len(alone) == sys.maxunicode + 1 - 128
    assert not any(name.isascii() for name in alone)


def test_kinds_do_not_mix_even_where_one_begins_like_another(store: Store) -> None:
    do(store, put("map", "aaa"), put("map-use", "bbb"), put("ma", "ccc"))
    assert names(store.documents.of_kind("map")) == ["aaa"]
    assert [store.documents.count(kind) for kind in ("map", "map-use", "ma", "m")] == [1, 1, 1, 0]


def test_lists_are_sorted_without_casing_and_go_on_after_any_name(store: Store) -> None:
    do(store, *(put("token", name) for name in ("delta", "Alpha", "charlie", "Bravo")))
    assert names(store.documents.of_kind("token")) == ["Alpha", "Bravo", "charlie", "delta"]
    assert names(store.documents.of_kind("token", after="BRAVO", limit=1)) == ["charlie"]
    assert names(store.documents.of_kind("token", after="bravo0")) == ["charlie", "delta"]
    assert store.documents.of_kind("token", after="delta") == []
    assert store.documents.of_kind("token", limit=0) == []


def test_lists_of_a_prefix_end_where_it_ends(store: Store) -> None:
    do(store, *(put("link", name) for name in ("a x", "a y", "a z", "ab", "b")))
    assert names(store.documents.of_kind("link", prefix="A ")) == ["a x", "a y", "a z"]
    assert names(store.documents.of_kind("link", prefix="a ", after="a x", limit=1)) == ["a y"]
    assert names(store.documents.of_kind("link", prefix="a ", after="a")) == ["a x", "a y", "a z"]
    assert (
        store.documents.of_kind("link", prefix="a ", after="b")
        == store.documents.of_kind("link", prefix="c")
        == []
    )
    seen: list[list[str]] = []

    def look(view: ResourceView) -> list[ResourceChange]:
        seen.append(names(view.list("link", prefix="a ", after="a x")))
        seen.append(names(view.list("link", prefix="a ", after="b")))
        return []

    store.documents.change(look, quiet=QUIET).result(30)
    assert seen == [["a y", "a z"], []]


@pytest.mark.parametrize("limit", [999, 1000, 1001, 2500, None])
def test_lists_over_many_transactions_leave_nothing_out(store: Store, limit: int | None) -> None:
    wanted = [f"t{n:05}" for n in range(2_500)]
    do(store, *(put("token", name) for name in wanted))
    assert names(store.documents.of_kind("token", limit=limit)) == wanted[:limit]
    assert store.documents.count("token") == 2_500


def test_the_revision_counts_transactions_that_changed_something_that_matters(store: Store) -> None:
    assert store.documents.revision() == 0
    do(store, put("token", "a"), put("token", "b"))
    assert store.documents.revision() == 1
    do(store, put("status", "a", b"1"))
    do(store, put("status", "a", b"2"))
    assert store.documents.revision() == 1
    found = store.documents.get("status", "a")
    assert found is not None
    assert found.revision == 2
    do(store, put("token", "a"), put("token", "gone", None))  # as it was
    assert store.documents.revision() == 1
    do(store, put("token", "a", None), put("status", "a", None))
    assert (store.documents.revision(), store.documents.count("token"), store.documents.count("status")) == (
        2,
        1,
        0,
    )


def test_a_document_made_again_has_a_higher_revision(store: Store) -> None:
    do(store, put("token", "a"))
    do(store, put("token", "a", None))
    do(store, put("token", "a"))
    found = store.documents.get("token", "a")
    assert found is not None
    assert found.revision == 3


def test_a_plan_sees_what_the_change_before_it_did(store: Store) -> None:
    seen: list[object] = []

    def look(view: ResourceView) -> list[ResourceChange]:
        seen.append((view.get("token", "A"), names(view.list("token")), view.count("token"), view.revision()))
        return []

    first = store.documents.change(lambda view: [put("token", "a", b"x"), put("token", "b")], quiet=QUIET)
    second = store.documents.change(look, quiet=QUIET)
    first.result(30), second.result(30)
    assert seen == [(Resource("token", "a", 1, b"x"), ["a", "b"], 2, 1)]


def test_a_plan_lists_a_part(store: Store) -> None:
    do(store, *(put("token", f"t{n}") for n in range(5)))
    seen: list[list[str]] = []

    def look(view: ResourceView) -> list[ResourceChange]:
        seen.append(names(view.list("token", after="T1", limit=2)))
        return []

    store.documents.change(look, quiet=QUIET).result(30)
    assert seen == [["t2", "t3"]]


def test_what_a_plan_raises_reaches_the_future_and_nothing_changes(store: Store) -> None:
    class Refused(Exception):
        pass

    def refuse(view: ResourceView) -> list[ResourceChange]:
        raise Refused("no")

    first = store.documents.change(lambda view: [put("token", "a")], quiet=QUIET)
    refused = store.documents.change(refuse, quiet=QUIET)
    third = store.documents.change(lambda view: [put("token", "c")], quiet=QUIET)
    with pytest.raises(Refused):
        refused.result(30)
    first.result(30), third.result(30)
    assert names(store.documents.of_kind("token")) == ["a", "c"]


@pytest.mark.parametrize(
    "changes",
    [
        [put("token", "a"), put("token", "A", None)],
        [put("token", "a"), put("token", "")],
        [put("token", "a"), put("token", "x" * 256)],
        [put("token", "a"), put("", "b")],
        [put("token", "a"), put("to\0ken", "b")],
        [put("token", "a"), put("k" * 33, "b")],
    ],
)
def test_what_cannot_be_written_is_refused_whole(store: Store, changes: list[ResourceChange]) -> None:
    with pytest.raises(Mistake):
        do(store, *changes)
    assert (store.documents.of_kind("token"), store.documents.revision()) == ([], 0)


def test_no_mode_refuses_it_and_a_reader_cannot(opener: Opener, root: Path) -> None:
    store = opener(mode="ReadOnly")
    do(store, put("token", "a"))
    store.close()
    reader = opener(root, write=False)
    assert names(reader.documents.of_kind("token")) == ["a"]
    with pytest.raises(StoreError):
        do(reader, put("token", "b"))


def test_a_store_takes_another_mode_while_it_is_open(opener: Opener) -> None:
    store = opener(mode="ReadOnly")
    name = "a" * 64
    with pytest.raises(StoreReadOnly):
        store.uploads.create(name)
    store.set_mode("ReadWrite")
    assert store.mode == "ReadWrite"
    store.uploads.create(name)
    store.require_writable()
    store.set_mode("ReadOnly")
    with pytest.raises(StoreReadOnly):
        store.uploads.create("b" * 64)
    with pytest.raises(StoreReadOnly):
        store.require_writable()
    with pytest.raises(Mistake, match="allowed: root, ReadWrite, ReadOnly"):
        store.set_mode("readonly")


def test_a_damaged_document_is_reported_and_healed_by_the_next_change(store: Store, root: Path) -> None:
    do(store, put("token", "a", b"one"), put("token", "b"))
    damage(store, layout.resource_key("token", "a"))
    with pytest.raises(RecordDamaged):
        store.documents.get("token", "a")
    with pytest.raises(RecordDamaged):
        store.documents.of_kind("token")
    do(store, put("token", "a", b"two"))
    assert names(store.documents.of_kind("token")) == ["a", "b"]
    assert store.documents.count("token") == 2
    damage(store, layout.resource_key("token", "a"))
    assert any("resource record" in problem for problem in checked(store, root))


def test_a_damaged_document_can_be_removed_and_is_counted_once(store: Store) -> None:
    do(store, put("token", "a"), put("token", "b"))
    damage(store, layout.resource_key("token", "a"))
    do(store, put("token", "a", None))
    assert (names(store.documents.of_kind("token")), store.documents.count("token")) == (["b"], 1)


def test_after_a_damaged_revision_no_number_comes_twice(store: Store) -> None:
    do(store, put("token", "a"))
    do(store, put("token", "b"))
    do(store, put("token", "b", None))
    without_journal(store)
    damage(store, layout.RESOURCE)
    with pytest.raises(RecordDamaged):
        store.documents.revision()
    do(store, put("token", "c"))
    assert store.documents.revision() == 1 + REVISION_GAP + 1


def test_a_rebuild_brings_them_back_from_the_journal(opener: Opener, root: Path) -> None:
    store = opener()
    do(store, put("token", "Kept", b"v1"), put("token", "gone"), put("status", "kept", b"s"))
    do(store, put("token", "Kept", b"v2"), put("token", "gone", None))
    store.close()
    report = rebuild(root)
    assert report.problems == []
    again = opener()
    assert again.documents.of_kind("token") == [Resource("token", "Kept", 2, b"v2")]
    assert again.documents.of_kind("status") == [Resource("status", "kept", 1, b"s")]
    counts = (again.documents.count("token"), again.documents.count("status"), again.documents.revision())
    assert counts == (1, 1, 2)
    do(again, put("token", "next"))
    assert again.documents.revision() == 3
    assert checked(again, root) == []


def test_a_rebuild_from_a_damaged_journal_counts_anew(opener: Opener, root: Path) -> None:
    store = opener()
    for name in ("a", "b", "c"):
        do(store, put("token", name))
    store.close()
    for copy in (root / "journal" / "log", root / "index" / "data.mdb"):
        copy.write_bytes(copy.read_bytes().replace(b"token\0b", bytes(7)))
    assert rebuild(root).problems != []
    again = opener()
    assert (names(again.documents.of_kind("token")), again.documents.count("token")) == (["a", "c"], 2)
    assert [problem for problem in checked(again, root) if "number of" in problem] == []


def test_fsck_finds_a_wrong_number(store: Store, root: Path) -> None:
    do(store, put("token", "a"))
    key = layout.resource_prefix("token")
    with store._index.begin(write=True) as txn:
        txn.put(key, layout.seal(key, layout.encode_number(7)))
    assert any("number of token records" in problem for problem in checked(store, root))


def test_quiet_kinds_do_not_wait_for_the_disk(store: Store) -> None:
    do(store, put("token", "a"))
    writer = store._writer
    assert writer is not None
    synced = writer.journal.synced
    do(store, put("status", "a", b"now"))
    assert (writer.journal.synced, writer.settled()) == (synced, False)
    do(store, put("token", "b"))
    assert writer.settled()


KILLED = """
import os, signal, sys
from holdfast_core import Store
from holdfast_core.record import ResourceChange
store = Store.create_or_open(sys.argv[1], write=True)
for n in range(1_000_000):
    pair = [ResourceChange("token", f"t{n}", b"x"), ResourceChange("scope-map", f"t{n}", b"x")]
    store.documents.change(lambda view: pair, quiet=frozenset()).result()
    print(n, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 20])
def test_a_kill_loses_nothing_acknowledged_and_splits_no_transaction(
    opener: Opener, root: Path, acknowledged: int
) -> None:
    command = [sys.executable, "-c", KILLED, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(acknowledged):
            last = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    store = opener()
    tokens = set(names(store.documents.of_kind("token")))
    assert {f"t{n}" for n in range(last + 1)} <= tokens
    assert tokens == set(names(store.documents.of_kind("scope-map")))
    assert store.documents.count("token") == len(tokens) == store.documents.revision()
    assert checked(store, root) == []


pairs = st.tuples(
    st.sampled_from(["token", "status", "map"]), st.sampled_from("aAbBc"), st.none() | st.binary(max_size=3)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(pairs, max_size=4, unique_by=lambda p: (p[0], p[1].lower())), max_size=12))
def test_as_a_dictionary_would(
    tmp_path_factory: pytest.TempPathFactory, transactions: list[list[tuple[str, str, bytes | None]]]
) -> None:
    store = Store.create_or_open(tmp_path_factory.mktemp("model") / "s", write=True)
    model: dict[tuple[str, str], tuple[str, bytes]] = {}
    revision = 0
    try:
        for transaction in transactions:
            do(store, *(put(*change) for change in transaction))
            before = dict(model)
            for kind, name, body in transaction:
                model.pop((kind, name.lower()), None)
                if body is not None:
                    model[kind, name.lower()] = (name, body)
            revision += any(before.get(k) != model.get(k) for k in before | model if k[0] not in QUIET)
            assert store.documents.revision() == revision
        for kind in ("token", "status", "map"):
            wanted = sorted((key[1], *value) for key, value in model.items() if key[0] == kind)
            assert [(r.name.lower(), r.name, r.body) for r in store.documents.of_kind(kind)] == wanted
            assert store.documents.count(kind) == len(wanted)
    finally:
        store.close()
