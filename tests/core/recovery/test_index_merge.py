"""What a rebuild believes: the index up to the end of the journal that it knows, the journal from there on, and the
journal also for what the index cannot tell."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import Descriptor, Digest, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.index.page_reader import IndexPages
from holdfast_core.journal import frame as framing
from holdfast_core.journal import journal_file as journals
from holdfast_core.record import LockTarget
from holdfast_core.recovery.lost_records import LostRecords
from holdfast_core.recovery.old_index import OldIndex
from holdfast_core.upkeep.fsck import FsckReport
from support.stores import flip_bit, keep_index, push, push_file, put_back, some_bytes, strike

Opener = Callable[..., Store]
PAGE = 4096
BODIES = [b"manifest %d " % n + some_bytes(300, n) for n in range(5)]
TAGS = [f"t{n}" for n in range(5)]


@pytest.fixture
def log(root: Path, opener: Opener) -> Path:
    """The journal of a closed store with a frame for each of BODIES, under a tag of its own."""
    store = opener()
    for body, tag in zip(BODIES, TAGS, strict=True):
        push(store, "a", body, tag)
    store.close()
    return root / "journal" / "log"


@pytest.fixture
def data(log: Path, root: Path) -> Path:
    """Its index."""
    return root / "index" / "data.mdb"


def frame_of(log: Path, wanted: bytes) -> journals.Frame:
    """The one frame that has these bytes."""
    (found,) = (f for f in journals.frames(log.parent) if wanted in journals.bytes_of(log.parent, f))
    return found


def blank(path: Path, start: int, end: int) -> None:
    """Zeros in the place of [start, end)."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(end - start))


def append(log: Path, *changes: tuple[bytes, bytes | None], cut: int = 0) -> None:
    """A frame behind all others, without its last `cut` bytes."""
    frame = framing.encode_frame(changes)
    with log.open("ab") as file:
        file.write(frame[: len(frame) - cut])


def repository(name: str) -> tuple[bytes, bytes]:
    """A record that is as good as any."""
    key = layout.repository_key(name)
    return key, layout.seal(key, layout.encode_time(1.0))


def everything(opener: Opener) -> bool:
    """Whether every body and every tag is there."""
    store = opener()
    held = [store.references.manifest("a", Digest.of(body)) for body in BODIES]
    tags = store.references.tags("a")
    store.close()
    return None not in held and tags == TAGS


def moves(tag: str) -> bytes:
    return layout.moves_key("a", tag)


# --- the journal, with no index ---------------------------------------------------------------------------


def test_case_fault_6_a_bit_of_the_journals_head_costs_nothing(log: Path, root: Path, opener: Opener) -> None:
    flip_bit(log, 20)
    shutil.rmtree(root / "index")
    assert rebuild(root).problems == []
    assert everything(opener)


def test_case_fault_6_what_was_written_anew_is_not_lost(root: Path, opener: Opener) -> None:
    store = opener()
    first, second = push(store, "a", b"first", "t"), push(store, "a", b"second", "t")
    assert store.references.tags("a") == ["t"]
    store.close()
    log = root / "journal" / "log"
    strike(log, layout.tag_key("a", "t"), 8, behind=True)
    shutil.rmtree(root / "index")
    assert rebuild(root).problems == []
    store = opener()
    tag = store.references.tag("a", "t")
    assert tag is not None
    assert tag.digest == second
    assert store.references.manifest("a", first) is not None


def test_case_fault_6_a_hole_in_the_journal_is_named_once(log: Path, root: Path, opener: Opener) -> None:
    """In the middle it is no torn tail, whatever can be read of it."""
    store = opener()
    store.references.put_tag("a", "here", Digest.of(BODIES[0]), now=2.0).result()
    push(store, "a", b"later", "later")
    store.close()
    hole = frame_of(log, layout.tag_key("a", "here"))
    blank(log, hole.start, hole.end)
    shutil.rmtree(root / "index")
    (problem,) = rebuild(root).problems
    assert problem.startswith(f"LOST: the journal is damaged from byte {hole.start} to {hole.end}, and ")
    store = opener()
    assert store.references.tags("a") == ["later", *TAGS]


def test_case_fault_6_a_last_frame_that_is_all_there_is_no_torn_tail(
    log: Path, root: Path, opener: Opener
) -> None:
    """Its head and its length are: it was written, so somebody may have been told of it."""
    last = list(journals.frames(log.parent))[-1]
    blank(log, last.start + framing.FRAME_HEAD_BYTES, last.end)
    shutil.rmtree(root / "index")
    assert any("the journal is damaged from byte" in problem for problem in rebuild(root).problems)


