"""Lanes: bodies wait for their part of the link, and whatever ends the reason to wait ends the wait."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from holdfast import config
from holdfast.bandwidth.lane import SharedLink
from holdfast.bandwidth.share import BYTES_PER_MBIT, LOOK_SECONDS, LinkShare, Work
from holdfast.config import CapSection
from holdfast.fill.registry import FillRegistry
from holdfast.http.body import AHEAD_BYTES, LOCKED_BYTES, SocketBody, bound_window
from holdfast.parent.client import Parent
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from support.parent_cases import settings_for

pytestmark = pytest.mark.loop("asyncio")

MIB = 1 << 20
LARGE = GeneratedContent(8 * MIB, "large")
#: what may have been read before the first wait: a piece
PIECE = 2 * MIB


@asynccontextmanager
async def large_parent() -> AsyncIterator[ScriptedParent]:
    async with ScriptedParent() as scripted:
        scripted.add_blob("team/app", LARGE)
        yield scripted


def client(scripted: ScriptedParent, clock: FakeClock, *caps: CapSection, **changes: Any) -> Parent:
    link = SharedLink(LinkShare(caps, now=clock.monotonic()), clock)
    return Parent(settings_for(scripted.url, **changes), clock, link=link)


async def read(parent: Parent, work: Work = "interactive") -> int:
    with parent.enter(work) as lane:
        async with parent.get_blob("team/app", LARGE.digest, lane=lane) as stream:
            return sum([len(piece) async for piece in stream])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def test_a_cap_takes_its_time_and_waiting_is_no_stall() -> None:
    """Some 30 stall windows long, by a clock that only waits move."""
    async with large_parent() as scripted:
        clock = FakeClock()
        parent = client(scripted, clock, CapSection(mbit=2.0), stall_timeout=1.0)
        assert await read(parent) == LARGE.size
        rate = 2.0 * BYTES_PER_MBIT
        assert (LARGE.size - PIECE) / rate - 1.0 <= clock.monotonic() <= LARGE.size / rate + LOOK_SECONDS
        await parent.close()


async def test_a_cap_of_the_hour_ends_with_it() -> None:
    """The clock begins at 08:00 UTC; nothing is asked before 08:10."""
    async with large_parent() as scripted:
        clock = FakeClock(jump=False)
        parent = client(scripted, clock, CapSection(mbit=0.0, work="sync", hours="07:00-08:10"))
        assert await read(parent) == LARGE.size  # a client's is no synchronisation
        scripted.reset_counts()
        waiting = asyncio.create_task(read(parent, "sync"))
        for _ in range(119):
            await until(lambda: clock.sleepers > 0)
            clock.advance(5.0)
        await until(lambda: clock.sleepers > 0)
        assert scripted.count() == 0
        clock.advance(5.0)
        assert await waiting == LARGE.size
        await parent.close()


async def test_who_is_waited_for_waits_no_longer() -> None:
    async with large_parent() as scripted:
        clock = FakeClock(jump=False)
        parent = client(scripted, clock, CapSection(mbit=0.1, work="sync"))
        with parent.enter("sync") as lane:
            async with parent.get_blob("team/app", LARGE.digest, lane=lane) as stream:
                pieces = aiter(stream)
                came = len(await anext(pieces))
                rest = asyncio.ensure_future(anext(pieces))
                await until(lambda: clock.sleepers > 0)
                assert not rest.done()
                lane.change_work("interactive")
                came += len(await rest)
                came += sum([len(piece) async for piece in pieces])
        assert came == LARGE.size
        await parent.close()


async def test_a_transfer_that_is_stopped_waits_no_longer() -> None:
    async with large_parent() as scripted:
        clock = FakeClock(jump=False)
        link = SharedLink(LinkShare((CapSection(mbit=0.1, work="sync"),)), clock)
        parent = Parent(settings_for(scripted.url), clock, link=link)
        reading = asyncio.create_task(read(parent, "sync"))
        await until(lambda: clock.sleepers > 0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert not link.lanes
        assert clock.sleepers == 0
        await parent.close()


async def test_a_miss_holds_synchronisation_back_until_a_moment_after_it() -> None:
    async with large_parent() as scripted:
        clock = FakeClock(jump=False)
        parent = client(scripted, clock)
        miss = parent.enter("interactive")
        background = asyncio.create_task(read(parent, "sync"))
        await until(lambda: clock.sleepers > 0)
        for _ in range(8):
            clock.advance(LOOK_SECONDS)
            await asyncio.sleep(0)
        assert not background.done()
        miss.close()
        while not background.done():
            clock.advance(LOOK_SECONDS)
            await asyncio.sleep(0.002)
        assert await background == LARGE.size
        assert clock.monotonic() < 8 * LOOK_SECONDS + 60.0
        await parent.close()


async def test_case_fault_15_what_rests_goes_on_as_soon_as_a_short_miss_is_over() -> None:
    """The miss took 10 ms, and the link stays its own for so long again."""
    async with large_parent() as scripted:
        clock = FakeClock(jump=False)
        parent = client(scripted, clock)
        miss = parent.enter("interactive")
        background = asyncio.create_task(read(parent, "sync"))
        await until(lambda: clock.sleepers > 0)
        clock.advance(0.01)
        miss.close()
        await asyncio.sleep(0.01)
        assert not background.done()
        clock.advance(0.0101)
        assert await background == LARGE.size
        await parent.close()


def test_the_kernel_holds_little_of_a_body_that_is_sent() -> None:
    """What it holds cannot give way to a miss."""
    clock = FakeClock()
    parent = Parent(settings_for("http://127.0.0.1:1"), clock)
    address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))
    with parent._transport._socket(address) as own:
        assert 0 < own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) <= 64 * 1024


async def test_misses_alone_pay_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*_: Any) -> float:
        raise AssertionError("nobody is there to share with")

    for name in ("take", "owed", "rate"):
        monkeypatch.setattr(LinkShare, name, told)
    async with large_parent() as scripted:
        parent = client(scripted, FakeClock())
        assert set(await asyncio.gather(read(parent), read(parent))) == {LARGE.size}
        await parent.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_WINDOW_CLAMP"), reason="no window clamp on this system")
@pytest.mark.parametrize(
    "loop", [pytest.param(name, marks=pytest.mark.loop(name)) for name in ("asyncio", "uvloop")]
)
async def test_what_gives_way_has_a_small_window_and_the_next_body_none(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[int] = []
    bodies: list[SocketBody] = []

    def noted(transport: asyncio.Transport, rate: float, settled: bool) -> int:
        windows.append(bound_window(transport, rate, settled))
        own = transport.get_extra_info("socket")
        clamp = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP)
        assert clamp == windows[-1] or not windows[-1] < clamp <= LOCKED_BYTES
        return windows[-1]

    monkeypatch.setattr("holdfast.http.body.bound_window", noted)
    init = SocketBody.__init__

    def made(self: SocketBody, *arguments: Any) -> None:
        bodies.append(self)
        init(self, *arguments)

    monkeypatch.setattr(SocketBody, "__init__", made)

    async with large_parent() as scripted:
        clock = FakeClock()
        parent = client(scripted, clock)
        assert await read(parent, "sync") == LARGE.size
        assert windows[0] > 0
        assert windows[-1] == 0  # as the connection goes back
        count = len(windows)
        assert await read(parent) == LARGE.size
        assert len(windows) == count
        assert scripted.connections_made == 1
        assert bodies[-1]._ahead == AHEAD_BYTES
        await parent.close()


async def test_a_client_that_joins_synchronisation_is_not_held_back_and_leaves_it_as_it_was(
    tmp_path: Path,
) -> None:
    clock = FakeClock(jump=False)
    link = SharedLink(LinkShare((CapSection(mbit=0.1, work="sync"),)), clock)
    store = Store.create_or_open(tmp_path / "store", write=True)
    async with ScriptedParent() as scripted:
        first, second = GeneratedContent(8 * MIB, "first"), GeneratedContent(8 * MIB, "second")
        for blob in (first, second):
            scripted.add_blob("demo", blob)
        parent = Parent(settings_for(scripted.url), clock, link=link)
        fills = FillRegistry(store, {"": parent}.__getitem__, config.FillsSection(reserve_bytes=0), clock)
        await fills.start()
        fetching = asyncio.create_task(fills.fetch("demo", first.digest, lambda _: None))
        await until(lambda: clock.sleepers > 0)
        answer = await fills.open("demo", first.digest, 0, -1, whole=True)
        reader = await fills.attach(answer.fill, 0, -1, whole=True)
        await reader.wait_verified()
        await fetching
        reader.close()
        fetching = asyncio.create_task(fills.fetch("demo", second.digest, lambda _: None))
        await until(lambda: clock.sleepers > 0)
        (lane,) = link.lanes
        answer = await fills.open("demo", second.digest, 0, MIB, whole=False)
        reader = await fills.attach(answer.fill, 0, MIB, whole=False)
        await until(lambda: lane.work == "interactive")
        reader.close()
        await until(lambda: lane.work == "sync" or not link.lanes)
        fetching.cancel()
        await fills.close()
        await parent.close()
    store.close()
