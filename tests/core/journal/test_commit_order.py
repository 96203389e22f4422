"""What must be on disk before what: for owned content, and for cached content nothing at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from holdfast_core import Digest, Lock, LockTarget, Store
from holdfast_core.errors import DiskFailed, Exhausted, NotHeld, SyncFailed
from holdfast_core.filesystem import directory
from holdfast_core.filesystem.syscalls import syncfs
from holdfast_core.journal.group_commit import CommitOperation
from support.stores import dump, hashed, push, push_file, put_file, put_manifest, read_all, some_bytes, stage

Opener = Callable[..., Store]
BODY = some_bytes(100_000)


class Calls:
    """Records the calls that decide what survives a power cut, in order, and can make one fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
        self.seen: list[str] = []
        self.failing = ""
        self.error = errno.EIO
        for name in ("fdatasync", "fsync", "rename", "pwrite"):
            monkeypatch.setattr(os, name, self.recorded(name, getattr(os, name)))
        monkeypatch.setattr(directory, "syncfs", self.recorded("syncfs", syncfs))
        writer = store._writer
        assert writer is not None
        self.commit = writer._commit
        monkeypatch.setattr(writer, "_commit", self.committed)

    def committed(self, batch: list[CommitOperation]) -> dict[CommitOperation, Exception]:
        refused = self.commit(batch)
        self.note("commit")
        return refused

    def note(self, what: str) -> None:
        self.seen.append(what)

    def recorded(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(target: int | str, *rest: object, **more: object) -> object:
            fd = target if isinstance(target, int) else more.get("src_dir_fd")
            place = str(target) if fd is None else os.readlink(f"/proc/self/fd/{fd}")
            kind = next((k for k in ("journal", "fills", "uploads", "blobs") if f"/{k}" in place), "fills")
            self.note(f"{name} {kind}")
            if self.failing == f"{name} {kind}":
                raise OSError(self.error, os.strerror(self.error))
            return real(target, *rest, **more)

        return call


def test_owned_bytes_then_name_then_directory_then_journal_then_row(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, store)
    put_file(store, "r", BODY, owned=True)
    calls.note("done")
    assert calls.seen == [
        "pwrite fills",
        "fdatasync fills",
        "rename fills",
        "fsync blobs",
        "pwrite journal",
        "fdatasync journal",
        "commit",
        "done",
    ]


def test_an_upload_keeps_the_owned_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    name = stage(store, BODY)
    calls = Calls(monkeypatch, store)
    store.blobs.push_upload("r", name, len(BODY), *hashed(BODY), now=1.0).result()
    order = [
        "fdatasync uploads",
        "rename uploads",
        "fsync blobs",
        "pwrite journal",
        "fdatasync journal",
        "commit",
    ]
    assert calls.seen == order
    push_file(store, "q", BODY)
    # the second one takes the place of what may have rotten, once it is committed
    assert calls.seen[len(order) :] == ["fdatasync uploads", *order[3:], *order[:3]]


def test_what_a_client_changes_is_journaled_on_disk_before_it_counts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_file(store, "r", BODY)
    calls = Calls(monkeypatch, store)
    digest = push(store, "r", b"manifest", "v1", "v2")
    store.references.set_lock("r", LockTarget("tag", "v1"), Lock(list=False), now=1.0).result()
    store.references.delete_tag("r", "v1", now=1.0).result()
    store.blobs.mount("q", hashed(BODY)[0], source="r", now=1.0).result()
    store.references.delete_manifest("r", digest, now=1.0, tombstone=True).result()
    store.blobs.delete("r", hashed(BODY)[0], now=1.0).result()
    assert calls.seen == ["pwrite journal", "fdatasync journal", "commit"] * 6


def test_a_sweep_removes_the_rows_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    push_file(store, "r", BODY)
    store.blobs.delete("r", hashed(BODY)[0], now=1.0).result()
    calls = Calls(monkeypatch, store)
    unlink = os.unlink

    def noted(*arguments: Any, **named: Any) -> None:
        calls.note("unlink")
        unlink(*arguments, **named)

    monkeypatch.setattr(os, "unlink", noted)
    store.upkeep.sweep(now=10.0, grace=1.0).result()
    assert calls.seen == ["pwrite journal", "fdatasync journal", "commit", "unlink"]


def test_many_pushes_share_few_syncs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group commit: while one batch syncs, the next gathers. A gate holds the first, so that they meet."""
    gate = threading.Event()

    def waits(_: object) -> list[object]:
        assert gate.wait(60)
        return []

    store._access.submit(waits)  # type: ignore[arg-type]
    batches = store.statistics().batches
    bodies = [some_bytes(20_000, n) for n in range(100)]
    futures = [
        store.blobs.push_upload("r", stage(store, body), len(body), *hashed(body), now=1.0) for body in bodies
    ]
    while store.statistics().queued < len(bodies):
        gate.wait(0.01)
    gate.set()
    for future in futures:
        future.result(60)
    assert store.statistics().batches - batches <= 2


def test_cached_bytes_are_not_synced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, store)
    put_file(store, "r", BODY)
    put_manifest(store, "r", b"cached manifest")
    store.references.put_tag("r", "v1", Digest.of(b"cached manifest"), now=1.0).result()
    assert calls.seen == [
        "pwrite fills",
        "rename fills",
        *["pwrite journal", "commit"] * 3,
    ]
    store.upkeep.sync_cached().result()
    assert calls.seen[8:] == ["syncfs blobs", "fdatasync journal", "commit"]
    store.upkeep.sync_cached().result()
    assert calls.seen[11:] == ["commit"], "an empty one, for which LMDB writes nothing"
    store.references.put_tag("r", "v2", Digest.of(b"cached manifest"), now=1.0).result()
    store.upkeep.sync_cached().result()
    assert calls.seen[12:] == ["pwrite journal", "commit", "fdatasync journal", "commit"]


def test_owned_records_are_journaled_on_disk_before_they_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, store)
    put_manifest(store, "r", b"owned manifest", owned=True)
    store.references.put_tag("r", "v1", Digest.of(b"owned manifest"), now=1.0, origin="local").result()
    assert calls.seen == ["pwrite journal", "fdatasync journal", "commit"] * 2


def test_a_large_manifest_is_synced_even_when_cached(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, store)
    put_manifest(store, "r", BODY)
    assert calls.seen[:4] == ["pwrite fills", "fdatasync fills", "rename fills", "fsync blobs"]


def test_a_cached_file_that_becomes_owned_is_synced_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file(store, "r", BODY)
    calls = Calls(monkeypatch, store)
    store.blobs.mount("q", hashed(BODY)[0], source="r", now=1.0).result()
    assert calls.seen == [
        "fdatasync blobs",
        "fsync blobs",
        "pwrite journal",
        "fdatasync journal",
        "commit",
    ]


@pytest.mark.parametrize("failing", ["fsync blobs", "fdatasync journal", "syncfs blobs"])
def test_case_71_a_failed_sync_is_the_last_write(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    store = opener()
    cached = put_file(store, "r", some_bytes(70_000))
    calls = Calls(monkeypatch, store)
    calls.failing = failing
    digest, _ = hashed(BODY)
    act: Callable[[], object] = partial(put_file, store, "r", BODY, owned=True)
    if failing == "syncfs blobs":
        act = store.upkeep.sync_cached().result
    with pytest.raises(SyncFailed):
        act()
    calls.failing = ""
    assert store.statistics().failed
    assert store.blobs.get("r", digest) is None
    with pytest.raises(SyncFailed):
        put_manifest(store, "r", b"after")
    with pytest.raises(SyncFailed):
        put_file(store, "r", BODY)
    assert read_all(store, cached) == some_bytes(70_000)
    store.blobs.fills.drop_part("r", digest)
    store.close()
    assert put_file(opener(), "r", BODY, owned=True).owned


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("failing", ["fdatasync fills", "fdatasync uploads", "fdatasync blobs"])
def test_case_fault_2_a_failed_sync_of_one_file_costs_that_file(
    store: Store, monkeypatch: pytest.MonkeyPatch, failing: str, code: int
) -> None:
    """Nothing that was acknowledged depends on it. A second sync of the file would succeed over lost bytes: what was
    fetched is gone, and an upload is refused until it was written again."""
    cached = put_file(store, "r", some_bytes(70_000))
    calls = Calls(monkeypatch, store)
    calls.failing, calls.error = failing, code
    name, (digest, table) = stage(store, BODY), hashed(BODY)
    acts: dict[str, Callable[[], object]] = {
        "fdatasync fills": partial(put_file, store, "r", BODY, owned=True),
        "fdatasync uploads": lambda: store.blobs.push_upload(
            "r", name, len(BODY), digest, table, now=1.0
        ).result(),
        "fdatasync blobs": lambda: store.blobs.mount("q", cached.digest, source="r", now=1.0).result(),
    }
    with pytest.raises(DiskFailed if code == errno.EIO else Exhausted):
        acts[failing]()
    state = store.condition.state
    assert state == ("writable" if code == errno.EIO else "full")
    synced = calls.seen.count(failing)
    with pytest.raises((DiskFailed, Exhausted, NotHeld)):
        acts[failing]()
    calls.failing = ""
    if failing == "fdatasync blobs":
        assert calls.seen.count(failing) == synced, "the file was set aside"
    if failing == "fdatasync uploads":
        assert calls.seen.count(failing) == synced, "the file is in doubt"
        assert store.uploads.size(name) == len(BODY)
        store.uploads.remove(name)
    assert push_file(store, "r", BODY).owned


@pytest.mark.parametrize("failing", ["pwrite fills", "rename fills"])
def test_case_71_a_full_disk_is_no_failed_sync(
    store: Store, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    calls = Calls(monkeypatch, store)
    calls.failing, calls.error = failing, errno.ENOSPC
    digest, table = hashed(BODY)
    part = store.blobs.fills.open_part("r", digest, len(BODY))
    act: Callable[[], object] = partial(part.write, 0, BODY)
    if failing == "rename fills":
        act = store.blobs.fills.commit(part, "r", digest, table, owned=True, now=1.0).result
    with pytest.raises(Exhausted):
        act()
    part.close()
    calls.failing = ""
    assert put_file(store, "r", BODY, owned=True).owned


@pytest.mark.parametrize("failing", ["rename uploads", "pwrite journal"])
def test_case_71_an_upload_survives_a_full_disk(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    name, (digest, table) = stage(store, BODY), hashed(BODY)
    before = dump(store, root)
    calls = Calls(monkeypatch, store)
    calls.failing, calls.error = failing, errno.ENOSPC
    with pytest.raises(Exhausted):
        store.blobs.push_upload("r", name, len(BODY), digest, table, now=1.0).result()
    calls.failing = ""
    assert dump(store, root) == before
    store.blobs.push_upload("r", name, len(BODY), digest, table, now=1.0).result()
    assert store.statistics().failed == ""


def test_a_journal_that_cannot_be_appended_commits_nothing(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_manifest(store, "r", b"before")
    length = (root / "journal" / "log").stat().st_size
    calls = Calls(monkeypatch, store)
    calls.failing, calls.error = "pwrite journal", errno.ENOSPC
    with pytest.raises(Exhausted):
        put_manifest(store, "r", b"refused")
    calls.failing = ""
    assert store.references.manifest("r", Digest.of(b"refused")) is None
    assert (root / "journal" / "log").stat().st_size == length
    assert store.statistics().failed == ""
    put_manifest(store, "r", b"after")


def test_an_operation_that_breaks_does_not_end_the_writer(store: Store) -> None:
    def broken(_: object) -> list[object]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store._access.submit(broken).result()  # type: ignore[arg-type]
    put_manifest(store, "r", b"after")


def test_an_operation_that_breaks_takes_no_other_with_it(store: Store) -> None:
    gate = threading.Event()

    def waits(_: object) -> list[object]:
        assert gate.wait(60)
        return []

    first = store._access.submit(waits)  # type: ignore[arg-type]
    digest = Digest.of(b"x")
    good = store.references.put_manifest("r", digest, "m", b"x", owned=True, now=1.0)
    bad = store.references.put_manifest("r", digest, "\ud800", b"x", owned=True, now=1.0)
    gate.set()
    assert first.result(60) is None
    assert good.result(60) is None
    assert isinstance(bad.exception(20), UnicodeEncodeError)
    assert store.references.manifest("r", digest) is not None


# --- as the kernel sees it -------------------------------------------------------------------------------

CHILD = """
import os, sys
sys.path[:0] = {path!r}
from holdfast_core import Store
from support.stores import put_file, put_manifest, some_bytes
store = Store.create_or_open(sys.argv[1], write=True)
os.write(9, b"begin")
put_file(store, "r", some_bytes(100_000, 1), owned=True)
os.write(9, b"owned")
put_file(store, "r", some_bytes(100_000, 2))
put_manifest(store, "r", b"cached")
os.write(9, b"cached")
store.close()
"""
LINE = re.compile(r"(\w+)\((.*)\) += ")


def syscalls(tmp_path: Path) -> list[str]:
    """What a child that commits owned and then cached content asks of the kernel, in order."""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e"]
    command += [
        "trace=write,writev,pwrite64,pwritev,fdatasync,fsync,syncfs,msync,sync_file_range,rename,renameat,renameat2"
    ]
    code = CHILD.format(path=[p for p in sys.path if p])
    run = subprocess.run(
        [
            "bash",
            "-c",
            'exec 9>/dev/null; exec "$@"',
            "-",
            *command,
            sys.executable,
            "-c",
            code,
            str(tmp_path / "s"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "ptrace" in run.stderr:
        pytest.skip(f"strace may not trace here: {run.stderr.strip().splitlines()[-1]}")
    assert run.returncode == 0, run.stderr
    return [kind for line in trace.read_text().splitlines() if (kind := kind_of(line))]


def kind_of(line: str) -> str:
    """`call place` for a line of the trace; place is a table of the store, or what was written to 9."""
    found = LINE.search(line)
    if found is None:
        return ""
    call, rest = found.groups()
    if call == "write":
        mark = re.search(r'9</dev/null>, "(\w+)"', rest)
        return mark.group(1) if mark else ""
    first = rest.split(",")[0] if "rename" not in call else rest
    for place in ("data.mdb", "journal", "fills", "blobs"):
        if place in first:
            return f"{call} {place}"
    return ""


def test_the_order_of_system_calls(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    calls = syscalls(tmp_path)
    owned = calls[calls.index("begin") + 1 : calls.index("owned")]
    cached = calls[calls.index("owned") + 1 : calls.index("cached")]
    order = ["pwrite64 fills", "fdatasync fills", "rename fills", "fsync blobs", "pwrite64 journal"]
    order += ["fdatasync journal", "pwrite64 data.mdb", "fdatasync data.mdb", "pwrite64 data.mdb"]
    names = {"renameat": "rename", "renameat2": "rename", "writev": "pwrite64", "pwritev": "pwrite64"}
    plain = [f"{names.get(call, call)} {place}" for call, place in map(str.split, owned)]
    squeezed = [c for n, c in enumerate(plain) if n == 0 or c != plain[n - 1]]
    assert squeezed == order
    syncs = [c for c in cached if "sync" in c]
    assert set(syncs) == {"fdatasync data.mdb"}, "cached content syncs the index and nothing else"
    assert any(c.startswith("rename") for c in cached)
