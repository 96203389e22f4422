"""What a login costs, and what a request with a token costs, on one core: from dispatch to the reply, without sockets.

The bounds are the project's: 5,000 logins and 20,000 verifications a second and core. A slow machine may miss them; the
figures are printed with their ratio to the bound, and `benchmarks/bench_login.py` asks the same over sockets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

import msgspec
import pytest
from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.control import command as commands
from holdfast.endpoint import dispatch
from holdfast.endpoint.node import Node
from holdfast.login.token_cache import REMEMBERED
from holdfast.routing import Router
from holdfast.testing.port import ScriptedPort
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import read
from holdfast_core.digest import Digest
from holdfast_core.store import Store
from pytest_benchmark.fixture import BenchmarkFixture

BODY = b'{"schemaVersion":2,"padding":"%s"}' % (b"x" * 1500)
DIGEST = Digest.of(BODY)
ACTIONS = tuple(f"repositories/library/*/{right}" for right in ("content/read", "metadata/read"))
#: tokens beside the one that logs in
TOKENS = 200


class Held(NamedTuple):
    """A node with a manifest and a token, and the token's password."""

    node: Node
    secret: str


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    store = Store.create_or_open(tmp_path_factory.mktemp("login") / "store", write=True)
    store.references.put_manifest("library/nginx", DIGEST, "a/b", BODY, owned=False, now=1.0).result()
    config, clock = Configuration(anonymous="none"), SystemClock()
    port = ScriptedPort(store, clock)

    async def make() -> str:
        for number in range(TOKENS):
            order = commands.CreateToken(name=f"other-{number}", actions=ACTIONS, no_passwords=True)
            await port.control(msgspec.json.encode(order))
        order = commands.CreateToken(name="client", actions=ACTIONS)
        told = commands.result_of(await port.control(msgspec.json.encode(order)))
        return told.passwords[0].value

    yield Held(Node(store, port, Router(config), config, clock), asyncio.run(make()))
    store.close()


def request(target: str, authorization: str) -> Request:
    """A request as the exchange makes it."""
    found = read(target)
    lines = (("host", "node:5000"), ("user-agent", "containerd/2.1"), ("authorization", authorization))
    return Request("GET", found.path, found.query, lines, "node", client="10.0.0.1", route=found.route)


def basic(secret: str) -> str:
    import base64

    return "Basic " + base64.b64encode(f"client:{secret}".encode()).decode()


def answered(node: Node, asked: Request) -> Reply:
    reply = dispatch.answer(node, asked)
    assert isinstance(reply, Reply)
    assert reply.status == 200
    return reply


def per_second(benchmark: BenchmarkFixture, bound: int) -> None:
    assert benchmark.stats is not None
    measured = benchmark.stats.stats
    rate = 1 / measured.min
    print(f"\n{benchmark.name}: {rate:,.0f}/s a core, best of {measured.rounds}; bound {bound:,}")
    benchmark.extra_info["per second"] = round(rate)


TOKEN = "/acr/oauth2/token?service=node:5000&scope=repository:library/nginx:pull"
MANIFEST = f"/v2/library/nginx/manifests/{DIGEST}"


def test_login(benchmark: BenchmarkFixture, held: Held) -> None:
    """Each answer made and signed: no question comes again while its answer is remembered."""
    targets = (TOKEN.replace("nginx", f"nginx{number}") for number in range(2 * REMEMBERED))
    asked = cycle([request(target, basic(held.secret)) for target in targets])
    benchmark(lambda: answered(held.node, next(asked)))
    per_second(benchmark, 5_000)


def test_login_again(benchmark: BenchmarkFixture, held: Held) -> None:
    asked = request(TOKEN, basic(held.secret))
    benchmark(answered, held.node, asked)
    per_second(benchmark, 5_000)


def test_verification_of_a_known_token(benchmark: BenchmarkFixture, held: Held) -> None:
    token = json.loads(bytes(answered(held.node, request(TOKEN, basic(held.secret))).body))["token"]  # type: ignore[arg-type]
    asked = request(MANIFEST, f"Bearer {token}")
    benchmark(answered, held.node, asked)
    per_second(benchmark, 20_000)


def test_verification_alone(benchmark: BenchmarkFixture, held: Held) -> None:
    """Whose request it is, and nothing after that."""
    token = json.loads(bytes(answered(held.node, request(TOKEN, basic(held.secret))).body))["token"]  # type: ignore[arg-type]
    benchmark(held.node.access.caller, request(MANIFEST, f"Bearer {token}"))
    per_second(benchmark, 20_000)


def test_verification_of_a_new_token(benchmark: BenchmarkFixture, held: Held) -> None:
    """With its signature, as once for each token and process."""
    token = json.loads(bytes(answered(held.node, request(TOKEN, basic(held.secret))).body))["token"]  # type: ignore[arg-type]
    clock = held.node.clock
    benchmark(lambda: held.node.access.mint.read(token, clock.now()))


def test_basic_on_every_request(benchmark: BenchmarkFixture, held: Held) -> None:
    benchmark(answered, held.node, request(MANIFEST, basic(held.secret)))
    per_second(benchmark, 5_000)
