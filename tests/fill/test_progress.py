"""What a kill costs a fill: each whole chunk is noted beside the part once it is hashed, and counts after a restart
when the bytes of the part have that hash.

A process that is killed writes nothing more; here a copy of its data directory stands for what it leaves, since what is
in the page cache outlives it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from holdfast.errors import ParentBroken
from holdfast.fill.checkpoint import chunk_extents
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.blob_files.fill_file import HASH_BYTES, progress_name
from holdfast_core.digest import Digest
from holdfast_core.errors import Exhausted
from holdfast_core.store import Store
from support.fills import BLOBS, MIB, Drain, Site, drain, filling, site, until

pytestmark = pytest.mark.loop("asyncio")

#: no checkpoint after the first one, which makes the notes count; what is left goes on by itself after a kill
OPTIONS: dict[str, Any] = {
    "reserve_bytes": 0,
    "checkpoint_bytes": 1 << 40,
    "checkpoint_interval": 1e6,
    "on_leave": "finish",
}
#: A chunk that is not whole, one that the hash has not passed, and one that waits for it.
LOST = 3 * MIB


def noted(store: Store) -> int:
    """How much of a store's one fill would be found after a kill now (bytes)."""
    return max((len(state.chunks) for state in store.blobs.fills.states()), default=0) * MIB


def is_noted(store: Store, number: int) -> bool:
    """Whether a chunk of the one fill would be found."""
    return any(number in state.chunks for state in store.blobs.fills.states())


def checkpointed(store: Store) -> int:
    """How much of it is in the index."""
    return sum(end - start for state in store.blobs.fills.states() for start, end in state.extents)


def in_index(store: Store, number: int) -> bool:
    """Whether the checkpoint has a chunk of the one fill."""
    (state,) = store.blobs.fills.states()
    return any(start <= number * MIB < end for start, end in state.extents)


async def killed(
    root: Path,
    parent: ScriptedParent,
    content: GeneratedContent,
    there: int,
    *where: int,
    needs: int = -1,
    **fault: Any,
) -> Path:
    """A node on the store `root` pulls from a parent that falls silent after `there` bytes, and is killed, once the
    chunk `needs`, if any, is noted as well: they are noted in no order. What it leaves."""
    left, least = root.with_name(f"{root.name}-killed"), there - LOST
    parent.script(ScriptedFault(method="GET", path=BLOBS, times=-1, stall_after=there, **fault))
    store = Store.create_or_open(root, write=True)
    least += noted(store)

    def pull(node: Site) -> Coroutine[Any, Any, bytes]:
        client = Drain(node, content.digest)
        return client.all(where[0], where[1], whole=False) if where else client.all()

    async with filling(store, parent, **OPTIONS) as node:
        task = asyncio.ensure_future(pull(node))
        await until(lambda: noted(store) >= least and (needs < 0 or is_noted(store, needs)))
        await asyncio.wrap_future(
            store.upkeep.sync_cached()
        )  # no commit is under way while the index is copied
        shutil.copytree(root, left)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    store.close()
    parent.faults.clear()
    return left


def found(root: Path) -> set[int]:
    """The chunks of the one fill that a kill left, by the checkpoint and by the notes beside the part."""
    store = Store.create_or_open(root, write=False)
    try:
        (state,) = store.blobs.fills.states()
        return set(state.chunks)
    finally:
        store.close()


def missing(root: Path, content: GeneratedContent) -> list[tuple[int, int]]:
    """The runs of bytes that the next node lacks."""
    return chunk_extents(found(root), content.size).gaps(0, content.size)


def bytes_of(runs: list[tuple[int, int]]) -> int:
    return sum(end - start for start, end in runs)


def noted_beside(notes: Path) -> set[int]:
    """The chunks that have their whole hash in the file."""
    table = notes.read_bytes()
    whole = (table[at : at + HASH_BYTES] for at in range(0, len(table) - HASH_BYTES + 1, HASH_BYTES))
    return {number for number, entry in enumerate(whole) if any(entry)}


@asynccontextmanager
async def again(root: Path, parent: ScriptedParent) -> AsyncIterator[Site]:
    """The next node on what a kill left."""
    store = Store.create_or_open(root, write=True)
    try:
        async with filling(store, parent, **OPTIONS) as node:
            yield node
    finally:
        store.close()


