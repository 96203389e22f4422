"""How many logins and how many requests with a token does one core answer? Over sockets, by one worker.

A login is a GET of the token endpoint with a password and a scope: a generated password, 200 tokens beside it. Those
and hits with a token go over sockets to one worker, and are counted by the processor seconds that the node spent,
because the client takes its share of the same machine. A verification is what such a hit costs more than a stranger's,
which would drown in the rest, so it is measured by itself: from the request to the caller and a right.
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
from holdfast.login.caller import Holder
from holdfast.login.credentials import Basic
from holdfast.login.token import Entry
from holdfast.routing import Router
from holdfast.testing.port import ScriptedPort
from holdfast.wire.message import Request
from holdfast_core.store import Store

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import KB, NAME, Content, build, put_store
from benchmarks.load import LoadFailed, wrk
from benchmarks.peers import Holdfast, Server

LOGINS, VERIFICATIONS = 5_000.0, 20_000.0
TOKENS, CONNECTIONS = 200, 32
ACTIONS = tuple(f"repositories/bench/*/{right}" for right in ("content/read", "metadata/read"))


class Asked(NamedTuple):
    """A URL, and who asks for it."""

    url: str
    authorization: str


def put_tokens(root: Path) -> str:
    """Tokens into a store; the password of `client`."""
    store = Store.create_or_open(root, write=True)
    port = ScriptedPort(store, SystemClock())

    async def make() -> str:
        for number in range(TOKENS):
            order = commands.CreateToken(name=f"other-{number}", actions=ACTIONS)
            await port.control(msgspec.json.encode(order))
        order = commands.CreateToken(name="client", actions=ACTIONS)
        return commands.result_of(await port.control(msgspec.json.encode(order))).passwords[0].value

    try:
        return asyncio.run(make())
    finally:
        store.close()


def rate(node: Server, asked: Asked, seconds: float) -> float:
    """Answers for each processor second of the node."""
    before = node.processor_seconds()
    found = wrk(asked.url, CONNECTIONS, seconds, f"Authorization: {asked.authorization}")
    return found.requests * max(1, round(seconds)) / (node.processor_seconds() - before)


def row(name: str, one: Callable[[float], float], bound: float, effort: Effort) -> Case:
    """One question, warmed up. Without a bound when that is 0."""
    one(1.0)
    figure = Figure(HOLDFAST, "1/s", tuple(one(effort.seconds) for _ in range(effort.rounds)))
    verdict = Verdict("a core", figure.median, bound, at_least=True, unit="1/s")
    return Case(name, (figure,), (verdict,) if bound else ())


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


def verification(root: Path, effort: Effort, secret: str) -> Case:
    """The row of a token that was seen before."""
    store, clock, config = (
        Store.create_or_open(root, write=True),
        SystemClock(),
        Configuration(anonymous="none"),
    )
    node = Node(store, ScriptedPort(store, clock), Router(config), config, clock)
    try:
        said = node.access.login(Request("GET", "/", client="10.0.0.1"), Basic("client", secret))
        assert isinstance(said, Holder)
        entries = (Entry("repository", NAME, ("pull",)),)
        text = node.access.mint.issue(
            "access", said.name, "node", clock.now(), 300, access=entries, proof=said.proof
        )
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
    secret = put_tokens(place / "store")
    with Holdfast(place / "node", data=place / "store", workers=1, anonymous="none") as node:
        password = base64.b64encode(f"client:{secret}".encode()).decode()
        login = Asked(f"{node.url}/acr/oauth2/token?scope=repository:{NAME}:pull", f"Basic {password}")
        pull = Asked(node.url + content.manifest_target, f"Bearer {token(login)}")
        rows = [
            row("login, 32 connections", partial(rate, node, login), LOGINS, effort),
            row("manifest hit with a token, 32 connections", partial(rate, node, pull), 0.0, effort),
        ]
    return [*rows, verification(place / "store", effort, secret)]


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
