"""The admin API of a node with a real store, over a real socket, asked as the operator."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.admin.auth import Operator
from holdfast.admin.listener import AdminApi
from holdfast.config import Configuration
from holdfast.endpoint.node import Node
from holdfast.routing import Router
from holdfast.server.server import Server
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.port import ScriptedPort
from holdfast_core.store import Store
from support.logs import record_logs
from support.serving import Client

OPERATOR = Operator("operator", "Xq7-a-long-one-for-tests-9Kd2")
CLIENTS = ("127.0.0.1", 5000)


def basic(operator: Operator = OPERATOR) -> str:
    """The Authorization header of an operator."""
    return "Basic " + base64.b64encode(f"{operator.username}:{operator.password}".encode()).decode()


@dataclass(slots=True)
class Answer:
    """Status, headers (lower case) and the JSON of the body, None for no body."""

    status: int
    headers: dict[str, str]
    json: Any


@dataclass(slots=True)
class AdminServing:
    """What a test holds."""

    store: Store
    port: ScriptedPort
    clock: FakeClock
    node: Node
    address: tuple[str, int]
    logs: list[dict[str, Any]]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address[0]}:{self.address[1]}"

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        authorization: str | None = "",
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request below /api/v1/, or of a whole path that begins with a slash. `authorization` "" is the
        operator's; None is none."""
        content = json.dumps(body).encode() if body is not None else (raw or b"")
        lines = {"Host": "admin.test"}
        if authorization is not None:
            lines["Authorization"] = authorization or basic()
        if content:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
        lines |= headers or {}
        target = path if path.startswith("/") else f"/api/v1/{path}"
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        client = Client(*await asyncio.open_connection(*self.address, limit=1 << 24))
        try:
            client.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1"), content)
            answer = await client.answer(method)
        finally:
            client.close()
        return Answer(answer.status, answer.headers, json.loads(answer.body) if answer.body else None)

    async def good(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of an answer that must be a success."""
        answer = await self.ask(method, path, body, **more)
        assert answer.status in (200, 201), (method, path, answer)
        return answer.json

    async def refused(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str]:
        """Status and sentence of an answer that must be a refusal."""
        answer = await self.ask(method, path, body, **more)
        assert answer.status >= 400, (method, path, answer)
        return answer.status, answer.json["errors"][0]["message"]


@asynccontextmanager
async def admin_serving(
    path: Path, config: Configuration | None = None, clients: tuple[str, int] = CLIENTS
) -> AsyncIterator[AdminServing]:
    """Serve the admin API over a fresh store below `path`."""
    config = config or Configuration()
    clock, logs = FakeClock(), record_logs()
    store = Store.create_or_open(path / "store", write=True)
    port = ScriptedPort(
        store, clock, config.control, restorable=bool(config.garbage_collection.deleted_after)
    )
    node = Node(store, port, Router(config), config, clock)
    admin = AdminApi(OPERATOR, clock, clients, config.login.failures)
    server = Server(node, plain=True, dispatch=admin.answer)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.start([listener])
        try:
            yield AdminServing(store, port, clock, node, listener.getsockname(), logs)
        finally:
            await server.close()
            store.close()