def progress_of(root: Path, content: GeneratedContent) -> Path:
    return root / "fills" / progress_name("demo", Digest.parse(content.digest))


async def test_case_fault_12_two_kills_cost_less_than_three_chunks_each(tmp_path: Path) -> None:
    content = GeneratedContent(40 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        once = await killed(tmp_path / "store", parent, content, 15 * MIB + 5000)
        twice = await killed(once, parent, content, 12 * MIB)
        left, sent = missing(twice, content), parent.bytes_sent[content.digest]
        async with again(twice, parent) as node:
            assert checkpointed(node.store) <= 8 * MIB
            assert await drain(node, content.digest) == content.read(0, content.size)
            await until(lambda: node.held("demo", content.digest))
            assert node.sent(content.digest) - sent == bytes_of(left)
            assert node.sent(content.digest) <= content.size + 2 * LOST
            assert node.fills.counters["bad_chunks"] == 0
            assert list((twice / "fills").iterdir()) == []


async def test_case_fault_12_a_range_away_from_the_beginning_is_noted_too(tmp_path: Path) -> None:
    content = GeneratedContent(64 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        root = await killed(tmp_path / "store", parent, content, 9 * MIB, 20 * MIB, 30 * MIB)
        parent.reset_counts()
        async with again(root, parent) as node:
            body = await drain(node, content.digest, 20 * MIB, 26 * MIB, whole=False)
            assert body == content.read(20 * MIB, 6 * MIB)
            assert node.gets() == 0


@pytest.mark.parametrize("which", [0, -1])
async def test_case_fault_12_a_note_is_no_proof(tmp_path: Path, which: int) -> None:
    """A hash that the bytes do not have, as after a power cut that took them, costs that chunk."""
    content = GeneratedContent(24 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        root = await killed(tmp_path / "store", parent, content, 12 * MIB)
        there, left = found(root), missing(root, content)
        index = [n for n in sorted(there) if {max(n - 1, 0), n + 1} <= there][which]  # fetched by itself
        part = progress_of(root, content).with_suffix("")
        with part.open("r+b") as file:
            file.seek(index * MIB + 4711)
            file.write(bytes(4096))
        sent = parent.bytes_sent[content.digest]
        async with again(root, parent) as node:
            assert await drain(node, content.digest) == content.read(0, content.size)
            assert node.fills.counters["bad_chunks"] == 1
            assert node.sent(content.digest) - sent == bytes_of(left) + MIB
            assert f"bytes={index * MIB}-{(index + 1) * MIB - 1}" in node.ranges()


@pytest.mark.parametrize("cut", ["absent", "torn", "a directory"])
async def test_case_fault_12_without_notes_the_checkpoint_counts(tmp_path: Path, cut: str) -> None:
    content = GeneratedContent(24 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        root = await killed(tmp_path / "store", parent, content, 12 * MIB)
        notes = progress_of(root, content)
        if cut == "torn":
            os.truncate(notes, 10 * HASH_BYTES - 5)
            beside = noted_beside(notes)
            assert beside
            assert max(beside) < 9
        else:
            notes.unlink()
            beside = set()
        if cut == "a directory":
            notes.mkdir()
        store = Store.create_or_open(root, write=False)
        written = {number for number in range(24) if in_index(store, number)}
        store.close()
        assert found(root) == written | beside
        sent = parent.bytes_sent[content.digest]
        async with again(root, parent) as node:
            assert await drain(node, content.digest) == content.read(0, content.size)
            assert node.fills.counters["bad_chunks"] == 0
            assert node.fills.counters["rechecked_chunks"] == len(written | beside)
            assert node.sent(content.digest) - sent == content.size - len(written | beside) * MIB


@pytest.mark.parametrize("watched", [True, False])
async def test_case_fault_12_wrong_bytes_from_before_the_kill_are_fetched_once_more(
    tmp_path: Path, watched: bool
) -> None:
    """The notes prove what came, and not that it was right. The digest refuses it: who reads is told, and the blob is
    fetched anew, once."""
    content = GeneratedContent(24 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        root = await killed(tmp_path / "store", parent, content, 12 * MIB, needs=3, flip_at=3 * MIB)
        left = missing(root, content)
        parent.reset_counts()
        async with again(root, parent) as node:
            if watched:
                with pytest.raises(ParentBroken, match="are not sha256"):
                    await Drain(node, content.digest).all()
                assert await drain(node, content.digest) == content.read(0, content.size)
            await until(lambda: node.held("demo", content.digest))
            assert node.fills.counters["mismatched"] == 1
            assert node.gets() == len(left) + 1, "one for each run that was not noted, and one for all of it"
            assert node.sent(content.digest) == bytes_of(left) + content.size
            assert list((root / "fills").iterdir()) == []


async def test_case_fault_12_what_was_noted_of_wrong_bytes_counts_no_more(tmp_path: Path) -> None:
    """Nobody saw them, so they are fetched again by themselves; a kill in the middle of that costs no more than any."""
    content, left = GeneratedContent(24 * MIB), tmp_path / "left"
    store = Store.create_or_open(tmp_path / "store", write=True)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        parent.script(ScriptedFault(method="GET", path=BLOBS, flip_at=3 * MIB))
        parent.script(ScriptedFault(method="GET", path=BLOBS, stall_after=12 * MIB))
        async with filling(store, parent, **OPTIONS) as node:
            task = asyncio.ensure_future(node.fills.fetch("demo", content.digest, lambda _: None))
            await until(lambda: node.gets() == 2)
            await until(lambda: noted(store) >= 12 * MIB - LOST)
            await asyncio.wrap_future(store.upkeep.sync_cached())
            shutil.copytree(tmp_path / "store", left)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        parent.faults.clear()
        parent.reset_counts()
        gaps = missing(left, content)
        async with again(left, parent) as node:
            assert await drain(node, content.digest) == content.read(0, content.size)
            assert node.fills.counters["bad_chunks"] == node.fills.counters["mismatched"] == 0
            assert node.sent(content.digest) == bytes_of(gaps)
    store.close()


async def test_case_fault_12_what_cannot_be_noted_does_not_stop_a_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path) as node:
        content, tried = GeneratedContent(24 * MIB), list[int]()

        def full(_: str, __: Digest, chunks: dict[int, bytes]) -> None:
            tried.extend(chunks)
            raise Exhausted("no space")

        monkeypatch.setattr(node.store.blobs.fills, "note_chunks", full)
        digest = node.parent.add_blob("demo", content)
        assert await drain(node, digest) == content.read(0, content.size)
        await until(lambda: node.held("demo", digest))
        assert tried == sorted(set(tried))
        assert len(tried) <= 24


async def test_case_fault_12_a_small_blob_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is fetched again for no more than a kill may cost is not written down on its way."""
    async with site(tmp_path, **OPTIONS) as node:
        written = list[object]()
        monkeypatch.setattr(node.store.blobs.fills, "checkpoint", written.append)
        monkeypatch.setattr(node.store.blobs.fills, "note_chunks", lambda *what: written.append(what))
        digest = node.parent.add_blob("demo", content := GeneratedContent(4 * MIB - 1))
        node.script(stall_after=3 * MIB)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await until(lambda: len(client.out) == 3 * MIB)
        (fill,) = node.fills._by_number.values()
        frontier = fill.received.frontier
        assert frontier is not None
        await until(lambda: bool(written) or frontier.position >= 2 * MIB)
        await until(lambda: not fill._chores)
        assert written == []
        for transfer in fill.transfers.active.values():
            transfer.stop()
        assert await task == content.read(0, content.size)
        await until(lambda: node.held("demo", digest))
        assert written == []


def test_case_fault_12_notes_without_a_fill_go_at_the_next_start(tmp_path: Path) -> None:
    root, stray = tmp_path / "store", Digest.of(b"stray")
    store = Store.create_or_open(root, write=True)
    store.blobs.fills.open_part("demo", stray, 9 * MIB).close()
    store.blobs.fills.note_chunks("demo", stray, {3: b"h" * 32})
    assert store.blobs.fills.states() == []
    store.close()
    assert len(list((root / "fills").iterdir())) == 2
    Store.create_or_open(root, write=True).close()
    assert list((root / "fills").iterdir()) == []
