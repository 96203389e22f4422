"""When the keeper logs what changes, and what it lets go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.config import Configuration, GatewaySection, WebhookSection
from holdfast.control import command
from holdfast.gateway.rates import Rates, node_rates
from holdfast.keeper.control_plane import ControlPlane
from holdfast.keeper.event_log import HOOK_SECONDS, LEAST_SECONDS, EventLog
from holdfast.keeper.heartbeats import Heartbeats
from holdfast.resources.model import ConnectedRegistry, Identity, Mode, ParentProperties, SyncProperties
from holdfast.resources.model import RegistryConfiguration as Received
from holdfast.testing.manual_clock import FakeClock
from holdfast_core import Digest, EventHead, Store
from holdfast_core import format as layout
from support.control import create_registry
from support.stores import push

pytestmark = pytest.mark.loop("asyncio")

DAY = 86400.0


class Node:
    """A store with a control plane, and its log."""

    def __init__(self, path: Path, **settings: Any) -> None:
        config = Configuration(**settings)
        self.store, self.clock = Store.create_or_open(path / "store", write=True), FakeClock()
        heartbeats, rates = Heartbeats(self.clock.now()), Rates(node_rates(config.gateway.messages))
        self.control_plane = ControlPlane(self.store, heartbeats, config.control, rates, self.clock)
        self.log = EventLog(self.store, config, self.clock)

    async def registry(self, name: str, **more: Any) -> None:
        """Make a connected registry."""
        await self.control_plane.execute(
            create_registry(name=name, mode="ReadOnly", repositories=("a",), **more)
        )

    async def head(self) -> EventHead | None:
        """Where the log stands once the keeper looked."""
        await self.log.update()
        return self.store.events.head()


@asynccontextmanager
async def logging_node(path: Path, **settings: Any) -> AsyncIterator[Node]:
    """A node of its own."""
    node = Node(path, **settings)
    try:
        yield node
    finally:
        node.store.close()


async def test_it_is_kept_while_a_registry_is_below(tmp_path: Path) -> None:
    async with logging_node(tmp_path) as node:
        assert await node.head() is None
        await node.registry("plantA")
        first = await node.head()
        assert first is not None
        assert await node.head() == first
        await node.control_plane.execute(command.DeleteRegistry(name="plantA", cleanup=True))
        assert await node.head() is None
        await node.registry("plantA")
        again = await node.head()
        assert again is not None
        assert again.log != first.log


@pytest.mark.parametrize(
    ("mode", "notifications", "is_kept"),
    [("ReadOnly", (), False), ("ReadOnly", ("*:push",), True), ("ReadWrite", (), True)],
)
async def test_a_managed_node_keeps_it_for_its_notices(
    mode: Mode, notifications: tuple[str, ...], is_kept: bool, tmp_path: Path
) -> None:
    """Where clients push there may be conflicts over tags, which go up whatever the list says."""
    async with logging_node(tmp_path) as node:
        parent = ParentProperties(sync_properties=SyncProperties(token_id="/tokens/plantA"))
        own = ConnectedRegistry(name="plantA", mode=mode, parent=parent, notifications_list=notifications)
        identity = Identity(name="plantA", instance="i", activated="2026-01-01T00:00:00Z")
        await node.control_plane.execute(
            command.Receive(identity=identity, configuration=Received(registry=own))
        )
        assert (await node.head() is not None) == is_kept
        above = msgspec.structs.replace(parent, id="/connectedRegistries/plantA")
        child = msgspec.structs.replace(own, name="plantB", parent=above, notifications_list=())
        received = Received(registry=own, below=(child,), etag="2")
        await node.control_plane.execute(command.Receive(identity=identity, configuration=received))
        assert await node.head() is not None


async def test_a_webhook_reads_it(tmp_path: Path) -> None:
    async with logging_node(tmp_path, webhook=(WebhookSection(name="ci", url="https://ci.example"),)) as node:
        assert await node.head() is not None


@pytest.mark.parametrize(
    ("settings", "life", "seconds"),
    [
        ({}, None, LEAST_SECONDS),
        ({}, "P1D", LEAST_SECONDS),
        ({}, "P9D", 9 * DAY),
        (
            {"webhook": (WebhookSection(name="ci", url="https://ci.example", keep=3 * DAY),)},
            "P1D",
            3 * DAY + HOOK_SECONDS,
        ),
    ],
)
async def test_events_stay_for_who_may_come_latest(
    settings: dict[str, Any], life: str | None, seconds: float, tmp_path: Path
) -> None:
    async with logging_node(tmp_path, **settings) as node:
        await node.registry("plantA", **({} if life is None else {"message_ttl": life}))
        await node.log.update()
        now = node.clock.now()
        for number, at in enumerate((now - seconds - 1, now - seconds + 1, now)):
            push(node.store, "a", b"%d" % number, "x", now=at)
        await node.log.trim()
        assert [row.at for row in node.store.events.after(0, 10)] == [now - seconds + 1, now]


async def test_more_than_one_transaction_of_them_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.keeper.event_log.BATCH", 10)
    async with logging_node(tmp_path, gateway=GatewaySection(messages=1000)) as node:
        await node.registry("plantA")
        await node.log.update()
        futures = [
            node.store.references.put_tag("a", "x", Digest.of(b"%d" % n), now=node.clock.now())
            for n in range(1030)
        ]
        futures[-1].result()
        await node.log.trim()
        found = node.store.events.after(0, 2000)
        assert (len(found), found[0].number) == (1000, 31)


async def test_a_head_that_cannot_be_read_begins_another_log(tmp_path: Path) -> None:
    async with logging_node(tmp_path) as node:
        await node.registry("plantA")
        first = await node.head()
        with node.store._index.begin(write=True) as txn:
            txn.put(layout.EVENT, b"\x01damaged")
        second = await node.head()
        assert first is not None
        assert second is not None
        assert second.log != first.log


async def test_a_surprise_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with logging_node(tmp_path) as node:
        looks = 0

        async def update() -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise RuntimeError("nobody thought of this")

        monkeypatch.setattr(node.log, "update", update)
        task = asyncio.create_task(node.log.run())
        try:
            while looks < 2:
                assert not task.done()
                await asyncio.sleep(0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
