"""A full disk: the bytes go on to those who wait, through a window of memory, and nothing is stored."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from holdfast.clock import SystemClock
from holdfast.config import Configuration, FillsSection
from holdfast.errors import ParentBroken
from holdfast.fill.buffer import FillBuffer, Frontier, Window
from holdfast.fill.context import LEAST_BYTES
from holdfast.fill.extents import Extents
from holdfast.fill.hash_queue import HashQueue
from holdfast.fill.planner import Want
from holdfast.fill.received_bytes import make_room
from holdfast.http.body import BLOCK_BYTES
from holdfast.keeper.rpc.fill_view import FillView
from holdfast.keeper.rpc.remote_keeper import RemoteKeeper
from holdfast.keeper.rpc.service import Service
from holdfast.process.assembly import compose
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from support.fills import MIB, Drain, Site, drain, filling, site, until

pytestmark = pytest.mark.loop("asyncio")

DISK_BYTES = 24 * MIB
Body = Callable[[Site], Coroutine[Any, Any, None]]

#: what one fill alone may hold
WINDOW_BYTES = FillsSection().unstored_bytes // 2 + LEAST_BYTES
#: bytes are taken a block at a time
BOUND = WINDOW_BYTES + BLOCK_BYTES


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    options = f"size={DISK_BYTES}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@asynccontextmanager
async def on(disk: Path, **options: Any) -> AsyncIterator[Site]:
    """A node on a small disk; in the end nothing is left of its fills."""
    store = Store.create_or_open(disk / "store", write=True)
    try:
        async with (
            ScriptedParent() as parent,
            filling(store, parent, **{"reserve_bytes": 0, **options}) as node,
        ):
            yield node
            await until(lambda: not node.fills._by_number)
            assert store.statistics().open_parts == 0
            assert list((disk / "store" / "fills").iterdir()) == []
    finally:
        store.close()


async def test_a_disk_that_fills_up_in_the_middle_does_not_stop_the_readers(disk: Path) -> None:
    async with on(disk) as node:
        content = GeneratedContent(60 * MIB)
        digest = node.parent.add_blob("demo", content)
        bodies = await asyncio.gather(*(drain(node, digest) for _ in range(3)))
        assert all(b == content.read(0, content.size) for b in bodies)
        assert node.gets() == 1
        assert not node.held("demo", digest)
        assert node.fills.counters["unstored"] == 1


async def test_a_disk_below_its_reserve_is_left_alone(disk: Path) -> None:
    async with on(disk, reserve_bytes=1 << 40) as node:
        content = GeneratedContent(3 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(stall_after=MIB)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await until(lambda: len(client.out) == MIB)
        assert node.fills.passing() == ["the disk is full: 1 blob(s) pass through unstored"]
        assert list((disk / "store" / "fills").iterdir()) == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await drain(node, digest) == content.read(0, content.size)
        await until(lambda: node.fills.passing() == [])


@pytest.mark.parametrize(
    ("call", "spared", "code"),
    [
        ("open", 0, errno.EIO),
        ("open", 0, errno.EROFS),
        ("ftruncate", 0, errno.EDQUOT),
        ("pwrite", 0, errno.EIO),
        ("pwrite", 3, errno.ENOSPC),
        ("pwrite", 3, errno.EIO),
        ("rename", 0, errno.EIO),
        ("rename", 0, errno.EROFS),
    ],
)
async def test_case_fault_9_whatever_the_disk_refuses_the_bytes_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, spared: int, code: int
) -> None:
    """The part cannot be made, written or put into its place: who reads gets every byte, and once the disk
    works again the next reader has it kept."""

    def refused(real: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(target: Any, *rest: Any, **more: Any) -> Any:
            at = more.get("dir_fd", more.get("src_dir_fd", target if isinstance(target, int) else None))
            place = os.readlink(f"/proc/self/fd/{at}") if at is not None else str(target)
            met.append("/fills" in place)
            if broken and met[-1] and sum(met) > spared:
                raise OSError(code, os.strerror(code))
            return real(target, *rest, **more)

        return maybe

    broken, met = [True], list[bool]()
    async with site(tmp_path) as node:
        content = GeneratedContent(9 * MIB)
        digest = node.parent.add_blob("demo", content)
        monkeypatch.setattr(os, call, refused(getattr(os, call)))
        assert await drain(node, digest) == content.read(0, content.size)
        assert sum(met) > spared, "it was refused"
        await until(lambda: not node.fills._by_number)
        broken.clear()
        node.store.probe()
        assert await drain(node, digest) == content.read(0, content.size)
        await until(lambda: node.held("demo", digest))


async def test_s38_wrong_bytes_are_held_back_without_a_store_too(disk: Path) -> None:
    async with on(disk, reserve_bytes=1 << 40) as node:
        content = GeneratedContent(3 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(flip_at=5)
        client = Drain(node, digest)
        with pytest.raises(ParentBroken):
            await client.all()
        assert len(client.out) <= content.size - (64 << 10)


async def test_a_range_and_a_cut_link_without_a_store(disk: Path) -> None:
    async with on(disk, reserve_bytes=1 << 40) as node:
        content = GeneratedContent(20 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=MIB, times=4)
        part = drain(node, digest, 9 * MIB, 10 * MIB, whole=False)
        whole = drain(node, digest)
        assert await part == content.read(9 * MIB, MIB)
        assert await whole == content.read(0, content.size)


async def test_the_window_is_bounded_and_goes_at_the_pace_of_the_slowest_reader(tmp_path: Path) -> None:
    async with site(tmp_path, reserve_bytes=1 << 40) as node:
        content = GeneratedContent(2 * WINDOW_BYTES + 5 * MIB)
        digest = node.parent.add_blob("demo", content)
        answer = await node.fills.open("demo", digest, 0, -1, True)
        slow = await node.fills.attach(answer.fill, 0, answer.size, True)
        fill = node.fills._by_number[answer.fill]
        medium = fill.received.buffer
        assert medium is not None
        assert medium.window is not None
        quick = Drain(node, digest)
        task = asyncio.ensure_future(quick.all())
        await until(lambda: medium.in_memory > WINDOW_BYTES - 5 * MIB)
        for _ in range(50):  # it stands still
            await asyncio.sleep(0.001)
            assert medium.in_memory <= BOUND
        assert len(quick.out) <= BOUND
        at = 0
        while at < content.size:
            end = min(await slow.wait_for(at), at + MIB)
            assert slow.read(at, end - at) == content.read(at, end - at)
            assert medium.in_memory <= BOUND
            assert os.fstat(medium.window.fd).st_blocks * 512 <= WINDOW_BYTES + 8 * MIB
            at = end
        await slow.wait_verified()
        slow.close()
        assert await task == content.read(0, content.size)
        assert node.gets() == 1


async def test_who_comes_after_the_first_bytes_are_gone_gets_a_fill_of_his_own(tmp_path: Path) -> None:
    async with site(tmp_path, reserve_bytes=1 << 40) as node:
        content = GeneratedContent(WINDOW_BYTES + 20 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(stall_after=content.size - MIB)
        first = Drain(node, digest)
        task = asyncio.ensure_future(first.all())
        await until(lambda: len(first.out) == content.size - MIB)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.gets() == 2
        task.cancel()


async def test_a_worker_follows_across_the_move(disk: Path) -> None:
    """The keeper's side and a worker's view of it: every byte from the file that holds it."""
    async with on(disk) as node:
        content = GeneratedContent(50 * MIB)
        digest = node.parent.add_blob("demo", content)
        answer = await node.fills.open("demo", digest, 0, -1, True)
        reader = await node.fills.attach(answer.fill, 0, answer.size, True)
        view = FillView(node.fills.snapshot(answer.fill))
        stop = node.fills.subscribe(answer.fill, view.change)
        at = 0
        while at < content.size:
            await view.wait(at)
            data = view.read(at, min(view.available(at) - at, MIB))
            assert data == content.read(at, len(data))
            at += len(data)
            reader.advance(at)
        await view.wait(-1)
        assert len(view._files) == 2
        stop()
        view.close()
        reader.close()


def test_each_byte_is_read_where_it_was_written(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path / "store", write=True)
    content = GeneratedContent(4 * MIB)
    from holdfast_core.digest import Digest

    part = store.blobs.fills.open_part("demo", Digest.parse(content.digest), content.size)
    medium, held = FillBuffer(part, content.size), Extents()
    for start, end in ((0, MIB), (2 * MIB, 3 * MIB)):
        medium.write(start, memoryview(content.read(start, end - start)))
        held.add(start, end)
    added = medium.move(held)
    assert [offset for offset, _ in added] == [MIB, 2 * MIB, 3 * MIB]
    for start, end in held.gaps(0, content.size):
        medium.write(start, memoryview(content.read(start, end - start)))
        medium.landed((start, end))
    at, body = 0, b""
    while at < content.size:
        body += medium.read(at, content.size - at)
        at = len(body)
    assert body == content.read(0, content.size)
    assert medium.keep(Extents([(0, 2 * MIB)])) == [(3 * MIB, 4 * MIB)]
    assert medium.read(MIB, 100) == content.read(MIB, 100)
    assert medium.in_memory == MIB
    medium.close()
    store.close()


def test_what_the_hash_has_before_it_stays() -> None:
    medium, held = FillBuffer(None, 8 * MIB), Extents()
    medium.move(held)
    medium.write(0, memoryview(bytes(8 * MIB)))
    medium.landed((0, 8 * MIB))
    held.add(0, 8 * MIB)
    with ThreadPoolExecutor(1) as threads:
        frontier = Frontier("sha256", medium, held, HashQueue(threads))
        frontier.position = 5 * MIB
        assert make_room(medium, held, frontier, {Want(7 * MIB, None)}) == [(0, 5 * MIB)]
        assert list(held) == [(5 * MIB, 8 * MIB)]
        frontier.position = 8 * MIB
        assert make_room(medium, held, frontier, {Want(7 * MIB, None)}) == [(5 * MIB, 7 * MIB)]
    medium.close()


async def test_workers_over_the_socket_read_every_byte(disk: Path) -> None:
    """Two readers in another process's shoes: one quick, one slow, more than the window between them."""
    async with on(disk) as node:
        content = GeneratedContent(WINDOW_BYTES + 50 * MIB)
        digest = node.parent.add_blob("demo", content)
        keeper = compose(Configuration(), node.store, SystemClock(), {"": node.client}, node.fills)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(disk.parent / "keeper"))
        listener.listen()
        service = Service(keeper)
        await service.start(listener)
        port = RemoteKeeper.at(str(disk.parent / "keeper"), node.store, SystemClock())
        await port.start()

        async def read(step: int) -> None:
            told = await port.blob("demo", digest, 0, -1, True)
            reader = await port.follow(told.fill, 0, told.size, True)
            at = 0
            while at < told.size:
                there = await reader.wait_for(at)
                data = reader.read(at, min(step, there - at))
                assert data == content.read(at, len(data)), at
                at += len(data)
            await reader.wait_verified()
            reader.close()

        await asyncio.gather(read(MIB), read(100_000))
        assert node.gets() == 1
        await port.close()
        await service.close()


