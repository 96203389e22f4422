"""A node with a real store, a scripted keeper and a real socket, and a client that sends raw bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.config import Configuration
from holdfast.endpoint.node import Node
from holdfast.routing import Router
from holdfast.server.server import Server
from holdfast.server.tls import ServerCertificate
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.port import ScriptedPort
from holdfast_core.digest import ChunkHasher, Digest
from holdfast_core.store import Store
from support.logs import record_logs
from support.patience import patience

MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"


@dataclass(slots=True)
class Answer:
    """One answer as it came. `complete` is False when the connection ended before its length."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True
    lines: list[tuple[str, str]] = field(default_factory=list)


class Client:
    """One connection, bytes as the test writes them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *data: bytes) -> None:
        """Write without waiting."""
        self.writer.write(b"".join(data))

    async def answer(self, method: str = "GET") -> Answer:
        """Read one answer by its length; raises EOFError when none comes."""
        async with patience():
            head = await self._head()
            lines = [tuple(line.split(": ", 1)) for line in head.decode("latin-1").split("\r\n")[1:] if line]
            headers = {name.lower(): value for name, value in lines}
            status = int(head[9:12])
            bare = method == "HEAD" or status in (204, 304)
            length = 0 if bare else int(headers["content-length"])
            try:
                body = await self.reader.readexactly(length)
                complete = True
            except asyncio.IncompleteReadError as short:
                body, complete = short.partial, False
        return Answer(status, headers, body, complete, lines)  # type: ignore[arg-type]

    async def _head(self) -> bytes:
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as short:
            raise EOFError(short.partial) from short

    async def ask(self, target: str, method: str = "GET", **headers: str) -> Answer:
        """One request and its answer. `If_Range="x"` sends `If-Range: x`."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        host = "" if "Host" in headers else "Host: node.test\r\n"
        self.send(f"{method} {target} HTTP/1.1\r\n{host}{lines}\r\n".encode("latin-1"))
        return await self.answer(method)

    async def ended(self) -> bytes:
        """Everything until the server closes. Raises ConnectionResetError on a RST."""
        async with patience():
            return await self.reader.read(-1)

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


@dataclass(slots=True)
class Serving:
    """What a test holds: the node's parts, and where it listens."""

    store: Store
    port: ScriptedPort
    clock: FakeClock
    node: Node
    server: Server
    address: tuple[str, int]
    logs: list[dict[str, Any]]
    clients: list[Client] = field(default_factory=list)

    async def connect(self, **options: Any) -> Client:
        """A new connection."""
        client = Client(*await asyncio.open_connection(*self.address, limit=1 << 24, **options))
        self.clients.append(client)
        return client

    async def ask(self, target: str, method: str = "GET", **headers: str) -> Answer:
        """One request on a connection of its own."""
        client = await self.connect()
        try:
            return await client.ask(target, method, **headers)
        finally:
            client.close()

    def put_manifest(self, repository: str, body: bytes, *tags: str, media_type: str = MEDIA_TYPE) -> str:
        """Hold a manifest and its tags; returns the digest."""
        digest, now = Digest.of(body), self.clock.now()
        self.store.references.put_manifest(
            repository, digest, media_type, body, owned=False, now=now
        ).result()
        for tag in tags:
            self.store.references.put_tag(repository, tag, digest, now=now).result()
        return str(digest)

    def put_blob(self, repository: str, body: bytes) -> str:
        """Hold a blob; returns the digest."""
        hasher = ChunkHasher("sha256")
        hasher.update(body)
        digest = hasher.digest()
        part = self.store.blobs.fills.open_part(repository, digest, len(body))
        part.write(0, body)
        now = self.clock.now()
        self.store.blobs.fills.commit(part, repository, digest, hasher.table(), owned=False, now=now).result()
        return str(digest)


@asynccontextmanager
async def serving(
    path: Path, config: Configuration | None = None, tls: ServerCertificate | None = None
) -> AsyncIterator[Serving]:
    """Serve a fresh store below `path` on a port of the kernel's choice."""
    config = config or Configuration()
    clock, logs = FakeClock(), record_logs()
    store = Store.create_or_open(path / "store", write=True, inline_bytes=config.inline_bytes)
    port = ScriptedPort(store, clock)
    node = Node(store, port, Router(config), config, clock)
    server = Server(node, config.limits, tls)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.start([listener])
        held = Serving(store, port, clock, node, server, listener.getsockname(), logs)
        try:
            yield held
        finally:
            for client in held.clients:
                client.close()
            await server.close()
            store.close()
