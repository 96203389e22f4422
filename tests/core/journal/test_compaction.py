"""The journal is written again while commits go on, and whatever happens meanwhile one of the two files is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import pytest
from holdfast_core import Digest, Store, fsck, rebuild
from holdfast_core import format as layout
from holdfast_core.errors import StoreError, SyncFailed
from holdfast_core.index.lmdb_index import Index, Transaction
from holdfast_core.journal import compaction
from holdfast_core.journal.group_commit import Writer
from holdfast_core.journal.journal_file import Journal
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
            futures.append(store.references.drop_tag("r", name, now=1.0))
        else:
            digest = chance.choice(digests)
            futures.append(store.references.put_tag("r", name, digest, now=chance.random(), origin="local"))
    for future in futures:
        future.result()


def grown_long(store: Store) -> int:
    """Let the journal grow until it is to be written again; its length."""
    while not store.upkeep.journal_is_long:
        churn(store, 20)
    return store.statistics().journal_bytes


def damage(store: Store, key: bytes) -> None:
    """Flip a bit of a record."""
    with store._index.begin(write=True) as txn:
        value = bytearray(txn.get(key) or b"")
        value[3] ^= 1
        txn.put(key, bytes(value))


def named(store: Store) -> dict[str, Digest]:
    """The tags."""
    found = {name: store.references.tag("r", name) for name in store.references.tags("r")}
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
        try:
            for number in range(5):
                assert store.upkeep.compact_journal().result() is True
                churn(store, 20, seed=number)
        finally:
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
    assert not store.upkeep.journal_is_long
    while not store.upkeep.journal_is_long:
        churn(store, 200)
    assert store.statistics().journal_bytes > compaction.SLACK_BYTES
    assert store.upkeep.compact_journal().result() is True
    assert store.statistics().journal_bytes < compaction.SLACK_BYTES
    assert not store.upkeep.journal_is_long
    store.close()
    assert fsck(root).problems == []


@pytest.mark.parametrize(("over", "due"), [(0, False), (1, True)])
def test_case_fault_11_past_twice_the_live_index_and_16_mib(over: int, due: bool) -> None:
    live = 5 << 20
    assert compaction.is_due(2 * live + (16 << 20) + over, live) is due


MOMENTS = ("read", "caught up", "in line")


@pytest.mark.parametrize("moment", MOMENTS)
def test_case_fault_11_what_is_committed_meanwhile_is_in_the_new_journal(
    opener: Opener, root: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """When all records were read, when what came until then was copied, and right before commits wait. So few frames
    take no second round. The new journal is on the disk to its end when the index names it, and has its name after
    that."""
    store = opener()
    digests = [put_manifest(store, "r", b"manifest %d" % n, owned=True) for n in range(2)]
    for name in ("moves", "goes"):
        store.references.put_tag("r", name, digests[0], now=1.0, origin="local").result()
    writer = store._writer
    assert writer is not None
    steps: list[object] = []
    read, sync, succeed = compaction.intact_records, Journal.sync, Writer.succeed
    note, replace = Writer._note, Journal.replace

    def meanwhile(now: str) -> None:
        if now == moment:
            store.references.put_tag("r", "moves", digests[1], now=2.0, origin="local").result(60)
            store.references.drop_tag("r", "goes", now=2.0).result(60)

    def reading(index: Index) -> Iterator[tuple[bytes, bytes]]:
        yield from read(index)
        meanwhile("read")

    def synced(journal: Journal) -> None:
        sync(journal)
        if journal is not writer.journal:
            steps.append("synced")
            if len(steps) == 1:
                meanwhile("caught up")

    def in_line(_: Writer, fresh: Journal, position: int) -> None:
        meanwhile("in line")
        succeed(writer, fresh, position)

    def noted(_: Writer, txn: Transaction, journal: Journal) -> None:
        if journal is not writer.journal:
            steps.append(("named", journal.length - journal.synced))
        note(writer, txn, journal)

    def replaced(journal: Journal) -> None:
        steps.append("in its place")
        replace(journal)

    monkeypatch.setattr(compaction, "intact_records", reading)
    monkeypatch.setattr(Journal, "sync", synced)
    monkeypatch.setattr(Writer, "succeed", in_line)
    monkeypatch.setattr(Writer, "_note", noted)
    monkeypatch.setattr(Journal, "replace", replaced)
    assert store.upkeep.compact_journal().result() is True
    assert steps == ["synced", "synced", ("named", 0), "in its place"]
    assert named(store) == {"moves": digests[1]}
    store.close()
    assert fsck(root).problems == []
    assert brought_back(opener, root) == {"moves": digests[1]}


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
            store.upkeep.compact_journal().result()
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
                store.upkeep.compact_journal().result()
        assert os.listdir(root / "journal") == ["log"]
    assert store.statistics().journal_bytes == length
    churn(store, 10)
    assert store.upkeep.compact_journal().result() is True


def test_case_fault_11_a_damaged_record_keeps_the_long_journal(opener: Opener, root: Path) -> None:
    store = opener()
    churn(store, 60)
    damage(store, layout.tag_key("r", store.references.tags("r")[0]))
    length = store.statistics().journal_bytes
    assert store.upkeep.compact_journal().result() is False
    assert store.statistics().journal_bytes == length
    assert os.listdir(root / "journal") == ["log"]
    assert not store.upkeep.journal_is_long


def test_case_fault_11_what_was_given_up_waits_until_the_journal_has_grown_on(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By as much as a new one may be longer than the index; one that was done holds up nothing."""
    slack = 64 << 10
    monkeypatch.setattr(compaction, "SLACK_BYTES", slack)
    store = opener()
    key = layout.link_key("other", layout.AS_MANIFEST, put_manifest(store, "other", b"{}", owned=True).key)
    length = grown_long(store)
    damage(store, key)
    assert store.upkeep.compact_journal().result() is False
    assert grown_long(store) > length + slack
    assert store.upkeep.mend([key]).result() == []
    assert store.upkeep.compact_journal().result() is True
    assert grown_long(store) < length + slack


