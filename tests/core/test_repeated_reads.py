"""What an answer read of the store is noted, and whether it would be read again is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast_core.digest import Digest
from holdfast_core.index.row_snapshot import RowSnapshot
from holdfast_core.store import Store

BODY = b"{}"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with_rows = Store.create_or_open(tmp_path / "store", write=True)
    put(with_rows, "v1")
    yield with_rows
    with_rows.close()


def put(store: Store, tag: str) -> None:
    store.references.put_manifest("a", Digest.of(BODY), "x/y", BODY, owned=False, now=1.0, tag=tag).result()


def test_rows_that_are_there_and_that_are_not(store: Store) -> None:
    with store.repeated_reads.noted() as snapshot:
        assert store.references.tag("a", "v1") is not None
        assert store.references.tag("a", "v2") is None
    state = store.repeated_reads.state()
    assert store.repeated_reads.is_same(snapshot)
    put(store, "v3")
    assert store.repeated_reads.state() != state
    assert store.repeated_reads.is_same(snapshot)
    put(store, "v2")
    assert not store.repeated_reads.is_same(snapshot)


def test_a_scan_says_nothing(store: Store) -> None:
    with store.repeated_reads.noted() as snapshot:
        assert store.references.tags("a") == ["v1"]
    assert snapshot.is_partial
    assert not store.repeated_reads.is_same(snapshot)


def test_first_keys_of_a_view_are_compared(store: Store) -> None:
    with store.repeated_reads.noted() as snapshot, store._index.view() as view:
        first = view.keys(b"T", limit=2)
    assert len(first) == 1
    assert store.repeated_reads.is_same(snapshot)
    put(store, "v2")
    assert not store.repeated_reads.is_same(snapshot)


def test_what_changes_while_it_is_read_says_nothing() -> None:
    for change in (
        lambda snapshot: (snapshot.note(b"k", b"1"), snapshot.note(b"k", b"2")),
        lambda snapshot: (snapshot.note_keys(b"k", 1, []), snapshot.note_keys(b"k", 1, [b"ka"])),
        lambda snapshot: (snapshot.note_locks(False), snapshot.note_locks(True)),
    ):
        snapshot = RowSnapshot("root")
        change(snapshot)
        assert snapshot.is_partial
        assert not snapshot.is_same({b"k": b"1"}.get, lambda *_: [], lambda: True)
