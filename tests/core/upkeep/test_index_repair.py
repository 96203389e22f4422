"""Damaged records get their values back: one flipped bit in each table, with and without a copy in the journal. What
becomes of them is the table in docs/format.md, "What a damaged record does"."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from holdfast_core import Digest, Store
from holdfast_core import format as layout
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.errors import ContentLocked, RecordDamaged
from holdfast_core.journal import frame as framing
from holdfast_core.record import Lock, LockTarget
from support import golden
from support.stores import (
    MEDIA,
    file_of,
    flip_bit,
    push,
    push_file,
    put_file,
    read_all,
    some_bytes,
    without_journal,
)

Opener = Callable[..., Store]
FORMAT = Path(__file__).parents[3] / "docs" / "format.md"
#: looked at when a store is opened, and by the followers of the log
ELSEWHERE = {layout.IDENTITY, layout.JOURNALED, layout.EVENT}
TABLES = sorted(set(layout.TABLES) - ELSEWHERE)


@pytest.fixture
def held(tmp_path: Path, opener: Opener) -> Store:
    """A store with a record of every kind, open for writing."""
    store = opener(golden.unpack(golden.ARCHIVE, tmp_path))
    put_file(store, "library/b", some_bytes(20_000))  # no syncfs has covered it
    return store


def keys_of(store: Store, table: bytes) -> list[bytes]:
    return [key for key, _ in store._index.scan(table)]


def payload(store: Store, key: bytes) -> bytes | None:
    return store._index.get(key)


def damage(store: Store, *keys: bytes) -> None:
    """Flip a bit of each value."""
    with store._index.begin(write=True) as txn:
        for key in keys:
            value = bytearray(txn.get(key) or b"")
            value[len(value) // 2] ^= 8
            txn.put(key, bytes(value))
    for key in keys:
        with pytest.raises(RecordDamaged):
            store._index.get(key)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.decode())
def test_case_fault_5_the_journal_gives_every_record_back(held: Store, table: bytes) -> None:
    keys = keys_of(held, table)
    assert keys, "the golden store has a record of every kind"
    before = {key: payload(held, key) for key in keys}
    damage(held, *keys)
    assert held.upkeep.mend(keys).result(60) == []
    after = {key: payload(held, key) for key in keys}
    for key in keys:
        if table in layout.JOURNALED_TABLES:
            assert after[key] == before[key]
        elif table in (layout.SEEN, layout.CONFIRMED, layout.FILL, layout.FILL_CHUNKS):
            assert after[key] is None
        elif table not in (layout.UNLINKED, layout.LOOSE):  # since when is not known any more
            assert after[key] == before[key]


#: what becomes of a damaged record that has no copy in the journal: on a root, and where the parent has what it says
WITHOUT_COPY = {
    layout.REPOSITORY: ("made again", "made again"),
    layout.LINK: ("lost", "gone"),
    layout.TAG: ("lost", "gone"),
    layout.MOVES: ("gone", "gone"),
    layout.TAG_LIST: ("gone", "gone"),
    layout.REFERRER: ("lost", "gone"),
    layout.REFERRER_LIST: ("gone", "gone"),
    layout.FILL: ("gone", "gone"),
    layout.FILL_CHUNKS: ("gone", "gone"),
    layout.SEEN: ("gone", "gone"),
    layout.CONFIRMED: ("gone", "gone"),
    layout.LOCK: ("lost", "lost"),
    layout.PENDING: ("made again", "made again"),
    layout.DELETED: ("made again", "made again"),
    layout.UNLINKED: ("made again", "made again"),
    layout.UNSYNCED: ("made again", "made again"),
    layout.QUARANTINE: ("made again", "made again"),
    **dict.fromkeys(layout.DERIVED_TABLES, ("made again", "made again")),
    layout.CHILDREN: ("made again", "made again"),
    layout.EDGE: ("made again", "made again"),
    layout.ACCOUNT: ("made again", "made again"),
    layout.USE: ("made again", "made again"),
    layout.LOOSE: ("made again", "made again"),
    layout.PIN: ("made again", "made again"),
}


def fate(store: Store, key: bytes, left: list[bytes]) -> str:
    if key in left:
        assert store.upkeep.is_damaged(key)
        return "lost"
    return "gone" if payload(store, key) is None else "made again"


@pytest.mark.parametrize("parent", [False, True])
@pytest.mark.parametrize("table", sorted(WITHOUT_COPY), ids=lambda table: table.decode())
def test_case_fault_5_without_a_copy(held: Store, table: bytes, parent: bool) -> None:
    keys = keys_of(held, table)
    if table == layout.LINK:  # a pushed manifest that is to go up is not forgotten
        keys = [
            key for key in keys if layout.PENDING + key[1:17] + key[18:] not in keys_of(held, layout.PENDING)
        ]
    without_journal(held)
    damage(held, *keys)
    left = held.upkeep.mend(keys, keys if parent else ()).result(60)
    assert {fate(held, key, left) for key in keys} == {WITHOUT_COPY[table][parent]}


@pytest.mark.parametrize("parent", [False, True])
def test_case_fault_5_numbers_without_a_copy_are_counted_anew(held: Store, parent: bool) -> None:
    for key, least in ((layout.OUTBOX, 2), (layout.RESOURCE, 1), (layout.resource_prefix("token"), 1)):
        with held._index.view() as view:
            assert view.raw(key) is not None
        without_journal(held)
        damage(held, key)
        assert held.upkeep.mend([key], [key] if parent else ()).result(60) == []
        assert layout.decode_number(payload(held, key)) >= least
    assert held.documents.count("token") == 1


@pytest.mark.parametrize("key", [layout.outbox_key(2), layout.resource_key("token", "Plant")], ids=["V", "E"])
def test_case_fault_5_rows_without_a_copy_are_lost(held: Store, key: bytes) -> None:
    without_journal(held)
    damage(held, key)
    assert held.upkeep.mend([key], [key]).result(60) == [key]


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("table", [layout.BLOB, layout.CHUNKS])
@pytest.mark.parametrize("copy", [False, True])
def test_case_fault_5_a_blob_is_known_by_its_file(
    store: Store, table: bytes, owned: bool, copy: bool
) -> None:
    body = some_bytes(3 << 20)
    blob = put_file(store, "a", body, owned=owned)
    if not copy:
        without_journal(store)
    damage(store, table + blob.digest.key + (b"\0\0\0\0" if table == layout.CHUNKS else b""))
    (key,) = keys_of(store, table)
    assert store.upkeep.mend([key]).result(60) == []
    again = store.blobs.get("a", blob.digest)
    assert again is not None
    assert read_all(store, again) == body
    # nobody knows any more whether it was pushed here: then it counts as that
    assert again.owned == (owned or (table == layout.BLOB and not copy))


def test_case_fault_5_a_table_whose_file_is_rotten_too(store: Store, root: Path) -> None:
    """No copy of the table, and the file is not what its name says: all of it is bad, or a miss."""
    blob = push_file(store, "a", some_bytes(3 << 20))
    (key,) = keys_of(store, layout.CHUNKS)
    flip_bit(file_of(root, blob.digest), 7)
    without_journal(store)
    damage(store, key)
    assert store.upkeep.mend([key]).result(60) == [key]
    (bad,) = store.blobs.damage(limit=10)
    assert (bad.digest, bad.chunks, bad.repositories) == (blob.digest, (0, 1, 2), ("a",))
    assert store.upkeep.mend([key], [key]).result(60) == []
    assert store.blobs.get("a", blob.digest) is None
    assert store.blobs.damage(limit=10) == []
    again = push_file(store, "a", some_bytes(3 << 20))
    assert read_all(store, again) == some_bytes(3 << 20)


def test_case_fault_5_a_damaged_owned_row_is_owned_after_a_fill(store: Store) -> None:
    """A change sees a record after it was mended, never its absence."""
    body = some_bytes(100_000)
    blob = push_file(store, "a", body)
    damage(store, layout.BLOB + blob.digest.key)
    again = put_file(store, "b", body, owned=False)
    assert again.owned


def test_case_fault_5_a_damaged_history_goes_on(store: Store) -> None:
    first, second = push(store, "a", b"{1}", "x"), push(store, "a", b"{2}", "x")
    damage(store, layout.moves_key("a", "x"), layout.tag_key("a", "x"))
    third = push(store, "a", b"{3}", "x")
    assert [move.digest for move in store.references.tag_moves("a", "x")] == [third, second, first]


def test_case_fault_5_a_damaged_lock_holds(store: Store) -> None:
    push(store, "a", b"{1}", "x")
    store.references.set_lock("a", LockTarget("repository"), Lock(write=False), now=1.0).result(60)
    key = layout.lock_key("a", LockTarget("repository"))
    damage(store, key)
    with pytest.raises(ContentLocked):
        push(store, "a", b"{2}", "x")
    assert not store.upkeep.is_damaged(key)
    without_journal(store)
    damage(store, key)
    for _ in range(2):  # nobody knows what it forbids
        with pytest.raises(RecordDamaged, match="set the lock again"):
            push(store, "a", b"{2}", "x")


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("table", [layout.BLOB, layout.LINK, layout.TAG, layout.HOLDER, layout.TAGGED])
def test_case_fault_5_a_push_heals_what_is_lost(store: Store, table: bytes, copy: bool) -> None:
    digest = push(store, "a", b'{"a":1}', "x")
    (key,) = keys_of(store, table)
    if not copy:
        without_journal(store)
    damage(store, key)
    assert push(store, "a", b'{"a":1}', "x") == digest
    tag, held = store.references.tag("a", "x"), store.references.manifest("a", digest)
    assert tag is not None
    assert held is not None
    assert (tag.digest, held.body, held.owned, held.media_type) == (digest, b'{"a":1}', True, MEDIA)
    assert table in (layout.HOLDER, layout.TAGGED) or not store.upkeep.is_damaged(key)


def test_case_fault_5_the_journal_of_another_generation_gives_nothing(store: Store) -> None:
    push(store, "a", b"{}", "x")
    state = store._index.get(layout.JOURNALED)
    assert state is not None
    key = layout.tag_key("a", "x")
    damage(store, key)
    log = store.path / "journal" / "log"
    kept = log.read_bytes()
    log.write_bytes(bytes(40) + kept[40:])
    assert store.upkeep.mend([key]).result(60) == [key]
    log.write_bytes(kept)
    assert store.upkeep.mend([key]).result(60) == []


def test_case_fault_5_all_damage_is_found_by_looking_at_everything(held: Store) -> None:
    keys = [key for table in TABLES for key in keys_of(held, table)[:3]]
    damage(held, *keys)
    found, after = held.upkeep.damaged_records().result(60)
    assert after == b""
    assert sorted(found) == sorted(keys)
    assert held.upkeep.mend(found).result(60) == []
    assert held.upkeep.damaged_records().result(60) == ([], b"")


def test_case_fault_5_every_table_has_its_line_in_the_format() -> None:
    section = FORMAT.read_text().partition("## What a damaged record does")[2].partition("\n## ")[0]
    named = set(
        "".join(re.findall(r"^\| ((?:`[A-Za-z]` ?)+)", section, re.MULTILINE)).replace("`", "").split()
    )
    assert named == {table.decode() for table in layout.TABLES}


def test_case_fault_5_a_file_is_on_the_disk_before_its_row_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No syncfs had covered it, and the new row says that one need not."""
    blob = put_file(store, "a", some_bytes(100_000))
    key = layout.BLOB + blob.digest.key
    without_journal(store)
    damage(store, key)
    steps: list[str] = []
    fdatasync, fsync, commit = os.fdatasync, os.fsync, store.upkeep._repair._commit

    def noted(fd: int, sync: Callable[[int], None]) -> None:
        if "/blobs/" in (place := os.readlink(f"/proc/self/fd/{fd}")):
            steps.append("bytes" if place.endswith(blob.digest.hex) else "name")
        sync(fd)

    def committed(plan: Callable[[IndexView], Sequence[IndexChange]]) -> None:
        steps.append("row")
        commit(plan)

    monkeypatch.setattr(os, "fdatasync", lambda fd: noted(fd, fdatasync))
    monkeypatch.setattr(os, "fsync", lambda fd: noted(fd, fsync))
    monkeypatch.setattr(store.upkeep._repair, "_commit", committed)
    assert store.upkeep.mend([key]).result(60) == []
    assert steps == ["bytes", "name", "row"]


