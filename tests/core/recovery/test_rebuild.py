"""The index can be made again from the journal and the files, and fsck says when it should be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from holdfast_core import CHUNK_BYTES, Descriptor, Digest, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.blob_files.fill_file import progress_name
from holdfast_core.errors import StoreRefused
from holdfast_core.filesystem.directory import part_name
from holdfast_core.journal import compaction
from holdfast_core.journal import frame as framing
from holdfast_core.journal import journal_file as journals
from holdfast_core.record import Tag
from support import golden
from support.stores import file_of, flip_bit, hashed, put_file, put_manifest, read_all, some_bytes

Opener = Callable[..., Store]
LAYER = some_bytes(1_500_000)
CONFIG = b'{"config":1}'
OWNED = b'{"owned":1}'
SIGNATURE = b'{"signature":1}'
LARGE = some_bytes(70 * CHUNK_BYTES // 10, seed=3)
SUBJECT = Digest.of(OWNED)


def fill_store(store: Store) -> None:
    """Something of everything that must survive."""
    put_file(store, "library/a", LAYER)
    put_file(store, "library/a", LARGE, owned=True)
    put_file(store, "library/b", CONFIG)
    put_manifest(store, "library/a", OWNED, owned=True)
    put_manifest(store, "library/a", SIGNATURE, subject=SUBJECT)
    store.references.put_tag("library/a", "gone", SUBJECT, now=1.0)
    store.references.put_tag("library/a", "v1", SUBJECT, now=2.0, origin="local")
    store.references.put_tag("library/a", "v1", Digest.of(SIGNATURE), now=3.0, origin="local")
    store.references.drop_tag("library/a", "gone", now=3.0)
    store.references.lists.put_tag_list("library/b", [f"tag{n}" for n in range(900)], now=4.0)
    store.references.lists.put_tag_list("library/b", ["x", "y"], now=4.0)
    store.references.lists.put_referrers(
        "library/a", SUBJECT, [Descriptor("m", str(SUBJECT), 3, "a", {"k": "v"})], now=5.0
    )
    store.blobs.link("library/c", Digest.of(LAYER), now=6.0).result()


def contents(store: Store) -> dict[str, Any]:
    """All that `fill_store` put, as the store answers it."""
    layer, large = hashed(LAYER)[0], hashed(LARGE)[0]
    blobs = [
        store.blobs.get(repository, digest)
        for repository in ("library/a", "library/b", "library/c")
        for digest in (layer, large, Digest.of(CONFIG), SUBJECT)
    ]
    return {
        "blobs": [b and (b.digest, b.size, b.owned, b.inline, read_all(store, b)) for b in blobs],
        "owned": store.references.manifest("library/a", SUBJECT),
        "signature": store.references.manifest("library/a", Digest.of(SIGNATURE)),
        "tag": store.references.tag("library/a", "v1"),
        "tags": store.references.tags("library/a"),
        "moves": store.references.tag_moves("library/a", "v1"),
        "list": store.references.lists.tag_list("library/b"),
        "referrers": store.references.lists.referrers("library/a", SUBJECT),
        "repositories": store.references.repositories(),
    }


@pytest.fixture
def before(opener: Opener) -> dict[str, Any]:
    """A closed store's contents; it lies at `root`."""
    store = opener()
    fill_store(store)
    found = contents(store)
    assert found["tag"] == Tag("v1", Digest.of(SIGNATURE), 3.0, 3.0, "local")
    assert found["tags"] == ["v1"]
    store.close()
    return found


def lose_index(root: Path) -> None:
    shutil.rmtree(root / "index")


def empty_index(root: Path) -> None:
    os.truncate(root / "index" / "data.mdb", 0)


def cut_index(root: Path) -> None:
    os.truncate(root / "index" / "data.mdb", 20000)


def lose_identity(root: Path) -> None:
    (root / "store.json").unlink()


@pytest.mark.parametrize("harm", [lose_index, empty_index, cut_index, lose_identity])
def test_everything_comes_back(
    before: dict[str, Any], root: Path, opener: Opener, harm: Callable[[Path], None]
) -> None:
    harm(root)
    with pytest.raises(StoreRefused):
        Store.create_or_open(root, write=True)
    report = rebuild(root)
    assert report.problems == []
    store = opener()
    assert contents(store) == before
    store.close()
    assert fsck(root, (1, 1)).problems == []
    assert opener().statistics().journal_bytes > 0
    kept = [name for name in os.listdir(root) if name.startswith("index.old")]
    assert len(kept) == (1 if harm is not lose_index else 0)


def test_a_rebuilt_store_can_be_rebuilt(before: dict[str, Any], root: Path, opener: Opener) -> None:
    for _ in range(2):
        assert rebuild(root).problems == []
        store = opener()
        assert contents(store) == before
        store.close()
    assert rebuild(root).problems == []
    assert rebuild(root).problems == []
    assert contents(opener()) == before
    assert len([name for name in os.listdir(root) if name.startswith("index.old")]) == 4


