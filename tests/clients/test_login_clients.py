"""Real clients log in at a root: one token pushes, another pulls in an empty place, and neither does what it may not.

Between the push and the pull the node is restarted: logins need nothing but what is on its disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from holdfast.clock import SystemClock
from holdfast.control import command as commands
from holdfast.testing.port import ScriptedPort
from holdfast.testing.sample import build_sample
from holdfast_core.store import Store
from support.login import ALL, READ, actions, basic
from support.login_clients import CLIENTS, Client
from support.node import Node
from support.transfer import fetch


class Office(NamedTuple):
    """A root, and the passwords of `pusher` and `reader`."""

    node: Node
    secrets: dict[str, str]


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    place = tmp_path_factory.mktemp("office")
    secrets = tokens(place / "data")
    with Node(place, "--anonymous", "none", workers=2) as node:
        yield Office(node, secrets)


def tokens(data: Path) -> dict[str, str]:
    """Made before the node starts, as the keeper makes them."""
    store = Store.create_or_open(data, write=True)
    port = ScriptedPort(store, SystemClock())

    async def make(name: str, *rights: str) -> str:
        order = commands.CreateToken(name=name, actions=actions("team/*", *rights))
        return commands.result_of(await port.control(msgspec.json.encode(order))).passwords[0].value

    async def both() -> dict[str, str]:
        return {"pusher": await make("pusher", *ALL), "reader": await make("reader", *READ)}

    try:
        return asyncio.run(both())
    finally:
        store.close()


@pytest.mark.parametrize("tool", CLIENTS)
def test_a_client_logs_in(office: Office, short_path: Path, tool: str) -> None:
    push, pull = CLIENTS[tool]
    node, sample, name = office.node, build_sample(f"login-{tool}"), f"team/{tool}"
    unknown = build_sample(f"denied-{tool}")  # of what is there already some clients push nothing

    def client(place: str, token: str, secret: str = "") -> Client:
        return Client(node.address, short_path / place, token, secret or office.secrets[token])

    push(client("push", "pusher"), name, sample)
    node.restart()
    pull(client("pull", "reader"), name, sample)
    for number, (verb, token, secret, where) in enumerate(
        (
            (push, "reader", "", name),  # may not push
            (pull, "reader", "", f"other/{tool}"),  # may not read that
            (pull, "reader", "a wrong password", name),
            (pull, "nobody", "a wrong password", name),
        )
    ):
        with pytest.raises(AssertionError, match=r"(?i)denied|unauthorized|insufficient|401|403|incorrect"):
            verb(client(f"denied{number}", token, secret), where, unknown)
    held = fetch(
        node.url,
        f"/v2/other/{tool}/tags/list",
        headers={"Authorization": basic("reader", office.secrets["reader"])},
    )
    assert held.status == 403
