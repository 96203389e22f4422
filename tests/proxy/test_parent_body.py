"""Long bodies, taken over from aiohttp: every byte, on both kinds of loop, plain and under TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterable, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from holdfast.errors import ParentBroken, ParentUnreachable
from holdfast.parent import body
from holdfast.parent.body import AHEAD_BYTES, BLOCK_BYTES, Body
from holdfast.testing.content import Generated
from holdfast.testing.fault import Fault
from holdfast.testing.scripted_parent import ScriptedParent
from support.certificates import make_pair
from support.parent_cases import LIMIT_SECONDS, client_of, read_all, silent_when, stocked

MIB = 1 << 20
LARGE = Generated(11 * MIB + 12_345, "large")
Loop = Callable[[Any], Any]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Loop:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> ssl.SSLContext | None:
    if not request.param:
        return None
    pair = make_pair(tmp_path / "pair", "parent")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
    return context


@pytest.fixture(autouse=True)
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[Body]:
    """The bodies that were taken over."""
    made: list[Body] = []

    class Noted(Body):
        def __init__(self, *arguments: Any) -> None:
            made.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(body, "Body", Noted)
    return made


def run(
    loop: Loop, case: Callable[[ScriptedParent], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LIMIT_SECONDS), ScriptedParent(tls=tls) as scripted:
            stocked(scripted)
            scripted.add_blob("team/app", LARGE)
            await case(scripted)

    loop(bounded())


async def collect(stream: AsyncIterable[bytes | memoryview], got: bytearray) -> None:
    """What comes until the stream breaks."""
    async for piece in stream:
        got += piece


def test_every_byte_and_the_connection_afterwards(
    loop: Loop, tls: ssl.SSLContext | None, bodies: list[Body]
) -> None:
    async def case(scripted: ScriptedParent) -> None:
        async with client_of(scripted) as parent:
            for _ in range(3):
                assert await read_all(parent, "team/app", LARGE.digest) == LARGE.read(0, LARGE.size)
                await parent.get_manifest("team/app", "v1")
                part = await read_all(parent, "team/app", LARGE.digest, start=MIB + 1, end=8 * MIB - 1)
                assert part == LARGE.read(MIB + 1, 7 * MIB - 2)
        assert scripted.connections_made == 1
        assert len(bodies) == 6

    run(loop, case, tls)


@pytest.mark.parametrize("reset", [False, True])
def test_a_long_body_that_is_cut_raises_after_what_came(
    loop: Loop, tls: ssl.SSLContext | None, reset: bool, bodies: list[Body]
) -> None:
    async def case(scripted: ScriptedParent) -> None:
        scripted.script(Fault(path="/blobs/", cut_after=5 * MIB, reset=reset))
        async with client_of(scripted) as parent:
            got = bytearray()
            async with parent.get_blob("team/app", LARGE.digest) as stream:
                with pytest.raises(ParentUnreachable):
                    await collect(stream, got)
            assert got == LARGE.read(0, len(got))
            assert len(got) == 5 * MIB or reset  # a reset may take with it what the kernel still had
            assert await read_all(parent, "team/app", LARGE.digest) == LARGE.read(0, LARGE.size)
        assert len(bodies) == 2

    run(loop, case, tls)


def test_a_long_body_that_stalls_is_given_up(
    loop: Loop, tls: ssl.SSLContext | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = bytearray()
    silent_when(monkeypatch, lambda: len(got) == 5 * MIB)

    async def case(scripted: ScriptedParent) -> None:
        scripted.script(Fault(path="/blobs/", stall_after=5 * MIB))
        async with (
            client_of(scripted, stall_timeout=0.1) as parent,
            parent.get_blob("team/app", LARGE.digest) as stream,
        ):
            with pytest.raises(ParentUnreachable):
                await collect(stream, got)
        assert got == LARGE.read(0, 5 * MIB)

    run(loop, case, tls)


def test_surplus_is_neither_yielded_nor_the_next_answer(loop: Loop, tls: ssl.SSLContext | None) -> None:
    async def case(scripted: ScriptedParent) -> None:
        scripted.script(Fault(path="/blobs/", surplus=5000))
        async with client_of(scripted) as parent:
            assert await read_all(parent, "team/app", LARGE.digest) == LARGE.read(0, LARGE.size)
            with contextlib.suppress(ParentBroken):  # surplus that comes once the next request is under way
                await parent.get_manifest("team/app", "v1")
            await parent.get_manifest("team/app", "v1")

    run(loop, case, tls)


def test_what_nobody_takes_is_left_in_the_socket(
    loop: Loop, tls: ssl.SSLContext | None, bodies: list[Body]
) -> None:
    async def case(scripted: ScriptedParent) -> None:
        large = Generated(64 * MIB, "larger")
        scripted.add_blob("team/app", large)
        async with client_of(scripted) as parent:
            async with parent.get_blob("team/app", large.digest) as stream:
                pieces = aiter(stream)
                got = bytearray(await anext(pieces))
                (made,) = bodies
                while not made._paused:
                    await asyncio.sleep(0.001)
                assert AHEAD_BYTES <= made._unread < AHEAD_BYTES + BLOCK_BYTES
                await collect(pieces, got)
            assert got == large.read(0, large.size)

    run(loop, case, tls)


def test_a_reader_that_leaves_ends_the_connection(loop: Loop, tls: ssl.SSLContext | None) -> None:
    async def case(scripted: ScriptedParent) -> None:
        async with client_of(scripted) as parent:
            async with parent.get_blob("team/app", LARGE.digest) as stream:
                await anext(aiter(stream))
            assert await read_all(parent, "team/app", LARGE.digest) == LARGE.read(0, LARGE.size)
        assert scripted.connections_made == 2

    run(loop, case, tls)


def test_memory_that_nobody_has_any_more_is_used_again(loop: Loop, bodies: list[Body]) -> None:
    async def case(scripted: ScriptedParent) -> None:
        large = Generated(32 * MIB, "larger")
        scripted.add_blob("team/app", large)
        async with client_of(scripted) as parent, parent.get_blob("team/app", large.digest) as stream:
            await collect(stream, got := bytearray())
        assert got == large.read(0, large.size)
        (made,) = bodies
        # what waits, what is received into, what the reader has
        assert len(made._blocks) <= AHEAD_BYTES // BLOCK_BYTES + 3

    run(loop, case)


def test_pieces_stay_as_they_are(loop: Loop) -> None:
    async def case(scripted: ScriptedParent) -> None:
        async with client_of(scripted) as parent, parent.get_blob("team/app", LARGE.digest) as stream:
            pieces = [piece async for piece in stream]
        assert b"".join(pieces) == LARGE.read(0, LARGE.size)
        assert max(map(len, pieces)) <= BLOCK_BYTES

    run(loop, case)
