"""What a mode, a lock or the disk forbids is refused by the store itself, and leaves it as it was."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
from holdfast_core import Digest, Lock, LockChange, LockTarget, Store
from holdfast_core import format as layout
from holdfast_core.errors import (
    ContentLocked,
    DigestMismatch,
    Exhausted,
    Mistake,
    NotHeld,
    RecordDamaged,
    StoreReadOnly,
)
from support.stores import (
    MEDIA,
    dump,
    hashed,
    push,
    push_file,
    put_file,
    put_manifest,
    some_bytes,
    stage,
)

Opener = Callable[..., Store]
BODY = some_bytes(100_000)
OTHER = some_bytes(100_000, 2)
MANIFEST = b'{"schemaVersion":2}'
BLOB = hashed(BODY)[0]

Act = Callable[[Store, Digest], Future[None]]
ACTS: dict[str, Act] = {
    "push manifest": lambda s, d: s.references.push_manifest(
        "r", Digest.of(b"x"), MEDIA, b"x", tags=("t",), now=9.0
    ),
    "push large manifest": lambda s, d: s.references.push_manifest(
        "r", hashed(OTHER)[0], MEDIA, OTHER, now=9.0
    ),
    "push blob": lambda s, d: s.blobs.push_inline("r", Digest.of(b"y"), b"y", now=9.0),
    "push upload": lambda s, d: s.blobs.push_upload("r", "u" * 64, len(OTHER), *hashed(OTHER), now=9.0),
    "push held upload": lambda s, d: s.blobs.push_upload("r", "h" * 64, len(BODY), *hashed(BODY), now=9.0),
    "mount": lambda s, d: s.blobs.mount("r", BLOB, source="q", now=9.0),
    "delete tag": lambda s, d: s.references.delete_tag("r", "v1", now=9.0),
    "delete manifest": lambda s, d: s.references.delete_manifest("r", d, now=9.0),
    "delete blob": lambda s, d: s.blobs.delete("r", Digest.of(b"inline"), now=9.0),
    "lock": lambda s, d: s.references.set_lock("r", LockTarget("tag", "v1"), Lock(read=False), now=9.0),
}


def furnished(store: Store) -> Digest:
    """Something to act upon, in two repositories."""
    digest = push(store, "r", MANIFEST, "v1")
    store.blobs.push_inline("r", Digest.of(b"inline"), b"inline", now=1.0).result()
    push_file(store, "q", BODY)
    stage(store, OTHER, "u" * 64)
    stage(store, BODY, "h" * 64)
    return digest


@pytest.mark.parametrize("act", ACTS)
def test_s17_read_only_refuses_on_the_call_itself(opener: Opener, root: Path, act: str) -> None:
    store = opener()
    digest = furnished(store)
    store.close()
    for mode in ("ReadOnly", "ReadWrite"):
        store = opener(mode=mode)
        before = dump(store, root)
        if mode == "ReadOnly":
            with pytest.raises(StoreReadOnly, match=r"^This operation is not allowed on this registry\.$"):
                ACTS[act](store, digest)
            assert dump(store, root) == before
        else:
            ACTS[act](store, digest).result()
            assert dump(store, root) != before
        store.close()
    with pytest.raises(Mistake, match="allowed: root, ReadWrite, ReadOnly"):
        Store.create_or_open(root, write=True, mode="Mirror")


def test_fills_are_no_clients_change(opener: Opener) -> None:
    store = opener(mode="ReadOnly")
    put_file(store, "r", BODY)
    put_manifest(store, "r", MANIFEST)
    store.references.put_tag("r", "v1", Digest.of(MANIFEST), now=1.0).result()
    store.upkeep.sweep(now=1.0, grace=1.0).result()
    with pytest.raises(StoreReadOnly):
        store.require_writable()
    opened = [store.references.tags("r"), store.mode]
    assert opened == [["v1"], "ReadOnly"]


REPOSITORY, TAG = LockTarget("repository"), LockTarget("tag", "v1")
FORBIDDEN = [
    (REPOSITORY, Lock(write=False), ["push manifest", "push large manifest", "push blob", "push upload"]),
    (
        REPOSITORY,
        Lock(write=False),
        ["push held upload", "mount", "delete tag", "delete manifest", "delete blob"],
    ),
    (TAG, Lock(write=False), ["delete tag", "delete manifest"]),
    (REPOSITORY, Lock(delete=False), ["delete tag", "delete manifest", "delete blob"]),
    (TAG, Lock(delete=False), ["delete tag", "delete manifest"]),
    (LockTarget("manifest", str(Digest.of(MANIFEST))), Lock(delete=False), ["delete manifest"]),
]


@pytest.mark.parametrize(("target", "lock", "acts"), FORBIDDEN, ids=str)
def test_locks_refuse_and_leave_no_trace(
    store: Store, root: Path, target: LockTarget, lock: Lock, acts: list[str]
) -> None:
    digest = furnished(store)
    store.references.set_lock("r", target, lock, now=2.0).result()
    assert store.references.lock("r", target) == lock
    before = dump(store, root)
    attribute = "writeEnabled" if not lock.write else "deleteEnabled"
    for act in acts:
        with pytest.raises(
            ContentLocked, match=f"^The operation is disallowed on this.*{attribute} is false on the"
        ):
            ACTS[act](store, digest).result()
        assert dump(store, root) == before, act
    for act in ACTS.keys() - set(acts):
        if act not in ("delete tag", "delete manifest") and lock.write:
            ACTS[act](store, digest).result()


def test_a_lock_refuses_before_a_file_is_touched(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = furnished(store)
    store.references.set_lock("r", REPOSITORY, Lock(write=False), now=2.0).result()
    touched: list[str] = []
    for name in ("place_blob", "write_blob", "drop", "sync_blob"):
        monkeypatch.setattr(store._directory, name, lambda *_, name=name, **__: touched.append(name))
    for act in ("push upload", "push held upload", "push large manifest", "mount"):
        with pytest.raises(ContentLocked):
            ACTS[act](store, digest).result()
    assert touched == []


def test_a_write_locked_tag_does_not_move_and_a_write_locked_manifest_is_not_pushed(
    store: Store, root: Path
) -> None:
    digest = push(store, "r", MANIFEST, "v1")
    store.references.set_lock("r", TAG, Lock(write=False), now=2.0).result()
    before = dump(store, root)
    with pytest.raises(ContentLocked, match="writeEnabled is false on the tag v1 of r"):
        push(store, "r", b"other", "new", "v1")
    assert dump(store, root) == before
    store.references.set_lock("r", TAG, Lock(), now=2.0).result()
    target = LockTarget("manifest", str(digest))
    store.references.set_lock("r", target, Lock(write=False), now=2.0).result()
    with pytest.raises(ContentLocked, match="writeEnabled is false on the manifest sha256:"):
        store.references.push_manifest("r", digest, "application/other", MANIFEST, now=3.0).result()
    push(store, "r", b"other", "v1")


def test_reading_what_is_locked_is_refused(store: Store) -> None:
    digest = push(store, "r", MANIFEST, "v1", "v2")
    push_file(store, "r", BODY)
    assert store.references.tag("r", "v1") is not None
    store.references.set_lock("r", TAG, Lock(read=False), now=2.0).result()
    with pytest.raises(ContentLocked, match="readEnabled is false on the tag v1 of r"):
        store.references.tag("r", "v1")
    assert store.references.tag("r", "v2") is not None
    store.references.set_lock("r", LockTarget("manifest", str(digest)), Lock(read=False), now=2.0).result()
    with pytest.raises(ContentLocked, match="readEnabled is false on the manifest sha256"):
        store.references.manifest("r", digest)
    store.references.set_lock("r", REPOSITORY, Lock(read=False), now=2.0).result()
    for read in (
        lambda: store.blobs.get("r", BLOB),
        lambda: store.blobs.get("r", Digest.of(b"not held")),
        lambda: store.references.manifest("r", Digest.of(b"not held")),
        lambda: store.references.tag("r", "v2"),
    ):
        with pytest.raises(ContentLocked, match="readEnabled is false on the repository r"):
            read()
    for target in (REPOSITORY, TAG, LockTarget("manifest", str(digest))):
        store.references.set_lock("r", target, Lock(), now=3.0).result()
    assert store.references.tag("r", "v1") is not None
    assert store.references.manifest("r", digest) is not None
    assert store.blobs.get("r", BLOB) is not None


def test_lists_leave_out_what_may_not_be_listed(store: Store) -> None:
    subject = push(store, "r", MANIFEST, "v1", "v2", "v3")
    referrer = push(store, "r", b"signature", subject=subject)
    push(store, "q", MANIFEST)
    store.references.lists.put_tag_list("r", ["v1", "v9"], now=1.0).result()
    hidden = Lock(list=False)
    for repository, target in (
        ("r", TAG),
        ("r", LockTarget("manifest", str(referrer))),
        ("q", REPOSITORY),
    ):
        store.references.set_lock(repository, target, hidden, now=2.0).result()
    assert store.references.tags("r") == ["v2", "v3"]
    assert store.references.tags("r", limit=1) == ["v2"]
    assert store.references.tags("r", limit=0) == []
    tag_list, referrers = store.references.lists.tag_list("r"), store.references.lists.referrers("r", subject)
    assert tag_list is not None
    assert tag_list.tags == ("v9",)
    assert referrers is None or referrers.descriptors == ()
    assert store.references.repositories() == ["r"]
    assert store.references.manifest("r", referrer) is not None
    assert store.references.tag("r", "v1") is not None


def test_a_lock_needs_its_target_and_ends_with_it(store: Store) -> None:
    with pytest.raises(NotHeld):
        store.references.set_lock("r", REPOSITORY, Lock(write=False), now=1.0).result()
    digest = push(store, "r", MANIFEST, "v1")
    target = LockTarget("manifest", str(digest))
    for missing in (LockTarget("tag", "none"), LockTarget("manifest", str(BLOB))):
        with pytest.raises(NotHeld):
            store.references.set_lock("r", missing, Lock(write=False), now=1.0).result()
    with pytest.raises(Mistake):
        store.references.set_lock("r", LockTarget("layer", "x"), Lock(write=False), now=1.0).result()
    for name in (target, TAG):
        store.references.set_lock("r", name, Lock(list=False), now=1.0).result()
    store.references.delete_manifest("r", digest, now=2.0).result()
    assert store.references.lock("r", target) == Lock()
    assert store.references.lock("r", TAG) == Lock()


def test_of_changes_at_once_every_one_holds(store: Store) -> None:
    digest = push(store, "r", MANIFEST, "v1")
    for target in (REPOSITORY, TAG, LockTarget("manifest", str(digest))):
        changes = [LockChange(**{name: False}) for name in ("read", "write", "delete", "list")]
        for future in [store.references.set_lock("r", target, change, now=1.0) for change in changes]:
            future.result()
        assert store.references.lock("r", target) == Lock(False, False, False, False)
        store.references.set_lock("r", target, LockChange(), now=1.0).result()
        store.references.set_lock("r", target, LockChange(read=True, list=False), now=1.0).result()
        assert store.references.lock("r", target) == Lock(True, False, False, False)
        store.references.set_lock(
            "r", target, LockChange(write=True, delete=True, list=True), now=1.0
        ).result()
        assert store.references._get(layout.lock_key("r", target)) is None


def test_a_lock_that_cannot_be_read_forbids(store: Store, root: Path) -> None:
    digest = push(store, "r", MANIFEST, "v1")
    store.references.set_lock("r", REPOSITORY, Lock(write=False), now=1.0).result()
    key = layout.lock_key("r", REPOSITORY)
    value = store._index.begin().get(key)
    assert value is not None
    with store._index.begin(write=True) as txn:
        txn.put(key, value[:-1] + bytes([value[-1] ^ 1]))
    log = root / "journal" / "log"  # the other copy, which would mend it
    log.write_bytes(log.read_bytes().replace(value, bytes(len(value))))
    for act in (
        lambda: push(store, "r", b"new"),
        lambda: store.references.manifest("r", digest),
        lambda: store.references.tag("r", "v1"),
    ):
        with pytest.raises(RecordDamaged):
            act()
    store.references.set_lock("r", REPOSITORY, LockChange(read=True), now=1.0).result()
    assert store.references.lock("r", REPOSITORY) == Lock(True, False, False, False)
    assert store.references.manifest("r", digest) is not None
    store.references.set_lock("r", REPOSITORY, Lock(), now=1.0).result()
    push(store, "r", b"new")


# --- refusals ----------------------------------------------------------------------------------------------


def test_a_wrong_digest_leaves_no_trace(store: Store, root: Path) -> None:
    furnished(store)
    before = dump(store, root)
    for body in (b"wrong", bytes(20_000)):
        with pytest.raises(DigestMismatch):
            store.references.push_manifest("r", BLOB, MEDIA, body, tags=("v1",), now=1.0).result()
        with pytest.raises(DigestMismatch):
            store.blobs.push_inline("r", BLOB, body, now=1.0).result()
    stage(store, b"tiny", "t" * 64)
    before = dump(store, root)
    with pytest.raises(DigestMismatch):
        store.blobs.push_upload("r", "t" * 64, 4, BLOB, b"t" * 32, now=1.0).result()
    with pytest.raises(Mistake):
        push(store, "r", b"new", "ok", "x" * 129)
    assert dump(store, root) == before


@pytest.mark.parametrize(
    "act", ["push upload", "push held upload", "push large manifest", "push manifest", "mount"]
)
def test_what_the_writer_refuses_leaves_the_files_where_they_were(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The commit itself fails for want of room: the upload can be closed again later."""
    digest = furnished(store)
    before = dump(store, root)
    writer = store._writer
    assert writer is not None

    def no_room(batch: object) -> object:
        raise Exhausted("no space left")

    commit = writer._commit
    monkeypatch.setattr(writer, "_commit", no_room)
    with pytest.raises(Exhausted):
        ACTS[act](store, digest).result()
    assert dump(store, root) == before
    monkeypatch.setattr(writer, "_commit", commit)
    ACTS[act](store, digest).result()


