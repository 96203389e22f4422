"""Space is given back when nobody links bytes any more, and never under somebody's hands."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from holdfast_core import CHUNK_BYTES, Digest, Store, fsck
from holdfast_core import format as layout
from holdfast_core.changes import change
from holdfast_core.errors import Exhausted, NotHeld, SyncFailed
from holdfast_core.filesystem.disk_state import Write
from holdfast_core.upkeep import garbage
from support.stores import (
    file_of,
    hashed,
    push,
    push_file,
    put_file,
    put_manifest,
    read_all,
    some_bytes,
    stage,
)

Opener = Callable[..., Store]
BODY = some_bytes(100_000)
BLOB, TABLE = hashed(BODY)


def swept(store: Store, now: float = 100.0, grace: float = 10.0) -> int:
    return store.upkeep.sweep(now=now, grace=grace).result(60)


def test_unlinked_bytes_are_reclaimed_after_the_grace(store: Store, root: Path) -> None:
    push_file(store, "r", BODY)
    digest = push(store, "r", b"manifest", "v1")
    store.blobs.delete("r", BLOB, now=50.0).result()
    store.references.delete_manifest("r", digest, now=95.0).result()
    assert swept(store, now=59.0) == 0
    assert store.blobs.anywhere(BLOB) is not None
    assert swept(store) == len(BODY)
    assert store.blobs.anywhere(BLOB) is None
    assert not file_of(root, BLOB).exists()
    assert swept(store, now=105.0) == len(b"manifest")
    assert list(store._index.scan(layout.BLOB)) == []
    assert list(store._index.scan(layout.CHUNKS)) == []
    assert list(store._index.scan(layout.UNLINKED)) == []
    assert swept(store) == 0


def test_a_link_anywhere_keeps_the_bytes(store: Store) -> None:
    push_file(store, "a", BODY)
    store.blobs.mount("b", BLOB, source="a", now=1.0).result()
    store.blobs.delete("a", BLOB, now=2.0).result()
    assert list(store._index.scan(layout.UNLINKED)) == []
    assert swept(store) == 0
    store.blobs.delete("b", BLOB, now=2.0).result()
    assert swept(store) == len(BODY)


@pytest.mark.parametrize("how", ["push", "inline push", "mount by hand", "fill", "link", "as manifest"])
def test_a_new_link_takes_the_bytes_off_the_list(store: Store, how: str) -> None:
    body = b"small" if how == "inline push" else BODY
    digest, _ = hashed(body)
    push_file(store, "a", body)
    store.blobs.delete("a", digest, now=2.0).result()
    assert len(list(store._index.scan(layout.UNLINKED))) == 1
    if how == "push":
        push_file(store, "b", body)
    elif how == "inline push":
        store.blobs.push_inline("b", digest, body, now=3.0).result()
    elif how == "fill":
        put_file(store, "b", body)
    elif how == "as manifest":
        put_manifest(store, "b", body)
    elif how == "link":
        store.blobs.link("b", digest, now=3.0).result()
    else:
        with pytest.raises(NotHeld):
            store.blobs.mount("b", digest, source=None, now=3.0).result()
        store.blobs.link("b", digest, now=3.0).result()
    assert list(store._index.scan(layout.UNLINKED)) == []
    assert swept(store) == 0
    assert store.blobs.anywhere(digest) is not None


def test_case_18_a_reader_slower_than_the_grace_gets_the_old_bytes(store: Store) -> None:
    """What was open before the sweep is read on, checked by the checksums that were read when it was opened: the index
    has them no more."""
    body = some_bytes(2 * CHUNK_BYTES, 7)
    blob = push_file(store, "r", body)
    with store.blobs.open(blob) as reader:
        assert reader.read(0, 10) == body[:10]
        store.blobs.delete("r", blob.digest, now=2.0).result()
        assert reader.read(20, 10) == body[20:30]
        assert swept(store) == len(body)
        assert reader.read(0, CHUNK_BYTES) == body[:CHUNK_BYTES]
        assert reader.read(CHUNK_BYTES, 10) == body[CHUNK_BYTES : CHUNK_BYTES + 10]
        with pytest.raises(NotHeld):
            store.blobs.open(blob)


def test_many_are_swept_in_many_transactions(store: Store, root: Path) -> None:
    bodies = [some_bytes(20_000, n) for n in range(garbage.BATCH * 2 + 5)]
    for body in bodies:
        push_file(store, "r", body)
        store.blobs.delete("r", hashed(body)[0], now=2.0).result()
    before = store.statistics().batches
    assert swept(store) == sum(map(len, bodies))
    assert store.statistics().batches - before == 3
    assert list((root / "blobs").glob("*/*/*")) == []


# --- the race ----------------------------------------------------------------------------------------------


class Gate:
    """Stops a thread in a call until it is let on."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *, after: bool = False
    ) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        real = getattr(owner, name)

        def call(*arguments: object, **more: object) -> object:
            found = real(*arguments, **more) if after else None
            if not self.reached.is_set():
                self.reached.set()
                assert self.go.wait(60)
            return found if after else real(*arguments, **more)

        monkeypatch.setattr(owner, name, call)

    def wait(self) -> None:
        assert self.reached.wait(60)


