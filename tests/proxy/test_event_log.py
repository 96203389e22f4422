"""When the keeper logs what changes, and what it lets go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.config import Configuration, Gateway, Webhook
from holdfast.control import command
from holdfast.control.resource import Configuration as Received
from holdfast.control.resource import ConnectedRegistry, Identity, Mode, ParentProperties, SyncProperties
from holdfast.keeper.control import Control
from holdfast.keeper.event_log import HOOK_SECONDS, LEAST_SECONDS, EventLog
from holdfast.keeper.heartbeats import Heartbeats
from holdfast.testing.clock import FakeClock
from holdfast_core import Digest, EventHead, Store
from holdfast_core import format as layout
from support.stores import push

DAY = 86400.0


class Node(Control):
    """A store with a control plane, and its log."""

    def __init__(self, path: Path, **settings: Any) -> None:
        config = Configuration(**settings)
        self.store, self.clock = Store.create_or_open(path / "store", write=True), FakeClock()
        self.limits = config.control
        self.heartbeats = Heartbeats(self.clock.now())
        self.log = EventLog(self.store, config, self.clock)

    async def registry(self, name: str, **more: Any) -> None:
        """Make a connected registry."""
        await self.execute(command.CreateRegistry(name=name, mode="ReadOnly", repositories=("a",), **more))

    async def head(self) -> EventHead | None:
        """Where the log stands once the keeper looked."""
        await self.log.look()
        return self.store.event_head()


def run(path: Path, test: Callable[[Node], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run a test with a node of its own."""

    async def whole() -> None:
        node = Node(path, **settings)
        try:
            await test(node)
        finally:
            node.store.close()

    asyncio.run(whole())


def test_it_is_kept_while_a_registry_is_below(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        assert await node.head() is None
        await node.registry("plantA")
        first = await node.head()
        assert first is not None
        assert await node.head() == first
        await node.execute(command.DeleteRegistry(name="plantA", cleanup=True))
        assert await node.head() is None
        await node.registry("plantA")
        again = await node.head()
        assert again is not None
        assert again.log != first.log

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("mode", "notifications", "is_kept"),
    [("ReadOnly", (), False), ("ReadOnly", ("*:push",), True), ("ReadWrite", (), True)],
)
def test_a_managed_node_keeps_it_for_its_notices(
    mode: Mode, notifications: tuple[str, ...], is_kept: bool, tmp_path: Path
) -> None:
    """Where clients push there may be conflicts over tags, which go up whatever the list says."""

    async def test(node: Node) -> None:
        parent = ParentProperties(sync_properties=SyncProperties(token_id="/tokens/plantA"))
        own = ConnectedRegistry(name="plantA", mode=mode, parent=parent, notifications_list=notifications)
        identity = Identity(name="plantA", instance="i", activated="2026-01-01T00:00:00Z")
        await node.execute(command.Receive(identity=identity, configuration=Received(registry=own)))
        assert (await node.head() is not None) == is_kept
        above = msgspec.structs.replace(parent, id="/connectedRegistries/plantA")
        child = msgspec.structs.replace(own, name="plantB", parent=above, notifications_list=())
        received = Received(registry=own, below=(child,), etag="2")
        await node.execute(command.Receive(identity=identity, configuration=received))
        assert await node.head() is not None

    run(tmp_path, test)


def test_a_webhook_reads_it(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        assert await node.head() is not None

    run(tmp_path, test, webhook=(Webhook(name="ci", url="https://ci.example"),))


@pytest.mark.parametrize(
    ("settings", "life", "seconds"),
    [
        ({}, None, LEAST_SECONDS),
        ({}, "P1D", LEAST_SECONDS),
        ({}, "P9D", 9 * DAY),
        (
            {"webhook": (Webhook(name="ci", url="https://ci.example", keep=3 * DAY),)},
            "P1D",
            3 * DAY + HOOK_SECONDS,
        ),
    ],
)
def test_events_stay_for_who_may_come_latest(
    settings: dict[str, Any], life: str | None, seconds: float, tmp_path: Path
) -> None:
    async def test(node: Node) -> None:
        await node.registry("plantA", **({} if life is None else {"message_ttl": life}))
        await node.log.look()
        now = node.clock.now()
        for number, at in enumerate((now - seconds - 1, now - seconds + 1, now)):
            push(node.store, "a", b"%d" % number, "x", now=at)
        await node.log.trim()
        assert [row.at for row in node.store.events(0, 10)] == [now - seconds + 1, now]

    run(tmp_path, test, **settings)


def test_more_than_one_transaction_of_them_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.keeper.event_log.BATCH", 10)

    async def test(node: Node) -> None:
        await node.registry("plantA")
        await node.log.look()
        futures = [
            node.store.put_tag("a", "x", Digest.of(b"%d" % n), now=node.clock.now()) for n in range(1030)
        ]
        futures[-1].result()
        await node.log.trim()
        found = node.store.events(0, 2000)
        assert (len(found), found[0].number) == (1000, 31)

    run(tmp_path, test, gateway=Gateway(messages=1000))


def test_a_head_that_cannot_be_read_begins_another_log(tmp_path: Path) -> None:
    async def test(node: Node) -> None:
        await node.registry("plantA")
        first = await node.head()
        with node.store._index.begin(write=True) as txn:
            txn.put(layout.EVENT, b"\x01damaged")
        second = await node.head()
        assert first is not None
        assert second is not None
        assert second.log != first.log

    run(tmp_path, test)


def test_a_surprise_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(node: Node) -> None:
        looks = 0

        async def look() -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise RuntimeError("nobody thought of this")

        monkeypatch.setattr(node.log, "look", look)
        task = asyncio.create_task(node.log.run())
        try:
            while looks < 2:
                assert not task.done()
                await asyncio.sleep(0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(tmp_path, test)
