"""A body that is still arriving: bytes that landed go from the file to the socket, not through this process."""

from __future__ import annotations

import asyncio
import os
import socket
from functools import partial
from pathlib import Path

import pytest
from holdfast.server.response_body import CHUNK_BYTES, LEAST_FILE_BYTES, SECURE_CHUNK_BYTES, OutgoingBody
from holdfast.testing.random_content import GeneratedContent
from holdfast.wire.message import BodyPiece, ReplyBody
from support.fills import MIB, until

CONTENT = GeneratedContent(5 * MIB + 123)
BODY = CONTENT.read(0, CONTENT.size)


class Arriving:
    """A source whose bytes land when the test says so."""

    distant = True

    def __init__(self, path: Path, *, lends: bool) -> None:
        self.size = len(BODY)
        self.there = self.read_bytes = 0
        self.closed = False
        self.longest = 0
        self.fault: Exception | None = None
        self._lends = lends
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.truncate(self._file, self.size)
        self._news = asyncio.Event()

    def land(self, end: int) -> None:
        os.pwrite(self._file, BODY[self.there : end], self.there)
        self.there = end
        self._news.set()

    def fail(self) -> None:
        self.fault = OSError(5, "input/output error")
        self._news.set()

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        there = min(self.there - offset, length)
        return (self._file, there) if there > 0 and self._lends and self.fault is None else None

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        if self.fault is not None:
            raise self.fault
        data = os.pread(self._file, max(0, min(length, self.there - offset)), offset)
        self.read_bytes += len(data)
        self.longest = max(self.longest, len(data))
        return data or None

    async def arrived(self, offset: int) -> None:
        while self.there <= offset and self.fault is None:
            self._news.clear()
            await self._news.wait()

    async def read(self, offset: int, length: int) -> bytes:
        await self.arrived(offset)
        return self.read_nowait(offset, length) or b""

    def close(self) -> None:
        self.closed = True
        os.close(self._file)


class Client:
    """One delivery into a socket, and what came out of it."""

    def __init__(self, source: Arriving, *, plain: bool = True) -> None:
        self.source, self.plain = source, plain
        self.out = bytearray()
        self.ends: list[Exception | None] = []

    async def __aenter__(self) -> Client:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        far.setblocking(False)
        self._far = far
        self._transport, protocol = await loop.create_connection(Flow, sock=near)
        number = near.fileno() if self.plain else -1
        whole = ReplyBody(self.source, [BodyPiece(start=0, end=self.source.size)], self.source.size)
        protocol.delivery = OutgoingBody(loop, self._transport, whole, self.ends.append, number)
        protocol.delivery.start(b"")
        self._taking = asyncio.ensure_future(self._take())
        return self

    def has(self, count: int) -> bool:
        """Whether so many bytes came out."""
        return len(self.out) == count

    async def _take(self) -> None:
        while data := await asyncio.get_running_loop().sock_recv(self._far, MIB):
            self.out += data

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()
        await self._taking
        self._far.close()


class Flow(asyncio.Protocol):
    """The transport's word to the delivery."""

    delivery: OutgoingBody

    def pause_writing(self) -> None:
        self.delivery.pause()

    def resume_writing(self) -> None:
        self.delivery.resume()


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.loop(name)) for name in ("asyncio", "uvloop")], autouse=True
)
def loop(request: pytest.FixtureRequest) -> str:
    """Every test runs on both."""
    return str(request.param)


async def test_what_lands_in_the_middle_of_a_body_goes_by_file(tmp_path: Path) -> None:
    source = Arriving(tmp_path / "part", lends=True)
    async with Client(source) as client:
        for end in (LEAST_FILE_BYTES, MIB, 3 * MIB, len(BODY)):
            source.land(end)
            await until(partial(client.has, end))
        assert client.out == BODY
        assert (client.ends, source.closed) == ([None], True)
    assert source.read_bytes == 0


@pytest.mark.parametrize(("plain", "lends"), [(False, True), (True, False)], ids=["tls", "in memory"])
async def test_what_cannot_go_by_file_is_read(tmp_path: Path, plain: bool, lends: bool) -> None:
    source = Arriving(tmp_path / "part", lends=lends)
    async with Client(source, plain=plain) as client:
        for end in (1, CHUNK_BYTES, 3 * MIB, len(BODY)):
            source.land(end)
            await until(partial(client.has, end))
        assert client.out == BODY
        assert client.ends == [None]
    assert source.read_bytes == len(BODY)
    assert source.longest == (CHUNK_BYTES if plain else SECURE_CHUNK_BYTES)


async def test_a_fault_while_waiting_ends_the_body_once(tmp_path: Path) -> None:
    source = Arriving(tmp_path / "part", lends=True)
    async with Client(source) as client:
        source.land(MIB)
        await until(lambda: len(client.out) == MIB)
        source.fail()
        await until(lambda: bool(client.ends))
        assert len(client.ends) == 1
        assert client.ends[0] is source.fault
        assert source.closed