def test_without_a_journal_the_files_are_admitted_unlinked(
    before: dict[str, Any], root: Path, opener: Opener
) -> None:
    lose_index(root)
    shutil.rmtree(root / "journal")
    report = rebuild(root)
    assert report.problems == ["there is no journal: names, tags and small content are lost"]
    assert report.counts["files admitted"] == 2
    store = opener()
    blob = store.blobs.anywhere(hashed(LARGE)[0])
    assert blob is not None
    assert read_all(store, blob) == LARGE
    assert store.blobs.get("library/a", blob.digest) is None
    assert store.references.repositories() == []
    assert store.upkeep.sweep(now=1e12, grace=0.0).result(60) == 0, "they may be what somebody looks for"
    assert store.blobs.anywhere(blob.digest) == blob


def test_lost_files_are_named_when_they_were_owned(
    before: dict[str, Any], root: Path, opener: Opener
) -> None:
    file_of(root, hashed(LARGE)[0]).unlink()
    os.truncate(file_of(root, hashed(LAYER)[0]), 77)
    problems = fsck(root).problems
    assert len([p for p in problems if "file is missing or not a plain file" in p]) == 2
    report = rebuild(root)
    assert [p for p in report.problems if p.startswith("LOST")] == [
        f"LOST: {hashed(LARGE)[0]}, {len(LARGE)} bytes, which was pushed here"
    ]
    assert (report.counts["owned blobs lost"], report.counts["cached blobs lost"]) == (1, 1)
    assert len(os.listdir(root / "quarantine")) == 1
    store = opener()
    for repository in ("library/a", "library/c"):
        assert store.blobs.get(repository, hashed(LAYER)[0]) is None
    assert store.references.manifest("library/a", SUBJECT) == before["owned"]
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_strays_are_admitted_or_set_aside(before: dict[str, Any], root: Path, opener: Opener) -> None:
    good, bad = some_bytes(50_000, 8), some_bytes(50_000, 9)
    file_of(root, hashed(good)[0]).write_bytes(good)
    file_of(root, hashed(bad)[0]).write_bytes(b"other")
    file_of(root, hashed(bad)[0]).with_name("notes.txt").write_bytes(b"other")
    os.symlink("/etc/passwd", file_of(root, Digest.of(b"link")))
    assert fsck(root).counts["stray files"] == 4
    report = rebuild(root)
    assert report.counts["files admitted"] == 1
    assert len(report.problems) == 3
    assert len(os.listdir(root / "quarantine")) == 3
    store = opener()
    admitted = store.blobs.anywhere(hashed(good)[0])
    assert admitted is not None
    assert read_all(store, admitted) == good
    assert contents(store) == before


def test_a_store_in_use_is_not_rebuilt(store: Store, root: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="written by another process"):
        rebuild(root)
    with pytest.raises(StoreRefused, match="holds no store"):
        rebuild(tmp_path / "nothing")


# --- the journal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_torn_tail_is_cut(before: dict[str, Any], root: Path, opener: Opener, cut: int) -> None:
    log = root / "journal" / "log"
    whole = log.stat().st_size
    with log.open("ab") as file:
        file.write(framing.encode_frame([(layout.REPOSITORY + b"never", b"x" * 40)])[:-cut])
    opener().close()
    assert log.stat().st_size == whole
    with log.open("ab") as file:
        file.write(framing.FRAME_MAGIC + bytes(cut))
    lose_index(root)
    report = rebuild(root)
    assert report.counts["torn tail bytes"] == 4 + cut
    assert report.problems == []
    assert contents(opener()) == before


def test_a_frame_the_index_never_saw_is_done_again(
    before: dict[str, Any], root: Path, opener: Opener
) -> None:
    """A crash left it, or the index is one commit older: whoever was told of it must find it."""
    log = root / "journal" / "log"
    key = layout.repository_key("ghost")
    with log.open("ab") as file:
        file.write(framing.encode_frame([(key, layout.seal(key, layout.encode_time(1.0)))]))
    whole = log.stat().st_size
    store = opener()
    assert store.references.has_repository("ghost")
    assert log.stat().st_size == whole
    store.close()
    assert fsck(root).problems == []


@pytest.mark.parametrize("harm", ["gone", "short", "other", "head"])
def test_a_lost_journal_is_written_again_from_the_index(
    before: dict[str, Any], root: Path, opener: Opener, harm: str
) -> None:
    log = root / "journal" / "log"
    if harm == "gone":
        log.unlink()
    elif harm == "short":
        os.truncate(log, log.stat().st_size - 1)
    elif harm == "other":
        log.write_bytes(framing.encode_journal_head(b"u" * 16, 1) + bytes(1 << 24))
    else:
        flip_bit(log, 20)
    if harm != "short":
        assert any("not that of this index" in p for p in fsck(root).problems)
    opener().close()
    assert fsck(root).problems == []
    lose_index(root)
    assert rebuild(root).problems == []
    assert contents(opener()) == before


