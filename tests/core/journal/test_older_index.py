"""An index that is older than its journal: what was acknowledged since is done again, never cut off."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from holdfast_core import Digest, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.errors import StoreRefused
from holdfast_core.journal import frame as framing
from holdfast_core.journal import journal_file as journals
from holdfast_core.journal import replay
from holdfast_core.record import EventRecord, ResourceChange
from msgspec.structs import replace
from support.format_reader import FormatReader
from support.stores import (
    dump,
    file_of,
    flip_bit,
    hashed,
    keep_index,
    push,
    push_file,
    put_back,
    put_file,
    put_manifest,
    read_all,
    some_bytes,
)

Opener = Callable[..., Store]


def tag_names(store: Store) -> list[str]:
    return sorted(store.references.tags("a"), key=lambda name: int(name[1:]))


def test_case_fault_7_an_older_index_loses_no_tag(root: Path, opener: Opener) -> None:
    store = opener()
    for n in range(50):
        push(store, "a", b"%d" % n, f"t{n}")
    store.close()
    keep_index(root)
    store = opener()
    for n in range(50, 100):
        push(store, "a", b"%d" % n, f"t{n}")
    store.close()
    length = (root / "journal" / "log").stat().st_size
    put_back(root)
    assert any("the index is older than the journal" in problem for problem in fsck(root).problems)
    store = opener()
    assert tag_names(store) == [f"t{n}" for n in range(100)]
    assert (root / "journal" / "log").stat().st_size == length
    store.close()
    assert fsck(root, (1, 1)).problems == []


@pytest.mark.parametrize("behind", [0, 1, 2, 9])
def test_case_fault_7_the_tables_beside_the_journal_follow(root: Path, opener: Opener, behind: int) -> None:
    """Of every kind of change: the index is the same, record for record, as if it had never been old."""
    store = opener()
    subject = push(store, "a", b"subject", "moving", "going")
    large, gone = some_bytes(50_000), some_bytes(60_000, 2)
    put_file(store, "a", gone)
    put_manifest(store, "b", b"cached")
    steps: list[Callable[[], object]] = [
        lambda: put_file(store, "a", large),
        lambda: push(store, "a", b"other", "moving", "coming", subject=subject),
        lambda: store.references.delete_tag("a", "going", now=3.0).result(),
        lambda: store.blobs.delete("a", hashed(gone)[0], now=3.0).result(),
        lambda: store.upkeep.sweep(now=9.0, grace=1.0).result(),
        lambda: push_file(store, "c", some_bytes(70_000, 3)),
        lambda: store.blobs.mount("a", hashed(some_bytes(70_000, 3))[0], source="c", now=4.0).result(),
        lambda: store.references.lists.put_tag_list("b", ["x", "y"], now=4.0).result(),
        lambda: store.references.remove_manifest("b", Digest.of(b"cached"), now=5.0).result(),
    ]
    for number, step in enumerate(steps):
        if len(steps) - number == behind:
            store.close()
            keep_index(root)
            store = opener()
        step()
    store.close()
    if behind == 0:
        keep_index(root)
    store = opener()
    wanted = settled(store, root)
    store.close()
    put_back(root)
    store = opener()
    assert settled(store, root) == wanted
    store.close()
    assert fsck(root, (1, 1)).problems == []
    assert not file_of(root, hashed(gone)[0]).exists()


def test_an_event_of_a_document_outlives_a_kill_before_its_commit(root: Path, opener: Opener) -> None:
    """The frame is in the journal, and the index does not know of it: nothing else would tell of the event again."""
    store = opener()
    store.events.keep(True).result()
    store.close()
    keep_index(root)
    store = opener()
    event = EventRecord("conflict", "tag", "a", 5.0, "t", theirs="sha256:" + "b" * 64, winner="parent")
    document = ResourceChange("conflict", "7", b"\xc0")
    store.documents.change(
        lambda view: [document], quiet=frozenset({"conflict"}), events=lambda: [event]
    ).result()
    store.close()
    put_back(root)
    store = opener()
    assert [replace(one, number=0) for one in store.events.after(0, 10)] == [event]
    store.close()
    assert fsck(root, (1, 1)).problems == []
    assert FormatReader(root).run() == []


def told_of_a_document(opener: Opener) -> None:
    """A store with a document of which an event tells, and content."""
    store = opener()
    store.events.keep(True).result()
    event = EventRecord("conflict", "tag", "a", 5.0, "t", theirs="sha256:" + "b" * 64, winner="parent")
    document = ResourceChange("conflict", "7", b"\xc0")
    store.documents.change(
        lambda view: [document], quiet=frozenset({"conflict"}), events=lambda: [event]
    ).result()
    push(store, "a", b"one", "x")
    store.close()


def test_an_event_of_a_document_is_no_problem_of_a_rebuild(root: Path, opener: Opener) -> None:
    told_of_a_document(opener)
    (root / "index" / "data.mdb").unlink()
    assert rebuild(root).problems == []
    store = opener()
    assert [row.name for row in store.documents.of_kind("conflict")] == ["7"]
    assert list(store.events.after(0, 10)) == []
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_an_event_beside_a_damaged_record_is_not_named(root: Path, opener: Opener) -> None:
    """Two bits of the document that it tells of: more than can be turned back."""
    told_of_a_document(opener)
    frame = next(
        frame
        for frame in journals.frames(root / "journal")
        if any(key[:1] == layout.EVENT for key, _ in frame.changes or ())
    )
    journal = root / "journal" / "log"
    place = journal.read_bytes().index(b"\xc0", frame.start)
    flip_bit(journal, place, 0)
    flip_bit(journal, place, 5)
    (root / "index" / "data.mdb").unlink()
    problems = rebuild(root).problems
    assert problems
    assert not [problem for problem in problems if "event" in problem]


def settled(store: Store, root: Path) -> dict[bytes, bytes]:
    """All records, but for the time since when bytes have no link, and links no name."""
    rows, _ = dump(store, root)
    return {key: b"" if key[:1] in (layout.UNLINKED, layout.LOOSE) else value for key, value in rows.items()}


#: a tag whose name begins as what marks a link to a manifest does
MANIFEST_LIKE = layout.AS_MANIFEST.decode() + "ain"


def test_case_fault_7_followers_hear_of_what_is_done_again(root: Path, opener: Opener) -> None:
    store = opener()
    store.events.keep(True).result()
    push(store, "a", b"one", "x", "y")
    store.close()
    keep_index(root)
    store = opener()
    head = store.events.head()
    assert head is not None
    two = push(store, "a", b"two", "x")
    three = push(store, "b", b"three")
    store.references.delete_tag("a", "y", now=2.0).result()
    store.references.delete_manifest("b", three, now=2.0).result()
    store.references.remove_repository("b", now=2.0).result()
    fetched = put_manifest(store, "a", b"fetched")
    store.references.put_tag("a", "f", fetched, now=3.0).result()
    store.references.put_tag("a", "f", fetched, now=3.0, origin="local").result()  # does not move
    blob = push_file(store, "a", some_bytes(20_000))
    store.blobs.delete("a", blob.digest, now=3.0).result()
    push(store, "a", b"two", MANIFEST_LIKE)
    store.references.delete_tag("a", MANIFEST_LIKE, now=4.0).result()
    told = heard(store, head.log, head.last)
    assert told is not None
    last = store.events.head().last  # type: ignore[union-attr]
    store.close()
    put_back(root)
    store = opener()
    assert heard(store, head.log, head.last) == told
    assert told[0] == ("push", "tag", "a", "x", str(two), "local")
    assert store.events.since(head.log, last, 10) is None, "who went further looks at everything"


def heard(store: Store, log: str, after: int) -> list[tuple[str, ...]] | None:
    """What a follower is told."""
    found = store.events.since(log, after, 100)
    return (
        None if found is None else [(e.verb, e.kind, e.repository, e.tag, e.digest, e.origin) for e in found]
    )


def test_case_fault_7_an_index_older_than_a_compaction_is_refused(root: Path, opener: Opener) -> None:
    """The journal has no removals of before it was written again: only a rebuild can take its word for them."""
    store = opener()
    kept, gone = push(store, "a", b"kept", "kept"), push(store, "a", b"gone", "gone")
    store.close()
    keep_index(root)
    store = opener()
    store.references.delete_manifest("a", gone, now=2.0).result()
    push(store, "a", b"later", "later")
    store.close()
    (root / "journal" / "log").unlink()
    opener().close()
    put_back(root)
    log = (root / "journal" / "log").read_bytes()
    with pytest.raises(StoreRefused, match=r"the index is older than the journal.*holdfast rebuild"):
        Store.create_or_open(root, write=True)
    assert (root / "journal" / "log").read_bytes() == log
    assert any("the index is older" in problem for problem in fsck(root).problems)
    assert rebuild(root).problems == []
    store = opener()
    assert store.references.tags("a") == ["kept", "later"]
    assert store.references.manifest("a", kept) is not None
    assert store.references.manifest("a", gone) is None


def test_case_fault_7_damage_behind_the_known_end_is_refused(root: Path, opener: Opener) -> None:
    store = opener()
    push(store, "a", b"0", "t0")
    store.close()
    keep_index(root)
    start = (root / "journal" / "log").stat().st_size
    store = opener()
    for n in range(1, 4):
        push(store, "a", b"%d" % n, f"t{n}")
    store.close()
    put_back(root)
    frames = list(journals.frames(root / "journal", start))
    flip_bit(root / "journal" / "log", frames[1].start + 100)
    log = (root / "journal" / "log").read_bytes()
    with pytest.raises(StoreRefused, match=r"damaged from byte .*holdfast rebuild"):
        Store.create_or_open(root, write=True)
    assert (root / "journal" / "log").read_bytes() == log
    assert any("damaged behind the end" in problem for problem in fsck(root).problems)


def ahead(root: Path, opener: Opener) -> Path:
    """A closed store whose journal goes on behind the end that its index knows; the journal's file."""
    store = opener()
    store.events.keep(True).result()
    push(store, "a", b"0", "t0")
    store.close()
    keep_index(root)
    store = opener()
    push(store, "a", b"1", "t1")
    store.close()
    put_back(root)
    return root / "journal" / "log"


