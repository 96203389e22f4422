"""The journal is written again while commits go on, and whatever happens meanwhile one of the two files is whole."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from holdfast_core import Digest, Store, compaction, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.errors import StoreError
from holdfast_core.journal import Journal
from support.stores import put_manifest

Opener = Callable[..., Store]


def churn(store: Store, commits: int, seed: int = 1) -> None:
    """Tags that move, tags that go, and tombstones: much journal, a small index."""
    chance = random.Random(seed)
    digests = [put_manifest(store, "r", b"manifest %d" % n, owned=True) for n in range(4)]
    futures = []
    for _ in range(commits):
        name = f"t{chance.randrange(40)}"
        if chance.random() < 0.2:
            futures.append(store.drop_tag("r", name, now=1.0))
        else:
            digest = chance.choice(digests)
            futures.append(store.put_tag("r", name, digest, now=chance.random(), origin="local"))
    for future in futures:
        future.result()


def named(store: Store) -> dict[str, Digest]:
    """The tags."""
    found = {name: store.tag("r", name) for name in store.tags("r")}
    return {name: tag.digest for name, tag in found.items() if tag is not None}


def brought_back(opener: Opener, root: Path) -> dict[str, Digest]:
    """The tags that a rebuild of the closed store finds in its journal alone."""
    for file in (root / "index").iterdir():
        file.unlink()
    assert rebuild(root).problems == []
    store = opener()
    tags = named(store)
    store.close()
    return tags


def test_case_fault_11_the_journal_is_written_again_while_commits_go_on(opener: Opener, root: Path) -> None:
    store, stop = opener(), threading.Event()

    def work() -> int:
        rounds = 0
        while not stop.is_set():
            churn(store, 50, seed=100 + (rounds := rounds + 1))
        return rounds

    churn(store, 200)
    inode = os.stat(root / "journal" / "log").st_ino
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        before = store.statistics().committed
        for number in range(5):
            assert store.compact_journal().result() is True
            churn(store, 20, seed=number)
        stop.set()
        assert working.result() > 0
    assert store.statistics().committed > before + 100
    assert os.stat(root / "journal" / "log").st_ino != inode
    assert os.listdir(root / "journal") == ["log"]
    tags = named(store)
    store.close()
    assert fsck(root).problems == []
    assert brought_back(opener, root) == tags


def test_case_fault_11_a_long_journal_becomes_short(
    opener: Opener, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "SLACK_BYTES", 64 << 10)
    store = opener()
    assert not store.journal_is_long
    while not store.journal_is_long:
        churn(store, 200)
    assert store.statistics().journal_bytes > compaction.SLACK_BYTES
    assert store.compact_journal().result() is True
    assert store.statistics().journal_bytes < compaction.SLACK_BYTES
    assert not store.journal_is_long
    store.close()
    assert fsck(root).problems == []


class Cut(OSError):
    """The process died here."""


STEPS = ("append", "copy", "sync", "replace")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_case_fault_11_cut_at_every_step_a_start_finds_a_whole_journal(
    opener: Opener, root: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    store = opener()
    churn(store, 60)
    real = getattr(Journal, step)

    def cut(journal: Journal, *arguments: object) -> None:
        if after:
            real(journal, *arguments)
        raise Cut(errno.EIO, "cut")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, step, cut)
        patched.setattr(Journal, "abandon", lambda journal: journal.close())  # who died tidies nothing up
        with pytest.raises((OSError, StoreError), match="cut"):
            store.compact_journal().result()
    tags = named(store)
    store.close()
    again = opener()
    assert named(again) == tags
    assert os.listdir(root / "journal") == ["log"]
    churn(again, 20, seed=3)
    tags = named(again)
    again.close()
    assert fsck(root).problems == []
    assert brought_back(opener, root) == tags


def test_what_cannot_be_written_leaves_the_journal_in_use(
    opener: Opener, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opener()
    churn(store, 60)
    length = store.statistics().journal_bytes

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    for step in ("append", "copy", "sync"):
        with monkeypatch.context() as patched:
            patched.setattr(Journal, step, full)
            with pytest.raises(OSError, match="full"):
                store.compact_journal().result()
        assert os.listdir(root / "journal") == ["log"]
    assert store.statistics().journal_bytes == length
    churn(store, 10)
    assert store.compact_journal().result() is True


def test_case_fault_11_a_damaged_record_keeps_the_long_journal(opener: Opener, root: Path) -> None:
    store = opener()
    churn(store, 60)
    key = layout.tag_key("r", store.tags("r")[0])
    with store._index.begin(write=True) as txn:
        value = bytearray(txn.get(key) or b"")
        value[3] ^= 1
        txn.put(key, bytes(value))
    length = store.statistics().journal_bytes
    assert store.compact_journal().result() is False
    assert store.statistics().journal_bytes == length
    assert os.listdir(root / "journal") == ["log"]
    assert not store.journal_is_long
