"""What a rebuild brings back when index and journal are damaged, and what it says of the rest."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import Digest, Lock, LockTarget, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.changes.resource_rows import ResourcePlan
from holdfast_core.errors import StoreError
from holdfast_core.index.page_reader import IndexPages
from holdfast_core.journal import frame as framing
from holdfast_core.journal import journal_file as journals
from holdfast_core.journal import salvage
from holdfast_core.record import ResourceChange
from holdfast_core.recovery.old_index import OldIndex
from support.command_line import command
from support.stores import dump, flip_bit, push, push_file, put_manifest, some_bytes, strike

Opener = Callable[..., Store]
MANY = 1_100


def body(n: int) -> bytes:
    return b"manifest %d" % n + some_bytes(1000, n)


@pytest.fixture
def many(opener: Opener, root: Path) -> list[Digest]:
    """1.1 MB of small objects in two frames of a journal that was written again."""
    store = opener()
    digests = [Digest.of(body(n)) for n in range(MANY)]
    futures = [
        store.references.push_manifest("library/a", digest, "m", body(n), tags=[f"t{n}"], now=1.0)
        for n, digest in enumerate(digests)
    ]
    for future in futures:
        future.result(60)
    store.close()
    (root / "journal" / "log").unlink()
    opener().close()
    return digests


def held(store: Store, digests: list[Digest]) -> int:
    return sum(store.references.manifest("library/a", digest) is not None for digest in digests)


def test_case_fault_6_a_damaged_journal_takes_nothing_from_a_sound_index(
    many: list[Digest], root: Path, opener: Opener
) -> None:
    strike(root / "journal" / "log", b"manifest 500", 8)
    assert any("the journal is damaged" in problem for problem in fsck(root).problems)
    done = command("rebuild", "--data", str(root))
    assert done.code == 0, done
    store = opener()
    assert held(store, many) == len(store.references.tags("library/a")) == MANY
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_case_fault_6_one_flipped_bit_of_a_frame_costs_nothing(
    many: list[Digest], root: Path, opener: Opener
) -> None:
    flip_bit(root / "journal" / "log", (root / "journal" / "log").read_bytes().index(b"manifest 500"))
    shutil.rmtree(root / "index")
    assert rebuild(root).problems == []
    assert held(opener(), many) == MANY


def test_case_fault_6_without_the_index_one_record_is_lost_and_named(
    many: list[Digest], root: Path, opener: Opener
) -> None:
    strike(root / "journal" / "log", b"manifest 500", 8)
    shutil.rmtree(root / "index")
    done = command("rebuild", "--data", str(root))
    assert done.code == 1
    assert f"LOST: {many[500]} of library/a: its bytes" in done.out
    assert f"LOST: tag t500 of library/a, which pointed to {many[500]}" in done.out
    store = opener()
    assert held(store, many) == len(store.references.tags("library/a")) == MANY - 1
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_case_fault_6_what_stays_aside_has_the_journal_too(
    many: list[Digest], root: Path, opener: Opener
) -> None:
    log = (root / "journal" / "log").read_bytes()
    (root / "index" / "data.mdb").write_bytes(b"")
    strike(root / "journal" / "log", b"manifest 500", 8)
    assert rebuild(root).problems
    aside = (root / "index.old-1" / "journal.log").read_bytes()
    assert len(aside) == len(log)


def damage_meta(data: Path) -> None:
    for page in (0, 1):
        flip_bit(data, page * 4096 + 16)


def damage_branch(data: Path) -> None:
    """The root of the newest tree and that of the one before."""
    with IndexPages(data) as pages, data.open("r+b") as file:
        for meta in pages.metas:
            assert meta.root is not None
            file.seek(meta.root * 4096)
            file.write(bytes(4096))


@pytest.mark.parametrize(("harm", "kept"), [(damage_meta, False), (damage_branch, True)])
def test_case_fault_6_small_content_comes_out_of_the_pages(
    many: list[Digest], root: Path, opener: Opener, harm: Callable[[Path], None], kept: bool
) -> None:
    """The journal has lost a body, the index its head or the root of its tree."""
    strike(root / "journal" / "log", b"manifest 500", 8)
    harm(root / "index" / "data.mdb")
    with OldIndex(root / "index" / "data.mdb") as former:
        assert (former.state is not None) == kept
        assert not former.sound
    problems = rebuild(root).problems
    assert not any("t500" in problem or "its bytes" in problem for problem in problems)
    store = opener()
    assert held(store, many) == len(store.references.tags("library/a")) == MANY
    store.close()
    assert fsck(root, (1, 1)).problems == []


@pytest.mark.parametrize("harm", [damage_meta, damage_branch])
@pytest.mark.parametrize("rewritten", [False, True])
def test_case_fault_6_what_was_deleted_does_not_come_back(
    root: Path, opener: Opener, harm: Callable[[Path], None], rewritten: bool
) -> None:
    """Pages of old states are in the file: nothing of them is shown again."""
    store = opener()
    digests = [push(store, "a", b"manifest %d" % n, f"t{n}") for n in range(60)]
    for n in range(0, 60, 2):
        store.references.delete_manifest("a", digests[n], now=2.0).result()
    store.references.set_lock("a", LockTarget("repository"), Lock(write=False), now=3.0).result()
    wanted, _ = dump(store, root)
    store.close()
    if rewritten:
        (root / "journal" / "log").unlink()
        opener().close()
    harm(root / "index" / "data.mdb")
    assert rebuild(root).problems == []
    store = opener()
    found, _ = dump(store, root)
    assert {key for key in found if key[:1] in b"LTONZHR"} == {key for key in wanted if key[:1] in b"LTONZHR"}
    assert store.references.lock("a", LockTarget("repository")) == Lock(write=False)


def test_case_fault_6_a_blob_that_holds_a_frame_is_not_read_as_one(root: Path, opener: Opener) -> None:
    """Whoever pushes chooses the bytes; damage around them must not turn them into records."""
    key = layout.repository_key("forged")
    forged = framing.encode_frame([(key, layout.seal(key, layout.encode_time(1.0)))])
    store = opener()
    for n in range(3):
        push(store, "a", b"before %d" % n, "before")
    push(store, "a", (forged * 200)[:16_000], "forged")
    for n in range(3):
        push(store, "a", b"after %d" % n, "after")
    store.close()
    log = root / "journal" / "log"
    frames = list(journals.frames(root / "journal"))
    (hit,) = (frame for frame in frames if forged in journals.bytes_of(root / "journal", frame))
    with log.open("r+b") as file:
        file.seek(hit.start)
        file.write(bytes(16))
    shutil.rmtree(root / "index")
    assert rebuild(root).problems
    store = opener()
    assert store.references.repositories() == ["a"]
    assert store.references.tags("a") == ["after", "before"]


def test_case_fault_6_an_index_of_another_store_is_not_taken(
    tmp_path: Path, root: Path, opener: Opener
) -> None:
    store, other = opener(), opener(tmp_path / "other")
    push(store, "a", b"here", "here")
    push(other, "a", b"other", "other")
    store.close()
    other.close()
    shutil.rmtree(root / "index")
    shutil.copytree(tmp_path / "other" / "index", root / "index")
    assert rebuild(root).problems == []
    assert opener().references.tags("a") == ["here"]


def test_an_index_alone_is_enough(many: list[Digest], root: Path, opener: Opener) -> None:
    (root / "journal" / "log").unlink()
    assert rebuild(root).problems == []
    assert held(opener(), many) == MANY


def test_a_document_that_is_lost_moves_the_revision_on(root: Path, opener: Opener) -> None:
    store = opener()
    for name in ("one", "two"):
        row = ResourceChange("token", name, b"{}" + name.encode() * 9)
        store.documents.change(_puts(row), quiet=frozenset()).result()
    revision = store.documents.revision()
    store.close()
    strike(root / "journal" / "log", b"{}two", 6)
    shutil.rmtree(root / "index")
    assert any("LOST: token two" in problem for problem in rebuild(root).problems)
    store = opener()
    assert store.documents.count("token") == 1
    assert store.documents.revision() > revision


def _puts(row: ResourceChange) -> ResourcePlan:
    return lambda _: [row]


FLIPS = 25


@pytest.mark.parametrize("journal_too", [False, True])
def test_case_fault_6_a_bit_anywhere(root: Path, opener: Opener, journal_too: bool) -> None:
    """One flipped bit of the index, alone and with one of the journal: a rebuild brings all of it back."""
    store = opener()
    for n in range(40):
        push(store, "a", b"manifest %d" % n + some_bytes(300, n), f"t{n}", subject=Digest.of(b"s"))
    put_manifest(store, "b", b"cached" + bytes(3000))
    push_file(store, "a", some_bytes(40_000))
    for n in range(0, 40, 3):
        store.references.delete_manifest(
            "a", Digest.of(b"manifest %d" % n + some_bytes(300, n)), now=2.0
        ).result()
    wanted = journaled(store, root)
    store.close()
    chance = random.Random(6)
    template = root.parent / "template"
    shutil.copytree(root, template)
    for _ in range(FLIPS):
        shutil.rmtree(root)
        shutil.copytree(template, root)
        for name in ("index/data.mdb", "journal/log")[: 1 + journal_too]:
            flip_bit(root / name, chance.randrange((root / name).stat().st_size), chance.randrange(8))
        assert rebuild(root).problems == []
        store = Store.create_or_open(root, write=True)
        assert journaled(store, root) == wanted
        store.close()
        assert fsck(root, (1, 1)).problems == []


def journaled(store: Store, root: Path) -> dict[bytes, bytes]:
    rows, _ = dump(store, root)
    return {key: value for key, value in rows.items() if key[:1] in layout.JOURNALED_TABLES}


def test_every_flipped_bit_of_a_record_is_made_good() -> None:
    key = layout.repository_key("library/a")
    value = layout.seal(key, layout.encode_time(1.0))
    whole = key + value
    for bit in range(8 * len(whole)):
        hit = bytearray(whole)
        hit[bit // 8] ^= 1 << bit % 8
        assert salvage.mended(bytes(hit[: len(key)]), bytes(hit[len(key) :])) == (key, value)


def test_every_flipped_bit_of_a_frame_is_made_good() -> None:
    rows = [(key, layout.seal(key, b"x" * 9)) for key in map(layout.repository_key, ("a", "b", "c"))]
    changes = [*rows[:2], (layout.repository_key("gone"), None), rows[2]]
    whole = framing.encode_frame(changes)
    for bit in range(8 * len(whole)):
        hit = bytearray(whole)
        hit[bit // 8] ^= 1 << bit % 8
        found = salvage.whole(bytes(hit))
        assert found is not None
        assert [piece[:2] for piece in found] == changes


@pytest.mark.parametrize("place", range(8, 60, 3))
def test_a_damaged_frame_gives_its_other_records(place: int) -> None:
    """Two bits are too many to be found: what they hit is lost, the records around it are not."""
    rows = [(key, layout.seal(key, b"x" * 9)) for key in map(layout.repository_key, ("one", "two", "six"))]
    hit = bytearray(framing.encode_frame(rows))
    hit[place] ^= 0b101
    found = [piece for piece in salvage.pieces(bytes(hit)) if piece.intact]
    assert {piece.key for piece in found} <= {key for key, _ in rows}
    header = place - 8 < framing.ENTRY_BYTES
    assert len(found) >= (0 if header else 1)


def test_fsck_sees_a_tree_that_leads_astray(many: list[Digest], root: Path) -> None:
    damage_branch(root / "index" / "data.mdb")
    problems = fsck(root).problems
    assert any("the index is damaged: page" in problem for problem in problems)
    with contextlib.suppress(StoreError):
        assert rebuild(root).problems == []


def test_case_fault_6_a_bit_of_a_records_lengths_costs_no_record() -> None:
    """In a frame in which more is wrong, so that it cannot be made good as a whole."""
    rows = [(key, layout.seal(key, b"x" * 9)) for key in map(layout.repository_key, ("one", "two", "six"))]
    frame = bytearray(framing.encode_frame(rows))
    second = framing.FRAME_HEAD_BYTES + framing.ENTRY_BYTES + len(rows[0][0]) + len(rows[0][1])
    frame[-2:] = bytes(byte ^ 0xFF for byte in frame[-2:])
    for bit in range(8 * framing.ENTRY_BYTES):
        hit = bytearray(frame)
        hit[second + bit // 8] ^= 1 << bit % 8
        assert salvage.whole(bytes(hit)) is None
        assert [piece[:2] for piece in salvage.pieces(bytes(hit)) if piece.intact] == rows


def test_case_fault_6_a_bit_of_a_removals_lengths_costs_no_record() -> None:
    """It has no checksum: what is behind it says how long it is, be that an entry, another frame, or the end."""
    gone, kept = layout.repository_key("gone"), layout.repository_key("kept")
    row = (kept, layout.seal(kept, b"x" * 9))
    for changes, more in (([(gone, None), row], []), ([(gone, None)], [row]), ([row, (gone, None)], [])):
        frame = bytearray(framing.encode_frame(changes) + (framing.encode_frame(more) if more else b""))
        frame[-2:] = bytes(byte ^ 0xFF for byte in frame[-2:])
        place = framing.FRAME_HEAD_BYTES
        if changes[0] == row:
            place += framing.ENTRY_BYTES + sum(map(len, row))
        for bit in range(8 * framing.ENTRY_BYTES):
            hit = bytearray(frame)
            hit[place + bit // 8] ^= 1 << bit % 8
            found = [piece[:2] for piece in salvage.pieces(bytes(hit)) if piece.intact]
            assert found == [*changes, *more], (bit, changes, more)


def test_case_fault_6_a_removal_before_a_damaged_record_stays_one() -> None:
    gone, lost = layout.repository_key("gone"), layout.repository_key("lost")
    frame = bytearray(framing.encode_frame([(gone, None), (lost, layout.seal(lost, b"x"))]))
    second = framing.FRAME_HEAD_BYTES + framing.ENTRY_BYTES + len(gone)
    frame[second : second + framing.ENTRY_BYTES] = b"\xff" * framing.ENTRY_BYTES
    first, rest = salvage.pieces(bytes(frame))
    assert (first.key, first.value, first.intact) == (gone, None, True)
    assert (rest.intact, rest.lost) == (False, len(frame) - layout.SEAL_BYTES - second)


def test_case_fault_6_frames_without_what_ends_them_give_all_their_records() -> None:
    rows = [(key, layout.seal(key, b"x" * 9)) for key in map(layout.repository_key, ("one", "two", "six"))]
    frames = bytearray(framing.encode_frame(rows[:2]) + framing.encode_frame(rows[2:]))
    at = len(framing.encode_frame(rows[:2]))
    frames[at - layout.SEAL_BYTES : at] = bytes(layout.SEAL_BYTES)
    assert [piece[:3] for piece in salvage.pieces(bytes(frames))] == [(*row, True) for row in rows]


def test_case_fault_6_every_flipped_bit_of_a_journals_head_is_made_good() -> None:
    head = framing.encode_journal_head(b"u" * 16, 7)
    for bit in range(8 * len(head)):
        hit = bytearray(head)
        hit[bit // 8] ^= 1 << bit % 8
        assert salvage.journal_head(bytes(hit)) == (b"u" * 16, 7)
    assert salvage.journal_head(bytes(len(head))) is None


def test_case_fault_6_a_removal_of_no_table_is_lost() -> None:
    """A removal has no checksum, so its table is all that speaks for it."""
    key = layout.repository_key("gone")
    whole = layout.repository_key("kept")
    frame = bytearray(framing.encode_frame([(key, None), (whole, layout.seal(whole, b"x"))]))
    frame[framing.FRAME_HEAD_BYTES + framing.ENTRY_BYTES] ^= 0xFF
    first, second = salvage.pieces(bytes(frame))
    assert (first.key[1:], first.intact) == (key[1:], False)
    assert (second.key, second.intact) == (whole, True)


@pytest.mark.parametrize("length", [0, 600])
def test_case_fault_6_a_record_whose_key_cannot_be_is_lost(length: int) -> None:
    """What follows is lost with it: nobody knows where the next one begins."""
    payload = length.to_bytes(2, "little") + (4).to_bytes(4, "little") + b"R" * (length + 4)
    frame = framing.FRAME_MAGIC + len(payload).to_bytes(4, "little") + payload + bytes(layout.SEAL_BYTES)
    (piece,) = salvage.pieces(frame)
    assert (piece.key, piece.intact, piece.lost) == (b"", False, len(payload))
