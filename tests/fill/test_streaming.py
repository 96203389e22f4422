"""A cold miss: one transfer for everyone, ranges first, nobody waits for anybody."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from holdfast.errors import BlobUnknown, ParentNotFound, RangeUnsatisfiable
from holdfast.testing.fault import RequestGate
from holdfast.testing.random_content import GeneratedContent, HeldContent
from support.fills import MIB, Drain, Site, drain, site, until

pytestmark = pytest.mark.loop("asyncio")


async def test_a_whole_cold_blob_is_one_plain_get_and_then_a_hit(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(5 * MIB + 3)
        digest = node.parent.add_blob("demo", content)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.ranges() == [""]
        assert node.held("demo", digest)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.gets() == 1
        assert node.parent.count("HEAD", "/blobs/") == 0
        assert node.sent(digest) == content.size


@pytest.mark.parametrize("size", [0, 1, 64 << 10, (64 << 10) + 1, 1 << 20, (1 << 20) + 1])
async def test_sizes_at_the_edges(tmp_path: Path, size: int) -> None:
    async with site(tmp_path) as node:
        digest = node.parent.add_blob("demo", b"x" * size)
        assert await drain(node, digest) == b"x" * size
        await until(lambda: node.held("demo", digest))  # an empty body waits for nothing


async def test_sha512(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = HeldContent(GeneratedContent(2 * MIB).read(0, 2 * MIB))
        digest = "sha512:" + hashlib.sha512(content.body).hexdigest()
        node.parent.repository("demo").blobs[digest] = content
        assert await drain(node, digest) == content.body
        assert node.held("demo", digest)


async def test_s48_forty_clients_at_once_cost_one_get(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        bodies = await asyncio.gather(*(drain(node, digest) for _ in range(40)))
        assert all(body == content.read(0, content.size) for body in bodies)
        assert node.gets() == 1
        assert node.parent.count("HEAD", "/blobs/") == 0


async def test_the_refusal_reaches_everyone_and_is_not_remembered(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(1000)
        results = await asyncio.gather(
            *(drain(node, content.digest) for _ in range(9)), return_exceptions=True
        )
        assert {type(r) for r in results} == {ParentNotFound}
        assert node.gets() == 1
        node.parent.add_blob("demo", content)
        assert await drain(node, content.digest) == content.read(0, 1000)


async def test_the_first_bytes_are_there_before_the_rest(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(8 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(stall_after=100_000)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await until(lambda: len(client.out) == 100_000)
        assert bytes(client.out) == content.read(0, 100_000)
        task.cancel()


async def test_a_client_that_leaves_does_not_end_the_fill(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(6 * MIB)
        digest = node.parent.add_blob("demo", content)
        gate = RequestGate()
        node.parent.pace.__init__(20 * MIB)  # type: ignore[misc]
        leader = Drain(node, digest)
        task = asyncio.ensure_future(leader.all())
        await until(lambda: len(leader.out) > 0)
        follower = drain(node, digest)
        task.cancel()
        assert await follower == content.read(0, content.size)
        assert node.gets() == 1
        assert gate.arrived == 0


@pytest.mark.parametrize(("policy", "finished"), [("finish", True), ("park", False)])
async def test_what_happens_when_the_last_client_leaves(tmp_path: Path, policy: str, finished: bool) -> None:
    async with site(tmp_path, on_leave=policy) as node:
        content = GeneratedContent(6 * MIB)
        digest = node.parent.add_blob("demo", content)
        fault = node.script(stall_after=2 * MIB, times=1)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await until(lambda: len(client.out) == 2 * MIB)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert fault.taken == 1
        if finished:
            (fill,) = node.fills._by_origin.values()
            assert fill.keeps_fetching
        else:
            await until(lambda: all(fill.idle for fill in node.fills._by_origin.values()))
            assert await drain(node, digest) == content.read(0, content.size)
            assert node.ranges() == ["", f"bytes={2 * MIB}-"]


@pytest.mark.parametrize(("here", "goes_on"), [(2, False), (19, False), (20, True)])
async def test_case_trust_24_who_leaves_early_makes_the_node_fetch_nothing_more(
    tmp_path: Path, here: int, goes_on: bool
) -> None:
    """Unless as much is here as is still to come. What is here is kept for the next one."""
    async with site(tmp_path) as node:
        content = GeneratedContent(40 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(stall_after=here * MIB, times=1)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await until(lambda: len(client.out) == here * MIB)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (fill,) = node.fills._by_origin.values()
        assert fill.keeps_fetching is goes_on
        if not goes_on:
            await until(lambda: fill.idle)
            assert node.sent(digest) == here * MIB
            assert await drain(node, digest) == content.read(0, content.size)
            assert node.sent(digest) == content.size


async def test_finish_goes_on_to_the_end_without_readers(tmp_path: Path) -> None:
    async with site(tmp_path, on_leave="finish") as node:
        content = GeneratedContent(6 * MIB)
        digest = node.parent.add_blob("demo", content)
        gate = RequestGate()
        node.script(gate=gate)
        task = drain(node, digest)
        await gate.wait_arrived()
        gate.release()
        await until(lambda: node.fills.counters["unique_bytes"] > 0)
        task.cancel()
        await until(lambda: node.held("demo", digest))
        assert node.gets() == 1


async def test_a_slow_follower_does_not_slow_the_fill(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(16 * MIB)
        digest = node.parent.add_blob("demo", content)
        answer = await node.fills.open("demo", digest, 0, -1, True)
        slow = await node.fills.attach(answer.fill, 0, answer.size, True)
        await slow.wait_for(0)
        assert slow.read(0, 10) == content.read(0, 10)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.held("demo", digest)
        for at in range(10, content.size, MIB):  # it still gets every byte, from where it was
            data = b""
            while len(data) < min(MIB, content.size - at):
                data += slow.read(at + len(data), MIB - len(data))
            assert data == content.read(at, MIB)
        slow.close()
        assert node.gets() == 1
        await until(lambda: not node.fills._by_number)
        assert node.store.statistics().open_parts == 0


async def test_a_range_in_the_middle_of_a_cold_blob_costs_that_range(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(512 * MIB)
        digest = content.digest
        node.parent.add_blob("demo", content)
        middle = 256 * MIB + 12345
        body = await drain(node, digest, middle, middle + MIB, whole=False)
        assert body == content.read(middle, MIB)
        assert node.ranges() == [f"bytes={middle}-{middle + MIB - 1}"]
        assert node.sent(digest) == MIB
        await until(lambda: all(fill.idle for fill in node.fills._by_origin.values()))
        assert node.gets() == 1  # and nothing more afterwards
        again = await drain(node, digest, middle + 5, middle + 1000, whole=False)
        assert again == content.read(middle + 5, 995)
        assert node.gets() == 1


async def test_a_range_during_a_whole_fill_is_served_first(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(64 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(stall_after=2 * MIB, times=1)
        whole = Drain(node, digest)
        task = asyncio.ensure_future(whole.all())
        await until(lambda: len(whole.out) == 2 * MIB)
        body = await drain(node, digest, 40 * MIB, 40 * MIB + 1000, whole=False)
        assert body == content.read(40 * MIB, 1000)
        assert node.ranges() == ["", f"bytes={40 * MIB}-{40 * MIB + 999}"]
        task.cancel()


async def test_ranges_then_the_whole_blob_cost_its_size_once(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(32 * MIB)
        digest = node.parent.add_blob("demo", content)
        for start in (20 * MIB, 10 * MIB):
            await drain(node, digest, start, start + 2 * MIB, whole=False)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.ranges()[2:] == [
            f"bytes=0-{10 * MIB - 1}",
            f"bytes={12 * MIB}-{20 * MIB - 1}",
            f"bytes={22 * MIB}-",
        ]
        assert node.sent(digest) == content.size
        assert node.held("demo", digest)


async def test_an_open_ended_reader_that_closes_early_does_not_pull_the_rest(tmp_path: Path) -> None:
    """containerd's parallel fetch: `bytes=K-`, one chunk read, closed."""

    async def early(node: Site, digest: str, start: int, length: int) -> bytes:
        answer = await node.fills.open("demo", digest, start, -1, False)
        reader = await node.fills.attach(answer.fill, start, answer.size, False)
        body = b""
        while len(body) < length:
            await reader.wait_for(start + len(body))
            body += reader.read(start + len(body), length - len(body))
        reader.close()
        return body

    async with site(tmp_path) as node:
        content = GeneratedContent(512 * MIB)
        digest = content.digest
        node.parent.add_blob("demo", content)
        starts = [n * 4 * MIB for n in range(3)]
        bodies = await asyncio.gather(*(early(node, digest, start, 4 * MIB) for start in starts))
        assert [content.read(start, 4 * MIB) for start in starts] == bodies
        await until(lambda: all(fill.idle for fill in node.fills._by_origin.values()))
        assert 12 * MIB <= node.sent(digest) <= 28 * MIB
        assert all(not r.endswith("-") and r for r in node.ranges()), "an end in every Range"