def test_case_fault_7_what_is_done_again_is_on_the_disk_first(
    root: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer of before may have died before its sync: the index must not know of more than the disk has. With
    nothing to do again nothing is synced."""
    log = ahead(root, opener)
    steps: list[str] = []
    sync, again = os.fdatasync, replay._do_again

    def synced(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(log):
            steps.append("journal on disk")
        sync(fd)

    def done(*arguments: Any) -> None:
        steps.append("done again")
        again(*arguments)

    monkeypatch.setattr(os, "fdatasync", synced)
    monkeypatch.setattr(replay, "_do_again", done)
    store = opener()
    assert tag_names(store) == ["t0", "t1"]
    assert steps == ["journal on disk", "done again"]
    store.close()
    steps.clear()
    opener()
    assert steps == []


@pytest.mark.parametrize("change", ["another store", "another store, later", "an earlier one"])
def test_case_fault_7_the_frames_of_another_journal_are_not_done_again(
    root: Path, opener: Opener, change: str
) -> None:
    """It is written again from the index."""
    log = ahead(root, opener)
    uuid, generation = journals.head_of(root / "journal") or (b"", 0)
    head = {
        "another store": framing.encode_journal_head(bytes(16), generation),
        "another store, later": framing.encode_journal_head(bytes(16), generation + 1),
        "an earlier one": framing.encode_journal_head(uuid, generation - 1),
    }[change]
    log.write_bytes(head + log.read_bytes()[len(head) :])
    store = opener()
    assert tag_names(store) == ["t0"]
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_case_fault_7_a_damaged_head_of_the_journal_loses_no_tag(root: Path, opener: Opener) -> None:
    flip_bit(ahead(root, opener), 20)
    store = opener()
    assert tag_names(store) == ["t0", "t1"]
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_case_fault_7_a_sweep_is_done_again(root: Path, opener: Opener) -> None:
    store = opener()
    blob = push_file(store, "a", some_bytes(50_000))
    store.blobs.delete("a", blob.digest, now=1.0).result()
    store.close()
    keep_index(root)
    store = opener()
    assert store.upkeep.sweep(now=9.0, grace=1.0).result() == blob.size
    store.close()
    put_back(root)
    store = opener()
    assert store.blobs.anywhere(blob.digest) is None
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_case_fault_7_a_push_that_healed_heals_again(root: Path, opener: Opener) -> None:
    store = opener()
    body = some_bytes(50_000)
    blob = push_file(store, "a", body)
    assert store.blobs.quarantine(blob.digest, 0, blob.size).result() is True
    store.close()
    keep_index(root)
    store = opener()
    push_file(store, "a", body)
    store.close()
    put_back(root)
    store = opener()
    assert store.blobs.damage(limit=10) == []
    assert read_all(store, push_file(store, "a", body)) == body
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_case_fault_7_a_row_that_says_damaged_keeps_the_quarantine(root: Path, opener: Opener) -> None:
    """Found to be bad while somebody linked it."""
    store = opener()
    blob = push_file(store, "a", some_bytes(50_000))
    assert store.blobs.quarantine(blob.digest, 0, blob.size).result() is True
    key = layout.BLOB + blob.digest.key
    with store._index.view() as view:
        row = view.raw(key)
    store.close()
    with (root / "journal" / "log").open("ab") as file:
        file.write(framing.encode_frame([(key, row)]))
    store = opener()
    assert [(bad.digest, bad.chunks) for bad in store.blobs.damage(limit=10)] == [(blob.digest, (0,))]


def test_case_fault_7_a_torn_tail_behind_what_is_done_again_is_cut(root: Path, opener: Opener) -> None:
    log = ahead(root, opener)
    whole = log.stat().st_size
    with log.open("ab") as file:
        file.write(framing.encode_frame([(layout.tag_key("a", "t2"), bytes(100))])[:50])
    store = opener()
    assert tag_names(store) == ["t0", "t1"]
    assert log.stat().st_size == whole


def test_case_fault_7_who_does_not_know_how_far_the_journal_goes_is_refused(
    root: Path, opener: Opener
) -> None:
    store = opener()
    push(store, "a", b"0", "t0")
    with store._index.begin(write=True) as txn:
        value = txn.get(layout.JOURNALED) or b""
        txn.put(layout.JOURNALED, value[:-1] + bytes([value[-1] ^ 1]))
    store.close()
    log = (root / "journal" / "log").read_bytes()
    with pytest.raises(StoreRefused, match=r"nobody knows how far the journal goes.*holdfast rebuild"):
        Store.create_or_open(root, write=True)
    assert (root / "journal" / "log").read_bytes() == log
    assert rebuild(root).problems == []
    assert tag_names(opener()) == ["t0"]


@pytest.mark.parametrize("record", ["event", "tag"])
def test_case_fault_7_a_damaged_record_in_a_whole_frame_stops_no_start(
    root: Path, opener: Opener, record: str
) -> None:
    """It was damaged before it was written there. What it was about is mended or named like any other."""
    log = ahead(root, opener)
    key = layout.tag_key("a", "t0") if record == "tag" else layout.EVENT + bytes(8)
    value = layout.seal(key, b"what it was")
    with log.open("ab") as file:
        file.write(framing.encode_frame([(key, value[:-1] + bytes([value[-1] ^ 3]))]))
    store = opener()
    assert store.references.tag("a", "t1") is not None
    assert store.upkeep.is_damaged(key) == (record == "tag")
    assert [event.tag for event in store.events.after(0, 10)] == ["t0", "t1"]


@pytest.mark.parametrize("placed", [False, True])
def test_case_fault_7_a_frame_whose_commit_failed_names_no_file_that_was_taken_back(
    root: Path, opener: Opener, placed: bool
) -> None:
    store = opener()
    push(store, "a", b"0", "t0")
    store.close()
    keep_index(root)
    store = opener()
    blob = push_file(store, "a", some_bytes(50_000))
    store.close()
    put_back(root)
    if not placed:
        file_of(root, blob.digest).unlink()
    store = opener()
    assert (store.blobs.get("a", blob.digest) is not None) == placed
    store.close()
    assert fsck(root, (1, 1)).problems == []


@pytest.mark.parametrize("moment", ["written", "recorded", "renamed"])
def test_a_rewrite_that_is_cut_off_is_ended_or_forgotten(
    root: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Crash at any moment of writing the journal again: never is it of a later generation than its index knows."""
    from holdfast_core import opening

    class Killed(Exception):
        pass

    def die(*_: object) -> None:
        raise Killed

    store = opener()
    push(store, "a", b"0", "t0")
    store.close()
    (root / "journal" / "log").write_bytes(framing.encode_journal_head(b"x" * 16, 1))
    with monkeypatch.context() as patched:
        if moment == "written":
            patched.setattr(opening, "commit", die)
        elif moment == "recorded":
            patched.setattr(journals.Journal, "replace", die)
        else:
            patched.setattr(opening, "_settle_unsynced", die)
        with pytest.raises(Killed):
            Store.create_or_open(root, write=True)
    generation = journals.head_of(root / "journal")
    store = opener()
    assert store.references.tags("a") == ["t0"]
    push(store, "a", b"1", "t1")
    store.close()
    assert fsck(root, (1, 1)).problems == []
    assert os.listdir(root / "journal") == ["log"]
    assert journals.head_of(root / "journal") != generation or moment == "renamed"
