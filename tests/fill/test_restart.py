"""What a fill keeps across a restart: what was checkpointed and is still there, checked, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from holdfast.fill.buffer import whole_chunks
from holdfast.fill.checkpoint import chunk_extents
from holdfast.fill.extents import Extents
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from hypothesis import given
from hypothesis import strategies as st
from support.fills import MIB, Drain, Site, drain, filling, until

pytestmark = pytest.mark.loop("asyncio")

OPTIONS: dict[str, Any] = {"reserve_bytes": 0}


def opened(directory: Path) -> Store:
    return Store.create_or_open(directory / "store", write=True)


async def half(node: Site, content: GeneratedContent, there: int) -> asyncio.Task[bytes]:
    """A client whose fill has come to `there`, where the parent fell silent."""
    node.script(stall_after=there)
    client = Drain(node, content.digest)
    task = asyncio.ensure_future(client.all())
    await until(lambda: len(client.out) == there)
    return task


def part_of(directory: Path, content: GeneratedContent) -> Path:
    (part,) = (path for path in (directory / "store" / "fills").iterdir() if path.suffix != ".chunks")
    assert part.stat().st_size == content.size
    return part


async def rest_costs(
    directory: Path, parent: ScriptedParent, content: GeneratedContent, expected: int
) -> Site:
    """A new node on the same store: the whole blob, for `expected` bytes at the parent."""
    parent.reset_counts()
    store = opened(directory)
    try:
        async with filling(store, parent, **OPTIONS) as node:
            assert await drain(node, content.digest) == content.read(0, content.size)
            assert node.sent(content.digest) == expected
            await until(lambda: node.held("demo", content.digest))
            assert store.blobs.fills.states() == []
            return node
    finally:
        store.close()


async def test_a_node_that_stops_goes_on_at_its_last_whole_chunk(tmp_path: Path) -> None:
    content = GeneratedContent(24 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        store = opened(tmp_path)
        async with filling(store, parent, on_leave="finish", **OPTIONS) as node:
            task = await half(node, content, 10 * MIB + 5000)
        await asyncio.gather(task, return_exceptions=True)
        (state,) = store.blobs.fills.states()
        assert (state.extents, state.whole) == (((0, 10 * MIB),), True)
        store.close()
        parent.faults.clear()
        node = await rest_costs(tmp_path, parent, content, 14 * MIB)
        assert node.fills.counters["rechecked_chunks"] == 10


async def test_a_fill_of_which_all_is_wanted_goes_on_without_a_reader(tmp_path: Path) -> None:
    content = GeneratedContent(12 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        store = opened(tmp_path)
        async with filling(store, parent, on_leave="finish", **OPTIONS) as node:
            task = await half(node, content, 4 * MIB)
        await asyncio.gather(task, return_exceptions=True)
        async with filling(store, parent, on_leave="finish", **OPTIONS) as node:
            await until(lambda: node.held("demo", content.digest))
            assert node.sent(content.digest) == content.size
        store.close()


async def test_a_fill_that_was_left_waits_for_a_reader(tmp_path: Path) -> None:
    content = GeneratedContent(12 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        store = opened(tmp_path)
        async with filling(store, parent, on_leave="park", **OPTIONS) as node:
            task = await half(node, content, 4 * MIB)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [state.whole for state in store.blobs.fills.states()] == [False]
        async with filling(store, parent, **OPTIONS) as node:
            assert not node.fills._by_origin
            assert await drain(node, content.digest) == content.read(0, content.size)
            assert node.sent(content.digest) == content.size
        store.close()


async def test_a_machine_that_dies_keeps_what_was_checkpointed(tmp_path: Path) -> None:
    """No close: the second node starts over a part that lost what came after the checkpoint, as a power cut does. That
    those chunks were noted proves nothing: their bytes do, and they are not there."""
    content = GeneratedContent(24 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        store = opened(tmp_path)
        options = {
            **OPTIONS,
            "on_leave": "finish",
            "checkpoint_bytes": 4 * MIB,
            "checkpoint_interval": 3600.0,
        }
        async with filling(store, parent, **options) as node:
            task = await half(node, content, 11 * MIB)
            (fill,) = node.fills._by_number.values()
            await until(
                lambda: (
                    bool(store.blobs.fills.states())
                    and store.blobs.fills.states()[0].extents[0][1] >= 4 * MIB
                )
            )
            await until(lambda: not fill._chores)  # nothing that it is about to write
            fill._task.cancel()
            for transfer in list(fill.transfers.active.values()):
                transfer.stop()
            node.fills._by_number.clear()  # nothing is written down at the end
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (state,) = store.blobs.fills.states()
        claimed = state.extents[0][1]
        assert 4 * MIB <= claimed <= 11 * MIB
        with part_of(tmp_path, content).open("r+b") as file:
            file.truncate(claimed)
            file.truncate(content.size)
        store.close()
        parent.faults.clear()
        await rest_costs(tmp_path, parent, content, content.size - claimed)


async def test_a_damaged_chunk_is_noticed_and_fetched_again_alone(tmp_path: Path) -> None:
    content = GeneratedContent(12 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        store = opened(tmp_path)
        async with filling(store, parent, on_leave="park", **OPTIONS) as node:
            task = await half(node, content, 8 * MIB)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        store.close()
        with part_of(tmp_path, content).open("r+b") as file:
            file.seek(3 * MIB + 17)
            file.write(b"\0\1\2")
        parent.faults.clear()
        node = await rest_costs(tmp_path, parent, content, 5 * MIB)
        assert node.fills.counters["bad_chunks"] == 1
        assert set(node.ranges()) == {f"bytes={3 * MIB}-{4 * MIB - 1}", f"bytes={8 * MIB}-"}


async def test_ranges_survive_a_restart_by_whole_chunks(tmp_path: Path) -> None:
    content = GeneratedContent(64 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        store = opened(tmp_path)
        async with filling(store, parent, **OPTIONS) as node:
            await drain(node, content.digest, 20 * MIB - 100, 23 * MIB + 100, whole=False)
        parent.reset_counts()
        async with filling(store, parent, **OPTIONS) as node:
            body = await drain(node, content.digest, 20 * MIB, 23 * MIB, whole=False)
            assert body == content.read(20 * MIB, 3 * MIB)
            assert node.gets() == 0
        store.close()


async def test_many_idle_fills_are_put_away_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.fill.registry.IDLE_FILLS", 2)
    contents = [GeneratedContent(8 * MIB, f"s{n}") for n in range(5)]
    async with ScriptedParent() as parent:
        store = opened(tmp_path)
        async with filling(store, parent, **OPTIONS) as node:
            for content in contents:
                parent.add_blob("demo", content)
                await drain(node, content.digest, 2 * MIB, 4 * MIB, whole=False)
            await until(lambda: len(node.fills._by_number) == 2 and not node.fills._closing)
            assert store.statistics().open_parts == 2
            for content in contents:
                body = await drain(node, content.digest, 2 * MIB, 4 * MIB, whole=False)
                assert body == content.read(2 * MIB, 2 * MIB)
            assert node.gets() == 5
        assert store.statistics().open_parts == 0
        store.close()


async def test_a_held_blob_ends_its_parked_fills(tmp_path: Path) -> None:
    content = GeneratedContent(4 * MIB)
    async with ScriptedParent() as parent:
        parent.add_blob("demo", content)
        parent.add_blob("other", content)
        store = opened(tmp_path)
        async with filling(store, parent, **OPTIONS) as node:
            await drain(node, content.digest, 0, 2 * MIB, whole=False)
        async with filling(store, parent, **OPTIONS) as node:
            assert await drain(node, content.digest, repository="other") == content.read(0, content.size)
            await until(lambda: node.held("other", content.digest))
            assert store.blobs.fills.states() == []
        store.close()


@given(
    st.lists(st.tuples(st.integers(0, 9 * MIB), st.integers(0, 9 * MIB)), max_size=5), st.integers(1, 9 * MIB)
)
def test_a_checkpoint_never_claims_a_byte_that_is_not_held(runs: list[tuple[int, int]], size: int) -> None:
    held = Extents((start, min(end, size)) for start, end in runs)
    chunks = whole_chunks(held, size)
    assert all(held.covers(start, end) for start, end in chunk_extents(chunks, size))
    full = [i for i in range(-(-size // MIB)) if held.covers(i * MIB, min((i + 1) * MIB, size))]
    assert sorted(set(chunks)) == full
