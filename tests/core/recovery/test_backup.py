"""A backup has whatever was acknowledged before the state of its index was taken, and a store comes out of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from holdfast_core import Digest, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.errors import Damaged, Exhausted, StoreError, StoreRefused
from holdfast_core.filesystem import file_copies, files
from holdfast_core.filesystem.file_copies import FileCopies
from holdfast_core.index import lmdb_index
from holdfast_core.index.lmdb_index import Index
from holdfast_core.index.page_reader import IndexPages
from holdfast_core.record import CollectionRule
from holdfast_core.recovery import backup as copying
from holdfast_core.recovery.backup import backup, restore
from support import golden
from support.kill_steps import kills
from support.stores import (
    dump,
    file_of,
    flip_bit,
    hashed,
    push,
    push_file,
    put_file,
    put_manifest,
    read_all,
    some_bytes,
)

Opener = Callable[..., Store]
Rows = dict[bytes, bytes]
OLD, KEPT, NEW = (some_bytes(40_000, seed=number) for number in (1, 2, 3))
IMPORTS = "from holdfast_core.recovery.backup import backup, restore"


class BorrowedIndex:
    """An open index that its user does not close."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def close(self) -> None:
        """Stay open."""


@pytest.fixture(autouse=True)
def _beside_an_open_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB lets a process open an index once. A backup has a process of its own; here it reads by way of the store that
    is open."""

    def opened(path: Path, *, write: bool) -> Index | BorrowedIndex:
        for index in list(lmdb_index._open):
            if index._path == path and index.begin is not lmdb_index._refuse_closed:
                return BorrowedIndex(index)
        return Index(path, write=write)

    monkeypatch.setattr(copying, "Index", opened)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the backup lies."""
    return tmp_path / "backup"


def first_state(store: Store) -> None:
    """Two blobs in files, one in the index, a manifest with a tag, and a cached blob."""
    push_file(store, "r", OLD)
    push_file(store, "r", KEPT)
    push_file(store, "r", b"small")
    push(store, "r", b"first", "v1")
    put_file(store, "cached", some_bytes(30_000, seed=9))
    store.upkeep.sync_cached().result()


def second_state(store: Store) -> None:
    """One of the blobs went, another came, the tag moved, and the journal was written again."""
    store.blobs.delete("r", hashed(OLD)[0], now=2.0).result()
    assert store.upkeep.sweep(now=1e9, grace=0.0).result() == len(OLD)
    push_file(store, "r", NEW)
    push(store, "r", b"second", "v1")
    assert store.upkeep.compact_journal().result() is True


@pytest.fixture
def store(opener: Opener) -> Store:
    """An open store in its first state."""
    store = opener()
    first_state(store)
    return store


def rows_of(root: Path) -> Rows:
    """Every record of a store or a backup but the journal's place."""
    with closing(Store.create_or_open(root, write=False)) as store:
        return dump(store, root)[0]


def restored(place: Path, to: Path) -> Rows:
    """The records of a store that is made of a backup; it is sound, also once a process has written to it."""
    assert restore(place, to).problems == []
    rows = rows_of(to)
    assert fsck(to, (1, 1)).problems == []
    Store.create_or_open(to, write=True).close()
    return rows


def blob_files(root: Path) -> set[str]:
    return {file.name for file in (root / "blobs").glob("*/*/*")}


def test_a_store_comes_out_of_a_backup(store: Store, root: Path, place: Path, tmp_path: Path) -> None:
    report = backup(root, place)
    assert report.problems == []
    assert report.counts == {"blobs": 3, "linked": 3}
    assert fsck(place, (1, 1)).problems == []
    second_state(store)
    rows = restored(place, tmp_path / "restored")
    with closing(Store.create_or_open(tmp_path / "restored", write=True)) as again:
        tag = again.references.tag("r", "v1")
        assert tag is not None
        assert tag.digest == Digest.of(b"first")
        for body in (OLD, KEPT, b"small"):
            blob = again.blobs.get("r", Digest.of(body))
            assert blob is not None
            assert (read_all(again, blob), blob.owned) == (body, True)
        assert again.uuid == store.uuid
    assert rows == rows_of(place)
    assert not (tmp_path / "restored" / "copy.json").exists()
    assert (place / "index" / "data.mdb").stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700


