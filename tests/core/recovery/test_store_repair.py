"""`fsck --repair`: what can be mended is, nothing that was pushed goes, and what is left is named."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import Store, fsck
from holdfast_core import format as layout
from holdfast_core.changes.derived_tables import TABLES
from holdfast_core.errors import StoreRefused
from holdfast_core.index.lmdb_index import Index
from holdfast_core.index.page_reader import IndexPages
from holdfast_core.journal import journal_file
from holdfast_core.recovery.store_repair import repair
from holdfast_core.upkeep.index_repair import copies
from support import golden
from support.format_reader import FormatReader
from support.kill_steps import kills
from support.stores import file_of, flip_bit, hashed, push, push_file, put_file, put_manifest, some_bytes

Opener = Callable[..., Store]
LARGE, SMALL = some_bytes(3_300_000), some_bytes(40_000, 2)
TAGS = 40


@pytest.fixture
def root(tmp_path: Path, opener: Opener) -> Path:
    """A store with pushed and fetched content in files and in the index, closed."""
    place = tmp_path / "store"
    with_content(opener(place))
    return place


def with_content(store: Store) -> None:
    push_file(store, "owned", LARGE)
    push_file(store, "owned", SMALL)
    put_file(store, "cached", some_bytes(50_000, 3))
    for n in range(TAGS):
        push(store, "owned", manifest(n), f"t{n}", subject=hashed(manifest(0))[0] if n == 1 else None)
        put_manifest(store, "cached", b"other %d " % n + bytes(200))
    store.upkeep.sync_cached().result()
    store.close()


def manifest(number: int) -> bytes:
    """An image whose layer is the large blob."""
    return b'{"schemaVersion":2,"number":%d,"layers":[{"digest":"%s","size":%d}]}' % (
        number,
        str(hashed(LARGE)[0]).encode(),
        len(LARGE),
    )


def records(root: Path) -> dict[bytes, bytes]:
    """All but how far the journal goes, and when leases began."""
    index = Index(root / "index", write=False)
    try:
        rows = dict(index.scan(b""))
    finally:
        index.close()
    return {key: value for key, value in rows.items() if key[:1] not in (layout.JOURNALED, layout.LOOSE)}


def damage(root: Path, *keys: bytes, bits: int = 2) -> None:
    """Flip bits of values. One is mended by the seal alone, two are not."""
    index = Index(root / "index", write=True)
    try:
        with index.begin(write=True) as txn:
            for key in keys:
                value = bytearray(txn.get(key) or b"")
                for bit in range(bits):
                    value[len(value) // 2] ^= 8 << bit
                txn.put(key, bytes(value))
    finally:
        index.close()


def remove(root: Path, *keys: bytes) -> None:
    index = Index(root / "index", write=True)
    try:
        with index.begin(write=True) as txn:
            for key in keys:
                txn.delete(key)
    finally:
        index.close()


def without_journal(root: Path) -> None:
    (root / "journal" / "log").unlink()


def keys_of(root: Path, table: bytes) -> list[bytes]:
    return [key for key in records(root) if key[:1] == table]


def is_sound(root: Path) -> None:
    assert fsck(root, (1, 1)).problems == []
    assert FormatReader(root).run() == []


def test_a_sound_store_stays_as_it_is(root: Path) -> None:
    before, journal = records(root), (root / "journal" / "log").read_bytes()
    report = repair(root, (1, 1))
    assert report.problems == []
    assert not [what for what in report.counts if "mended" in what or "again" in what or "aside" in what]
    assert (records(root), (root / "journal" / "log").read_bytes()) == (before, journal)


@pytest.mark.parametrize(
    "table", [layout.TAG, layout.LINK, layout.BLOB, layout.CHUNKS, layout.REPOSITORY], ids=str
)
def test_records_come_back_from_the_journal(root: Path, table: bytes) -> None:
    before = records(root)
    damage(root, *keys_of(root, table))
    assert fsck(root).problems
    report = repair(root)
    assert report.problems == []
    assert records(root) == before
    assert report.counts["records mended"] == len([key for key in before if key[:1] == table])
    is_sound(root)


def test_one_flipped_bit_comes_back_without_any_copy(root: Path) -> None:
    """Also where the journal has nothing: links and tags."""
    before = records(root)
    without_journal(root)
    damage(root, *keys_of(root, layout.TAG), *keys_of(root, layout.LINK), bits=1)
    assert repair(root).problems == []
    assert records(root) == before
    is_sound(root)


def test_what_has_no_copy_is_named_and_stays(root: Path) -> None:
    without_journal(root)
    (tag, *_) = keys_of(root, layout.TAG)
    damage(root, tag)
    report = repair(root)
    (problem,) = report.problems
    assert layout.describe(tag) in problem
    assert tag in records(root)
    assert repair(root).problems == report.problems


def test_a_moved_tag_does_not_go_back_over_a_damaged_frame(tmp_path: Path, opener: Opener) -> None:
    """The journal has its former value, and behind it a frame that cannot be read: nobody knows whether it moved."""
    store = opener(tmp_path / "store")
    push(store, "r", b"first", "t")
    second = push(store, "r", b"second", "t")
    store.close()
    root = tmp_path / "store"
    key = layout.tag_key("r", "t")
    frames = list(journal_file.frames(root / "journal"))
    moved = [frame for frame in frames if any(key == changed for changed, _ in frame.changes or ())][-1]
    log = root / "journal" / "log"
    data = bytearray(log.read_bytes())
    data[moved.start + 12 : moved.end - 8] = bytes(moved.end - moved.start - 20)
    log.write_bytes(data)
    damage(root, key)
    index = Index(root / "index", write=False)
    assert copies(root / "journal", index, [key]) == {}
    index.close()
    report = repair(root)
    assert any(layout.describe(key) in problem for problem in report.problems)
    assert layout.BLOB + second.key in records(root)


def test_the_journal_is_written_again_from_the_index_and_kept(root: Path) -> None:
    before, log = records(root), root / "journal" / "log"
    flip_bit(log, log.stat().st_size // 2)
    damaged = log.read_bytes()
    assert any("the journal is damaged" in problem for problem in fsck(root).problems)
    report = repair(root)
    assert (report.problems, report.counts["journals written again"]) == ([], 1)
    assert (root / "quarantine" / "journal.log").read_bytes() == damaged
    assert records(root) == before
    is_sound(root)


@pytest.mark.parametrize(
    "table", [*layout.DERIVED_TABLES, layout.EDGE, layout.CHILDREN, layout.ACCOUNT], ids=str
)
def test_derived_tables_are_made_again(root: Path, table: bytes) -> None:
    before = records(root)
    keys = keys_of(root, table)
    assert keys
    remove(root, *keys[: max(1, len(keys) // 2)])
    assert repair(root).problems == []
    assert records(root) == before
    is_sound(root)


def test_files_without_a_row_are_taken_in_or_set_aside(root: Path) -> None:
    owned = hashed(LARGE)[0]
    before = records(root)
    remove(root, layout.BLOB + owned.key)
    stray = root / "blobs" / "sha256" / "ab" / ("ab" * 32)
    stray.write_bytes(b"somebody's")
    odd = root / "blobs" / "sha256" / "cd" / "notes.txt"
    odd.write_bytes(b"notes")
    report = repair(root)
    assert (report.problems, report.counts["files taken in"], report.counts["files set aside"]) == ([], 1, 2)
    assert records(root) == before
    assert (root / "quarantine" / f"sha256-{'ab' * 32}").read_bytes() == b"somebody's"
    assert (root / "quarantine" / "sha256-notes.txt").read_bytes() == b"notes"
    is_sound(root)


def test_a_file_that_is_set_aside_replaces_none(root: Path) -> None:
    for text in (b"one", b"two"):
        (root / "blobs" / "sha256" / "cd" / "notes.txt").write_bytes(text)
        repair(root)
    aside = root / "quarantine"
    assert [(aside / name).read_bytes() for name in ("sha256-notes.txt", "sha256-notes.txt.1")] == [
        b"one",
        b"two",
    ]


@pytest.mark.parametrize("how", ["gone", "short", "a link", "rotten"])
def test_a_bad_file_is_damage_and_its_links_stay(root: Path, how: str, opener: Opener) -> None:
    digest = hashed(LARGE)[0]
    file = file_of(root, digest)
    if how in ("gone", "a link"):
        file.unlink()
    if how == "a link":
        file.symlink_to("/etc/hostname")
    if how == "short":
        os.truncate(file, 100)
    if how == "rotten":
        flip_bit(file, (1 << 20) + 5)
    report = repair(root, (1, 1))
    assert report.counts["blobs found damaged"] == 1
    assert any(str(digest) in problem for problem in report.problems)
    store = opener(root)
    held = store.blobs.get("owned", digest)
    assert held is not None
    assert (held.owned, held.damaged) == (True, True)
    push_file(store, "owned", LARGE)
    store.close()
    is_sound(root)


def test_a_chunk_table_is_made_again_from_a_sound_file(root: Path) -> None:
    before = records(root)
    remove(root, *[key for key in keys_of(root, layout.CHUNKS) if hashed(SMALL)[0].key in key])
    report = repair(root)
    assert (report.problems, report.counts["chunk tables made again"]) == ([], 1)
    assert records(root) == before
    is_sound(root)


def test_a_log_of_events_with_a_gap_begins_anew(tmp_path: Path, opener: Opener) -> None:
    root = golden.unpack(golden.ARCHIVE, tmp_path)
    opener(root).close()
    (*_, last) = [key for key in keys_of(root, layout.EVENT) if key != layout.EVENT]
    remove(root, last)
    assert any("log of events" in problem for problem in fsck(root).problems)
    report = repair(root)
    assert report.counts["events given up"]
    assert not any("event" in problem for problem in report.problems)


def test_not_beside_a_writer_and_not_without_a_store(root: Path, opener: Opener, tmp_path: Path) -> None:
    store = opener(root)
    with pytest.raises(StoreRefused, match="is written by another process"):
        repair(root)
    store.close()
    with pytest.raises(StoreRefused, match="holds no store"):
        repair(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_torn_index_is_for_a_rebuild(root: Path) -> None:
    data = root / "index" / "data.mdb"
    with IndexPages(data) as pages:
        page = pages.metas[0].page_bytes
    body = bytearray(data.read_bytes())
    for start in range(2 * page, len(body), page):
        body[start : start + 16] = bytes(16)
    data.write_bytes(body)
    before = data.read_bytes()
    with pytest.raises(StoreRefused, match="holdfast rebuild"):
        repair(root)
    assert data.read_bytes() == before


def test_killed_before_each_step(root: Path, tmp_path: Path) -> None:
    before = records(root)
    damage(root, *keys_of(root, layout.TAG)[:5], *keys_of(root, layout.BLOB)[:5])
    remove(root, layout.BLOB + hashed(LARGE)[0].key, *keys_of(root, layout.HOLDER)[:3])
    (root / "blobs" / "sha256" / "cd" / "notes.txt").write_bytes(b"notes")
    log = root / "journal" / "log"
    flip_bit(log, log.stat().st_size - 100)
    shutil.copytree(root, tmp_path / "first")
    imports = "from holdfast_core.recovery.store_repair import repair"
    steps = 0
    for _ in kills(imports, "repair(sys.argv[2])", root):
        assert repair(root).problems == []
        assert records(root) == before
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "first", root)
        steps += 1
    assert steps > 10
    is_sound(root)


def survived(root: Path, before: dict[bytes, bytes]) -> None:
    """Every record is as it was, or fsck and the independent reader name it."""
    report = repair(root, (1, 1))
    after, text = records(root), "\n".join(report.problems)
    derived = {key for key in before | after if key[:1] in TABLES}  # of what is lost nothing follows
    changed = {key for key, value in before.items() if after.get(key) != value} - derived
    gone = {key for key in changed if key not in after}
    assert {key[:1] for key in gone} <= {layout.MOVES, layout.SEEN}
    assert len(gone) <= report.counts["records given up"]
    for key in changed - gone:
        assert layout.describe(key) in text or key[:1] in (layout.REPOSITORY, layout.BLOB), key
    damaged = [key for key, value in after.items() if not layout.is_intact(key, value)]
    assert all(layout.describe(key) in text for key in damaged)
    assert bool(FormatReader(root).run()) == bool(report.problems)
    assert repair(root, (1, 1)).problems == report.problems


@pytest.mark.parametrize("seed", range(4))
def test_flips_in_values_and_journal_are_mended_or_named(root: Path, seed: int) -> None:
    """250 flips a seed, 1,000 together, in the values of the index and in the journal."""
    chance = random.Random(seed)
    before = records(root)
    keys = sorted(before)
    index = Index(root / "index", write=True)
    with index.begin(write=True) as txn:
        for _ in range(170):
            key = chance.choice(keys)
            value = bytearray(txn.get(key) or b"")
            value[chance.randrange(len(value))] ^= 1 << chance.randrange(8)
            txn.put(key, bytes(value))
    index.close()
    log = root / "journal" / "log"
    for _ in range(80):
        flip_bit(log, chance.randrange(40, log.stat().st_size), chance.randrange(8))
    survived(root, before)