def test_dropped_memory_is_given_back() -> None:
    window = Window(8 * MIB)
    os.pwrite(window.fd, b"x" * (8 * MIB), 0)
    window.held.add(0, 8 * MIB)
    window.drop(MIB, 7 * MIB)
    assert os.fstat(window.fd).st_blocks * 512 == 2 * MIB
    assert list(window.held) == [(0, MIB), (7 * MIB, 8 * MIB)]
    window.close()


def unstored_bytes(node: Site) -> int:
    """What the kernel says the windows of all fills take."""
    media = [fill.received.buffer for fill in node.fills._by_number.values()]
    windows = [medium.window for medium in media if medium is not None and medium.window is not None]
    return sum(os.fstat(window.fd).st_blocks * 512 for window in windows)


async def quiet(node: Site) -> None:
    """Until the parent gets rid of nothing any more."""
    before, same = -1, 0
    while same < 20:
        await asyncio.sleep(0.01)
        sent = sum(node.parent.bytes_sent.values())
        before, same = sent, (same + 1 if sent == before else 0)


BUDGET = 32 * MIB


async def stopped(node: Site, count: int, size: int = 40 * MIB) -> list[Any]:
    """Readers of so many blobs who read nothing."""
    readers = []
    for number in range(count):
        digest = node.parent.add_blob("demo", GeneratedContent(size, seed=str(number)))
        answer = await node.fills.open("demo", digest, 0, -1, True)
        readers.append(await node.fills.attach(answer.fill, 0, answer.size, True))
    return readers


