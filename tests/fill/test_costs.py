"""What the corner cases of a fill cost at the parent: requests, bytes and probes, counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from holdfast import config
from holdfast.config import Configuration
from holdfast.errors import ParentFailed, ParentUnreachable
from holdfast.fill.registry import FillRegistry
from holdfast.keeper.keeper import Keeper
from holdfast.parent.client import Parent
from holdfast.process.assembly import compose
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from support.fills import MIB, Drain, Site, site, until

pytestmark = pytest.mark.loop("asyncio")

#: What two kernels, TLS or not, and the transfer itself may have taken before it was stopped.
UNDER_WAY = 24 * MIB


def keeper_of(node: Site) -> Keeper:
    """The keeper over a node's fills."""
    return compose(Configuration(), node.store, node.fills.clock, {"": node.client}, node.fills)


async def test_the_size_of_a_blob_on_its_way_in_is_asked_nobody(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest = node.parent.add_blob("demo", content := GeneratedContent(3 * MIB))
        node.script(stall_after=MIB)
        keeper, client = keeper_of(node), Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await until(lambda: len(client.out) == MIB)
        await node.parent.stop()
        assert [await keeper.blob_size("demo", digest) for _ in range(3)] == [content.size] * 3
        assert node.parent.count("HEAD") == 0
        # another repository's fill is no word of this one's parent
        with pytest.raises(ParentFailed):
            await keeper.blob_size("other", digest)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_size_of_a_parked_fill_is_known_after_a_restart(tmp_path: Path) -> None:
    content = GeneratedContent(6 * MIB)
    async with site(tmp_path, on_leave="park") as node:
        digest = node.parent.add_blob("demo", content)
        node.script(stall_after=4 * MIB)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await until(lambda: len(client.out) == 4 * MIB)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with site(tmp_path) as node:  # its parent is another, which has no blob
        assert node.fills.size_of("demo", digest) == content.size
        assert node.fills.size_of("other", digest) is None


async def test_an_ignored_range_costs_the_bytes_before_it_and_no_more(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(96 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(ignore_range=True, times=-1)
        body = await Drain(node, digest).all(9 * MIB, 10 * MIB, whole=False)
        assert body == content.read(9 * MIB, MIB)
        (fill,) = node.fills._by_number.values()
        await until(lambda: fill.idle)
        assert node.sent(digest) <= 10 * MIB + UNDER_WAY
        # what came is kept: nothing of it is fetched again
        assert await Drain(node, digest).all(2 * MIB, 3 * MIB, whole=False) == content.read(2 * MIB, MIB)
        assert node.gets() == 1


async def test_an_ignored_range_stops_when_its_reader_leaves(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(96 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(ignore_range=True, times=-1)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all(94 * MIB, 95 * MIB, whole=False))
        await until(lambda: client.reader is not None and client.reader._held.total > 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (fill,) = node.fills._by_number.values()
        await until(lambda: fill.idle)
        assert fill.received.held.total <= node.sent(digest) <= fill.received.held.total + UNDER_WAY
        assert fill.received.held.total < 90 * MIB
        assert node.gets() == 1


async def test_a_parent_that_is_away_is_probed_once_an_interval_by_pulls_and_rounds_together(
    tmp_path: Path,
) -> None:
    clock = FakeClock(jump=False)
    store = Store.create_or_open(tmp_path / "store", write=True)
    async with ScriptedParent() as scripted:
        where = config.ParentSection(url=scripted.url, insecure=True, probe_interval=10.0)
    client = Parent(where, clock)  # nobody listens there any more
    fills = FillRegistry(store, {"": client}.__getitem__, config.FillsSection(), clock)
    keeper = compose(Configuration(), store, clock, {"": client}, fills)
    client.endpoints[-1].health.unreachable(clock.monotonic(), decisive=True)
    await keeper.start()
    try:
        for second in range(1, 41):
            while clock.sleepers < 2:
                await asyncio.sleep(0)
            clock.advance(1.0)
            for _ in range(3):
                with pytest.raises(ParentUnreachable):
                    await keeper.blob_size("demo", "sha256:" + "1" * 64)
            await asyncio.gather(*asyncio.all_tasks() & {e._probing for e in client.endpoints})
            await until(lambda: client.endpoints[-1].health.until_probe(clock.monotonic()) > 0)
            assert client.counters["probes"] <= second // 10
        assert client.counters["probes"] == 4
    finally:
        await keeper.close()
        store.close()
