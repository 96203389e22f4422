"""Killed, full, crowded: the store opens again with no hand, and nothing that was acknowledged is gone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from holdfast_core import Digest, Store, fsck
from holdfast_core import format as layout
from holdfast_core.changes import change
from holdfast_core.changes.transaction import commit_alone
from holdfast_core.errors import Exhausted
from support.stores import hashed, put_file, put_manifest, read_all, some_bytes

Opener = Callable[..., Store]
KILLS = 20

WRITER = """
import os, sys
sys.path[:0] = {path!r}
from holdfast_core import Store
from support.stores import put_file, put_manifest, some_bytes
store, n = Store.create_or_open(sys.argv[1], write=True), int(sys.argv[2])
store.events.keep(True).result()
while True:
    n += 1
    if n % 3:
        digest = put_manifest(store, "r", b"manifest %d" % n, owned=True)
    else:
        digest = put_file(store, "r", some_bytes(20_000, n), owned=n % 2 == 0).digest
    if n % 3:
        store.references.put_tag("r", "t%d" % n, digest, now=float(n), origin="local").result()
    if n % 7 == 0:
        store.upkeep.sync_cached().result()
    if n % 4 == 0:
        store.upkeep.compact_journal()
    print(n, flush=True)
"""
READER = """
import sys
sys.path[:0] = {path!r}
from holdfast_core import Store
store = Store.create_or_open(sys.argv[1], write=False)
pinned = store._index.begin()
print("pinned", flush=True)
sys.stdin.read()
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `code`."""
    path = [p for p in sys.path if p]
    command = [sys.executable, "-c", code.format(path=path), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(child: subprocess.Popen[str]) -> list[str]:
    """SIGKILL, then what it still had printed."""
    assert child.stdout
    assert child.stdin
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split("\n")
    child.wait(60)
    child.stdin.close()
    child.stdout.close()
    assert child.returncode == -signal.SIGKILL
    return [line for line in rest if line]


def acknowledged(store: Store, n: int) -> bool:
    """Whether what the writer acknowledged as `n` is there, byte for byte."""
    if n % 3:
        body = b"manifest %d" % n
        found = store.references.manifest("r", Digest.of(body))
        return found is not None and found.body == body
    body = some_bytes(20_000, n)
    blob = store.blobs.get("r", hashed(body)[0])
    return blob is not None and read_all(store, blob) == body


def test_a_writer_killed_at_any_moment(root: Path) -> None:
    """The kill lands at some moment after a drawn number of acknowledgements, while the writer goes on."""
    die, last = random.Random(7), 0
    for _ in range(KILLS):
        child = start(WRITER, root, last)
        assert child.stdout
        for _ in range(die.randint(1, 25)):
            last = int(child.stdout.readline())
        last = max([last, *map(int, kill(child))])
        store = Store.create_or_open(root, write=True)
        try:
            assert [n for n in range(1, last + 1) if not acknowledged(store, n)] == []
            assert {f"t{n}" for n in range(1, last + 1) if n % 3} <= set(store.references.tags("r"))
            told = [event.tag for event in store.events.after(0, 1_000_000) if event.kind == "tag"]
            assert sorted(told) == store.references.tags("r")
        finally:
            store.close()
    report = fsck(root, (1, 1))
    assert report.problems == []
    assert report.counts["blobs read"] >= last


def test_killed_readers_pin_nothing_for_long(opener: Opener, root: Path) -> None:
    """A pinned reader keeps the index from using its free pages; a dead one does so until it is found."""
    store = opener()
    names = [f"t{n}" for n in range(100)]

    def churn() -> int:
        for n in range(30):
            digest = Digest.of(b"%d" % n)
            futures = [store.references.put_tag("r", name, digest, now=1.0) for name in names]
            for future in futures:
                future.result()
        return store.statistics().index_bytes

    churn()
    children = [start(READER, root) for _ in range(6)]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "pinned\n"
    for child in children:
        kill(child)
    pinned = churn()
    store.upkeep.sync_cached().result()
    assert store.upkeep.reader_check() == 0
    churn()
    assert churn() <= pinned * 1.1


def test_a_full_reader_table_is_cleared_of_the_dead(
    opener: Opener, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast_core.index import lmdb_index

    monkeypatch.setattr(lmdb_index, "MAX_READERS", 4)
    store = opener()
    digest = put_manifest(store, "r", b"x")
    children = [start(READER, root) for _ in range(3)]
    for child in children:
        assert child.stdout
        assert child.stdout.readline() == "pinned\n"
    pins = [store._index.begin()]
    for child in children:
        kill(child)
    pins += [store._index.read_transaction() for _ in range(2)]
    for pin in pins:
        pin.abort()
    assert store.references.manifest("r", digest) is not None


# --- a full disk -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip(f"mounting a small tmpfs needs root; this is uid {os.geteuid()}")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_refuses_and_heals(small_disk: Path, opener: Opener) -> None:
    store = opener(small_disk / "store")
    kept = put_manifest(store, "r", b"before", owned=True)
    layer = put_file(store, "r", some_bytes(100_000))
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, store.free_bytes() - (1 << 20))))

    refused: list[int] = []
    for n in range(200):
        body = some_bytes(15_000, n)
        error = store.blobs.put_inline("r", Digest.of(body), body, owned=True, now=1.0).exception()
        assert error is None or isinstance(error, Exhausted), repr(error)
        if error is not None:
            refused.append(n)
    assert refused
    digest = Digest.of(b"large")
    part = store.blobs.fills.open_part("r", digest, 4 << 20)
    with pytest.raises(Exhausted):
        part.write(0, bytes(4 << 20))
    part.close()
    store.blobs.fills.drop_part("r", digest)

    assert store.statistics().failed == ""
    assert read_all(store, layer) == some_bytes(100_000)
    for n in range(200):
        held = store.blobs.get("r", Digest.of(some_bytes(15_000, n))) is not None
        assert held == (n not in refused)
    ballast.unlink()
    put_manifest(store, "r", b"after", owned=True)
    store.close()
    store = opener(small_disk / "store")
    assert store.references.manifest("r", kept) is not None
    assert store.references.manifest("r", Digest.of(b"after")) is not None
    store.close()
    assert fsck(small_disk / "store", (1, 1)).problems == []


# --- start-up --------------------------------------------------------------------------------------------

ROWS = 100_000
OPENER = """
import os, sys
sys.path[:0] = {path!r}
from holdfast_core import Digest, Store
touched = []
sys.addaudithook(lambda event, args: touched.append((event, str(args[0]))) if event in WATCHED else None)
WATCHED = ("open", "os.listdir", "os.scandir", "glob.glob", "os.remove", "os.rename")
store = Store.create_or_open(sys.argv[1], write=sys.argv[2] == "write")
assert store.blobs.get("r", Digest.parse(sys.argv[3])) is not None
print(len(touched), sum("blobs/sha256/" in place for _, place in touched))
print(sum(int(line.split()[1]) for line in open("/proc/self/io") if line.startswith(("rchar", "wchar"))))
store.close()
"""


def test_opening_looks_at_no_blob_however_many_there_are(opener: Opener, root: Path) -> None:
    store = opener()
    digests = [Digest.of(b"%d" % n) for n in range(ROWS)]
    rows = [change.put(layout.repository_key("r"), layout.encode_time(1.0))]
    for digest in digests:
        key = digest.key
        rows.append(change.put(layout.BLOB + key, layout.encode_blob(1 << 20, flags=0)))
        rows.append(change.put(layout.segment_key(layout.CHUNKS + key, 0), bytes(32)))
        rows.append(change.put(layout.link_key("r", layout.AS_BLOB, key), layout.encode_link(1.0)))
    commit_alone(store._index, sorted(rows))
    store.close()
    for mode in ("write", "read"):
        child = start(OPENER, root, mode, digests[ROWS // 2])
        out, _ = child.communicate(timeout=60)
        opened, blobs, moved = map(int, out.split())
        assert child.returncode == 0
        assert opened <= 30, f"{opened} files or directories touched"
        assert blobs == 0
        assert moved <= 4 << 20, f"{moved} bytes read and written"