def test_the_next_one_copies_what_is_new_and_drops_what_went(store: Store, root: Path, place: Path) -> None:
    backup(root, place)
    second_state(store)
    report = backup(root, place)
    assert report.counts == {"blobs": 3, "linked": 1, "removed": 1}
    assert rows_of(place) == dump(store, root)[0]
    assert hashed(NEW)[0].hex in blob_files(place)
    assert hashed(OLD)[0].hex not in blob_files(place)
    assert fsck(place, (1, 1)).problems == []
    assert sorted(os.listdir(place)) == [
        *("blobs", "copy.json", "fills", "index", "journal", "lock", "quarantine", "store.json", "uploads")
    ]


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_no_links_are_files_are_copied(
    store: Store, root: Path, place: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "link", no_link)
    report = backup(root, place)
    assert report.counts == {"blobs": 3, "copied": 3, "bytes copied": 110_000}
    assert fsck(place, (1, 1)).problems == []
    digest = hashed(OLD)[0]
    assert file_of(place, digest).stat().st_ino != file_of(root, digest).stat().st_ino


def test_a_push_that_was_acknowledged_before_is_in_it(opener: Opener, root: Path, tmp_path: Path) -> None:
    """Pushes, deletes, sweeps and rewritten journals go on in the meantime."""
    store, stop, acknowledged = opener(), threading.Event(), 0

    def work() -> None:
        nonlocal acknowledged
        while not stop.is_set():
            number = acknowledged + 1
            layer = push_file(store, "r", some_bytes(20_000, seed=number))
            push(store, "r", b"manifest %d" % number, f"t{number}")
            acknowledged = number
            if number % 3 == 0:
                gone = push_file(store, "gone", some_bytes(20_000, seed=1_000_000 + number))
                store.blobs.delete("gone", gone.digest, now=1.0).result()
                store.upkeep.sweep(now=1e9, grace=0.0).result()
            if number % 10 == 0:
                store.upkeep.compact_journal().result()
            assert layer.owned

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            for number in range(6):
                while acknowledged < 20 * number:
                    assert not working.done()
                before = acknowledged
                assert backup(root, tmp_path / "backup").problems == []
                rows = restored(tmp_path / "backup", tmp_path / f"restored{number}")
                with closing(Store.create_or_open(tmp_path / f"restored{number}", write=False)) as again:
                    for n in range(1, before + 1):
                        tag = again.references.tag("r", f"t{n}")
                        assert tag is not None
                        assert tag.digest == Digest.of(b"manifest %d" % n)
                        assert again.blobs.get("r", hashed(some_bytes(20_000, seed=n))[0]) is not None
                assert rows
                shutil.rmtree(tmp_path / f"restored{number}")
        finally:
            stop.set()
        working.result()


def between(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[], object], after: Callable[[], object]
) -> list[int]:
    """Do something right before and after the first state is taken; a number for each state."""
    real, states = Index.copy_to, list[int]()

    def taken(self: Index, path: Path) -> None:
        states.append(len(states))
        if len(states) == 1:
            before()
        real(self, path)
        if len(states) == 1:
            after()

    monkeypatch.setattr(Index, "copy_to", taken)
    return states


def image(number: int, layer: Digest) -> bytes:
    return b'{"schemaVersion":2,"n":%d,"layers":[{"digest":"%s","size":40000}]}' % (
        number,
        str(layer).encode(),
    )