def test_case_fault_6_a_torn_tail_is_taken_for_nothing(log: Path, root: Path, opener: Opener) -> None:
    """Also when some of its records are whole: a frame is a transaction."""
    append(log, repository("whole"), repository("torn"), cut=20)
    shutil.rmtree(root / "index")
    report = rebuild(root)
    assert report.problems == []
    assert report.counts["torn tail bytes"] > 0
    assert opener().references.repositories() == ["a"]


def test_case_fault_6_a_bit_of_a_removal_brings_nothing_back(root: Path, opener: Opener) -> None:
    store = opener()
    push(store, "a", b"gone", "gone")
    push(store, "a", b"kept", "kept")
    store.references.delete_tag("a", "gone", now=2.0).result()
    store.close()
    log = root / "journal" / "log"
    flip_bit(log, log.read_bytes().rindex(layout.tag_key("a", "gone")) + 3)
    shutil.rmtree(root / "index")
    assert rebuild(root).problems == []
    assert opener().references.tags("a") == ["kept"]


def test_case_fault_6_a_removal_that_may_have_been_hit_is_named(root: Path, opener: Opener) -> None:
    """A removal has no checksum of its own: the frame's fails, and each of its records looks whole."""
    store = opener()
    push(store, "a", b"kept", "kept")
    store.close()
    log = root / "journal" / "log"
    append(log, repository("came"), (layout.repository_key("went"), None))
    blank(log, log.stat().st_size - layout.SEAL_BYTES, log.stat().st_size)
    append(log, repository("after"))
    shutil.rmtree(root / "index")
    (problem,) = rebuild(root).problems
    assert "maybe in a removal: what was removed there may be back" in problem
    assert opener().references.repositories() == ["a", "after", "came"]


def test_case_fault_6_a_change_of_no_journaled_table_is_left_out(
    log: Path, root: Path, opener: Opener
) -> None:
    key = layout.UNSYNCED + Digest.of(BODIES[0]).key
    append(log, (key, layout.seal(key, b"")))
    shutil.rmtree(root / "index")
    (problem,) = rebuild(root).problems
    assert problem.startswith("the journal holds a change of no journaled table")
    store = opener()
    assert store._index.get(key) is None


def test_case_fault_6_a_damaged_record_in_a_whole_frame_is_lost(
    log: Path, root: Path, opener: Opener
) -> None:
    """It was damaged before it was written there: nobody takes it for what it was."""
    key, value = repository("ghost")
    append(log, (key, value[:-1] + bytes([value[-1] ^ 3])))
    shutil.rmtree(root / "index")
    assert rebuild(root).problems == ["LOST: repository ghost"]
    assert opener().references.repositories() == ["a"]


def test_case_fault_6_an_older_copy_of_the_same_bytes_serves(root: Path, opener: Opener) -> None:
    store = opener()
    digest = push(store, "a", b"twice" * 20, "t")
    store.references.delete_manifest("a", digest, now=2.0).result()
    store.upkeep.sweep(now=9e9, grace=0.0).result()
    push(store, "a", b"twice" * 20, "t")
    store.close()
    log = root / "journal" / "log"
    assert log.read_bytes().count(b"twice" * 20) == 2
    at = log.read_bytes().rindex(b"twice" * 20)
    blank(log, at, at + 8)
    shutil.rmtree(root / "index")
    rebuild(root)
    assert opener().references.manifest("a", digest) is not None


def manifest_of(name: str, digest: Digest, origin: str) -> tuple[bytes, bytes]:
    """A tag's record."""
    key = layout.tag_key("a", name)
    return key, layout.seal(key, layout.encode_tag(digest, 1.0, 1.0, origin))