async def test_case_trust_24_slow_readers_share_one_budget(tmp_path: Path) -> None:
    """Whoever reads slowly, all of them together hold no more than the budget and a block each, their parent waits, and
    one who reads on gets every byte."""
    async with site(tmp_path, reserve_bytes=1 << 40, unstored_bytes=BUDGET) as node:
        readers = await stopped(node, 7)
        await quiet(node)
        assert BUDGET // 2 <= unstored_bytes(node) <= BUDGET + 7 * BLOCK_BYTES
        content = GeneratedContent(30 * MIB, seed="last")
        assert await drain(node, node.parent.add_blob("demo", content)) == content.read(0, content.size)
        assert unstored_bytes(node) <= BUDGET + 8 * BLOCK_BYTES
        for reader in readers:
            reader.close()
        await until(lambda: not node.fills._by_number)


async def test_case_trust_24_a_fill_without_room_begins_when_another_is_over(tmp_path: Path) -> None:
    async with site(tmp_path, reserve_bytes=1 << 40, unstored_bytes=8 * MIB) as node:
        readers = await stopped(node, 2)
        await quiet(node)
        content = GeneratedContent(30 * MIB, seed="last")
        client = Drain(node, node.parent.add_blob("demo", content))
        task = asyncio.ensure_future(client.all())
        await quiet(node)
        assert not client.out
        assert unstored_bytes(node) <= 8 * MIB + 2 * BLOCK_BYTES
        readers[0].close()
        assert await task == content.read(0, content.size)
        readers[1].close()