def test_case_fault_11_one_at_a_time(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opener()
    churn(store, 20)
    read, second = compaction.intact_records, []

    def reading(index: Index) -> Iterator[tuple[bytes, bytes]]:
        second.append(store.upkeep.compact_journal().result(60))
        yield from read(index)

    monkeypatch.setattr(compaction, "intact_records", reading)
    assert store.upkeep.compact_journal().result() is True
    assert second == [False]


def test_case_fault_11_a_store_that_closes_waits_for_none(opener: Opener, root: Path) -> None:
    store = opener()
    churn(store, 60)
    length = store.statistics().journal_bytes
    store.upkeep._compaction._closing = lambda: True
    assert store.upkeep.compact_journal().result() is False
    assert store.statistics().journal_bytes == length
    assert os.listdir(root / "journal") == ["log"]


def test_case_fault_11_a_new_journal_that_a_failed_store_may_name_is_kept(
    opener: Opener, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta page that names it was written, or was not: nobody knows before the next start."""
    store = opener()
    churn(store, 60)
    writer, succeed = store._writer, Writer.succeed
    assert writer is not None
    begin = writer._index.begin

    @contextlib.contextmanager
    def failing(**more: bool) -> Iterator[Transaction]:
        with begin(**more) as txn:
            yield txn
        raise lmdb.Error("the meta page")

    def in_line(_: Writer, fresh: Journal, position: int) -> None:
        monkeypatch.setattr(writer._index, "begin", failing)
        monkeypatch.setattr(writer._index, "is_poisoned", lambda: True)
        succeed(writer, fresh, position)

    monkeypatch.setattr(Writer, "succeed", in_line)
    with pytest.raises(SyncFailed, match="the meta page"):
        store.upkeep.compact_journal().result()
    monkeypatch.setattr(writer._index, "begin", begin)
    tags = named(store)
    store.close()
    inode = os.stat(root / "journal" / "log.new").st_ino
    again = opener()
    assert named(again) == tags
    assert os.listdir(root / "journal") == ["log"]
    assert os.stat(root / "journal" / "log").st_ino == inode
    again.close()
    assert fsck(root).problems == []
