"""A served node with a control plane, and requests to its gateway as the tokens of its children."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from holdfast.config import Configuration, GatewaySection, ParentSection
from holdfast.control import command
from support.control import create_registry
from support.patience import patience
from support.serving import Answer, Serving, serving

BASE = "/acr/gateway/v1/planta"
FIRST = {"instance": "first", "version": "1"}


class Tree:
    """A served root with the control plane of a test, and the passwords of its tokens."""

    def __init__(self, held: Serving) -> None:
        self.held, self.passwords = held, dict[str, str]()
        held.store.events.keep(True).result()

    async def order(self, order: command.Command) -> command.CommandResult:
        """One command of the operator."""
        return command.result_of(await self.held.port.control(msgspec.json.encode(order)))

    async def registry(self, name: str, parent: str | None = None, **more: Any) -> None:
        """A connected registry and a password of its sync token."""
        await self.order(
            create_registry(name=name, mode="ReadOnly", parent=parent, repositories=("team/app",), **more)
        )
        made = await self.order(command.GenerateCredentials(token=name, passwords=("password1",)))
        self.passwords[name] = made.passwords[0].value

    async def token(self, name: str, *actions: str) -> None:
        """A token and its password."""
        made = await self.order(command.CreateToken(name=name, actions=actions))
        self.passwords[name] = made.passwords[0].value

    async def ask(
        self, method: str, target: str, body: object = None, user: str = "plantA", **headers: str
    ) -> Answer:
        """One request as a token."""
        login = base64.b64encode(f"{user}:{self.passwords[user]}".encode()).decode()
        content = b"" if body is None else msgspec.json.encode(body)
        lines = {
            "Host": "root.test",
            "Authorization": f"Basic {login}",
            "Content-Length": str(len(content)),
            **headers,
        }
        client = await self.held.connect()
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
        client.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode(), content)
        try:
            return await client.answer(method)
        finally:
            client.close()

    async def activate(self) -> int:
        """plantA's first instance; its generation."""
        answer = await self.ask("POST", f"{BASE}/activate", FIRST)
        assert answer.status == 200, answer
        return int(msgspec.json.decode(answer.body)["generation"])

    async def pass_time(self, asked: asyncio.Future[Answer]) -> Answer:
        """Let the node's clock run until the answer is there."""
        async with patience():
            while not asked.done():
                await asyncio.sleep(0.005)
                self.held.clock.advance(0.5)
        return await asked


@asynccontextmanager
async def tree(path: Path, parents: tuple[ParentSection, ...] = (), **gateway: float) -> AsyncIterator[Tree]:
    """A root with plantA below it and plantB below that."""
    config = Configuration(gateway=GatewaySection(**gateway), parent=parents)  # type: ignore[arg-type]
    async with serving(path, config) as held:
        held.clock._jump = False
        root = Tree(held)
        await root.registry("plantA")
        await root.registry("plantB", parent="plantA")
        yield root


def refused(answer: Answer) -> str:
    """Message and detail of an error body."""
    (error,) = msgspec.json.decode(answer.body)["errors"]
    return f"{error['message']} {error['detail']}"