def test_case_fault_6_what_names_nothing_is_dropped_and_named(root: Path, opener: Opener) -> None:
    """Links without bytes, and tags, referrers and notes without their manifest. What follows the parent, the parent
    tells again; bytes that are linked as a blob are no manifest."""
    store = opener()
    held = push(store, "a", b"kept", "kept")
    layer = push_file(store, "a", some_bytes(50_000)).digest
    store.close()
    gone = Digest.of(b"gone")
    link, note = layout.link_key("a", layout.AS_MANIFEST, gone.key), layout.pending_key("a", gone)
    referrer = layout.referrer_prefix("a", held) + gone.key
    rows = {
        link: layout.encode_link(1.0, "m"),
        note: layout.encode_pending("a", 1.0),
        referrer: layout.encode_descriptor(Descriptor("m", str(gone), 4, "", {})),
    }
    append(
        root / "journal" / "log",
        *((key, layout.seal(key, payload)) for key, payload in rows.items()),
        manifest_of("ours", gone, "local"),
        manifest_of("theirs", gone, "parent"),
        manifest_of("layer", layer, "local"),
    )
    shutil.rmtree(root / "index")
    report = rebuild(root)
    assert report.problems == [
        f"LOST: {gone} of a: its bytes",
        f"LOST: tag layer of a, which pointed to {layer}",
        f"LOST: tag ours of a, which pointed to {gone}",
    ]
    assert report.counts["cached tags lost"] == 1
    store = opener()
    assert store.references.tags("a") == ["kept"]
    assert store.references.manifest("a", held) is not None
    assert store.blobs.get("a", layer) is not None
    with store._index.view() as view:
        assert [view.raw(key) for key in rows] == [None] * 3
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_case_fault_6_what_is_as_it_was_before_is_named(root: Path, opener: Opener) -> None:
    store = opener()
    first = push(store, "a", b"first", "t")
    push(store, "a", b"second", "t")
    store.close()
    log = root / "journal" / "log"
    at = log.read_bytes().rindex(layout.tag_key("a", "t")) + len(layout.tag_key("a", "t"))
    blank(log, at, at + 8)
    shutil.rmtree(root / "index")
    report = rebuild(root)
    assert "tag t of a is as it was before: what came after cannot be read" in report.problems
    assert report.counts["tag records lost"] == 1
    tag = opener().references.tag("a", "t")
    assert tag is not None
    assert tag.digest == first


BODY = Digest.of(b"body")
#: the key of a record of each kind that a rebuild may miss, as a person reads it
SPOKEN = {
    layout.repository_key("a"): "repository a",
    layout.link_key("a", layout.AS_MANIFEST, BODY.key): f"link {BODY} of a",
    layout.tag_key("a", "t"): "tag t of a",
    layout.moves_key("a", "t"): "moves of tag t of a",
    layout.pending_key("a", BODY): f"note that the parent does not have {BODY} of a",
    layout.deleted_key("a", "tag", "t"): "note that was deleted: t of a",
    layout.deleted_key("a", "manifest", str(BODY)): f"note that was deleted: {BODY} of a",
    layout.lock_key("a", LockTarget("tag", "t")): "lock t of a",
    layout.lock_key("a", LockTarget("repository")): "lock  of a",
    layout.BLOB + BODY.key: f"{BODY}: its blob record",
    layout.CHUNKS + BODY.key + bytes(4): f"{BODY}: its chunks record",
    layout.resource_key("token", "Plant"): "token plant",
    layout.RESOURCE: "the revision of the control plane",
    layout.outbox_key(2): f"outbox record {layout.outbox_key(2)[1:].hex()}",
    layout.tag_key("a", "t")[:-1] + b"\xff": f"tag record {layout.tag_key('a', 't')[1:-1].hex()}ff",
    layout.tag_key("b", "t"): f"tag t of unnamed repository {layout.repository_hash('b').hex()}",
}


def test_case_fault_6_every_kind_of_record_has_a_name(opener: Opener) -> None:
    store = opener()
    push(store, "a", b"body", "t")
    loss = LostRecords(store._index, FsckReport())
    assert {key: loss.spoken(key) for key in SPOKEN} == SPOKEN


# --- the index --------------------------------------------------------------------------------------------


def test_case_fault_6_what_the_index_cannot_tell_the_journal_does(
    log: Path, data: Path, root: Path, opener: Opener
) -> None:
    strike(data, b"manifest 3 ", 8)
    with OldIndex(data) as former:
        assert (former.damaged, former.sound) == (1, False)
        assert {piece.key[:1] for piece in former.rows()} <= layout.JOURNALED_TABLES
    assert rebuild(root).problems == []
    assert everything(opener)


def test_case_fault_6_pages_that_are_gone_come_from_the_journal(
    log: Path, data: Path, root: Path, opener: Opener
) -> None:
    for at in (
        i for i in range(0, data.stat().st_size, PAGE) if b"manifest 3 " in data.read_bytes()[i : i + PAGE]
    ):
        blank(data, at, at + PAGE)
    assert rebuild(root).problems == []
    assert everything(opener)