def test_a_lock_set_while_the_file_is_placed_takes_it_back(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = furnished(store)
    place = store._directory.place_blob
    before = dump(store, root)[1]

    def slow(*arguments: object, **more: object) -> None:
        place(*arguments, **more)  # type: ignore[arg-type]
        store.references.set_lock("r", REPOSITORY, Lock(write=False), now=2.0).result()

    monkeypatch.setattr(store._directory, "place_blob", slow)
    for act in ("push upload", "push large manifest"):
        with pytest.raises(ContentLocked):
            ACTS[act](store, digest).result()
        assert dump(store, root)[1] == before
        store.references.set_lock("r", REPOSITORY, Lock(), now=2.0).result()


def test_an_index_that_is_nearly_full_takes_pushes_and_deletes_and_no_cached_content(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast_core.journal import group_commit

    push(store, "r", MANIFEST, "v1", "v2")
    push_file(store, "r", BODY)
    monkeypatch.setattr(group_commit, "INDEX_SHARE", 0.0)
    with pytest.raises(Exhausted):
        put_manifest(store, "r", b"cached")
    with pytest.raises(Exhausted):
        put_file(store, "r", OTHER)
    push(store, "r", b"owned", "v3")
    store.references.delete_tag("r", "v1", now=2.0).result()
    store.references.delete_manifest("r", Digest.of(MANIFEST), now=2.0).result()
    store.blobs.delete("r", BLOB, now=2.0, tombstone=True).result()
    assert store.upkeep.sweep(now=100.0, grace=1.0).result() == len(BODY) + len(MANIFEST)
    assert store.references.tags("r") == ["v3"]
