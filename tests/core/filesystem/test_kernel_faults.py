"""Faults that the kernel injects below LMDB: what the store says, and that it opens again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import Digest, Store, fsck
from support.stores import file_of, hashed, some_bytes

Opener = Callable[..., Store]

CHILD = """
import os, sys
sys.path[:0] = {path!r}
from holdfast_core import Store
from support.stores import hashed, push, push_file, put_file, put_manifest, some_bytes
store, seed = Store.create_or_open(sys.argv[1], write=True), int(sys.argv[2])
steps = [
    lambda: put_manifest(store, "r", b"one %d" % seed, owned=True),
    lambda: put_file(store, "r", some_bytes(30_000, 2 * seed), owned=True),
    lambda: put_file(store, "r", some_bytes(30_000, 2 * seed + 1)),
    lambda: put_manifest(store, "r", b"four %d" % seed, owned=True),
    lambda: push_file(store, "p", some_bytes(30_000, -seed)),
    lambda: push(store, "p", b"six %d" % seed, "t", now=float(seed)),
    lambda: store.blobs.delete("p", hashed(some_bytes(30_000, -seed))[0], now=1.0).result(),
    lambda: store.upkeep.sweep(now=1e12, grace=0.0).result(),
]
os.write(1, b"open\\n")
for n, step in enumerate(steps):
    try:
        step()
        os.write(1, b"done %d\\n" % n)
    except Exception as error:
        os.write(1, b"%s %d\\n" % (type(error).__name__.encode(), n))
os.write(1, b"failed: %s\\n" % store.statistics().failed.encode())
try:
    store.references.repositories()
    os.write(1, b"reads\\n")
except Exception as error:
    os.write(1, b"unreadable %s\\n" % type(error).__name__.encode())