def unlinked(store: Store) -> None:
    push_file(store, "r", BODY)
    store.blobs.delete("r", BLOB, now=2.0).result()


def starts(store: Store, how: str) -> Future[None]:
    """Something that wants the bytes."""
    if how == "fill":
        part = store.blobs.fills.open_part("r", BLOB, len(BODY))
        part.write(0, BODY)
        part.close()
        return store.blobs.fills.commit(part, "q", BLOB, TABLE, owned=False, now=3.0)
    if how == "large manifest":
        return store.references.push_manifest("q", BLOB, "application/m", BODY, now=3.0)
    return store.blobs.push_upload("q", stage(store, BODY), len(BODY), BLOB, TABLE, now=3.0)


def sound(store: Store, root: Path, how: str) -> None:
    if how == "large manifest":
        manifest = store.references.manifest("q", BLOB)
        assert manifest is not None
        assert manifest.body == BODY
    else:
        blob = store.blobs.get("q", BLOB)
        assert blob is not None
        assert read_all(store, blob) == BODY
    store.close()
    assert fsck(root, (1, 1)).problems == []


HOWS = ["upload", "fill", "large manifest"]


@pytest.mark.parametrize("how", HOWS)
def test_case_44_a_push_between_the_row_and_the_file_waits(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The sweep has removed the row and not yet the file: what comes now must not lose its file to it."""
    unlinked(store)
    gate = Gate(monkeypatch, store._directory, "remove_blob")
    sweep = store.upkeep.sweep(now=100.0, grace=1.0)
    gate.wait()
    future = starts(store, how)
    other = push_file(store, "other", some_bytes(50_000, 5))
    assert not future.done(), "it would have placed its file by now"
    gate.go.set()
    future.result(60)
    assert sweep.result(60) == len(BODY)
    assert other.owned
    sound(store, root, how)


@pytest.mark.parametrize("how", HOWS)
def test_a_push_that_counts_on_the_bytes_keeps_them(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It has seen that the bytes are there and has not linked them yet: the sweep leaves them."""
    unlinked(store)
    gate = Gate(monkeypatch, store.blobs.placement, "usable", after=True)
    future = starts(store, how)
    gate.wait()
    assert swept(store) == 0
    gate.go.set()
    future.result(60)
    assert swept(store) == 0
    sound(store, root, how)


def test_bytes_that_were_linked_and_let_go_again_meanwhile_have_their_grace(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlinked(store)
    assert store._files is not None
    gate = Gate(monkeypatch, store._files, "try_hold")
    sweep = store.upkeep.sweep(now=100.0, grace=10.0)
    gate.wait()
    push_file(store, "q", BODY)
    store.blobs.delete("q", BLOB, now=95.0).result()
    gate.go.set()
    assert sweep.result(60) == 0
    assert store.blobs.anywhere(BLOB) is not None
    assert swept(store, now=105.0) == len(BODY)


def test_what_is_on_the_list_and_has_a_link_keeps_its_bytes(store: Store) -> None:
    """No operation leaves both; should one ever, the link counts, and the list is put right."""
    push_file(store, "r", BODY)
    note = change.put(layout.UNLINKED + BLOB.key, layout.encode_time(2.0))
    assert store._writer is not None
    store._writer.submit(lambda _: [note]).result()
    assert swept(store) == 0
    blob = store.blobs.get("r", BLOB)
    assert blob is not None
    assert read_all(store, blob) == BODY
    assert list(store._index.scan(layout.UNLINKED)) == []


def test_a_note_of_bytes_that_are_not_here_goes_and_gives_nothing_back(store: Store) -> None:
    note = change.put(layout.UNLINKED + BLOB.key, layout.encode_time(2.0))
    assert store._writer is not None
    store._writer.submit(lambda _: [note]).result()
    assert swept(store) == 0
    assert list(store._index.scan(layout.UNLINKED)) == []


def test_a_batch_that_found_no_room_is_made_with_the_spare_room_and_counts_once(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlinked(store)
    writer = store._writer
    assert writer is not None
    record, spared = writer._record, [True]

    def refused(*arguments: Any) -> None:
        monkeypatch.setattr(writer, "_record", record)
        raise Exhausted("no room")

    monkeypatch.setattr(writer, "_record", refused)
    monkeypatch.setattr(writer, "spare", spared.pop)
    assert swept(store) == len(BODY)
    assert spared == []
    assert not file_of(root, BLOB).exists()


def test_what_left_the_list_meanwhile_keeps_its_bytes(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep read the list before; only the transaction that removes the row knows what is on it now."""
    unlinked(store)
    assert store._writer is not None
    gate = Gate(monkeypatch, store._files, "try_hold")
    sweep = store.upkeep.sweep(now=100.0, grace=10.0)
    gate.wait()
    store._writer.submit(lambda _: change.remove([layout.UNLINKED + BLOB.key])).result()
    gate.go.set()
    assert sweep.result(60) == 0
    assert store.blobs.anywhere(BLOB) is not None
    assert file_of(root, BLOB).read_bytes() == BODY


@pytest.mark.parametrize("how", HOWS)
def test_a_file_that_has_no_row_yet_is_no_stray(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The file is in its place, its row is not committed: whatever its age, it is being worked on."""
    place = "write_blob" if how == "large manifest" else "place_blob"
    gate = Gate(monkeypatch, store._directory, place, after=True)
    future = starts(store, how)
    gate.wait()
    assert file_of(root, BLOB).exists()
    assert every_directory(store) == 0
    gate.go.set()
    future.result(60)
    sound(store, root, how)


def every_directory(store: Store) -> int:
    """Two algorithms of 256 directories each."""
    return sum(swept(store, now=1e12) for _ in range(22))


def test_a_discard_does_not_take_what_is_placed_meanwhile(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_file(store, "r", BODY)
    os.truncate(file_of(root, BLOB), 5)
    gate = Gate(monkeypatch, store._directory, "set_aside")
    discard = store.blobs.discard(BLOB)
    gate.wait()
    future = starts(store, "upload")
    gate.go.set()
    discard.result(60)
    future.result(60)
    sound(store, root, "upload")


def test_pushes_deletes_and_sweeps_at_random_lose_nothing(opener: Opener, root: Path) -> None:
    """Four threads over three blobs, with no grace at all. What was acknowledged last is what is there."""
    store = opener(inline_bytes=-1)
    bodies = [some_bytes(3_000, n) for n in range(3)]
    failures: list[str] = []
    stop = threading.Event()

    def client(number: int) -> None:
        die, repository = random.Random(number), f"r{number}"
        for turn in range(60):
            body = die.choice(bodies)
            digest, table = hashed(body)
            name = stage(store, body, f"{number * 1000 + turn:064x}")
            store.blobs.push_upload(repository, name, len(body), digest, table, now=1.0).result(60)
            blob = store.blobs.get(repository, digest)
            if blob is None or read_all(store, blob) != body:
                failures.append(f"{repository} lost {digest} in turn {turn}")
            store.blobs.delete(repository, digest, now=1.0).result(60)

    def sweeper() -> None:
        while not stop.is_set():
            swept(store, now=1e12, grace=0.0)

    clients = [threading.Thread(target=client, args=(n,)) for n in range(3)]
    sweeping = threading.Thread(target=sweeper)
    for thread in (*clients, sweeping):
        thread.start()
    for thread in clients:
        thread.join(60)
    stop.set()
    sweeping.join(60)
    assert failures == []
    swept(store, now=1e12)
    assert list((root / "blobs").glob("*/*/*")) == []
    store.close()
    assert fsck(root, (1, 1)).problems == []


# --- strays ------------------------------------------------------------------------------------------------


def test_files_without_a_row_go_some_directories_a_call(store: Store, root: Path) -> None:
    push_file(store, "r", BODY)
    inline = push_file(store, "r", b"small")
    strays = [Digest.of(b"%d" % n, algorithm) for n in range(4) for algorithm in ("sha256", "sha512")]
    foreign = file_of(root, strays[0]).with_name("notes.txt")
    for digest in (*strays, inline.digest):
        file_of(root, digest).write_bytes(b"stray")
        os.utime(file_of(root, digest), (5.0, 5.0))
    foreign.write_bytes(b"somebody's")
    os.symlink("/etc/passwd", file_of(root, Digest.of(b"link")))
    changed = max(file_of(root, digest).stat().st_ctime for digest in strays)
    for _ in range(22):
        assert swept(store, now=changed + 9.0) == 0, "young"
    found = [swept(store, now=changed + 11.0) for _ in range(22)]
    assert sum(found) == 5 * (len(strays) + 1)
    assert sum(size > 0 for size in found) > 2, "a sweep looks at 24 of 512 directories"
    assert not any(file_of(root, digest).exists() for digest in strays)
    assert foreign.exists()
    blob = store.blobs.get("r", BLOB)
    assert blob is not None
    assert read_all(store, blob) == BODY


def test_what_a_kill_left_without_a_row_counts_on_the_disk_until_it_is_linked_or_gone(
    opener: Opener, root: Path
) -> None:
    store = opener()
    push_file(store, "r", BODY)
    small = push_file(store, "r", b"small").digest
    assert store.space.disk_use().strays == 0
    store.close()
    again, left = some_bytes(50_000), some_bytes(70_000)
    for digest, size in ((Digest.of(again), 50_000), (Digest.of(left, "sha512"), 70_000), (small, 5)):
        file_of(root, digest).write_bytes(bytes(size))
    store = opener()
    assert 125_000 <= store.space.disk_use().strays <= 125_000 + 3 * 4096
    push_file(store, "r", again)
    assert 75_000 <= store.space.disk_use().strays <= 75_000 + 2 * 4096
    file_of(root, Digest.of(left, "sha512")).unlink()
    assert 5 <= store.space.disk_use().strays <= 4096


def stray_in(root: Path, directory: int) -> Path:
    """A file without a row, 5 bytes, in one of the 256 directories of SHA-256."""
    path = file_of(root, Digest.parse(f"sha256:{directory:02x}{'0' * 62}"))
    path.write_bytes(b"stray")
    return path


@pytest.mark.parametrize("noted", ["", "x", "0", "512"])
def test_a_sweep_begins_with_the_first_directory_where_it_is_not_known_how_far_the_last_came(
    store: Store, root: Path, noted: str
) -> None:
    (root / "sweep").write_text(noted)
    first, later = stray_in(root, 0), stray_in(root, 24)
    assert swept(store, now=1e12) == 5
    assert not first.exists()
    assert later.exists()
    assert (root / "sweep").read_text() == "24"
    assert swept(store, now=1e12) == 5
    assert not later.exists()


def test_a_store_that_failed_removes_nothing(store: Store, root: Path) -> None:
    """It says so also when there is nothing to commit."""
    stray = stray_in(root, 0)
    store.condition.met(Write.META, errno.EIO, "as a test wants it")
    with pytest.raises(SyncFailed, match="as a test wants it"):
        swept(store, now=1e12)
    assert stray.exists()


def test_a_store_that_fails_while_it_looks_for_strays_leaves_them(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether their rows are on the disk is not known from then on."""
    stray = stray_in(root, 0)
    gate = Gate(monkeypatch, store._directory, "blob_status")
    sweep = store.upkeep.sweep(now=1e12, grace=10.0)
    gate.wait()
    store.condition.met(Write.META, errno.EIO, "as a test wants it")
    gate.go.set()
    assert sweep.result(60) == 0
    assert stray.exists()


def test_a_damaged_row_keeps_its_file(store: Store, root: Path) -> None:
    push_file(store, "r", BODY)
    key = layout.BLOB + BLOB.key
    with store._index.begin(write=True) as txn:
        value = txn.get(key)
        assert value is not None
        txn.put(key, value[:-1] + bytes([value[-1] ^ 1]))
    assert every_directory(store) == 0
    assert file_of(root, BLOB).exists()


def test_a_sweep_of_strays_ends_when_the_store_closes(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strays = [stray_in(root, number) for number in range(3)]
    gate = Gate(monkeypatch, store._directory, "remove_blob")
    sweep = store.upkeep.sweep(now=1e12, grace=1.0)
    gate.wait()
    closing = threading.Thread(target=store.close)
    closing.start()
    while store._files is not None and not store._files.closing:
        gate.go.wait(0.001)
    gate.go.set()
    closing.join(60)
    assert sweep.result(60) == 5
    assert [path.exists() for path in strays] == [False, True, True]


def test_a_sweep_ends_when_the_store_closes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        body = some_bytes(20_000, n)
        push_file(store, "r", body)
        store.blobs.delete("r", hashed(body)[0], now=2.0).result()
    monkeypatch.setattr(garbage, "BATCH", 1)
    gate = Gate(monkeypatch, store._directory, "remove_blob")
    sweep = store.upkeep.sweep(now=100.0, grace=1.0)
    gate.wait()
    closing = threading.Thread(target=store.close)
    closing.start()
    while store._files is not None and not store._files.closing:
        gate.go.wait(0.001)
    gate.go.set()
    closing.join(60)
    assert sweep.result(60) == 20_000
