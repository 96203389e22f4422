"""What is put is found again: here, after a reopening, and only where it belongs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from holdfast_core import CHUNK_BYTES, Descriptor, Digest, FillState, ReferrersList, Store, Tag, TagList
from holdfast_core import format as layout
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.errors import DigestMismatch, Exhausted, Mistake, NotHeld, StoreError
from holdfast_core.journal.group_commit import Plan
from support.stores import MEDIA, file_of, hashed, put_file, put_manifest, read_all, some_bytes

Opener = Callable[..., Store]


SIZES = [0, 1, 16384, 16385, CHUNK_BYTES, CHUNK_BYTES + 1, 3_300_000]


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_blobs_come_back_byte_for_byte(opener: Opener, root: Path, algorithm: str, owned: bool) -> None:
    store = opener()
    for size in SIZES:
        body = some_bytes(size)
        blob = put_file(store, "library/x", body, owned=owned, algorithm=algorithm)
        assert (blob.size, blob.owned, blob.inline is not None) == (size, owned, size <= 16384)
        assert read_all(store, blob) == body
        assert file_of(root, blob.digest).exists() == (size > 16384)
        assert os.listdir(root / "fills") == []
    store.close()
    store = opener()
    for size in SIZES:
        again = store.blobs.get("library/x", Digest.of(some_bytes(size), algorithm))
        assert again is not None
        assert read_all(store, again) == some_bytes(size)


def test_an_empty_blob_may_be_a_file(opener: Opener) -> None:
    store = opener(inline_bytes=-1)
    blob = put_file(store, "r", b"")
    assert blob.inline is None
    with store.blobs.open(blob) as reader:
        assert reader.verified(0, 0)
        with pytest.raises(ValueError, match="outside"):
            reader.read(0, 1)


def test_bytes_are_readable_only_where_they_are_linked(store: Store) -> None:
    blob = put_file(store, "a", b"layer")
    assert store.blobs.get("b", blob.digest) is None
    assert store.blobs.anywhere(blob.digest) == blob
    store.blobs.link("b", blob.digest, now=2.0).result()
    assert store.blobs.get("b", blob.digest) == blob
    with pytest.raises(NotHeld):
        store.blobs.link("b", Digest.of(b"other"), now=2.0).result()


def test_the_same_bytes_as_blob_and_as_manifest_are_independent(store: Store) -> None:
    body = b'{"schemaVersion":2}'
    digest = put_manifest(store, "r", body)
    assert store.blobs.get("r", digest) is None
    put_file(store, "q", body)
    assert store.references.manifest("q", digest) is None
    found = store.references.manifest("r", digest)
    assert found is not None
    assert (found.body, found.media_type) == (body, MEDIA)


def test_a_manifest_over_the_inline_limit_lives_in_a_file(opener: Opener, root: Path) -> None:
    store, body = opener(), some_bytes(2_000_000)
    digest = put_manifest(store, "r", body)
    assert file_of(root, digest).stat().st_size == len(body)
    found = store.references.manifest("r", digest)
    assert found is not None
    assert found.body == body


def test_a_body_that_is_not_its_digest_is_refused(store: Store) -> None:
    wrong = Digest.of(b"right")
    with pytest.raises(DigestMismatch):
        store.references.put_manifest("r", wrong, MEDIA, b"wrong", owned=False, now=1.0).result()
    with pytest.raises(DigestMismatch):
        store.references.put_manifest("r", wrong, MEDIA, bytes(20_000), owned=False, now=1.0).result()
    with pytest.raises(DigestMismatch):
        store.blobs.put_inline("r", wrong, b"wrong", owned=False, now=1.0).result()
    part = store.blobs.fills.open_part("r", wrong, 5)
    part.write(0, b"wrong")
    with pytest.raises(DigestMismatch):
        store.blobs.fills.commit(part, "r", wrong, b"t" * 32, owned=False, now=1.0).result()
    with pytest.raises(Mistake, match="does not fit"):
        store.blobs.fills.commit(part, "r", wrong, b"", owned=False, now=1.0)
    part.close()
    assert store.blobs.anywhere(wrong) is None


def test_a_part_grows_at_any_offset(store: Store) -> None:
    digest = Digest.of(b"abcdef")
    part = store.blobs.fills.open_part("a", digest, 6)
    part.write(4, bytearray(b"ef"))
    assert part.read(0, 6) == b"\0\0\0\0ef"
    again = store.blobs.fills.open_part("a", digest, 6)
    again.write(0, memoryview(b"abcd"))
    assert part.read(0, 6) == b"abcdef"
    with pytest.raises(StoreError, match="leaves its 6 bytes"):
        part.write(5, b"xy")
    assert store.statistics().open_parts == 2
    part.close()
    again.close()
    again.close()
    store.blobs.fills.drop_part("a", digest)
    store.blobs.fills.drop_part("a", digest)


def test_a_blob_that_is_held_is_only_linked(store: Store, root: Path) -> None:
    body = some_bytes(100_000)
    first = put_file(store, "a", body, owned=True)
    inode = file_of(root, first.digest).stat().st_ino
    second = put_file(store, "b", body)
    assert second.owned
    assert file_of(root, first.digest).stat().st_ino == inode
    assert os.listdir(root / "fills") == []


def test_a_cached_blob_becomes_owned(store: Store) -> None:
    body = some_bytes(100_000)
    assert put_file(store, "a", body).boot != b""
    pushed = put_file(store, "a", body, owned=True)
    assert (pushed.owned, pushed.boot) == (True, b"")
    store.upkeep.sync_cached().result()
    assert store.blobs.get("a", pushed.digest) == pushed


def test_a_gone_file_is_brought_in_again(store: Store, root: Path) -> None:
    body = some_bytes(100_000)
    blob = put_file(store, "a", body)
    file_of(root, blob.digest).unlink()
    with pytest.raises(NotHeld):
        store.blobs.open(blob)
    assert read_all(store, put_file(store, "a", body)) == body


def test_synced_rows_lose_their_boot(store: Store) -> None:
    blob = put_file(store, "r", some_bytes(50_000))
    assert len(blob.boot) == 16
    store.upkeep.sync_cached().result()
    after = store.blobs.get("r", blob.digest)
    assert after is not None
    assert after.boot == b""


def test_tags(store: Store) -> None:
    one, two = put_manifest(store, "r", b"1"), put_manifest(store, "r", b"2")
    store.references.put_tag("r", "v1", one, now=10.0).result()
    store.references.put_tag("r", "v1", one, now=20.0).result()
    assert store.references.tag("r", "v1") == Tag("v1", one, 20.0, 10.0, "parent")
    store.references.put_tag("r", "v1", two, now=30.0, origin="local").result()
    assert store.references.tag("r", "v1") == Tag("v1", two, 30.0, 30.0, "local")
    assert [(m.digest, m.moved_at) for m in store.references.tag_moves("r", "v1")] == [
        (two, 30.0),
        (one, 10.0),
    ]
    assert store.references.tag("q", "v1") is None
    store.references.drop_tag("r", "v1", now=3.0).result()
    store.references.drop_tag("r", "v1", now=3.0).result()
    assert store.references.tag("r", "v1") is None


def test_the_last_sixteen_moves_of_a_tag_are_kept(store: Store) -> None:
    targets = [Digest.of(bytes([n])) for n in range(20)]
    for n, digest in enumerate(targets):
        store.references.put_tag("r", "latest", digest, now=float(n)).result()
    assert [m.digest for m in store.references.tag_moves("r", "latest")] == targets[:3:-1]


def test_lists_are_bytewise_sorted_and_paged(store: Store) -> None:
    names = ["B", "a", "a-1", "a.1", "a1", "b", "Z", "_x"]
    digest = Digest.of(b"")
    for name in names:
        store.references.put_tag("r", name, digest, now=1.0)
        store.references.put_tag("r" + name, "x", digest, now=1.0)
    store.references.put_tag("r", "last", digest, now=1.0).result()
    wanted = sorted([*names, "last"])
    assert store.references.tags("r") == wanted
    assert store.references.tags("r", limit=0) == []
    assert store.references.tags("r", last="a", limit=2) == wanted[wanted.index("a") + 1 :][:2]
    assert store.references.tags("r", last="a0") == [w for w in wanted if w > "a0"]
    assert store.references.tags("r", last="zzz") == []
    assert store.references.tags("nothing") == []
    assert store.references.repositories() == sorted(["r", *("r" + n for n in names)])
    assert store.references.repositories(last="r", limit=1) == [min("r" + n for n in names)]
    assert store.references.has_repository("r")
    assert not store.references.has_repository("s")


def test_a_list_longer_than_one_transaction_takes(store: Store) -> None:
    digest = Digest.of(b"")
    names = [f"t{n:05}" for n in range(2500)]
    futures = [store.references.put_tag("r", name, digest, now=1.0) for name in names]
    for future in futures:
        future.result()
    assert store.references.tags("r") == names
    assert store.references.tags("r", last="t01500", limit=700) == names[1501:2201]
    assert store.statistics().batches < 2500


def test_the_parents_tag_list_is_replaced_whole(store: Store) -> None:
    assert store.references.lists.tag_list("r") is None
    store.references.lists.put_tag_list("r", [f"tag-{n}-{'x' * 50}" for n in range(500)], now=1.0).result()
    store.references.lists.put_tag_list("r", ["z", "a"], now=2.0).result()
    assert store.references.lists.tag_list("r") == TagList(("a", "z"), 2.0)  # in byte order
    store.references.lists.put_tag_list("r", [], now=3.0).result()
    assert store.references.lists.tag_list("r") == TagList((), 3.0)


def test_referrers_are_the_parents_and_ours(store: Store) -> None:
    subject = put_manifest(store, "r", b"subject")
    assert store.references.lists.referrers("r", subject) is None
    ours = put_manifest(store, "r", b"signature", subject=subject)
    local = store.references.lists.referrers("r", subject)
    assert local is not None
    assert ([d.digest for d in local.descriptors], local.fetched_at) == ([str(ours)], 0.0)
    theirs = Descriptor("m", str(Digest.of(b"sbom")), 4, "sbom", {"k": "v"})
    both = Descriptor("m2", str(ours), 9)
    store.references.lists.put_referrers("r", subject, [theirs, both], now=5.0).result()
    assert store.references.lists.referrers("r", subject) == ReferrersList((both, theirs), 5.0)  # by digest
    assert store.references.lists.referrers("q", subject) is None
    other = put_manifest(store, "r", b"other", subject=subject)
    merged = store.references.lists.referrers("r", subject)
    assert merged is not None
    assert [d.digest for d in merged.descriptors] == [str(ours), theirs.digest, str(other)]


def test_no_parent_list_is_an_empty_one(store: Store) -> None:
    subject = Digest.of(b"s")
    store.references.lists.put_referrers("r", subject, [], now=5.0).result()
    assert store.references.lists.referrers("r", subject) == ReferrersList((), 5.0)


def test_fills_are_checkpointed_and_end_with_their_commit(opener: Opener, root: Path) -> None:
    store, body = opener(), some_bytes(200_000)
    digest, table = hashed(body)
    chunks = {n: bytes([n % 256]) * 32 for n in range(0, 500, 7)}
    for repository in ("a", "b"):
        store.blobs.fills.open_part(repository, digest, len(body)).close()
        store.blobs.fills.checkpoint(
            FillState(repository, digest, len(body), '"e"', ((0, 9),), chunks, True, 1.0)
        ).result()
    later = FillState("a", digest, len(body), '"e"', ((0, 99),), {0: b"x" * 32}, False, 2.0)
    store.blobs.fills.checkpoint(later).result()
    store.close()
    store = opener()
    assert {f.repository: f for f in store.blobs.fills.states()}["a"] == later
    assert {f.repository: f for f in store.blobs.fills.states()}["b"].chunks == chunks
    store.blobs.fills.drop("b", digest).result()
    assert [f.repository for f in store.blobs.fills.states()] == ["a"]
    part = store.blobs.fills.open_part("a", digest, len(body))
    part.write(0, body)
    store.blobs.fills.commit(part, "a", digest, table, owned=False, now=1.0).result()
    assert part.read(5, 3) == body[5:8]
    part.close()
    assert store.blobs.fills.states() == []


def test_access_times_outlive_the_process(opener: Opener) -> None:
    store, digest = opener(), Digest.of(b"")
    assert store.blobs.last_seen("r", digest) is None
    store.blobs.seen("r", digest, 8.0)
    store.blobs.seen("r", digest, 9.0)
    assert store.blobs.last_seen("r", digest) == 9.0
    store.close()
    assert opener().blobs.last_seen("r", digest) == 9.0


def waiting(gate: threading.Event, begun: threading.Event | None = None) -> Plan:
    """A change that holds the writer until the gate opens, and changes nothing."""

    def plan(view: IndexView) -> list[IndexChange]:
        if begun:
            begun.set()
        assert gate.wait(60)
        return []

    return plan


def test_changes_that_wait_are_committed_together(store: Store) -> None:
    digest = Digest.of(b"")
    gate = threading.Event()
    store._access.submit(waiting(gate))
    futures = [store.references.put_tag("r", f"t{n}", digest, now=1.0) for n in range(500)]
    before = store.statistics().batches
    gate.set()
    for future in futures:
        future.result()
    assert store.statistics().batches - before <= 10


def test_a_refused_change_does_not_touch_its_neighbours(store: Store) -> None:
    good, bad = Digest.of(b"good"), Digest.of(b"bad")
    gate = threading.Event()
    store._access.submit(waiting(gate))
    futures = [
        store.references.put_tag("r", "one", good, now=1.0),
        store.blobs.link("r", bad, now=1.0),
        store.references.put_tag("r", "two", good, now=1.0, origin="nowhere"),
        store.references.put_tag("r", "three", good, now=1.0),
    ]
    gate.set()
    assert futures[0].result() is None
    assert isinstance(futures[1].exception(), NotHeld)
    assert isinstance(futures[2].exception(), Mistake)
    assert futures[3].result() is None
    assert store.references.tags("r") == ["one", "three"]


def test_a_cancelled_change_is_not_made(store: Store) -> None:
    begun, gate = threading.Event(), threading.Event()

    store._access.submit(waiting(gate, begun))
    assert begun.wait(60)
    dropped = store.references.put_tag("r", "dropped", Digest.of(b""), now=1.0)
    assert dropped.cancel()
    gate.set()
    store.references.put_tag("r", "kept", Digest.of(b""), now=1.0).result()
    assert store.references.tags("r") == ["kept"]


def test_a_full_index_refuses_and_goes_on_reading(opener: Opener) -> None:
    store = opener(map_bytes=4 << 20)
    digest = put_manifest(store, "r", b"first")
    bodies = [some_bytes(16000, seed) for seed in range(400)]
    futures = [store.blobs.put_inline("r", Digest.of(b), b, owned=False, now=1.0) for b in bodies]
    errors = [f.exception() for f in futures]
    assert isinstance(errors[-1], Exhausted)
    assert {type(e) for e in errors} == {type(None), Exhausted}
    assert store.references.manifest("r", digest) is not None
    for body, error in zip(bodies, errors, strict=True):
        assert (store.blobs.get("r", Digest.of(body)) is not None) == (error is None)
    assert store.statistics().failed == ""
    put_manifest(store, "r", b"small and owned still fits", owned=True)


READER = """
import sys
sys.path[:0] = {path!r}
from holdfast_core import Digest, Store
store = Store.create_or_open(sys.argv[1], write=False)
print("open", flush=True)
for line in sys.stdin:
    blob = store.blobs.get("r", Digest.parse(line.strip()))
    print(blob and blob.size, flush=True)
