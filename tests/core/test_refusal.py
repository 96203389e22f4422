"""A store that is not safe to open is refused, with what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from holdfast_core import Digest, Store, opening
from holdfast_core import format as layout
from holdfast_core.errors import Exhausted, RecordDamaged, StoreError, StoreRefused
from holdfast_core.filesystem import files
from holdfast_core.filesystem.syscalls import filesystem_type, reserve, start_writeback, syncfs
from holdfast_core.index import lmdb_index
from support.stores import flip_bit, put_file, put_manifest, some_bytes

Opener = Callable[..., Store]


@pytest.fixture
def closed(opener: Opener, root: Path) -> Path:
    """A store with something of everything, closed."""
    store = opener()
    for n in range(50):
        put_manifest(store, "r", b"manifest %d" % n + bytes(1000))
    put_file(store, "r", some_bytes(100_000))
    store.close()
    return root


def test_a_reader_does_not_make_a_store(root: Path) -> None:
    with pytest.raises(StoreRefused, match="holds no store"):
        Store.create_or_open(root, write=False)
    assert not root.exists()


def test_a_first_start_without_room_says_that_it_may_be_inodes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(Exhausted, match=r"No space left on device; free space or inodes \(df, df -i\)"):
        Store.create_or_open(root, write=True)


@pytest.mark.parametrize(
    "call", [lambda: reserve(-1, 0, 1), lambda: syncfs(-1), lambda: start_writeback(-1, 0, 1)]
)
def test_a_call_that_failed_says_why(call: Callable[[], None]) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        call()
    assert caught.value.errno == errno.EBADF


def test_a_deleted_index_is_refused(closed: Path) -> None:
    shutil.rmtree(closed / "index")
    (closed / "index").mkdir()
    with pytest.raises(StoreRefused, match="holdfast rebuild"):
        Store.create_or_open(closed, write=True)
    assert os.listdir(closed / "index") == []


def test_an_index_of_no_bytes_is_refused(closed: Path) -> None:
    os.truncate(closed / "index" / "data.mdb", 0)
    with pytest.raises(StoreRefused, match="holdfast rebuild"):
        Store.create_or_open(closed, write=True)


def test_an_empty_index_beside_a_store_is_refused(closed: Path) -> None:
    shutil.rmtree(closed / "index")
    with lmdb.open(str(closed / "index"), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"k", b"v")
        txn.delete(b"k")
    with pytest.raises(StoreRefused, match=r"index is empty.*holdfast rebuild"):
        Store.create_or_open(closed, write=True)


def test_another_stores_index_is_refused(closed: Path, opener: Opener, tmp_path: Path) -> None:
    opener(tmp_path / "other").close()
    shutil.copy(tmp_path / "other" / "index" / "data.mdb", closed / "index" / "data.mdb")
    with pytest.raises(StoreRefused, match="belongs to another store"):
        Store.create_or_open(closed, write=False)


def test_blobs_without_an_identity_are_refused(closed: Path) -> None:
    (closed / "store.json").unlink()
    with pytest.raises(StoreRefused, match=r"holds blobs but no store\.json"):
        Store.create_or_open(closed, write=True)


@pytest.mark.parametrize(
    "change",
    [{"format": 0}, {"format": layout.FORMAT + 1}, {"engine": "lmdb-1.0"}, {"uuid": "x"}, {"uuid": None}],
    ids=str,
)
def test_another_format_is_refused(closed: Path, change: dict[str, object]) -> None:
    text = json.loads((closed / "store.json").read_text())
    (closed / "store.json").write_text(json.dumps(text | change))
    with pytest.raises(StoreRefused, match=r"store.json"):
        Store.create_or_open(closed, write=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_an_identity_that_is_none_is_refused(closed: Path, text: str) -> None:
    (closed / "store.json").write_text(text)
    with pytest.raises(StoreRefused, match=r"store.json"):
        Store.create_or_open(closed, write=True)


@pytest.mark.parametrize("share", [0.8, 0.2])
@pytest.mark.parametrize("write", [True, False])
def test_a_truncated_index_is_refused_before_it_is_mapped(closed: Path, share: float, write: bool) -> None:
    data = closed / "index" / "data.mdb"
    os.truncate(data, int(data.stat().st_size * share))
    with pytest.raises(StoreRefused, match=r"before pages in use.*holdfast rebuild"):
        Store.create_or_open(closed, write=write)


def test_two_broken_meta_pages_are_refused(closed: Path) -> None:
    with (closed / "index" / "data.mdb").open("r+b") as file:
        file.write(bytes(8192))
    with pytest.raises(StoreRefused, match="no intact meta page"):
        Store.create_or_open(closed, write=True)


def test_a_free_page_past_the_end_is_no_damage(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[str] = []

    def nothing_wrong(path: str) -> list[str]:
        walked.append(path)
        return []

    monkeypatch.setattr(lmdb_index, "verify", nothing_wrong)
    os.truncate(closed / "index" / "data.mdb", 8192)
    lmdb_index.check_meta(closed / "index" / "data.mdb")
    assert walked


def test_flipped_bits_in_values_are_noticed(closed: Path) -> None:
    """1,000 of them. The bodies are mostly zeros, so their bits are easily found in the data file."""
    data = closed / "index" / "data.mdb"
    raw = data.read_bytes()
    places = {n: [m.start() for m in re.finditer(b"manifest %d\0" % n, raw)] for n in range(50)}
    store = Store.create_or_open(closed, write=False)
    try:
        for seed in range(1000):
            body = b"manifest %d" % (seed % 50) + bytes(1000)
            flips = [at + 12 + seed % 900 for at in places[seed % 50]]
            for at in flips:
                flip_bit(data, at, seed % 8)
            with pytest.raises(RecordDamaged):
                store.references.manifest("r", Digest.of(body))
            for at in flips:
                flip_bit(data, at, seed % 8)
            assert store.references.manifest("r", Digest.of(body)) is not None
    finally:
        store.close()


def test_a_damaged_record_is_healed_by_the_write_that_replaces_it(closed: Path, opener: Opener) -> None:
    body = b"manifest 7" + bytes(1000)
    data = closed / "index" / "data.mdb"
    at = data.read_bytes().index(body)
    while at > 0:
        flip_bit(data, at + 20)
        at = data.read_bytes().find(b"manifest 7\0", at + 1)
    store = opener()
    digest = put_manifest(store, "r", body)
    found = store.references.manifest("r", digest)
    assert found is not None
    assert found.body == body


def test_two_writers(opener: Opener, root: Path) -> None:
    opener()
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from holdfast_core import Store; Store.create_or_open({str(root)!r}, write=True)",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "is written by another process" in child.stderr


def test_twice_in_one_process(opener: Opener, root: Path) -> None:
    opener()
    with pytest.raises(StoreRefused):
        Store.create_or_open(root, write=False)


def test_a_store_does_not_survive_a_fork(store: Store) -> None:
    digest = put_manifest(store, "r", b"x")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.references.manifest("r", digest)
        except StoreError as error:
            status = 0 if "opened before a fork" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.references.manifest("r", digest) is not None


def test_network_file_systems_are_refused(
    root: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener().close()
    for number, name in files.NETWORK.items():
        monkeypatch.setattr(files, "filesystem_type", lambda fd, number=number: number)
        with pytest.raises(StoreRefused, match=f"is on {name}"):
            Store.create_or_open(root, write=True)
    opener(allow_network=True)


def test_the_kernels_own_word_is_used(root: Path, opener: Opener) -> None:
    opener()
    fd = os.open(root, os.O_RDONLY)
    assert filesystem_type(fd) not in files.NETWORK
    os.close(fd)


def test_a_build_that_hashes_wrongly_opens_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "chunk_hash", lambda data: b"wrong")
    with pytest.raises(StoreRefused, match="hashes wrongly"):
        Store.create_or_open(root, write=True)
    assert not root.exists()


def test_the_engine_is_asserted(root: Path, monkeypatch: pytest.MonkeyPatch, opener: Opener) -> None:
    monkeypatch.setenv("LMDB_DEFAULT_LIB_VERSION", "1")
    store = opener()
    assert store._index._env.lib_version()[:2] == (0, 9)


@pytest.mark.parametrize("left", ["nothing", "directories", "index"])
def test_a_creation_cut_short_is_taken_up(root: Path, opener: Opener, left: str) -> None:
    opener().close()
    (root / "store.json").unlink()
    if left in ("nothing", "directories"):
        shutil.rmtree(root / "index")
        shutil.rmtree(root / "journal")
    if left == "nothing":
        shutil.rmtree(root)
    store = opener()
    digest = put_manifest(store, "r", b"x")
    store.close()
    assert opener().references.manifest("r", digest) is not None


def test_a_refused_store_keeps_no_descriptor(root: Path, opener: Opener) -> None:
    """A worker tries again for as long as a disk cannot be read, and has clients to serve meanwhile."""
    opener().close()
    (root / "fills").rename(root / "elsewhere")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(StoreRefused):
            opener(write=False)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("kind", [lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError])
def test_case_fault_6_an_index_whose_pages_are_wrong_is_refused_with_what_to_do(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, kind: type[lmdb.Error]
) -> None:
    """Wherever on the way to an open store LMDB meets such a page: torture met it while the unsynced were settled."""
    opener().close()

    def met(*_: object) -> None:
        raise kind("mdb_cursor_get", -30796)

    monkeypatch.setattr(opening, "_settle_unsynced", met)
    with pytest.raises(StoreRefused, match=r"the index in .* is damaged: .*; run `holdfast rebuild`"):
        opener()
    monkeypatch.undo()
    opener()


def test_an_index_without_room_is_not_called_damaged(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    opener().close()

    def met(*_: object) -> None:
        raise lmdb.MapFullError("mdb_put", -30792)

    monkeypatch.setattr(opening, "_settle_unsynced", met)
    with pytest.raises(lmdb.MapFullError):
        opener()
