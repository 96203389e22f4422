"""Stores of every format that was ever released are read by today's code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import (
    CHUNK_BYTES,
    Child,
    Descriptor,
    Digest,
    EventRecord,
    LockTarget,
    ReferrersList,
    Resource,
    Store,
    TagList,
    fsck,
    opening,
    rebuild,
)
from holdfast_core import format as layout
from holdfast_core.errors import ChunkDamaged
from holdfast_core.record import Tag, TagMove
from msgspec.structs import replace
from support import golden
from support.stores import MEDIA, hashed, push_file, read_all, some_bytes

Opener = Callable[..., Store]
ARCHIVES = sorted(golden.ARCHIVE.parent.glob("store-format-*.tar.xz"))
SUBJECT, SIGNATURE = Digest.of(golden.MANIFEST), Digest.of(golden.SIGNATURE)


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A golden store, unpacked."""
    return golden.unpack(request.param, tmp_path)


def format_of(root: Path) -> int:
    """What its store.json says."""
    return int(json.loads((root / "store.json").read_text())["format"])


#: tables that came with a format
TABLES_SINCE = {
    2: (
        *(layout.LOCK, layout.PENDING, layout.DELETED, layout.UNLINKED, layout.RESOURCE, layout.OUTBOX),
        *layout.DERIVED_TABLES,
    ),
    3: (layout.EVENT,),
    4: (*(layout.CHILDREN, layout.EDGE, layout.ACCOUNT, layout.USE, layout.LOOSE), layout.PIN),
    5: (layout.CONFIRMED,),
}


def test_there_is_one_for_every_format() -> None:
    assert len(ARCHIVES) == len(layout.FORMATS)
    assert golden.ARCHIVE in ARCHIVES
    assert golden.ARCHIVE.stat().st_size < 20_000


def test_every_kind_of_record_is_in_it(root: Path, opener: Opener) -> None:
    store, version = opener(write=False), format_of(root)
    later = {table for since, tables in TABLES_SINCE.items() if since > version for table in tables}
    rows = {table: list(store._index.scan(table)) for table in layout.TABLES}
    assert {table for table, found in rows.items() if not found} == later
    for key, value in (row for found in rows.values() for row in found):
        layout.unseal(key, value)


def check_kept(store: Store, version: int) -> None:
    """What a rebuild must keep, too."""
    pushed = ["pushed/c"] if version >= 2 else []
    assert store.references.repositories() == ["docker.io:library/b", "library/a", "library/b", *pushed]
    if version >= 2:
        check_pushed(store, version)
    assert store.space.pins() == ([golden.PIN] if version >= 4 else [])
    if version >= 4:
        children = [Child(b"b", Digest.of(golden.CHILD), len(golden.CHILD))]
        assert store.space.children(Digest.of(golden.IMAGE)) == children
    small = store.blobs.get("docker.io:library/b", golden.SHA512)
    assert small is not None
    assert (small.inline, small.owned) == (golden.SMALL, False)
    cached = store.blobs.get("library/b", Digest.of(golden.CACHED))
    assert cached is not None
    assert read_all(store, cached) == golden.CACHED
    bodies = {SUBJECT: golden.MANIFEST, SIGNATURE: golden.SIGNATURE}
    bodies[Digest.of(golden.LARGE_MANIFEST)] = golden.LARGE_MANIFEST
    for digest, body in bodies.items():
        found = store.references.manifest("library/a", digest)
        assert found is not None
        assert (found.body, found.media_type, found.owned) == (body, MEDIA, digest == SUBJECT)
    assert store.references.tag("library/a", "v1") == Tag("v1", SUBJECT, 2.0, 2.0, "local")
    moves = [TagMove(SUBJECT, 2.0, "local"), TagMove(SIGNATURE, 1.0, "parent")]
    assert store.references.tag_moves("library/a", "v1") == moves
    assert store.references.lists.tag_list("library/a") == TagList(golden.TAGS, 3.0)
    ours = Descriptor(MEDIA, str(SIGNATURE), len(golden.SIGNATURE))
    assert store.references.lists.referrers("library/a", SUBJECT) == ReferrersList(
        (golden.DESCRIPTOR, ours), 4.0
    )