os._exit(0)
"""


def run(root: Path, seed: int, *inject: str) -> list[str]:
    """What a child prints whose system calls on the index, or all of them, are tampered with."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    code = CHILD.format(path=[p for p in sys.path if p])
    command = ["strace", "-f", "-o", "/dev/null", *inject, sys.executable, "-c", code, str(root), str(seed)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "ptrace" in child.stderr:
        pytest.skip(f"strace may not trace here: {child.stderr.strip().splitlines()[-1]}")
    return child.stdout.splitlines()


@pytest.fixture
def made(opener: Opener, root: Path) -> Path:
    """An empty store, closed."""
    opener().close()
    return root


def acknowledged_is_there(root: Path, seed: int, said: list[str]) -> None:
    """The store opens with no hand, is sound, and holds all that was said to be done and is owned."""
    store = Store.create_or_open(root, write=True)
    try:
        held = [
            store.references.manifest("r", Digest.of(b"one %d" % seed)),
            store.blobs.get("r", hashed(some_bytes(30_000, 2 * seed))[0]),
            store.blobs.get("r", hashed(some_bytes(30_000, 2 * seed + 1))[0]),
            store.references.manifest("r", Digest.of(b"four %d" % seed)),
        ]
        assert [n for n in (0, 1, 2, 3) if f"done {n}" in said and held[n] is None] == []
        pushed, tag = hashed(some_bytes(30_000, -seed))[0], store.references.tag("p", "t")
        assert "done 4" not in said or seen_to_go(said) or store.blobs.get("p", pushed) is not None
        assert "done 5" not in said or (tag and tag.digest) == Digest.of(b"six %d" % seed)
        assert "done 6" not in said or store.blobs.get("p", pushed) is None
        assert "done 7" not in said or not file_of(root, pushed).exists()
    finally:
        store.close()
    assert fsck(root, (1, 1)).problems == []


def seen_to_go(said: list[str]) -> bool:
    """Whether the delete of the pushed blob was begun: a kill may hit before or after it counted."""
    return "done 5" in said


def test_case_71_a_failed_sync_of_the_index_is_the_last_write(made: Path) -> None:
    index = str(made / "index" / "data.mdb")
    said = run(made, 1, "-P", index, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=2")
    assert said[:2] == ["open", "done 0"]
    assert said[2:9] == [f"SyncFailed {n}" for n in range(1, 8)]
    assert said[9].startswith("failed: index: mdb_txn_commit")
    assert said[10] == "reads"
    acknowledged_is_there(made, 1, said)


def test_case_71_a_failed_meta_write_ends_the_writing(made: Path) -> None:
    """LMDB writes its meta page by pwrite64 on a descriptor of its own, and refuses everything when that fails."""
    index = str(made / "index" / "data.mdb")
    said = run(made, 1, "-P", index, "-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EIO:when=3+")
    assert said[0] == "open"
    assert sum(line.startswith("done") for line in said) < 4, "nothing after the first failure"
    assert [line for line in said if line.startswith("failed: ")] != ["failed: "]
    acknowledged_is_there(made, 1, said)


#: file, system call, error, when: what the step that met it is refused with, and whether the store goes on
ONCE = [
    ("index/data.mdb", "pwrite64", "ENOSPC", 2, "Exhausted", True),
    ("index/data.mdb", "writev", "EDQUOT", 2, "Exhausted", True),
    ("index/data.mdb", "fdatasync", "ENOSPC", 2, "Exhausted", True),
    ("index/data.mdb", "writev", "EROFS", 2, "DiskReadOnly", False),
    ("index/data.mdb", "writev", "EIO", 2, "SyncFailed", False),
    ("journal/log", "pwrite64", "EDQUOT", 2, "Exhausted", True),
    ("journal/log", "pwrite64", "EROFS", 2, "DiskReadOnly", False),
    ("journal/log", "fdatasync", "ENOSPC", 2, "Exhausted", True),
    ("journal/log", "fdatasync", "EIO", 2, "SyncFailed", False),
]


@pytest.mark.parametrize(("file", "call", "error", "when", "refusal", "goes_on"), ONCE)
def test_case_fault_2_an_error_of_one_system_call(
    made: Path, file: str, call: str, error: str, when: int, refusal: str, goes_on: bool
) -> None:
    """No room is the end of one write and of nothing else, whichever call says so; what is on the disk is judged by
    a fresh start after EIO."""
    at = ["-P", str(made / file), "-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]
    said = run(made, 1, *at)
    hit = next(n for n, line in enumerate(said) if line.startswith(refusal))
    steps = [line.split()[0] for line in said[hit + 1 : 9]]
    assert steps == (["done"] * len(steps) if goes_on else [refusal] * len(steps))
    assert (said[9] == "failed: ") == (refusal != "SyncFailed")
    assert said[10] == "reads"
    acknowledged_is_there(made, 1, said)


def test_case_fault_2_a_frame_that_cannot_be_cut_off_is_written_over(made: Path) -> None:
    """The commit found no room and neither could its frame be taken back: the next frame takes its place."""
    log = str(made / "journal" / "log")
    refused = ["-e", "inject=fdatasync:error=ENOSPC:when=2", "-e", "inject=ftruncate:error=EIO:when=1"]
    said = run(made, 1, "-P", log, "-e", "trace=fdatasync,ftruncate", *refused)
    assert said[:3] == ["open", "done 0", "Exhausted 1"]
    assert [line.split()[0] for line in said[3:9]] == ["done"] * 6
    acknowledged_is_there(made, 1, said)


def test_case_71_a_kill_at_every_step_of_a_commit(made: Path) -> None:
    """SIGKILL at the first, second, … call of each kind, until a run passes without being hit. The store is the
    same one throughout: each run finds what the one before it left."""
    hits = seed = 0
    for call in ("pwrite64", "fdatasync", "/^rename", "fsync", "writev", "/^unlink"):
        for number in range(1, 60, 2):
            seed += 1
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
            said = run(made, seed, *inject)
            if "reads" in said:
                break
            hits += 1
            acknowledged_is_there(made, seed, said)
        else:
            pytest.fail(f"{call} is still hit at its 59th")
    print(f"{hits} kills")
    assert hits >= 20