def test_case_fault_5_what_was_written_meanwhile_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    push(store, "a", b"{1}", "x")
    key = layout.tag_key("a", "x")
    damage(store, key)
    newer = layout.encode_tag(Digest.of(b"{2}"), 5.0, 5.0, "local")
    commit = store.upkeep._repair._commit

    def committed(plan: Callable[[IndexView], Sequence[IndexChange]]) -> None:
        with store._index.begin(write=True) as txn:
            txn.put(key, layout.seal(key, newer))
        commit(plan)

    monkeypatch.setattr(store.upkeep._repair, "_commit", committed)
    assert store.upkeep.mend([key]).result(60) == []
    assert payload(store, key) == newer


def test_case_fault_5_what_the_index_does_not_know_of_is_no_copy(store: Store) -> None:
    """Behind the end of the journal there may be what was taken back."""
    push(store, "a", b"{1}", "x")
    key = layout.tag_key("a", "x")
    before = payload(store, key)
    damage(store, key)
    other = layout.seal(key, layout.encode_tag(Digest.of(b"{2}"), 5.0, 5.0, "local"))
    with (store.path / "journal" / "log").open("ab") as file:
        file.write(framing.encode_frame([(key, other)]))
    assert store.upkeep.mend([key]).result(60) == []
    assert payload(store, key) == before