async def test_an_open_ended_reader_gets_everything(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(40 * MIB)
        digest = node.parent.add_blob("demo", content)
        body = await drain(node, digest, 7, -1, whole=False)
        assert body == content.read(7, content.size)
        assert node.sent(digest) == content.size - 7
        assert node.gets() < 16


async def test_a_suffix_asks_for_the_size_once(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(8 * MIB)
        digest = node.parent.add_blob("demo", content)
        assert await drain(node, digest, -47, -1, whole=False) == content.read(content.size - 47, 47)
        assert (node.parent.count("HEAD", "/blobs/"), node.gets()) == (1, 1)
        assert node.sent(digest) == 47


async def test_a_range_behind_the_end_is_the_clients_mistake(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest = node.parent.add_blob("demo", b"x" * 100)
        with pytest.raises(RangeUnsatisfiable) as refusal:
            await drain(node, digest, 100, 200, whole=False)
        assert refusal.value.headers == (("Content-Range", "bytes */100"),)


async def test_another_repository_links_what_is_held_after_one_head(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(3 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.parent.add_blob("other", content)
        node.parent.repository("stranger")
        await drain(node, digest)
        assert await drain(node, digest, repository="other") == content.read(0, content.size)
        assert node.held("other", digest)
        with pytest.raises(BlobUnknown):
            await drain(node, digest, repository="stranger")
        assert not node.held("stranger", digest)
        assert (node.gets(), node.parent.count("HEAD", "other/blobs/")) == (1, 1)


async def test_another_repository_joins_a_running_fill_once_its_parent_confirmed(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(3 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.parent.add_blob("other", content)
        node.parent.repository("stranger")
        gate = RequestGate()
        node.script(gate=gate)
        first = drain(node, digest)
        await gate.wait_arrived()
        joined = drain(node, digest, repository="other")
        refused = drain(node, digest, repository="stranger")
        with pytest.raises(BlobUnknown):
            await refused
        await until(lambda: node.parent.count("HEAD", "other/blobs/") == 1)
        gate.release()
        assert await first == await joined == content.read(0, content.size)
        await until(lambda: node.held("other", digest))
        assert not node.held("stranger", digest)
        assert node.gets() == 1


async def test_a_fill_that_fails_for_one_repository_is_tried_for_the_other(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(MIB)
        digest = node.parent.add_blob("other", content)
        node.parent.repository("demo")
        gate = RequestGate()
        node.script(gate=gate)
        first = drain(node, digest)
        await gate.wait_arrived()
        second = drain(node, digest, repository="other")
        await until(lambda: node.parent.count("HEAD", "other/blobs/") == 1)
        gate.release()
        with pytest.raises(ParentNotFound):
            await first
        assert await second == content.read(0, MIB)


async def test_transfers_of_the_node_are_capped_and_nobody_starves(tmp_path: Path) -> None:
    async with site(tmp_path, transfers=2) as node:
        digests = [node.parent.add_blob("demo", GeneratedContent(300_000, f"seed{n}")) for n in range(8)]
        gate = RequestGate()
        node.script(gate=gate, times=-1)
        tasks = [drain(node, digest) for digest in digests]
        await gate.wait_arrived(2)
        await asyncio.sleep(0.05)
        assert gate.arrived == 2
        gate.release()
        bodies = await asyncio.gather(*tasks)
        assert [len(body) for body in bodies] == [300_000] * 8
        assert node.gets() == 8


async def test_background_work_gives_way_to_a_person(tmp_path: Path) -> None:
    async with site(tmp_path, transfers=1, on_leave="finish") as node:
        first, second = GeneratedContent(6 * MIB, "a"), GeneratedContent(MIB, "b")
        slow = node.parent.add_blob("demo", first)
        node.parent.add_blob("demo", second)
        node.script(stall_after=2 * MIB)
        left = Drain(node, slow)
        task = asyncio.ensure_future(left.all())
        await until(lambda: len(left.out) == 2 * MIB)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await drain(node, second.digest) == second.read(0, MIB)
        await until(lambda: node.held("demo", slow))
        assert node.ranges() == ["", "", f"bytes={2 * MIB}-"]