def test_eviction_and_collection_beside_it_leave_a_sound_backup(
    opener: Opener, root: Path, place: Path, tmp_path: Path
) -> None:
    """With each piece that is read an image is evicted, another deleted, what is loose collected and swept. What stays
    is in the backup, and what it names has its files."""
    store = opener()
    bodies = [some_bytes(40_000, seed=100 + number) for number in range(40)]
    for number, body in enumerate(bodies):
        put_file(store, "cached", body)
        put_manifest(store, "cached", image(number, hashed(body)[0]))
    for number, body in enumerate(bodies):
        push_file(store, "owned", body + b"owned")
        push(store, "owned", image(number, hashed(body + b"owned")[0]), f"v{number}")
    store.upkeep.sync_cached().result()
    rule = CollectionRule(1e9, None, None)
    gone = iter(range(30))
    freed = [0]

    def meanwhile(count: int) -> None:
        number = next(gone, None)
        if number is None:
            return
        cached, owned = (
            image(number, hashed(bodies[number])[0]),
            image(number, hashed(bodies[number] + b"owned")[0]),
        )
        store.space.evict("cached", Digest.of(cached), now=2.0).result()
        store.references.delete_manifest("owned", Digest.of(owned), now=2.0).result()
        store.space.collect(store.space.loose()[0], rule, now=1e10).result()
        freed[0] += store.upkeep.sweep(now=1e12, grace=0.0).result()

    assert backup(root, place, pace=meanwhile).problems == []
    assert freed[0] > 30 * 40_000
    assert fsck(place, (1, 1)).problems == []
    assert restored(place, tmp_path / "to") == rows_of(place)
    with closing(Store.create_or_open(tmp_path / "to", write=False)) as again:
        for number in range(30, 40):
            held = again.blobs.get("owned", hashed(bodies[number] + b"owned")[0])
            assert held is not None
            assert read_all(again, held) == bodies[number] + b"owned"


def test_an_index_that_is_compacted_meanwhile_ends_it_and_the_next_goes_on(
    opener: Opener, root: Path, place: Path
) -> None:
    """What is read of the former file is what was once: a blob that went would count as lost."""
    store = opener()
    first_state(store)
    store.close()

    def compacted(count: int) -> None:
        data = root / "index" / "data.mdb"
        shutil.copy(data, root / "data.new")
        (root / "data.new").replace(data)

    with pytest.raises(StoreError, match="compacted its index meanwhile; make the backup again"):
        backup(root, place, pace=compacted)
    assert backup(root, place).problems == []
    assert fsck(place, (1, 1)).problems == []