def test_case_fault_5_a_note_names_its_own_repository(store: Store) -> None:
    for name in ("a", "b"):
        push(store, name, b"{}")
    keys = {name: layout.pending_key(name, Digest.of(b"{}")) for name in ("a", "b", "nobody's")}
    with store._index.begin(write=True) as txn:
        for name, key in keys.items():
            txn.put(key, layout.seal(key, layout.encode_pending(name, 1.0)))
    damage(store, *keys.values())
    assert store.upkeep.mend(keys.values()).result(60) == [keys["nobody's"]]
    for name in ("a", "b"):
        assert name in str(layout.decode_pending(payload(store, keys[name]) or b""))


def test_case_fault_5_what_the_parent_does_not_have_is_not_forgotten(store: Store) -> None:
    """A manifest that is still to go up is no miss, whatever the parent has."""
    digest = push(store, "a", b"{}")
    link, note = layout.link_key("a", layout.AS_MANIFEST, digest.key), layout.pending_key("a", digest)
    with store._index.begin(write=True) as txn:
        txn.put(note, layout.seal(note, layout.encode_pending("a", 1.0)))
    without_journal(store)
    damage(store, link)
    assert store.upkeep.mend([link], [link]).result(60) == [link]
    with store._index.begin(write=True) as txn:
        txn.delete(note)
    assert store.upkeep.mend([link], [link]).result(60) == []
    assert payload(store, link) is None


def journal_of(store: Store, *frames: tuple[bytes, bytes | None]) -> None:
    """From here on the journal says this, and nothing else."""
    without_journal(store)
    with (store.path / "journal" / "log").open("ab") as file:
        file.writelines(framing.encode_frame([change]) for change in frames)


def test_case_fault_5_a_copy_that_is_damaged_too_is_none(store: Store) -> None:
    """The record was damaged before it was framed: the file is what is left."""
    body = some_bytes(100_000)
    blob = push_file(store, "a", body)
    key = layout.BLOB + blob.digest.key
    damage(store, key)
    with store._index.view() as view:
        journal_of(store, (key, view.raw(key)))
    assert store.upkeep.mend([key]).result(60) == []
    assert read_all(store, blob) == body


def test_case_fault_5_what_the_journal_removed_is_no_copy(store: Store) -> None:
    push(store, "a", b"{1}", "x")
    key = layout.tag_key("a", "x")
    with store._index.view() as view:
        journal_of(store, (key, view.raw(key)), (key, None))
    damage(store, key)
    assert store.upkeep.mend([key]).result(60) == [key]