"""


def test_another_process_sees_a_commit_at_once(store: Store, root: Path) -> None:
    code = READER.format(path=[p for p in sys.path if p])
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert child.stdout
        assert child.stdout.readline() == "open\n"
        for size in (5, 50_000):
            digest, _ = hashed(some_bytes(size))
            for wanted in ("None", str(size)):
                print(digest, file=child.stdin, flush=True)
                assert child.stdout.readline() == wanted + "\n"
                put_file(store, "r", some_bytes(size))
        child.stdin.close()
    assert child.returncode == 0


def test_a_reader_writes_nothing(store: Store, opener: Opener, root: Path) -> None:
    store.close()
    before = (root / "index" / "data.mdb").read_bytes()
    reader = opener(write=False)
    with pytest.raises(StoreError, match="for reading"):
        reader.references.put_tag("r", "x", Digest.of(b""), now=1.0)
    with pytest.raises(StoreError, match="for reading"):
        reader.blobs.fills.open_part("a", Digest.of(b""), 1)
    reader.close()
    assert (root / "index" / "data.mdb").read_bytes() == before


def test_writes_after_close_are_refused(store: Store) -> None:
    store.close()
    store.close()
    for act in (store.upkeep.sync_cached, store.references.repositories, store.blobs.fills.states):
        with pytest.raises(StoreError, match="closed"):
            act()
    for late in (
        store.references.put_tag("r", "x", Digest.of(b""), now=1.0),
        store.references.put_manifest("r", Digest.of(bytes(50_000)), "m", bytes(50_000), owned=True, now=1.0),
    ):
        with pytest.raises(StoreError, match="closed"):
            late.result()


def test_a_damaged_checkpoint_claims_nothing_and_stops_nobody(opener: Opener, root: Path) -> None:
    """The keeper asks for all checkpoints when it starts; one bad record must not keep it from starting."""
    store = opener()
    for number in range(2):
        digest = Digest.of(bytes([number]))
        store.blobs.fills.open_part("a", digest, 9).close()
        store.blobs.fills.checkpoint(
            FillState("a", digest, 9, "", ((0, 9),), {0: b"x" * 32}, True, 1.0)
        ).result()
    store.close()
    with lmdb.open(str(root / "index"), map_size=1 << 30) as env, env.begin(write=True) as txn:
        keys = [bytes(key) for key in txn.cursor().iternext(values=False)]
        first = next(key for key in keys if key.startswith(layout.FILL))
        value = bytearray(txn.get(first) or b"")
        value[-1] ^= 1
        txn.put(first, bytes(value))
    assert len(opener().blobs.fills.states()) == 1
