"""A node that takes pushes: real store, real keeper, real sockets; behind it a scripted parent, or nobody."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from holdfast.clock import SystemClock
from holdfast.config import Configuration, ParentSection
from holdfast.endpoint.node import Node
from holdfast.keeper.keeper import Keeper
from holdfast.outbox.sender import OutboxSender
from holdfast.process.assembly import make_keeper
from holdfast.routing import Router
from holdfast.server.server import Server
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.store import Store
from support.logs import record_logs
from support.serving import Answer, Client

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
#: anybody may push to it
OPEN = Configuration(anonymous="push")
#: records that a read, or the rounds of a keeper, may write: access times, the last collection and the last scrub
UNCOUNTED = (layout.SEEN, layout.RESOURCE + b"collection", layout.RESOURCE + b"scrub")


@dataclass(slots=True)
class Registry:
    """What a test holds."""

    store: Store
    keeper: Keeper
    clock: Any
    node: Node
    server: Server
    address: tuple[str, int]
    data: Path
    parent: ScriptedParent | None
    logs: list[dict[str, Any]]
    #: those of a node whose outbox waits
    idle_senders: list[OutboxSender]
    clients: list[Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address[0]}:{self.address[1]}"

    async def connect(self) -> Client:
        """A new connection."""
        client = Client(*await asyncio.open_connection(*self.address, limit=1 << 24))
        self.clients.append(client)
        return client

    async def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own. `Content_Type="x"` sends `Content-Type: x`."""
        client = await self.connect()
        try:
            client.send(request(method, target, body, **headers))
            return await client.answer(method)
        finally:
            client.close()

    async def put(self, name: str, reference: str, body: bytes, kind: str = OCI_MANIFEST) -> Answer:
        """Push a manifest."""
        return await self.ask("PUT", f"/v2/{name}/manifests/{reference}", body, Content_Type=kind)

    async def blob(self, name: str, body: bytes) -> str:
        """Own a blob; its digest."""
        digest = str(Digest.of(body))
        await self.keeper.put_blob(name, digest, body)
        return digest

    async def image(self, name: str, *tags: str, number: int = 0, **more: Any) -> str:
        """Push an image with its blobs; its digest."""
        body = await self.image_body(name, number, **more)
        answer = await self.put(name, tags[0] if tags else str(Digest.of(body)), body)
        assert answer.status == 201, answer
        for tag in tags[1:]:
            assert (await self.put(name, tag, body)).status == 201
        return answer.headers["docker-content-digest"]

    async def image_body(self, name: str, number: int = 0, **more: Any) -> bytes:
        """An image's manifest, its blobs pushed."""
        config, layer = f"config {number}".encode(), f"layer {number}".encode()
        digests = (await self.blob(name, config), await self.blob(name, layer))
        return image(digests[0], digests[1], **more)

    def dump(self) -> dict[str, Any]:
        """All that the store has: every record and every file."""
        records = {key: bytes(value) for key, value in self.store._index.scan(b"")}
        kept = {key.hex(): value for key, value in records.items() if not key.startswith(UNCOUNTED)}
        files = {
            str(path.relative_to(self.data)): path.stat().st_size
            for part in ("blobs", "uploads", "fills")
            for path in (self.data / part).rglob("*")
            if path.is_file()
        }
        return {**kept, **files}


def request(method: str, target: str, body: bytes | None = None, **headers: str) -> bytes:
    """The bytes of a request; with a body it has a length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: node.test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(method: str, target: str, parts: Iterable[bytes], **headers: str) -> bytes:
    """The bytes of a request whose body has no length."""
    head = request(method, target, None, Transfer_Encoding="chunked", **headers)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def descriptor(digest: str, size: int = 7, **more: Any) -> dict[str, Any]:
    """A descriptor."""
    return {"mediaType": "application/octet-stream", "digest": digest, "size": size, **more}


def image(config: str, *layers: str, **more: Any) -> bytes:
    """An image manifest."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config),
        "layers": [descriptor(layer) for layer in layers],
        **more,
    }
    return json.dumps(document).encode()