def test_case_fault_6_what_neither_tells_is_named(log: Path, data: Path, root: Path, opener: Opener) -> None:
    """Nothing else names the moves of a tag, so nobody would miss them."""
    strike(data, moves("t3"), 8, behind=True)
    hole = frame_of(log, moves("t3"))
    blank(log, hole.start, hole.end)
    assert "LOST: moves of tag t3 of a" in rebuild(root).problems


def test_case_fault_6_damage_that_the_index_knows_of_is_no_torn_tail(
    log: Path, data: Path, root: Path, opener: Opener
) -> None:
    """The last frame, of which nothing can be read; the index had it."""
    strike(data, moves("t4"), 8, behind=True)
    hole = frame_of(log, moves("t4"))
    assert hole.end == log.stat().st_size
    blank(log, hole.start, hole.end)
    problems = rebuild(root).problems
    assert "LOST: moves of tag t4 of a" in problems
    assert everything(opener)


def test_case_fault_6_one_bit_of_a_record_is_made_good_without_a_journal(
    log: Path, data: Path, root: Path, opener: Opener
) -> None:
    for at in (i for i in range(data.stat().st_size) if data.read_bytes().startswith(b"manifest 3 ", i)):
        flip_bit(data, at)
    log.unlink()
    assert rebuild(root).problems == []
    assert everything(opener)


def test_case_fault_6_what_the_index_lost_and_no_journal_has_is_named(
    log: Path, data: Path, root: Path, opener: Opener
) -> None:
    strike(data, moves("t3"), 8, behind=True)
    log.unlink()
    problems = rebuild(root).problems
    assert "LOST: moves of tag t3 of a" in problems
    assert any("no journal has: 1 records are damaged" in problem for problem in problems)
    assert everything(opener)


def test_case_fault_6_the_tree_before_counts_when_the_newest_is_damaged(
    log: Path, data: Path, root: Path, opener: Opener
) -> None:
    """It is whole, one transaction older, and the journal has the rest."""
    with IndexPages(data) as pages:
        newest, before = pages.metas
    assert newest.root is not None
    blank(data, newest.root * PAGE, (newest.root + 1) * PAGE)
    with OldIndex(data) as former:
        assert former._meta == before
        assert former.sound
        assert former.state is not None
    assert rebuild(root).problems == []
    assert everything(opener)


# --- which journal ----------------------------------------------------------------------------------------


def test_case_fault_6_the_journal_goes_on_behind_an_older_index(root: Path, opener: Opener) -> None:
    store = opener()
    for body, tag in zip(BODIES[:3], TAGS[:3], strict=True):
        push(store, "a", body, tag)
    store.close()
    keep_index(root)
    store = opener()
    for body, tag in zip(BODIES[3:], TAGS[3:], strict=True):
        push(store, "a", body, tag)
    store.close()
    put_back(root)
    flip_bit(root / "journal" / "log", 20)
    assert rebuild(root).problems == []
    assert everything(opener)


def test_case_fault_6_damage_behind_an_older_index_is_named_once(root: Path, opener: Opener) -> None:
    """Also when the index is damaged, and the journal is read from its beginning."""
    store = opener()
    push(store, "a", BODIES[0], "t0")
    store.close()
    keep_index(root)
    store = opener()
    for body, tag in zip(BODIES[1:], TAGS[1:], strict=True):
        push(store, "a", body, tag)
    store.close()
    put_back(root)
    strike(root / "index" / "data.mdb", moves("t0"), 8, behind=True)
    log = root / "journal" / "log"
    hole = frame_of(log, moves("t2"))
    blank(log, hole.start, hole.end)
    problems = rebuild(root).problems
    assert sum("the journal is damaged from byte" in problem for problem in problems) == 1


def test_case_fault_6_an_older_journal_brings_nothing_back(root: Path, opener: Opener) -> None:
    store = opener()
    push(store, "a", b"gone", "gone")
    push(store, "a", b"kept", "kept")
    store.close()
    log = root / "journal" / "log"
    older = log.read_bytes()
    store = opener()
    store.references.delete_tag("a", "gone", now=2.0).result()
    store.close()
    log.unlink()
    opener().close()
    log.write_bytes(older)
    assert rebuild(root).problems == []
    assert opener().references.tags("a") == ["kept"]


@pytest.mark.parametrize("uuid", [bytes(16), b"\xff" * 16])
def test_case_fault_6_the_journal_of_another_store_is_not_taken(
    log: Path, root: Path, opener: Opener, uuid: bytes
) -> None:
    log.write_bytes(framing.encode_journal_head(uuid, 1))
    append(log, repository("other"))
    assert rebuild(root).problems == []
    assert everything(opener)
    assert opener().references.repositories() == ["a"]
