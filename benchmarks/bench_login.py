"""How many logins and how many verifications of a token does one core answer? Hits with a token are in `hits`.

A login is a GET of the token endpoint with a password and a scope, by one of 200 tokens with generated passwords. Two
rows: each answer made and signed anew (every token asks for each of 500 repositories, so that no question comes again
while its answer is remembered), and one question again and again, whose answer is. Those go over sockets to one worker,
and are counted by the processor seconds that the node spent, because the client takes its share of the same machine. A
verification is what a hit with a token costs more than a stranger's, which would drown in the rest, so it is measured
by itself: from the request to the caller and a right.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import urllib.request
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.control import command as commands
from holdfast.endpoint.node import Node
from holdfast.login import authorization_header
from holdfast.login.access_token import GrantedResource
from holdfast.login.caller import TokenHolder
from holdfast.routing import Router
from holdfast.testing.port import ScriptedPort
from holdfast.wire.message import Request
from holdfast_core.store import Store

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import KB, NAME, Content, build, put_store
from benchmarks.load import LoadFailed, wrk
from benchmarks.peers import Holdfast, Server

LOGINS, VERIFICATIONS = 5_000.0, 20_000.0
TOKENS, REPOSITORIES, CONNECTIONS = 200, 500, 32
ACTIONS = tuple(f"repositories/bench/*/{right}" for right in ("content/read", "metadata/read"))


#: Asks as every token for every repository in turn; wrk calls `request` once a request.
SCRIPT = """local said = {%s}
local n = 0
request = function()
  n = n + 1
  wrk.headers["Authorization"] = said[n %% #said + 1]
  local repository = math.floor(n / #said) %% %d
  return wrk.format("GET", "/acr/oauth2/token?scope=repository:bench/" .. repository .. ":pull")
end
"""


class Asked(NamedTuple):
    """A URL, and who asks for it; or a script for wrk that knows."""

    url: str
    authorization: str
    script: str | Path = ""


def put_tokens(root: Path, count: int = TOKENS) -> list[str]:
    """Tokens into a store; what each says in Authorization."""
    store = Store.create_or_open(root, write=True)
    port = ScriptedPort(store, SystemClock())

    async def make(name: str) -> str:
        order = commands.CreateToken(name=name, actions=ACTIONS)
        secret = commands.result_of(await port.control(msgspec.json.encode(order))).passwords[0].value
        return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()

    async def every() -> list[str]:
        return [await make(f"client-{number}") for number in range(count)]

    try:
        return asyncio.run(every())
    finally:
        store.close()


def put_script(place: Path, said: list[str]) -> Path:
    """The script of all tokens."""
    file = place / "logins.lua"
    file.write_text(SCRIPT % (", ".join(f'"{one}"' for one in said), REPOSITORIES))
    return file


def rate(node: Server, asked: Asked, seconds: float) -> float:
    """Answers for each processor second of the node."""
    before, said = node.processor_seconds(), f"Authorization: {asked.authorization}"
    found = wrk(asked.url, CONNECTIONS, seconds, said, script=asked.script)
    return found.requests * max(1, round(seconds)) / (node.processor_seconds() - before)


def row(name: str, one: Callable[[float], float], bound: float, effort: Effort) -> Case:
    """One question, warmed up."""
    one(1.0)
    figure = Figure(HOLDFAST, "1/s", tuple(one(effort.seconds) for _ in range(effort.rounds)))
    verdict = Verdict("a core", figure.median, bound, at_least=True, unit="1/s")
    return Case(name, (figure,), (verdict,))


def verifications(node: Node, asked: Request, seconds: float) -> float:
    """A caller and a right, for each processor second of this process."""
    count, started = 0, time.process_time()
    while (spent := time.process_time() - started) < seconds:
        for _ in range(1000):
            caller = node.access.caller(asked)
            if isinstance(caller, Coroutine) or not caller.may("content/read", NAME):
                raise LoadFailed("the token is not taken")
        count += 1000
    return count / spent


def verification(root: Path, effort: Effort, authorization: str) -> Case:
    """The row of a token that was seen before."""
    store, clock, config = (
        Store.create_or_open(root, write=True),
        SystemClock(),
        Configuration(anonymous="none"),
    )
    node = Node(store, ScriptedPort(store, clock), Router(config), config, clock)
    try:
        basic = authorization_header.read(authorization)
        assert isinstance(basic, authorization_header.Basic)
        said = node.access.login(Request("GET", "/", client="10.0.0.1"), basic)
        assert isinstance(said, TokenHolder)
        entries = (GrantedResource("repository", NAME, ("pull",)),)
        text = node.access.mint.issue(said.name, "node", clock.now(), 300, access=entries, proof=said.proof)
        asked = Request("GET", "/", headers=(("host", "node"), ("authorization", f"Bearer {text}")))
        name = "verification of a token, in process"
        return row(name, partial(verifications, node, asked), VERIFICATIONS, effort)
    finally:
        store.close()


def token(asked: Asked) -> str:
    """Log in once."""
    request = urllib.request.Request(asked.url, headers={"Authorization": asked.authorization})
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["token"])


def run(place: Path, effort: Effort) -> list[Case]:
    """Every row."""
    content: Content = build(place / "content", [10 * KB])
    put_store(content, place / "store")
    said = put_tokens(place / "store")
    script = put_script(place, said)
    with Holdfast(place / "node", data=place / "store", workers=1, anonymous="none") as node:
        login = Asked(f"{node.url}/acr/oauth2/token?scope=repository:{NAME}:pull", said[0])
        new = login._replace(script=script)
        rows = [
            row("login, 32 connections, each answer new", partial(rate, node, new), LOGINS, effort),
            row("login, 32 connections, one answer again", partial(rate, node, login), LOGINS, effort),
        ]
    return [*rows, verification(place / "store", effort, said[0])]


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
