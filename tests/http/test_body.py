"""Long bodies, taken over from aiohttp: every byte, on both kinds of loop, plain and under TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from holdfast.errors import ParentBroken, ParentUnreachable
from holdfast.http import body
from holdfast.http.body import AHEAD_BYTES, BLOCK_BYTES, SocketBody
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from support.certificates import make_pair
from support.parent_cases import client_of, read_all, silent_when, stocked

MIB = 1 << 20
LARGE = GeneratedContent(11 * MIB + 12_345, "large")


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.loop(name)) for name in ("asyncio", "uvloop")], autouse=True
)
def loop(request: pytest.FixtureRequest) -> str:
    """Every test runs on both."""
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> ssl.SSLContext | None:
    if not request.param:
        return None
    pair = make_pair(tmp_path / "pair", "parent")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
    return context


@pytest.fixture(autouse=True)
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[SocketBody]:
    """The bodies that were taken over."""
    made: list[SocketBody] = []

    class Noted(SocketBody):
        def __init__(self, *arguments: Any) -> None:
            made.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(body, "SocketBody", Noted)
    return made


@contextlib.asynccontextmanager
async def large_parent(tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedParent]:
    async with ScriptedParent(tls=tls) as scripted:
        stocked(scripted)
        scripted.add_blob("team/app", LARGE)
        yield scripted


async def collect(stream: AsyncIterable[bytes | memoryview], got: bytearray) -> None:
    """What comes until the stream breaks."""
    async for piece in stream:
        got += piece


async def test_every_byte_and_the_connection_afterwards(
    tls: ssl.SSLContext | None, bodies: list[SocketBody]
) -> None:
    async with large_parent(tls) as scripted:
        async with client_of(scripted) as parent:
            for _ in range(3):
                assert await read_all(parent, "team/app", LARGE.digest) == LARGE.read(0, LARGE.size)
                await parent.get_manifest("team/app", "v1")
                part = await read_all(parent, "team/app", LARGE.digest, start=MIB + 1, end=8 * MIB - 1)
                assert part == LARGE.read(MIB + 1, 7 * MIB - 2)
        assert scripted.connections_made == 1
        assert len(bodies) == 6


@pytest.mark.parametrize("reset", [False, True])
async def test_a_long_body_that_is_cut_raises_after_what_came(
    tls: ssl.SSLContext | None, reset: bool, bodies: list[SocketBody]
) -> None:
    async with large_parent(tls) as scripted:
        scripted.script(ScriptedFault(path="/blobs/", cut_after=5 * MIB, reset=reset))
        async with client_of(scripted) as parent:
            got = bytearray()
            async with parent.get_blob("team/app", LARGE.digest) as stream:
                with pytest.raises(ParentUnreachable):
                    await collect(stream, got)
            assert got == LARGE.read(0, len(got))
            assert len(got) == 5 * MIB or reset  # a reset may take with it what the kernel still had
            assert await read_all(parent, "team/app", LARGE.digest) == LARGE.read(0, LARGE.size)
        assert len(bodies) == 2


async def test_a_long_body_that_stalls_is_given_up(
    tls: ssl.SSLContext | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = bytearray()
    silent_when(monkeypatch, lambda: len(got) == 5 * MIB)

    async with large_parent(tls) as scripted:
        scripted.script(ScriptedFault(path="/blobs/", stall_after=5 * MIB))
        async with (
            client_of(scripted, stall_timeout=0.1) as parent,
            parent.get_blob("team/app", LARGE.digest) as stream,
        ):
            with pytest.raises(ParentUnreachable):
                await collect(stream, got)
        assert got == LARGE.read(0, 5 * MIB)


async def test_surplus_is_neither_yielded_nor_the_next_answer(tls: ssl.SSLContext | None) -> None:
    async with large_parent(tls) as scripted:
        scripted.script(ScriptedFault(path="/blobs/", surplus=5000))
        async with client_of(scripted) as parent:
            assert await read_all(parent, "team/app", LARGE.digest) == LARGE.read(0, LARGE.size)
            with contextlib.suppress(ParentBroken):  # surplus that comes once the next request is under way
                await parent.get_manifest("team/app", "v1")
            await parent.get_manifest("team/app", "v1")


async def test_what_nobody_takes_is_left_in_the_socket(
    tls: ssl.SSLContext | None, bodies: list[SocketBody]
) -> None:
    async with large_parent(tls) as scripted:
        large = GeneratedContent(64 * MIB, "larger")
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


async def test_a_reader_that_leaves_ends_the_connection(tls: ssl.SSLContext | None) -> None:
    async with large_parent(tls) as scripted:
        async with client_of(scripted) as parent:
            async with parent.get_blob("team/app", LARGE.digest) as stream:
                await anext(aiter(stream))
            assert await read_all(parent, "team/app", LARGE.digest) == LARGE.read(0, LARGE.size)
        assert scripted.connections_made == 2


async def test_memory_that_nobody_has_any_more_is_used_again(bodies: list[SocketBody]) -> None:
    async with large_parent() as scripted:
        large = GeneratedContent(32 * MIB, "larger")
        scripted.add_blob("team/app", large)
        async with client_of(scripted) as parent, parent.get_blob("team/app", large.digest) as stream:
            await collect(stream, got := bytearray())
        assert got == large.read(0, large.size)
        (made,) = bodies
        # what waits, what is received into, what the reader has
        assert len(made._blocks) <= AHEAD_BYTES // BLOCK_BYTES + 3


async def test_pieces_stay_as_they_are() -> None:
    async with large_parent() as scripted:
        async with client_of(scripted) as parent, parent.get_blob("team/app", LARGE.digest) as stream:
            pieces = [piece async for piece in stream]
        assert b"".join(pieces) == LARGE.read(0, LARGE.size)
        assert max(map(len, pieces)) <= BLOCK_BYTES