def check_pushed(store: Store, version: int) -> None:
    """What came with format 2."""
    digest = golden.PUSHED_SHA512
    found = store.references.manifest("pushed/c", digest)
    assert found is not None
    assert (found.body, found.owned) == (golden.PUSHED, True)
    assert store.references.tag("pushed/c", "kept") == Tag("kept", digest, 6.0, 6.0, "local")
    assert store.references.tags("pushed/c") == (["logged"] if version >= 3 else [])
    assert store.references.lock("pushed/c", LockTarget("tag", "kept")) == golden.LOCK
    moves = [TagMove(None, 8.0, "local"), TagMove(digest, 6.0, "local")]
    assert store.references.tag_moves("pushed/c", "gone") == moves
    assert store.references.is_deleted("pushed/c", "tag", "gone")
    assert store.references.outbox.pending() == [("pushed/c", digest)]
    assert store.blobs.get("pushed/c", hashed(golden.UNLINKED)[0]) is None
    assert store.documents.of_kind("token") == [Resource("token", "Plant", 1, golden.DOCUMENT)]
    assert (store.documents.count("token"), store.documents.revision()) == (1, 1)
    assert store.references.outbox.rows() == [(2, golden.NOTE * 2)]
    assert (store.references.outbox.last(), store.references.outbox.row(1)) == (2, None)


def check_logged(store: Store, version: int) -> None:
    """What came with format 3, and a rebuild does not bring back."""
    head = store.events.head()
    assert (head is not None) == (version >= 3)
    if head is None:
        assert store.events.after(0, 10) == []
        return
    assert (head.last, head.floor, head.count) == (2, 0, 2)
    named = EventRecord(
        "push",
        "tag",
        "pushed/c",
        10.0,
        "logged",
        str(Digest.of(golden.LOGGED)),
        MEDIA,
        len(golden.LOGGED),
        number=1,
    )
    assert store.events.after(0, 10) == [named, replace(golden.RELAYED, number=2)]
    assert store.events.since(head.log, 2, 10) == []


@pytest.mark.parametrize("write", [True, False])
def test_everything_in_it_is_read(root: Path, opener: Opener, write: bool) -> None:
    version = format_of(root)
    store = opener(write=write)
    check_kept(store, version)
    assert store.blobs.fills.states() == [golden.FILL]
    check_logged(store, version)
    assert store.blobs.last_seen("library/a", SUBJECT) == 5.0
    layer = store.blobs.get("library/a", hashed(golden.LAYER)[0])
    assert layer is not None
    assert (layer.size, layer.owned, layer.damaged) == (len(golden.LAYER), True, True)
    with store.blobs.open(layer) as reader:
        assert reader.read(61 * CHUNK_BYTES, 10) == bytes(5)
        with pytest.raises(ChunkDamaged):
            reader.read(60 * CHUNK_BYTES, 1)


def test_case_76_an_older_store_is_brought_up_to_date_by_its_writer(root: Path, opener: Opener) -> None:
    before = format_of(root)
    opener(write=False).close()
    assert format_of(root) == before
    assert [p for p in fsck(root, (1, 1)).problems if "quarantined" not in p] == []
    store = opener()
    assert format_of(root) == layout.FORMAT
    push_file(store, "library/a", some_bytes(50_000))
    store.blobs.mount("library/c", hashed(golden.CACHED)[0], source="library/b", now=20.0).result()
    store.references.delete_manifest("library/a", SUBJECT, now=20.0).result()
    assert store.references.tag("library/a", "v1") is None
    store.references.delete_manifest("library/a", SIGNATURE, now=20.0).result()
    found = store.references.lists.referrers("library/a", SUBJECT)
    assert found is not None
    assert found.descriptors == (golden.DESCRIPTOR,)
    store.blobs.delete("library/b", hashed(golden.CACHED)[0], now=20.0).result()
    assert store.upkeep.sweep(now=30.0, grace=5.0).result() >= len(golden.MANIFEST) + len(golden.SIGNATURE)
    assert store.blobs.get("library/c", hashed(golden.CACHED)[0]) is not None
    store.close()
    assert [p for p in fsck(root, (1, 1)).problems if "quarantined" not in p] == []


def test_an_update_cut_short_is_taken_up(
    tmp_path: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = golden.unpack(ARCHIVES[0], tmp_path)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "_recover", cut)
    with pytest.raises(KeyboardInterrupt):
        opener()
    monkeypatch.undo()
    assert format_of(root) == 1
    check_kept(opener(), 1)
    assert format_of(root) == layout.FORMAT


def test_it_is_sound_and_can_be_rebuilt(root: Path, opener: Opener) -> None:
    version = format_of(root)
    opener().close()
    assert [p for p in fsck(root, (1, 1)).problems if "quarantined" not in p] == []
    shutil.rmtree(root / "index")
    assert rebuild(root).problems == []
    store = opener()
    check_kept(store, version)
    layer = store.blobs.get("library/a", hashed(golden.LAYER)[0])
    assert layer is not None
    assert read_all(store, layer) == golden.LAYER
