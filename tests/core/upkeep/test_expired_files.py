"""What is kept for a while goes, and a restart does not hold it up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from holdfast_core import Digest, Store
from holdfast_core.errors import Exhausted
from holdfast_core.upkeep.garbage import remove_expired
from support.stores import file_of, some_bytes

Opener = Callable[..., Store]
DAY = 86400.0

LITTLE_ROOM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
sys.path[:0] = {path!r}
from holdfast_core import Store
try:
    Store.create_or_open(sys.argv[1], write=True, map_bytes=int(sys.argv[2])).close()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_case_fault_13_every_directory_is_looked_at_by_a_node_that_is_restarted_for_each_sweep(
    opener: Opener, root: Path
) -> None:
    opener().close()
    strays = [Digest.of(b"%d" % n) for n in range(30)]
    for digest in strays:
        file_of(root, digest).write_bytes(b"stray")
    reclaimed = 0
    for _ in range(22):  # a sweep an hour: within a day
        store = opener()
        reclaimed += store.upkeep.sweep(now=1e12, grace=10.0).result()
        store.close()
    assert reclaimed == 5 * len(strays)
    assert not any(file_of(root, digest).exists() for digest in strays)


def test_case_fault_13_what_was_set_aside_goes_after_thirty_days(opener: Opener, root: Path) -> None:
    store = opener()
    changed = set_aside(root)
    assert remove_expired(root, changed + 30 * DAY - 60, pressed=False) == 0
    assert (root / "index.old-1").exists()
    assert store.upkeep.sweep(now=changed + 30 * DAY + 60, grace=1e9).result() == 217
    assert list((root / "quarantine").iterdir()) == []
    for name in ("index.old-1", "index.new", "store.json.new"):
        assert not (root / name).exists()
    assert store.uuid


def test_case_fault_13_on_a_full_disk_it_goes_after_a_day(opener: Opener, root: Path) -> None:
    opener().close()
    changed = set_aside(root)
    assert remove_expired(root, changed + DAY - 60, pressed=True) == 0
    assert remove_expired(root, changed + DAY + 60, pressed=False) == 0
    assert remove_expired(root, changed + DAY + 60, pressed=True) == 217


def set_aside(root: Path) -> float:
    """Something of everything, 217 bytes; when that was. The files say that they are older."""
    (root / "quarantine" / "bad").write_bytes(bytes(10))
    os.utime(root / "quarantine" / "bad", (1.0, 1.0))
    (root / "store.json.new").write_bytes(bytes(7))
    for name in ("index.old-1", "index.new"):
        (root / name).mkdir()
        (root / name / "data.mdb").write_bytes(bytes(100))
    return (root / "index.new").stat().st_ctime


def test_case_fault_13_a_link_goes_and_what_it_names_stays(tmp_path: Path) -> None:
    """Its own age counts, and what cannot be removed is no reason to leave the rest."""
    place, named = tmp_path / "store", tmp_path / "named"
    (place / "quarantine").mkdir(parents=True)
    (named / "deep" / "deeper").mkdir(parents=True)
    link = place / "quarantine" / "link"
    link.symlink_to(named / "deep")
    os.utime(link, follow_symlinks=False)
    (place / "quarantine" / "broken").symlink_to(tmp_path / "nothing")
    assert remove_expired(place, link.lstat().st_ctime + 30 * DAY + 60, pressed=False) > 0
    assert list((place / "quarantine").iterdir()) == []
    assert (named / "deep" / "deeper").is_dir()


def test_case_fault_13_what_cannot_be_removed_stays_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quarantine").mkdir()
    for name in ("one", "two"):
        (tmp_path / "quarantine" / name).write_bytes(bytes(10))
    later = (tmp_path / "quarantine" / "two").stat().st_ctime + 30 * DAY + 60

    unlink = os.unlink

    def refused(path: Path) -> None:
        if path.name == "one":
            raise PermissionError
        unlink(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refused)
        assert remove_expired(tmp_path, later, pressed=False) == 10
    assert remove_expired(tmp_path, later, pressed=False) == 10


def test_case_fault_13_too_little_address_space_is_said_in_words(tmp_path: Path) -> None:
    code = LITTLE_ROOM.format(path=[p for p in sys.path if p])
    for size, said in ((64 << 30, "map_bytes"), (1 << 30, "")):
        command = [sys.executable, "-c", code, str(tmp_path / str(size)), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert said in done.stdout
        assert bool(said) == done.stdout.startswith("StoreRefused")


def test_case_fault_13_a_full_map_names_its_key(opener: Opener) -> None:
    store = opener(map_bytes=1 << 20)
    with pytest.raises(Exhausted, match="map_bytes"):
        fill(store)


def fill(store: Store) -> None:
    for number in range(1000):
        body = some_bytes(10_000, number)
        store.blobs.push_inline("r", Digest.of(body), body, now=1.0).result()
