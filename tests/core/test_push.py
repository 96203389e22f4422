"""What clients push is there, whole, at once and after a restart; what is refused leaves no trace."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import CHUNK_BYTES, Descriptor, Digest, Lock, LockTarget, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.errors import (
    ChunkDamaged,
    Mistake,
    NotHeld,
    StoreError,
    UploadNotFound,
)
from holdfast_core.record import Tag, TagMove
from support.stores import (
    MEDIA,
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
    stage,
)

Opener = Callable[..., Store]
BODY = some_bytes(100_000)
OTHER = some_bytes(100_000, 2)
MANIFEST = b'{"schemaVersion":2}'
BLOB = hashed(BODY)[0]


def files_of(root: Path) -> list[Path]:
    """Everything in which bytes of blobs lie."""
    places = ("blobs", "fills", "uploads", "quarantine")
    found = (path for place in places for path in (root / place).rglob("*") if path.is_file())
    return [path for path in found if path.name != "uuid"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 3_300_000])
def test_an_upload_becomes_a_blob(opener: Opener, root: Path, size: int, algorithm: str) -> None:
    store, body = opener(), some_bytes(size)
    blob = push_file(store, "library/x", body, algorithm=algorithm)
    assert (blob.size, blob.owned, blob.boot, blob.inline is not None) == (size, True, b"", size <= 16384)
    assert read_all(store, blob) == body
    assert os.listdir(root / "uploads") == []
    store.close()
    store = opener()
    again = store.blobs.get("library/x", blob.digest)
    assert again is not None
    assert read_all(store, again) == body
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_bytes_that_are_held_are_stored_once(store: Store, root: Path) -> None:
    """Case 24: wherever the second upload was for. A reader of the first goes on."""
    first = push_file(store, "a", BODY)
    with store.blobs.open(first) as reader:
        assert push_file(store, "b", BODY).owned
        assert reader.read(0, CHUNK_BYTES) == BODY
    assert file_of(root, BLOB).stat().st_nlink == 1
    assert files_of(root) == [file_of(root, BLOB)]


@pytest.mark.parametrize("noticed", [False, True])
def test_a_push_over_bytes_that_rotted_mends_them(store: Store, root: Path, noticed: bool) -> None:
    """Whether somebody has read the bad chunk or not."""
    blob = push_file(store, "a", BODY)
    flip_bit(file_of(root, BLOB), 70_000)
    if noticed:
        store.blobs.quarantine(BLOB, 65536, len(BODY)).result()
        found = store.blobs.get("a", BLOB)
        assert found is not None
        assert found.damaged
    with pytest.raises(ChunkDamaged):
        read_all(store, blob)
    for repository in ("a", "b"):
        again = push_file(store, repository, BODY)
        assert not again.damaged
        assert read_all(store, again) == BODY
    assert layout.QUARANTINE not in {key[:1] for key in dump(store, root)[0]}
    assert files_of(root) == [file_of(root, BLOB)]
    store.close()
    assert fsck(root, (1, 1)).problems == []


@pytest.mark.parametrize("owned", [True, False])
def test_a_long_manifest_over_bytes_that_rotted_mends_them(store: Store, root: Path, owned: bool) -> None:
    digest = put_manifest(store, "r", BODY, owned=owned)
    inode = file_of(root, digest).stat().st_ino
    put_manifest(store, "r", BODY, owned=owned)
    assert file_of(root, digest).stat().st_ino == inode, "sound bytes are not written again"
    flip_bit(file_of(root, digest), 5)
    put_manifest(store, "r", BODY, owned=owned)
    found = store.references.manifest("r", digest)
    assert found is not None
    assert found.body == BODY
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_case_24_concurrent_pushes_of_one_blob_leave_one_file(store: Store, root: Path) -> None:
    digest, table = hashed(BODY)
    names = [stage(store, BODY, f"{n:064x}") for n in range(40)]
    futures = [
        store.blobs.push_upload(f"r{n % 3}", name, len(BODY), digest, table, now=1.0)
        for n, name in enumerate(names)
    ]
    for future in futures:
        future.result(60)
    assert files_of(root) == [file_of(root, digest)]
    assert all(store.blobs.get(f"r{n}", digest) is not None for n in range(3))


def test_cached_bytes_that_are_pushed_are_owned(store: Store) -> None:
    assert put_file(store, "a", BODY).boot != b""
    pushed = push_file(store, "a", BODY)
    assert (pushed.owned, pushed.boot) == (True, b"")


def test_an_upload_that_is_not_there(store: Store, root: Path) -> None:
    digest, table = hashed(BODY)
    stage(store, BODY, "short")
    os.truncate(root / "uploads" / "short", 5)
    (root / "uploads" / "folder").mkdir()
    before = dump(store, root)
    for name, kind in {"x" * 64: UploadNotFound, "../journal/log": UploadNotFound, "short": Mistake}.items():
        with pytest.raises(kind):
            store.blobs.push_upload("r", name, len(BODY), digest, table, now=1.0).result()
    with pytest.raises(Mistake):
        store.blobs.push_upload("r", "folder", len(BODY), digest, table, now=1.0).result()
    with pytest.raises(Mistake, match="does not fit"):
        store.blobs.push_upload("r", "short", len(BODY), digest, b"", now=1.0)
    assert dump(store, root) == before


def test_a_manifest_its_tags_and_its_history_in_one_commit(store: Store) -> None:
    committed = store.statistics().committed
    digest = push(store, "r", MANIFEST, "v1", "v2", "v1", algorithm="sha512", now=5.0)
    assert store.statistics().committed == committed + 1
    found = store.references.manifest("r", digest)
    assert found is not None
    assert (found.body, found.media_type, found.owned) == (MANIFEST, MEDIA, True)
    assert store.references.tag("r", "v1") == Tag("v1", digest, 5.0, 5.0, "local")
    assert store.references.tags("r") == ["v1", "v2"]
    assert store.references.tag_moves("r", "v1") == [TagMove(digest, 5.0, "local")]
    assert store.references.repositories() == ["r"]


def test_case_41_the_same_bytes_by_two_algorithms_are_two_manifests(store: Store) -> None:
    short, long = push(store, "r", MANIFEST, "a"), push(store, "r", MANIFEST, "b", algorithm="sha512")
    store.references.delete_manifest("r", short, now=2.0).result()
    assert store.references.manifest("r", short) is None
    assert store.references.manifest("r", long) is not None
    assert store.references.tags("r") == ["b"]


def test_case_42_a_blob_and_a_manifest_of_the_same_bytes_do_not_cross(store: Store) -> None:
    digest = push(store, "r", MANIFEST, "v1")
    assert store.blobs.get("r", digest) is None
    with pytest.raises(NotHeld):
        store.blobs.delete("r", digest, now=2.0).result()
    with pytest.raises(NotHeld):
        store.blobs.mount("q", digest, source=None, now=2.0).result()
    store.blobs.push_inline("r", digest, MANIFEST, now=2.0).result()
    store.references.delete_manifest("r", digest, now=3.0).result()
    assert store.blobs.get("r", digest) is not None
    assert store.references.manifest("r", digest) is None
    push(store, "r", MANIFEST)
    store.blobs.delete("r", digest, now=4.0).result()
    assert store.blobs.get("r", digest) is None
    assert store.references.manifest("r", digest) is not None


def test_case_43_the_last_media_type_counts(store: Store) -> None:
    digest = push(store, "r", MANIFEST)
    store.references.push_manifest("r", digest, "application/other", MANIFEST, now=2.0).result()
    found = store.references.manifest("r", digest)
    assert found is not None
    assert found.media_type == "application/other"


def test_tag_history_keeps_the_last_16_moves_and_deletions(store: Store) -> None:
    one, two = push(store, "r", b"1"), push(store, "r", b"2")
    expected: list[TagMove] = []
    for n in range(10):
        digest, body = (one, b"1") if n % 2 else (two, b"2")
        push(store, "r", body, "v1", now=float(n))
        push(store, "r", body, "v1", now=n + 0.2)  # no move
        store.references.delete_tag("r", "v1", now=n + 0.5).result()
        expected = [TagMove(None, n + 0.5, "local"), TagMove(digest, float(n), "local"), *expected]
    assert store.references.tag("r", "v1") is None
    assert store.references.tag_moves("r", "v1") == expected[:16]


def test_the_parents_word_does_not_move_a_pushed_tag(store: Store) -> None:
    ours = push(store, "r", MANIFEST, "v1")
    theirs = put_manifest(store, "r", b"theirs")
    store.references.put_tag("r", "v1", theirs, now=2.0).result()
    found = store.references.tag("r", "v1")
    assert found is not None
    assert (found.digest, found.origin) == (ours, "local")


# --- mounts ------------------------------------------------------------------------------------------------


def test_a_mount_is_a_link(store: Store, root: Path) -> None:
    push_file(store, "a", BODY)
    store.blobs.mount("b", BLOB, source="a", now=2.0).result()
    store.blobs.mount("c", BLOB, source=None, now=2.0).result()
    for repository in "bc":
        blob = store.blobs.get(repository, BLOB)
        assert blob is not None
        assert read_all(store, blob) == BODY
    assert len(list((root / "blobs").glob("*/*/*"))) == 1


def test_a_mount_of_cached_bytes_makes_them_owned_and_durable(store: Store) -> None:
    put_file(store, "a", BODY)
    store.blobs.mount("b", BLOB, source="a", now=2.0).result()
    blob = store.blobs.get("b", BLOB)
    assert blob is not None
    assert (blob.owned, blob.boot) == (True, b"")


@pytest.mark.parametrize("source", ["other", None, "hidden"])
def test_a_mount_of_what_its_source_does_not_show(store: Store, root: Path, source: str | None) -> None:
    push_file(store, "hidden", BODY)
    store.references.set_lock("hidden", LockTarget("repository"), Lock(read=False), now=1.0).result()
    before = dump(store, root)
    with pytest.raises(NotHeld):
        store.blobs.mount("b", BLOB, source=source, now=2.0).result()
    assert dump(store, root) == before


def test_a_mount_of_cached_bytes_that_a_power_cut_left_wrong(store: Store, root: Path) -> None:
    """Nobody may be told that bytes are safe that were never read back; pushed bytes would be."""
    digest = put_file(store, "a", body := some_bytes(3 << 20)).digest
    flip_bit(file_of(root, digest), (2 << 20) + 5)
    with pytest.raises(NotHeld, match="damaged"):
        store.blobs.mount("b", digest, source="a", now=2.0).result()
    assert store.blobs.get("b", digest) is None
    assert read_all(store, push_file(store, "b", body)) == body


def test_a_mount_of_a_blob_whose_file_is_gone(store: Store, root: Path) -> None:
    push_file(store, "a", BODY)
    file_of(root, BLOB).unlink()
    with pytest.raises(NotHeld):
        store.blobs.mount("b", BLOB, source="a", now=2.0).result()


# --- deletes -----------------------------------------------------------------------------------------------


def test_a_deleted_tag_leaves_its_manifest(store: Store) -> None:
    digest = push(store, "r", MANIFEST, "v1", "v2")
    store.references.delete_tag("r", "v1", now=2.0).result()
    assert store.references.tags("r") == ["v2"]
    assert store.references.manifest("r", digest) is not None
    with pytest.raises(NotHeld):
        store.references.delete_tag("r", "v1", now=2.0).result()


def test_case_44_a_deleted_manifest_takes_its_tags_and_comes_back_without_them(store: Store) -> None:
    digest, other = push(store, "r", MANIFEST, "v1", "v2"), push(store, "r", b"other", "v3")
    store.references.put_tag("r", "cached", digest, now=1.0).result()
    push(store, "q", MANIFEST, "v1")
    push(store, "r", b"other", "v2")
    store.references.delete_manifest("r", digest, now=2.0).result()
    assert store.references.manifest("r", digest) is None
    assert store.references.tags("r") == ["v2", "v3"]
    assert store.references.tag_moves("r", "cached")[0] == TagMove(None, 2.0, "local")
    assert store.references.manifest("q", digest) is not None
    assert store.references.tags("q") == ["v1"]
    push(store, "r", MANIFEST)
    assert store.references.tag("r", "v1") is None
    assert store.references.manifest("r", other) is not None
    with pytest.raises(NotHeld):
        store.references.delete_manifest("r", Digest.of(b"never"), now=2.0).result()


def test_a_deleted_referrer_leaves_the_list_and_a_deleted_subject_keeps_its_referrers(store: Store) -> None:
    """references.md 2.8."""
    subject = push(store, "r", MANIFEST)
    one = push(store, "r", b"sbom", subject=subject, artifact_type="t", annotations={"k": "v"})
    two = push(store, "r", b"signature", subject=subject)
    store.references.delete_manifest("r", two, now=2.0).result()
    listed = (Descriptor(MEDIA, str(one), 4, "t", {"k": "v"}),)
    for _ in range(2):
        found = store.references.lists.referrers("r", subject)
        assert found is not None
        assert found.descriptors == listed
        if store.references.manifest("r", subject) is not None:
            store.references.delete_manifest("r", subject, now=3.0).result()
    store.references.delete_manifest("r", one, now=4.0).result()
    assert store.references.lists.referrers("r", subject) is None


def test_case_75_deletes_show_at_once_in_other_processes(store: Store, root: Path) -> None:
    """By a second mapping of the index in a child that opened before."""
    import subprocess
    import sys

    digest = push(store, "r", MANIFEST, "v1")
    code = (
        "import sys\nfrom holdfast_core import Store, Digest\n"
        "s = Store.create_or_open(sys.argv[1], write=False, mode='ReadOnly')\n"
        "d = Digest.parse(sys.argv[2])\n"
        "for _ in range(2):\n"
        "    print(s.references.tag('r', 'v1') is not None, s.references.manifest('r', d) is not None, flush=True)\n"
        "    sys.stdin.readline()\ns.close()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(digest)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "True True\n"
    store.references.delete_manifest("r", digest, now=2.0).result()
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "False False\n"
    child.communicate("\n", timeout=60)


def test_tombstones_keep_the_parents_content_out_until_it_is_pushed(store: Store) -> None:
    digest = put_manifest(store, "r", MANIFEST)
    store.references.put_tag("r", "v1", digest, now=1.0).result()
    store.references.lists.put_tag_list("r", ["v1", "v2"], now=1.0).result()
    subject = Digest.of(b"subject")
    listed = [Descriptor(MEDIA, str(digest), 3), Descriptor(MEDIA, str(BLOB), 3)]
    store.references.lists.put_referrers("r", subject, listed, now=1.0).result()
    put_file(store, "r", BODY)
    store.references.delete_manifest("r", digest, now=2.0, tombstone=True).result()
    store.blobs.delete("r", BLOB, now=2.0, tombstone=True).result()
    assert store.references.is_deleted("r", "manifest", str(digest))
    assert store.references.is_deleted("r", "tag", "v1")
    assert store.references.is_deleted("r", "blob", str(BLOB))
    assert not store.references.is_deleted("q", "tag", "v1")
    tags, referrers = store.references.lists.tag_list("r"), store.references.lists.referrers("r", subject)
    assert tags is not None
    assert tags.tags == ("v2",)
    assert referrers is not None
    assert [d.digest for d in referrers.descriptors] == [str(BLOB)]
    for future in (
        store.references.put_manifest("r", digest, MEDIA, MANIFEST, owned=False, now=3.0),
        store.references.put_tag("r", "v1", digest, now=3.0),
        store.blobs.link("r", BLOB, now=3.0),
    ):
        with pytest.raises(NotHeld, match="was deleted here"):
            future.result()
    part = store.blobs.fills.open_part("r", BLOB, len(BODY))
    part.write(0, BODY)
    store.blobs.fills.commit(part, "r", BLOB, hashed(BODY)[1], owned=False, now=3.0).result()
    part.close()
    assert store.blobs.get("r", BLOB) is None
    assert store.upkeep.sweep(now=100.0, grace=1.0).result() == len(BODY) + len(MANIFEST)
    push(store, "r", MANIFEST, "v1")
    push_file(store, "r", BODY)
    assert not store.references.is_deleted("r", "manifest", str(digest))
    assert not store.references.is_deleted("r", "tag", "v1")
    assert not store.references.is_deleted("r", "blob", str(BLOB))
    assert store.blobs.get("r", BLOB) is not None


def test_what_the_parent_does_not_know_is_pending_until_it_goes(store: Store, opener: Opener) -> None:
    one, two = push(store, "r", b"1", "v1", pending=True), push(store, "q", b"2", pending=True)
    push(store, "q", b"3")
    assert sorted(store.references.outbox.pending()) == sorted([("q", two), ("r", one)])
    assert store.references.outbox.is_pending("r", one)
    assert not store.references.outbox.is_pending("q", one)
    store.references.delete_manifest("q", two, now=2.0).result()
    assert store.references.outbox.pending() == [("r", one)]


def test_an_emptied_repository_stays(store: Store) -> None:
    digest = push(store, "r", MANIFEST, "v1")
    store.references.delete_manifest("r", digest, now=2.0).result()
    assert store.references.repositories() == ["r"]
    assert store.references.tags("r") == []
    assert store.references.has_repository("r")
    assert len(store.references.tag_moves("r", "v1")) == 2


# --- ends ---------------------------------------------------------------------------------------------------


def test_a_push_that_nobody_waits_for_is_finished(store: Store) -> None:
    digest, table = hashed(BODY)
    future = store.blobs.push_upload("r", stage(store, BODY), len(BODY), digest, table, now=1.0)
    assert not future.cancel()
    future.result()
    assert store.blobs.get("r", digest) is not None


def test_closing_finishes_what_was_begun(opener: Opener, root: Path) -> None:
    store = opener()
    digest, table = hashed(BODY)
    names = [stage(store, BODY, f"{n:064x}") for n in range(20)]
    futures = [
        store.blobs.push_upload(f"r{n}", s, len(BODY), digest, table, now=1.0) for n, s in enumerate(names)
    ]
    store.close()
    assert all(future.exception() is None for future in futures)
    with pytest.raises(StoreError, match="closed"):
        store.blobs.push_upload("r", names[0], len(BODY), digest, table, now=1.0).result()
    assert os.listdir(root / "uploads") == []


# --- rebuild -----------------------------------------------------------------------------------------------


def test_locks_tombstones_and_pending_come_back(opener: Opener, root: Path) -> None:
    import shutil

    store = opener()
    subject = push(store, "r", MANIFEST, "v1", "v2", "v3", pending=True)
    push(store, "r", b"signature", subject=subject)
    push_file(store, "r", BODY)
    store.references.set_lock("r", LockTarget("tag", "v1"), Lock(write=False, list=False), now=2.0).result()
    store.references.set_lock("r", LockTarget("tag", "v2"), Lock(write=False), now=2.0).result()
    store.references.set_lock("r", LockTarget("tag", "v2"), Lock(), now=2.0).result()
    store.references.delete_tag("r", "v3", now=3.0, tombstone=True).result()
    store.blobs.delete("r", BLOB, now=3.0).result()
    before, _ = dump(store, root)
    store.close()
    shutil.rmtree(root / "index")
    report = rebuild(root)
    assert report.problems == []
    assert report.counts["unlinked blobs"] == 1
    store = opener()
    after, _ = dump(store, root)
    assert set(before) == set(after)
    assert {k: v for k, v in before.items() if k[:1] not in b"Qg"} == {
        k: v for k, v in after.items() if k[:1] not in b"Qg"
    }
    assert store.upkeep.sweep(now=4.0, grace=1.0).result() == len(BODY)
    store.close()
    assert fsck(root, (1, 1)).problems == []


def test_one_push_waits_for_no_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads of one blob wait in line without a thread; another blob passes them."""
    gate, begun = threading.Event(), threading.Event()
    place = store._directory.place_blob
    digest, table = hashed(BODY)

    def slow(source: object, wanted: Digest, **more: object) -> None:
        if wanted == digest:
            begun.set()
            assert gate.wait(60)
        place(source, wanted, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(store._directory, "place_blob", slow)
    names = [stage(store, BODY, f"{n:064x}") for n in range(60)]
    futures = [store.blobs.push_upload("r", name, len(BODY), digest, table, now=1.0) for name in names]
    assert begun.wait(60)
    push_file(store, "r", OTHER)
    assert not any(future.done() for future in futures)
    gate.set()
    for future in futures:
        future.result(60)
