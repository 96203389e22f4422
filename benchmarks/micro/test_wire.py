"""What one request costs before and after the store: the gates, h11 for comparison, target, ranges, answer.

Read them against each other, in one run: the gates with h11, and the whole hit with the sum of its parts.
`make bench` measures requests over sockets; this says where their time goes.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import h11
import pytest
from holdfast.clock import SystemClock
from holdfast.config import Configuration, LimitsSection
from holdfast.endpoint.node import Node
from holdfast.log import configure
from holdfast.routing import Router
from holdfast.server.connection import ClientConnection
from holdfast.server.server import Server
from holdfast.testing.port import ScriptedPort
from holdfast.wire import head, ranges, routes
from holdfast.wire.chunks import ChunkReader
from holdfast.wire.exchange import Exchange
from holdfast.wire.message import Reply
from holdfast_core.digest import Digest
from holdfast_core.store import Store
from pytest_benchmark.fixture import BenchmarkFixture

BODY = b'{"schemaVersion":2,"padding":"%s"}' % (b"x" * 1500)
DIGEST = Digest.of(BODY)
TARGET = f"/v2/library/nginx/manifests/{DIGEST}?ns=docker.io"
ACCEPT = ", ".join(
    [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "*/*",
    ]
)
LINES = [
    "Host: node:5000",
    "User-Agent: containerd/2.1",
    f"Accept: {ACCEPT}",
    "Accept-Encoding: zstd;q=1.0, gzip",
]
REQUEST = "\r\n".join([f"GET {TARGET} HTTP/1.1", *LINES, "", ""]).encode()
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"


def test_head_gate(benchmark: BenchmarkFixture) -> None:
    def read() -> head.Head:
        return head.parse(REQUEST, head.find_end(REQUEST, 0, 32768), 8192, 100)

    assert benchmark(read).target == TARGET


def test_head_by_h11(benchmark: BenchmarkFixture) -> None:
    def read() -> Any:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(REQUEST)
        return connection.next_event()

    assert benchmark(read).target == TARGET.encode()


SEGMENT = 256_000  # what one read of a socket gives


def chunked(size: int) -> bytes:
    """A segment of chunks of `size` bytes."""
    return (b"%x\r\n%b\r\n" % (size, bytes(size))) * (SEGMENT // size)


@pytest.mark.parametrize("size", [512, 4096, 32_768])
def test_chunk_gate(benchmark: BenchmarkFixture, size: int) -> None:
    reader, segment = ChunkReader(), chunked(size)
    content, _ = benchmark(reader.read, segment)
    assert len(content) == SEGMENT // size * size


@pytest.mark.parametrize("size", [512, 4096, 32_768])
def test_chunks_by_h11(benchmark: BenchmarkFixture, size: int) -> None:
    connection, segment = h11.Connection(h11.SERVER), chunked(size)
    connection.receive_data(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.next_event()

    def read() -> bytes:
        connection.receive_data(segment)
        parts = []
        while isinstance(event := connection.next_event(), h11.Data):
            parts.append(event.data)
        return b"".join(parts)

    assert len(benchmark(read)) == SEGMENT // size * size


def test_target_known(benchmark: BenchmarkFixture) -> None:
    assert benchmark(routes.read, TARGET).route.name == "library/nginx"


def test_target_new(benchmark: BenchmarkFixture) -> None:
    assert benchmark(routes._read, TARGET).route.name == "library/nginx"


def test_one_range(benchmark: BenchmarkFixture) -> None:
    def choose() -> ranges.Choice:
        return ranges.choose(ranges.parse("bytes=1000000-1999999"), 64 << 20, 256)

    assert benchmark(choose).runs[0][:2] == (1_000_000, 2_000_000)


def test_256_ranges(benchmark: BenchmarkFixture) -> None:
    text = "bytes=" + ",".join(f"{i * 1000}-{i * 1000 + 99}" for i in range(256))
    assert len(benchmark(lambda: ranges.choose(ranges.parse(text), 64 << 20, 256)).runs) == 256


def test_exchange(benchmark: BenchmarkFixture) -> None:
    exchange = Exchange(LimitsSection())
    reply = Reply(200, [("Content-Type", "application/json"), ("ETag", '"x"')], BODY)

    def answer() -> bytes:
        exchange.receive(REQUEST)
        exchange.next_request()
        return exchange.answer(reply, DATE).head

    assert benchmark(answer).startswith(b"HTTP/1.1 200 OK\r\n")


class Wire:
    """A transport that takes everything and keeps the last write."""

    def __init__(self) -> None:
        self.last = b""

    def write(self, data: bytes) -> None:
        self.last = data

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> None: ...


@pytest.mark.parametrize("level", ["warning", "info"])
def test_manifest_hit(
    benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """All of a hit but the socket: bytes in, store, bytes out; without and with its line in the log."""
    log = (tmp_path / "log").open("w")
    monkeypatch.setattr("sys.stderr", log)
    configure(level, "worker")
    store = Store.create_or_open(tmp_path / "store", write=True)
    store.references.put_manifest("library/nginx", DIGEST, "a/b", BODY, owned=False, now=1.0).result()
    config, clock, wire = Configuration(), SystemClock(), Wire()
    node = Node(store, ScriptedPort(store, clock), Router(config), config, clock)

    async def run() -> None:
        server = Server(node)
        connection = ClientConnection(server)
        connection.connection_made(cast(asyncio.Transport, wire))

        def hit() -> bytes:
            connection.data_received(REQUEST)
            server.flush()
            return wire.last

        assert benchmark(hit).endswith(BODY)

    asyncio.run(run())
    store.close()
    log.close()