def test_a_blob_that_goes_meanwhile_costs_another_state(
    store: Store, root: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove() -> None:
        store.blobs.delete("r", hashed(NEW)[0], now=2.0).result()
        assert store.upkeep.sweep(now=1e9, grace=0.0).result() == len(NEW)

    states = between(monkeypatch, lambda: push_file(store, "r", NEW), remove)
    assert backup(root, place).problems == []
    assert states == [0, 1]
    assert restored(place, tmp_path / "restored") == dump(store, root)[0]


def test_a_journal_that_is_written_again_meanwhile_costs_another_state(
    store: Store, root: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is as long by the time that it is copied."""

    def grow() -> None:
        length = store.statistics().journal_bytes
        assert store.upkeep.compact_journal().result() is True
        while store.statistics().journal_bytes < length:
            push(store, "r", b"more", f"t{store.statistics().committed}")

    states = between(monkeypatch, lambda: None, grow)
    assert backup(root, place).problems == []
    assert states == [0, 1]
    assert restored(place, tmp_path / "restored") == dump(store, root)[0]


def test_the_first_backup_killed_before_each_step(
    store: Store, root: Path, place: Path, tmp_path: Path
) -> None:
    """What there is is a backup, or is known to be none; the next call goes on."""
    store.close()
    rows, finished = rows_of(root), 0
    for number in kills(IMPORTS, "backup(sys.argv[2], sys.argv[3])", root, place):
        to = tmp_path / f"restored{number}"
        if (place / "store.json").exists():
            finished += 1
            assert restored(place, to) == rows
            shutil.rmtree(to)
        elif (place / "copy.json").exists():
            with pytest.raises(StoreRefused, match="never came to its end; make it again"):
                restore(place, to)
        if (place / "copy.json").exists():
            assert backup(root, place).problems == []
            assert rows_of(place) == rows
            assert fsck(place, (1, 1)).problems == []
        shutil.rmtree(place, ignore_errors=True)
    assert finished > 0
    assert rows_of(place) == rows


def test_the_next_backup_killed_before_each_step(
    store: Store, root: Path, place: Path, tmp_path: Path
) -> None:
    """The former state, or the new one, and never a part of both."""
    backup(root, place)
    former = rows_of(place)
    second_state(store)
    store.close()
    newer, seen = rows_of(root), set()
    shutil.copytree(place, tmp_path / "former")
    for number in kills(IMPORTS, "backup(sys.argv[2], sys.argv[3])", root, place):
        rows = restored(place, tmp_path / f"restored{number}")
        assert rows in (former, newer)
        seen.add(rows == newer)
        assert backup(root, place).problems == []
        assert rows_of(place) == newer
        assert fsck(place, (1, 1)).problems == []
        shutil.rmtree(tmp_path / f"restored{number}")
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "former", place)
    assert seen == {False, True}


def test_a_restore_killed_before_each_step(store: Store, root: Path, place: Path, tmp_path: Path) -> None:
    """It is no store before it is whole, and goes on."""
    backup(root, place)
    rows, to, whole = rows_of(place), tmp_path / "restored", 0
    for _ in kills(IMPORTS, "restore(sys.argv[2], sys.argv[3])", place, to):
        if (to / "copy.json").exists():
            with pytest.raises(StoreRefused, match="a restore that did not come to its end"):
                Store.create_or_open(to, write=True)
            with pytest.raises(StoreRefused, match="a restore that did not come to its end"):
                rebuild(to)
            assert restored(place, to) == rows
        elif (to / "store.json").exists():
            whole += 1
            assert rows_of(to) == rows
            assert fsck(to, (1, 1)).problems == []
        shutil.rmtree(to, ignore_errors=True)
    assert whole > 0
    assert rows_of(to) == rows


def test_full_at_every_write(store: Store, root: Path, place: Path, tmp_path: Path) -> None:
    """Each call that takes room is refused once, as on a full disk; the former backup is what it was, or the new one is
    there."""
    backup(root, place)
    former = rows_of(place)
    second_state(store)
    store.close()
    newer, refused = rows_of(root), 0
    shutil.copytree(place, tmp_path / "former")
    while True:
        with FullOnce(refused) as disk, suppress(Exhausted):
            backup(root, place)
        if not disk.was_full:
            break
        refused += 1
        rows = restored(place, tmp_path / "restored")
        assert rows in (former, newer)
        assert not (place / "index.new").exists()
        assert backup(root, place).problems == []
        assert rows_of(place) == newer
        shutil.rmtree(tmp_path / "restored")
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "former", place)
    assert refused > 8


class FullOnce:
    """The call number `at` of those that take room is refused."""

    def __init__(self, at: int) -> None:
        self.was_full, self._left = False, at
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> FullOnce:
        for owner, name in (
            *((os, name) for name in ("fsync", "fdatasync", "link")),
            *((module, "write_all") for module in (files, file_copies, copying)),
        ):
            self._patch.setattr(owner, name, self._refusing(getattr(owner, name)))
        return self

    def _refusing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if self._left == 0 and not self.was_full:
                self.was_full = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._left -= 1
            return call(*arguments, **named)

        return called

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def test_damaged_blobs_are_named_and_the_rest_is_copied(store: Store, root: Path, place: Path) -> None:
    flipped, lost = hashed(OLD)[0], hashed(KEPT)[0]
    flip_bit(file_of(root, flipped), 20_000)
    file_of(root, lost).unlink()
    report = backup(root, place)
    heal = "a pull fetches it again from the parent; where there is none, push it again"
    found = hashed(file_of(root, flipped).read_bytes())[0]
    assert sorted(report.problems) == sorted(
        [f"{flipped}: its file hashes to {found}; {heal}", f"{lost}: its file is gone; {heal}"]
    )
    assert blob_files(place) == {hashed(some_bytes(30_000, seed=9))[0].hex}
    assert store.references.tag("r", "v1") is not None


def test_a_blob_that_the_backup_has_is_not_lost_with_the_store(
    store: Store, root: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_copies, "_linked", refuse_links)
    backup(root, place)
    flip_bit(file_of(root, hashed(OLD)[0]), 20_000)
    assert backup(root, place).problems == []
    restored(place, tmp_path / "restored")


def refuse_links(*_: object) -> int:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def test_a_damaged_record_is_named(store: Store, root: Path, place: Path) -> None:
    with store._index.begin(write=True) as txn:
        key, value = next((key, value) for key, value in txn.cursor() if key[:1] == b"T")
        txn.put(key, bytes([value[0], value[1] ^ 1, *value[2:]]))
    assert backup(root, place).problems == [f"tag record {key[1:].hex()} is damaged"]


@pytest.mark.parametrize("part", ["index", "journal"])
def test_damage_of_pages_and_frames_is_named(store: Store, root: Path, place: Path, part: str) -> None:
    backup(root, place)
    former = rows_of(place)
    second_state(store)
    store.close()
    if part == "journal":
        flip_bit(root / "journal" / "log", 60)
        (problem,) = backup(root, place).problems
        assert problem.startswith("the journal is damaged from byte 40 to ")
        return
    data = root / "index" / "data.mdb"
    with IndexPages(data) as pages, data.open("r+b") as file:
        page = pages.metas[0].root
        assert page is not None
        file.seek(page * 4096)
        file.write(bytes(4096))
    with pytest.raises(Damaged, match=f"page {page} is damaged; run `holdfast rebuild`"):
        backup(root, place)
    assert rows_of(place) == former


def test_a_damaged_backup_is_restored_but_for_the_damage(
    store: Store, root: Path, place: Path, tmp_path: Path
) -> None:
    backup(root, place)
    digest = hashed(OLD)[0]
    body = bytearray(OLD)
    body[7] ^= 1
    file_of(place, digest).unlink()
    file_of(place, digest).write_bytes(body)
    report = restore(place, tmp_path / "restored")
    (problem,) = report.problems
    assert problem.startswith(f"{digest}: its file hashes to {hashed(bytes(body))[0]}")
    (problem,) = fsck(tmp_path / "restored", (1, 1)).problems
    assert problem.startswith(f"{digest}: its file is missing")
    assert store.references.tags("r") == ["v1"]


def test_a_backup_without_its_journal_is_restored(
    store: Store, root: Path, place: Path, tmp_path: Path
) -> None:
    """A kill between the places of index and journal, and another before the next journal was there."""
    backup(root, place)
    (place / "journal" / "log").unlink()
    (place / "journal" / "log.new").write_bytes(b"HFJOURN1")
    report = restore(place, tmp_path / "restored")
    assert report.problems == [
        "the journal is lost; the first start of what is restored writes it again from the index"
    ]
    assert rows_of(tmp_path / "restored") == dump(store, root)[0]
    assert fsck(tmp_path / "restored", (1, 1)).problems == []


def test_no_process_writes_to_a_backup(store: Store, root: Path, place: Path) -> None:
    backup(root, place)
    for work in (lambda: Store.create_or_open(place, write=True), lambda: rebuild(place)):
        with pytest.raises(StoreRefused, match="is a backup; `holdfast restore` makes a store of a backup"):
            work()
    assert rows_of(place) == dump(store, root)[0]


def test_where_no_backup_goes(store: Store, root: Path, place: Path, tmp_path: Path, opener: Opener) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    other = opener(tmp_path / "other")
    push(other, "r", b"other", "v1")
    backup(tmp_path / "other", place)
    refusals = {
        tmp_path / "mine": "is not empty and is no copy of a store; allowed: an empty directory",
        tmp_path / "other": "is not empty and is no copy of a store; allowed: an empty directory",
        place: "is not empty and has the backup of another store; allowed: an empty directory",
        root / "inside": f"lies in {root}; allowed: a directory outside of it",
        tmp_path / "mine" / "notes": "is no directory",
    }
    for target, words in refusals.items():
        with pytest.raises(StoreRefused, match=words):
            backup(root, target)
    with pytest.raises(StoreRefused, match="holds no store"):
        backup(place, tmp_path / "next")
    with pytest.raises(StoreRefused, match="is no backup; allowed: what `holdfast backup` made"):
        restore(root, tmp_path / "next")
    with pytest.raises(StoreRefused, match="is not empty and is no copy of a store"):
        restore(place, root)
    assert os.listdir(tmp_path / "mine") == ["notes"]
    assert not (tmp_path / "next").exists()
    assert store.references.tags("r") == ["v1"]


def test_two_backups_at_once_are_refused(store: Store, root: Path, place: Path) -> None:
    backup(root, place)
    copy = copying.StoreCopy(root, place)
    with pytest.raises(StoreRefused, match="is written by another process"):
        backup(root, place)
    copy.close()
    assert backup(root, place).problems == []
    assert store.references.tags("r") == ["v1"]


def test_numbers_of_events_are_not_given_again(
    opener: Opener, root: Path, place: Path, tmp_path: Path
) -> None:
    """The lost store told of a push after its backup; the store that takes its place gives that number to none."""
    store = opener()
    store.events.keep(True).result()
    push(store, "r", b"first", "v1")
    backup(root, place)
    push(store, "r", b"second", "v2")
    last = store.events.head()
    assert last is not None
    restore(place, tmp_path / "restored")
    again = opener(tmp_path / "restored")
    push(again, "r", b"third", "v3")
    head = again.events.head()
    assert head is not None
    assert head.log == last.log
    assert head.last > last.last + 1_000_000 - 10
    assert again.uuid == store.uuid


@pytest.mark.parametrize(
    "archive", sorted(golden.ARCHIVE.parent.glob("store-format-*.tar.xz")), ids=lambda path: path.name
)
def test_a_store_of_each_format(archive: Path, tmp_path: Path) -> None:
    """The backup has the format of the store; what comes out of it is up to date."""
    root = golden.unpack(archive, tmp_path / "old")
    version = json.loads((root / "store.json").read_text())["format"]
    backup(root, tmp_path / "backup")
    assert json.loads((tmp_path / "backup" / "store.json").read_text())["format"] == version
    restore(tmp_path / "backup", tmp_path / "restored")
    with closing(Store.create_or_open(tmp_path / "restored", write=True)) as store:
        assert store.references.tags("library/a") == ["v1"]
    assert json.loads((tmp_path / "restored" / "store.json").read_text())["format"] == layout.FORMAT


def test_small_files_beside_the_store_go_along(store: Store, root: Path, place: Path, tmp_path: Path) -> None:
    (root / "key.pem").write_text("secret")
    beside = ("key.pem", "absent.json")
    backup(root, place, beside=beside)
    restore(place, tmp_path / "restored", beside=beside)
    assert (tmp_path / "restored" / "key.pem").read_text() == "secret"
    assert (tmp_path / "restored" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "restored" / "absent.json").exists()
    assert store.references.tags("r") == ["v1"]


def test_a_file_of_other_bytes_is_never_made(tmp_path: Path) -> None:
    """Whichever way it is made, it has its name after it was hashed."""
    (tmp_path / "source").write_bytes(OLD)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    for way in ("linked", "copied"):
        copies = FileCopies(links=True)
        copies._ways = [way] if way == "copied" else ["linked", "copied"]
        with pytest.raises(Damaged, match="its file hashes to"):
            copies.make(fd, tmp_path / "target", Digest.of(KEPT))
        assert os.listdir(tmp_path) == ["source"]
    os.close(fd)
