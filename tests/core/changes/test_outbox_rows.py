"""Rows for a parent: written with the change that they tell of, numbered for ever, kept by a rebuild."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from holdfast_core import Digest, LockTarget, Store, rebuild
from holdfast_core import format as layout
from holdfast_core.changes import outbox_rows as rows
from holdfast_core.errors import ContentLocked, NotHeld
from holdfast_core.record import Lock, Tag
from support.stores import push, without_journal


def told(found: Sequence[Tag]) -> list[bytes]:
    """The tags as they were before."""
    return [b"told", *(f"{tag.name}={tag.digest}".encode() for tag in found)]


def test_a_row_is_written_with_its_change_or_not_at_all(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path / "s", write=True)
    first = push(store, "a", b"one", "x", notes=told)
    second = push(store, "a", b"two", "x", notes=told)
    assert store.references.outbox.rows() == [(1, b"told"), (2, b"told"), (3, f"x={first}".encode())]
    store.references.set_lock("a", LockTarget("tag", "x"), Lock(write=False, delete=False), now=1.0).result()
    with pytest.raises(ContentLocked):
        push(store, "a", b"three", "x", notes=told)
    with pytest.raises(ContentLocked):
        store.references.delete_manifest("a", second, now=1.0, notes=told).result()
    with pytest.raises(NotHeld):
        store.references.delete_tag("a", "none", now=1.0, notes=told).result()
    assert store.references.outbox.last() == 3
    store.close()


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    """Also when the rows are gone, and after a rebuild out of the journal."""
    store = Store.create_or_open(tmp_path / "s", write=True)
    digest = push(store, "a", b"one", "x", notes=told)
    store.references.delete_tag("a", "x", now=2.0, notes=told).result()
    assert store.references.outbox.rows(after=1) == [(2, b"told"), (3, f"x={digest}".encode())]
    store.references.outbox.change([(2, b"again")], [1, 3]).result()
    store.close()
    rebuild(tmp_path / "s")
    store = Store.create_or_open(tmp_path / "s", write=True)
    assert store.references.outbox.rows() == [(2, b"again")]
    store.references.outbox.change([], [2]).result()
    push(store, "a", b"two", notes=told)
    assert store.references.outbox.rows() == [(4, b"told")]
    store.close()


def test_a_tag_is_handed_over_unless_it_moved_meanwhile(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path / "s", write=True)
    old, new = push(store, "a", b"one", "x"), push(store, "a", b"two", "x")
    for digest, origin in ((old, "local"), (new, "parent")):
        handed = partial(rows.tag_sent, repository="a", name="x", digest=digest, checked_at=9.0)
        store.references.outbox.change((), (), handed).result()
        found = store.references.tag("a", "x")
        assert found is not None
        assert (found.digest, found.origin) == (new, origin)
    store.close()


def test_a_last_number_that_cannot_be_read_is_guessed_high(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path / "s", write=True)
    push(store, "a", b"one", notes=told)
    without_journal(store)
    with store._index.begin(write=True) as txn:
        txn.put(layout.OUTBOX, b"\x01damaged")
    push(store, "a", b"two", notes=told)
    assert [number for number, _ in store.references.outbox.rows()] == [1, rows.NUMBER_GAP + 2]
    assert store.blobs.holders(Digest.of(b"none"), limit=3) == []
    store.close()
