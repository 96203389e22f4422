"""Stores of every format that was ever released are read by today's code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import CHUNK_BYTES, Descriptor, Digest, ReferrersList, Store, TagList, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.errors import ChunkDamaged
from holdfast_core.record import Tag, TagMove
from support import golden
from support.stores import MEDIA, hashed, read_all

Opener = Callable[..., Store]
ARCHIVES = sorted(golden.ARCHIVE.parent.glob("store-format-*.tar.xz"))
SUBJECT, SIGNATURE = Digest.of(golden.MANIFEST), Digest.of(golden.SIGNATURE)


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A golden store, unpacked."""
    return golden.unpack(request.param, tmp_path)


def test_there_is_one_for_todays_format() -> None:
    assert golden.ARCHIVE in ARCHIVES
    assert golden.ARCHIVE.stat().st_size < 20_000


def test_every_kind_of_record_is_in_it(root: Path, opener: Opener) -> None:
    store = opener(write=False)
    rows = {name: list(store._index.scan(table)) for table, name in layout.TABLES.items()}
    assert [name for name, found in rows.items() if not found] == []
    for key, value in (row for found in rows.values() for row in found):
        layout.unseal(key, value)


def check_kept(store: Store) -> None:
    """What a rebuild must keep, too."""
    assert store.repositories() == ["docker.io:library/b", "library/a", "library/b"]
    small = store.blob("docker.io:library/b", golden.SHA512)
    assert small is not None
    assert (small.inline, small.owned) == (golden.SMALL, False)
    cached = store.blob("library/b", Digest.of(golden.CACHED))
    assert cached is not None
    assert read_all(store, cached) == golden.CACHED
    bodies = {SUBJECT: golden.MANIFEST, SIGNATURE: golden.SIGNATURE}
    bodies[Digest.of(golden.LARGE_MANIFEST)] = golden.LARGE_MANIFEST
    for digest, body in bodies.items():
        found = store.manifest("library/a", digest)
        assert found is not None
        assert (found.body, found.media_type, found.owned) == (body, MEDIA, digest == SUBJECT)
    assert store.tag("library/a", "v1") == Tag("v1", SUBJECT, 2.0, 2.0, "local")
    moves = [TagMove(SUBJECT, 2.0, "local"), TagMove(SIGNATURE, 1.0, "parent")]
    assert store.tag_moves("library/a", "v1") == moves
    assert store.tag_list("library/a") == TagList(golden.TAGS, 3.0)
    ours = Descriptor(MEDIA, str(SIGNATURE), len(golden.SIGNATURE))
    assert store.referrers("library/a", SUBJECT) == ReferrersList((golden.DESCRIPTOR, ours), 4.0)


@pytest.mark.parametrize("write", [True, False])
def test_everything_in_it_is_read(root: Path, opener: Opener, write: bool) -> None:
    store = opener(write=write)
    check_kept(store)
    assert store.fills() == [golden.FILL]
    assert store.last_seen("library/a", SUBJECT) == 5.0
    layer = store.blob("library/a", hashed(golden.LAYER)[0])
    assert layer is not None
    assert (layer.size, layer.owned, layer.damaged) == (len(golden.LAYER), True, True)
    with store.open_blob(layer) as reader:
        assert reader.read(61 * CHUNK_BYTES, 10) == bytes(5)
        with pytest.raises(ChunkDamaged):
            reader.read(60 * CHUNK_BYTES, 1)


def test_it_is_sound_and_can_be_rebuilt(root: Path, opener: Opener) -> None:
    opener().close()
    assert [p for p in fsck(root, (1, 1)).problems if "quarantined" not in p] == []
    shutil.rmtree(root / "index")
    assert rebuild(root).problems == []
    store = opener()
    check_kept(store)
    layer = store.blob("library/a", hashed(golden.LAYER)[0])
    assert layer is not None
    assert read_all(store, layer) == golden.LAYER