def test_an_unsynced_tail_that_did_not_reach_the_disk(
    before: dict[str, Any], root: Path, opener: Opener
) -> None:
    """After a power cut a file can have its length and zeros for content."""
    store = opener()
    digest = put_manifest(store, "r", b"cached", owned=False)
    store.close()
    log = root / "journal" / "log"
    with log.open("r+b") as file:
        file.seek(-60, os.SEEK_END)
        file.write(bytes(60))
    assert any("journal is damaged" in p for p in fsck(root).problems)
    opener().close()
    assert fsck(root).problems == []
    lose_index(root)
    assert rebuild(root).problems == []
    store = opener()
    assert store.references.manifest("r", digest) is not None
    assert contents(store) == before | {"repositories": [*before["repositories"], "r"]}


def test_a_grown_journal_is_compacted_after_the_next_start(
    root: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "SLACK_BYTES", 1000)
    store = opener()
    fill_store(store)
    for n in range(300):
        store.references.lists.put_tag_list("library/b", [f"{n}-{m}" for m in range(100)], now=float(n))
    store.references.lists.put_tag_list("library/b", ["x", "y"], now=4.0).result()
    before, grown = contents(store), store.statistics().journal_bytes
    store.close()
    store = opener()
    assert store.upkeep.journal_is_long
    assert store.upkeep.compact_journal().result() is True
    assert store.statistics().journal_bytes < grown / 5
    assert contents(store) == before
    store.close()
    lose_index(root)
    assert rebuild(root).problems == []
    assert contents(opener()) == before


def test_a_journal_that_holds_the_only_good_copy_is_not_compacted(
    root: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "SLACK_BYTES", -(1 << 30))
    store = opener()
    digest = put_manifest(store, "r", b"find me" + bytes(500), owned=True)
    store.close()
    data = root / "index" / "data.mdb"
    at = data.read_bytes().find(b"find me")
    while at > 0:
        flip_bit(data, at + 100)
        at = data.read_bytes().find(b"find me", at + 1)
    store = opener()
    assert store.upkeep.journal_is_long
    assert store.upkeep.compact_journal().result() is False
    store.close()
    assert any("does not match its checksum" in p for p in fsck(root).problems)
    rebuild(root)
    assert opener().references.manifest("r", digest) is not None


def test_frames_end_where_the_file_does(root: Path, opener: Opener) -> None:
    store = opener()
    fill_store(store)
    store.close()
    found = list(journals.frames(root / "journal"))
    assert found[0].start == framing.JOURNAL_HEAD_BYTES
    assert found[-1].end == (root / "journal" / "log").stat().st_size
    assert all(a.end == b.start for a, b in pairwise(found))
    assert all(f.changes for f in found)


# --- fsck ------------------------------------------------------------------------------------------------


def test_a_sound_store_has_no_problems(before: dict[str, Any], root: Path) -> None:
    report = fsck(root, (1, 1))
    assert report.problems == []
    assert report.counts["blobs read"] == 5
    assert report.counts["bytes read"] == sum(map(len, (LAYER, CONFIG, OWNED, SIGNATURE, LARGE)))
    shares = [fsck(root, (n, 3)).counts["blobs read"] for n in (1, 2, 3)]
    assert sum(shares) == 5
    assert fsck(root).counts["blobs read"] == 0
    for share in [(0, 3), (4, 3), (1, 0)]:
        with pytest.raises(ValueError, match="allowed: 1 <= n <= m"):
            fsck(root, share)


def test_flipped_bytes_are_found_when_they_are_read(before: dict[str, Any], root: Path) -> None:
    flip_bit(file_of(root, hashed(LAYER)[0]), 1_200_000)
    assert fsck(root).problems == []
    problems = fsck(root, (1, 1)).problems
    assert len(problems) == 1
    assert str(hashed(LAYER)[0]) in problems[0]


