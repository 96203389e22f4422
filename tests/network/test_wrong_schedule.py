"""A schedule that was wrong can be undone: what is changed at the root reaches a node whose window is closed for months
at its next start, when an operator asks it to synchronise, and after a day."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from holdfast import timestamps
from holdfast.config_file import from_table
from holdfast.control import command
from holdfast.control.catalogue import Catalogue
from holdfast.gateway.agent import GatewayAgent
from holdfast.gateway.gateway_client import GatewayClient
from holdfast.gateway.own_registry import OwnRegistry
from holdfast.gateway.status_relay import StatusRelay
from holdfast.resources import states
from holdfast.resources.model import Status
from holdfast.testing.link import RelayLink
from holdfast.testing.port import ScriptedPort
from holdfast_core.store import Store
from support.control import update_registry
from support.gateway import Tree, tree
from support.node import Node
from support.patience import until
from support.programs import wait_until
from support.tree import ARRIVES, QUICK, Operator, child

NEW_YEAR = {"schedule": "0 3 1 1 *", "syncWindow": "PT1H"}
ALWAYS = {"schedule": "* * * * *", "syncWindow": None}
#: the lowest first: what a node in a closed window knows of those below it does not go up
NAMES = ("cells", "plant")
#: of one contact, both ways (bytes)
CONTACT_BYTES = 4096


def test_case_trust_14_a_wrong_schedule_is_undone_at_every_level(tmp_path: Path) -> None:
    """By a restart, and by `sync run`; until then the root says since when it is not taken over."""
    with ExitStack() as stack:
        root = stack.enter_context(Node(tmp_path / "root", configuration=QUICK, workers=1))
        operator = Operator(root)
        operator.registry("plant", "team/*")
        operator.registry("cells", "team/*", parent="plant")
        plant = stack.enter_context(child(tmp_path / "plant", operator.string("plant", root)))
        operator.wait_online("plant")
        cells = stack.enter_context(child(tmp_path / "cells", operator.string("cells", plant)))
        operator.wait_online("cells")
        for undo in (run_now, Node.restart):
            for name in NAMES:
                operator.change(name, syncProperties=NEW_YEAR)
                wait_until(partial(is_taken_over, operator, name), f"{name} is closed")
            for name in NAMES:
                operator.change(name, syncProperties=ALWAYS)
            time.sleep(ARRIVES)  # a node that is connected knows by now
            for node in (plant, cells):
                assert not is_taken_over(operator, "cells")
                undo(node)
            for name in NAMES:
                wait_until(partial(is_well, operator, name), f"{name} after {undo.__name__}")


def run_now(node: Node) -> None:
    """`holdfast sync run` at the node."""
    Operator(node).call("POST", "sync/run")


def is_taken_over(operator: Operator, name: str) -> bool:
    """Whether the root knows that a node works by what it says."""
    return operator.shown(name)["notTakenOverSince"] is None


def is_well(operator: Operator, name: str) -> bool:
    """Whether it is connected as well."""
    return is_taken_over(operator, name) and operator.shown(name)["connectionState"] == "Online"


async def test_case_trust_14_a_day_later_it_is_undone_by_itself(tmp_path: Path) -> None:
    """A node that nobody touches, by a clock that both have. A contact costs a few kB, and nothing else crosses."""
    async with tree(tmp_path / "root") as root:
        host, port = root.held.address
        with RelayLink(host, port) as link:
            async with rounds_below(root, tmp_path, link) as (rounds, own, store):
                await rounds.start()
                try:
                    await passed(root, lambda: is_current(root))
                    await root.order(update(NEW_YEAR))
                    await passed(root, lambda: is_current(root))
                    began = root.held.clock.now()
                    await root.order(update(ALWAYS))
                    before = link.up + link.down
                    for _ in range(23 * 60):
                        await minute(root)
                    assert link.up + link.down == before
                    await root.order(update_registry(name="plantA", log_level="Debug"))
                    assert missed_since(root) == timestamps.stamp(began)
                    await passed(root, lambda: is_current(root))
                    await root.order(update(NEW_YEAR))
                    await passed(root, lambda: is_current(root))
                    for _ in range(3):
                        await minute(root)  # the node rests
                    before, asked = link.up + link.down, len(link.heads)
                    own.order_contact()
                    await until(lambda: len(link.heads) == asked + 2)
                    await minute(root)
                    crossed = link.up + link.down - before
                    print(f"one contact outside the window: {crossed} bytes, both ways")
                    assert crossed <= CONTACT_BYTES
                finally:
                    await rounds.close()
                    store.close()


def update(sync: dict[str, Any]) -> command.UpdateRegistry:
    """What the operator says."""
    return update_registry(name="plantA", schedule=sync["schedule"], sync_window=sync["syncWindow"])


@asynccontextmanager
async def rounds_below(
    root: Tree, place: Path, link: RelayLink
) -> AsyncIterator[tuple[GatewayAgent, OwnRegistry, Store]]:
    """The conversation of plantA with the root, over a link that counts."""
    login = {"username": "plantA", "password": root.passwords["plantA"]}
    config = from_table({"parent": [{"url": link.url, "insecure": True, "credentials": login}]})
    store, clock = Store.create_or_open(place / "store", write=True, mode="ReadOnly"), root.held.clock
    client = GatewayClient(config.parent[0], "plantA", clock)
    control = ScriptedPort(store, clock).control
    own = OwnRegistry("plantA", config.gateway.poll, clock)
    try:
        yield GatewayAgent(config, own, store, control, list, clock, client, StatusRelay(own)), own, store
    finally:
        await client.close()


def missed_since(root: Tree) -> str | None:
    """What the root shows of it; "" where plantA has not said by what it works."""
    statuses = root.held.port.heartbeats.statuses(root.held.store)
    status = next((one for name, one in statuses.items() if name.lower() == "planta"), Status())
    if status.revision is None:
        return ""
    return states.missed(status, Catalogue(root.held.store).revision_of("plantA"))


def is_current(root: Tree) -> bool:
    """Whether it works by what the root says."""
    return missed_since(root) is None


async def minute(root: Tree) -> None:
    """One of the clock's; the loop goes round meanwhile."""
    root.held.clock.advance(60.0)
    await asyncio.sleep(0.001)


async def passed(root: Tree, condition: Callable[[], bool]) -> None:
    """Let seconds pass until it is so, two hours of them at most."""
    for _ in range(7200):
        if condition():
            return
        root.held.clock.advance(1.0)
        await asyncio.sleep(0.002)
    raise AssertionError("in vain")