def index(*manifests: str, **more: Any) -> bytes:
    """An index."""
    rows = [descriptor(digest) | {"mediaType": OCI_MANIFEST} for digest in manifests]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows, **more}
    return json.dumps(document).encode()


def code(answer: Answer) -> str:
    """The OCI code of a refusal."""
    (error,) = json.loads(answer.body)["errors"]
    assert isinstance(error["detail"], str)
    return str(error["code"])


def sha512(body: bytes) -> str:
    return f"sha512:{hashlib.sha512(body).hexdigest()}"


async def same(node: Registry, reference: str, body: bytes, kind: str, name: str = "a") -> None:
    """GET and HEAD give what was pushed."""
    for method in ("GET", "HEAD"):
        answer = await node.ask(method, f"/v2/{name}/manifests/{reference}")
        assert (answer.status, answer.headers["content-type"]) == (200, kind)
        assert answer.headers["content-length"] == str(len(body))
        digest = answer.headers["docker-content-digest"]
        assert digest in (str(Digest.of(body)), sha512(body))
        assert answer.body == (body if method == "GET" else b"")


async def refused(node: Registry, raw: bytes, status: int, expected: str) -> Any:
    """The request is refused, and the store is as it was."""
    before = node.dump()
    client = await node.connect()
    client.send(raw)
    answer = await client.answer()
    assert (answer.status, code(answer)) == (status, expected), answer.body
    assert node.dump() == before
    client.close()
    return json.loads(answer.body)["errors"][0]


def put(reference: str, body: bytes, kind: str = OCI_MANIFEST, name: str = "a") -> bytes:
    return request("PUT", f"/v2/{name}/manifests/{reference}", body, Content_Type=kind)


def without(document: bytes, **changes: Any) -> bytes:
    """A document with other values; "absent" takes a key away."""
    found = json.loads(document) | changes
    return json.dumps({key: value for key, value in found.items() if value != "absent"}).encode()


@asynccontextmanager
async def pushing(
    data: Path,
    config: Configuration,
    parent: ScriptedParent | Registry | None = None,
    *,
    going_up: bool = False,
) -> AsyncIterator[Registry]:
    """Serve the store in `data`. Pushes wait in the outbox unless they are to be `going_up`."""
    clock: FakeClock | SystemClock = FakeClock(jump=False)
    logs = record_logs()
    if parent is not None:
        row = ParentSection(url=parent.url, insecure=True)
        config = msgspec.structs.replace(config, parent=(row,))
        clock = SystemClock()  # what waits for a parent waits in real time
    async with AsyncExitStack() as stack:
        # a root has a clock of its own here, which is no trouble of the node below it
        stack.enter_context(patch("holdfast.parent.switch.SKEW_SECONDS", inf))
        store = Store.create_or_open(
            data, write=True, inline_bytes=config.inline_bytes, mode=config.store_mode
        )
        stack.callback(store.close)
        keeper = make_keeper(config, store, clock)
        idle_senders = [] if going_up else list(keeper.parts.senders)
        if not going_up:
            keeper.parts.senders.clear()
        await keeper.start()
        stack.push_async_callback(keeper.close)
        node = Node(store, keeper, Router(config), config, clock)
        server = Server(node, config.limits)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        await server.start([listener])
        stack.push_async_callback(server.close)
        scripted = parent if isinstance(parent, ScriptedParent) else None
        held = Registry(
            store, keeper, clock, node, server, listener.getsockname(), data, scripted, logs, idle_senders
        )
        try:
            yield held
        finally:
            for client in held.clients:
                client.close()


@asynccontextmanager
async def running(
    place: Path, config: Configuration = OPEN, *, under_parent: bool = False
) -> AsyncIterator[Registry]:
    """A node in `place`, below a scripted parent where a test wants one."""
    async with AsyncExitStack() as stack:
        parent = await stack.enter_async_context(ScriptedParent()) if under_parent else None
        yield await stack.enter_async_context(pushing(place / "data", config, parent))


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))