def test_what_names_nothing_is_found(root: Path, opener: Opener) -> None:
    from holdfast_core.changes import change
    from holdfast_core.changes.transaction import commit_alone

    store = opener()
    put_manifest(store, "r", b"1")
    missing = Digest.of(b"missing")
    store.references.put_tag("r", "v1", missing, now=1.0).result()
    link = layout.link_key("r", layout.AS_BLOB, missing.key)
    unnamed = layout.link_key("unnamed", layout.AS_BLOB, Digest.of(b"1").key)
    orphan = layout.segment_key(layout.CHUNKS + missing.key, 0)
    rows = [change.put(k, layout.encode_link(1.0)) for k in (link, unnamed)]
    rows += [change.put(orphan, b"x" * 32), change.put(b"?unknown", b"")]
    rows.append(change.put(layout.tagged_key(layout.tag_key("r", "never"), missing), b""))
    store.close()
    store = opener()
    commit_alone(store._index, rows)
    store.close()
    problems = fsck(root).problems
    for sentence in (
        f"r:v1 points to {missing}, which is not held there",
        f"r links {missing}, whose bytes are not held",
        "has links but no name",
        f"{missing}: chunks records without a blob",
        "1 records of no known table",
        "the holder table lacks 2 records",
        "the tagged table has too many: 1 records",
        "the account table lacks 1 records",
        "the account table has 1 wrong records",
        "the use table lacks 2 records",
        "the loose table lacks",
    ):
        assert any(sentence in p for p in problems), sentence
    assert len(problems) == 11


def test_quarantined_chunks_are_problems(root: Path, opener: Opener) -> None:
    store = opener()
    blob = put_file(store, "r", LAYER)
    store.blobs.quarantine(blob.digest, CHUNK_BYTES, CHUNK_BYTES + 1).result()
    store.close()
    (problem,) = fsck(root).problems
    assert problem.startswith(f"{blob.digest}: chunks 1 of 2 are quarantined, in r; ")
    assert rebuild(root).problems == []


def test_what_cannot_be_opened_is_a_problem(before: dict[str, Any], root: Path, tmp_path: Path) -> None:
    assert fsck(tmp_path / "nothing").problems == [f"{tmp_path}/nothing holds no store.json"]
    cut_index(root)
    assert "before pages in use" in fsck(root).problems[0]
    lose_index(root)
    assert "has no index" in fsck(root).problems[0]
    assert not (root / "index").exists()


# --- recovery at a start ---------------------------------------------------------------------------------


def test_after_a_restart_of_the_machine(root: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached files that were not synced: short or gone ones are forgotten, the rest is checked when read."""
    from holdfast_core.filesystem import files

    store = opener()
    good, wrong, short, gone = (put_file(store, "r", some_bytes(1_100_000, n)) for n in range(4))
    store.close()
    flip_bit(file_of(root, wrong.digest), 5)
    os.truncate(file_of(root, short.digest), 0)
    file_of(root, gone.digest).unlink()
    opener().close()
    assert len(fsck(root).problems) == 2, "in the same boot nothing is lost, so nothing is looked at"
    monkeypatch.setattr(files, "boot_id", lambda: b"another boot.id.")
    store = opener()
    for lost in (short, gone):
        assert store.blobs.get("r", lost.digest) is None
    for kept in (good, wrong):
        found = store.blobs.get("r", kept.digest)
        assert found is not None
        assert found.boot == b""
    from holdfast_core.errors import ChunkDamaged

    assert read_all(store, good) == some_bytes(1_100_000, 0)
    with pytest.raises(ChunkDamaged):
        read_all(store, wrong)
    store.close()
    assert fsck(root).problems == []


def test_case_fault_12_what_an_earlier_version_had_of_a_blob_is_gone_on_with(
    root: Path, opener: Opener
) -> None:
    """It named a part, and the hashes beside it, by the digest alone."""
    store = opener()
    fill = golden.FILL
    store.blobs.fills.open_part(fill.repository, fill.digest, fill.size).close()
    store.blobs.fills.checkpoint(fill).result()
    store.close()
    names = [part_name(fill.repository, fill.digest), progress_name(fill.repository, fill.digest)]
    (root / "fills" / names[1]).write_bytes(b"hashes")
    for name in names:
        former = name.replace(names[0], f"{fill.digest.algorithm}-{fill.digest.hex}")
        (root / "fills" / name).rename(root / "fills" / former)
    assert opener().blobs.fills.states() == [fill]
    assert sorted(os.listdir(root / "fills")) == names
    assert (root / "fills" / names[1]).read_bytes() == b"hashes"


def test_parts_and_checkpoints_that_lost_each_other(root: Path, opener: Opener) -> None:
    from holdfast_core import FillState

    store = opener()
    states = [
        FillState("r", Digest.of(bytes([n])), 9, "", ((0, 4),), {0: b"x" * 32}, True, 1.0) for n in range(3)
    ]
    for state in states:
        store.blobs.fills.checkpoint(state).result()
    for state in states[:2]:
        store.blobs.fills.open_part(state.repository, state.digest, state.size).close()
    store.blobs.fills.open_part("r", Digest.of(b"stray"), 9).close()
    store.close()
    os.truncate(root / "fills" / part_name(states[1].repository, states[1].digest), 8)
    (root / "fills" / "put-leftover").write_bytes(b"x")
    store = opener()
    assert store.blobs.fills.states() == [states[0]]
    assert os.listdir(root / "fills") == [part_name(states[0].repository, states[0].digest)]
