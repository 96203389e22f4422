"""A registry with tokens: made by commands as the operator's, and a client that logs in to it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from holdfast.config import Configuration
from holdfast.control import command as commands
from support.pushing import Registry
from support.serving import Answer

#: nobody may do anything without login
CLOSED = Configuration(anonymous="none")
READ = ("content/read", "metadata/read")
ALL = (*READ, "content/write", "content/delete", "metadata/write")
FORM = "application/x-www-form-urlencoded"
HOST = "node.test"


def actions(repository: str, *rights: str) -> tuple[str, ...]:
    """Actions of a scope map."""
    return tuple(f"repositories/{repository}/{right}" for right in rights)


def basic(name: str, secret: str) -> str:
    """A value of Authorization."""
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def bearer(token: str) -> str:
    """The same."""
    return f"Bearer {token}"


async def do(node: Registry, order: commands.Command) -> commands.CommandResult:
    """One command of the operator."""
    return commands.result_of(await node.keeper.control(msgspec.json.encode(order)))


async def token(node: Registry, name: str, *acts: str) -> str:
    """A token with both passwords; the first of them."""
    made = await do(node, commands.CreateToken(name=name, actions=acts))
    return next(one.value for one in made.passwords if one.name == "password1")


@dataclass(frozen=True)
class Client:
    """A client with a name and a password; without, a stranger."""

    node: Registry
    name: str = ""
    secret: str = ""

    @property
    def credentials(self) -> dict[str, str]:
        """Basic, if there are any."""
        return {"Authorization": basic(self.name, self.secret)} if self.name else {}

    async def ask_token(self, *scopes: str, query: str = "", path: str = "/acr/oauth2/token") -> Answer:
        """GET of the token endpoint."""
        asked = [f"service={HOST}", *(f"scope={quote(one)}" for one in scopes), *([query] if query else [])]
        return await self.node.ask("GET", f"{path}?{'&'.join(asked)}", None, **self.credentials)

    async def token(self, *scopes: str) -> str:
        """A token."""
        answer = await self.ask_token(*scopes)
        assert answer.status == 200, answer
        return str(json.loads(answer.body)["token"])

    async def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """With Basic."""
        return await self.node.ask(method, target, body, **self.credentials, **headers)

    async def with_token(
        self, method: str, target: str, *scopes: str, body: bytes | None = None, **headers: str
    ) -> Answer:
        """With a fresh token for the scopes."""
        said = bearer(await self.token(*scopes))
        return await self.node.ask(method, target, body, Authorization=said, **headers)


async def post(node: Registry, **fields: Any) -> Answer:
    """A form to the token endpoint. A list repeats its field."""
    return await node.ask("POST", "/oauth2/token", urlencode(fields, doseq=True).encode(), Content_Type=FORM)


def claims(text: str) -> dict[str, Any]:
    """What a token says, unchecked."""
    part = text.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def access(text: str) -> dict[str, set[str]]:
    """What a token was given: "type:name" to its actions."""
    return {f"{one['type']}:{one['name']}": set(one["actions"]) for one in claims(text)["access"]}


def challenge(answer: Answer) -> dict[str, str]:
    """The parameters of a Bearer challenge."""
    scheme, _, rest = answer.headers["www-authenticate"].partition(" ")
    assert scheme == "Bearer"
    assert sum(name.lower() == "www-authenticate" for name, _ in answer.lines) == 1
    return dict(part.rstrip('"').split('="') for part in rest.split('",') for part in [part])
