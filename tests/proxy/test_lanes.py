"""Lanes: bodies wait for their part of the link, and whatever ends the reason to wait ends the wait."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from holdfast import config
from holdfast.config import Cap
from holdfast.fill.fills import Fills
from holdfast.parent.body import AHEAD_BYTES, LOCKED_BYTES, Body, bound_window
from holdfast.parent.client import Parent
from holdfast.parent.lane import Line
from holdfast.sync.share import BYTES_PER_MBIT, LOOK_SECONDS, Share, Work
from holdfast.testing.clock import FakeClock
from holdfast.testing.content import Generated
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from support.parent_cases import LIMIT_SECONDS, settings_for

MIB = 1 << 20
LARGE = Generated(8 * MIB, "large")
#: what may have been read before the first wait: a piece
PIECE = 2 * MIB


def run(case: Callable[[ScriptedParent], Awaitable[None]], loop: Any = asyncio.run) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LIMIT_SECONDS), ScriptedParent() as scripted:
            scripted.add_blob("team/app", LARGE)
            await case(scripted)

    loop(bounded())


def client(scripted: ScriptedParent, clock: FakeClock, *caps: Cap, **changes: Any) -> Parent:
    line = Line(Share(caps, now=clock.monotonic()), clock)
    return Parent(settings_for(scripted.url, **changes), clock, line=line)


async def read(parent: Parent, work: Work = "interactive") -> int:
    with parent.enter(work) as lane:
        async with parent.get_blob("team/app", LARGE.digest, lane=lane) as stream:
            return sum([len(piece) async for piece in stream])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def test_a_cap_takes_its_time_and_waiting_is_no_stall() -> None:
    """Some 30 stall windows long, by a clock that only waits move."""

    async def case(scripted: ScriptedParent) -> None:
        clock = FakeClock()
        parent = client(scripted, clock, Cap(mbit=2.0), stall_timeout=1.0)
        assert await read(parent) == LARGE.size
        rate = 2.0 * BYTES_PER_MBIT
        assert (LARGE.size - PIECE) / rate - 1.0 <= clock.monotonic() <= LARGE.size / rate + LOOK_SECONDS
        await parent.close()

    run(case)


def test_a_cap_of_the_hour_ends_with_it() -> None:
    """The clock begins at 08:00 UTC; nothing is asked before 08:10."""

    async def case(scripted: ScriptedParent) -> None:
        clock = FakeClock(jump=False)
        parent = client(scripted, clock, Cap(mbit=0.0, work="sync", hours="07:00-08:10"))
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

    run(case)


def test_who_is_waited_for_waits_no_longer() -> None:
    async def case(scripted: ScriptedParent) -> None:
        clock = FakeClock(jump=False)
        parent = client(scripted, clock, Cap(mbit=0.1, work="sync"))
        with parent.enter("sync") as lane:
            async with parent.get_blob("team/app", LARGE.digest, lane=lane) as stream:
                pieces = aiter(stream)
                came = len(await anext(pieces))
                rest = asyncio.ensure_future(anext(pieces))
                await until(lambda: clock.sleepers > 0)
                assert not rest.done()
                lane.turn("interactive")
                came += len(await rest)
                came += sum([len(piece) async for piece in pieces])
        assert came == LARGE.size
        await parent.close()

    run(case)


def test_a_transfer_that_is_stopped_waits_no_longer() -> None:
    async def case(scripted: ScriptedParent) -> None:
        clock = FakeClock(jump=False)
        line = Line(Share((Cap(mbit=0.1, work="sync"),)), clock)
        parent = Parent(settings_for(scripted.url), clock, line=line)
        reading = asyncio.create_task(read(parent, "sync"))
        await until(lambda: clock.sleepers > 0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert not line.lanes
        assert clock.sleepers == 0
        await parent.close()

    run(case)


def test_a_miss_holds_synchronisation_back_until_a_moment_after_it() -> None:
    async def case(scripted: ScriptedParent) -> None:
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

    run(case)


def test_misses_alone_pay_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*_: Any) -> float:
        raise AssertionError("nobody is there to share with")

    for name in ("take", "owed", "rate"):
        monkeypatch.setattr(Share, name, told)

    async def case(scripted: ScriptedParent) -> None:
        parent = client(scripted, FakeClock())
        assert set(await asyncio.gather(read(parent), read(parent))) == {LARGE.size}
        await parent.close()

    run(case)


@pytest.mark.skipif(not hasattr(socket, "TCP_WINDOW_CLAMP"), reason="no window clamp on this system")
@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_gives_way_has_a_small_window_and_the_next_body_none(
    loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[int] = []
    bodies: list[Body] = []

    def noted(transport: asyncio.Transport, rate: float, settled: bool) -> int:
        windows.append(bound_window(transport, rate, settled))
        own = transport.get_extra_info("socket")
        clamp = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP)
        assert clamp == windows[-1] or not windows[-1] < clamp <= LOCKED_BYTES
        return windows[-1]

    monkeypatch.setattr("holdfast.parent.body.bound_window", noted)
    init = Body.__init__

    def made(self: Body, *arguments: Any) -> None:
        bodies.append(self)
        init(self, *arguments)

    monkeypatch.setattr(Body, "__init__", made)

    async def case(scripted: ScriptedParent) -> None:
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

    run(case, loop)


def test_a_client_that_joins_synchronisation_is_not_held_back_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    async def case() -> None:
        clock = FakeClock(jump=False)
        line = Line(Share((Cap(mbit=0.1, work="sync"),)), clock)
        store = Store.create_or_open(tmp_path / "store", write=True)
        async with ScriptedParent() as scripted:
            first, second = Generated(8 * MIB, "first"), Generated(8 * MIB, "second")
            for blob in (first, second):
                scripted.add_blob("demo", blob)
            parent = Parent(settings_for(scripted.url), clock, line=line)
            fills = Fills(store, {"": parent}.__getitem__, config.Fills(reserve_bytes=0), clock)
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
            (lane,) = line.lanes
            answer = await fills.open("demo", second.digest, 0, MIB, whole=False)
            reader = await fills.attach(answer.fill, 0, MIB, whole=False)
            await until(lambda: lane.work == "interactive")
            reader.close()
            await until(lambda: lane.work == "sync" or not line.lanes)
            fetching.cancel()
            await fills.close()
            await parent.close()
        store.close()

    asyncio.run(asyncio.wait_for(case(), LIMIT_SECONDS))
