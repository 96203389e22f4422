"""Random receivers, parents, kills and clocks against what must hold: everything is delivered in order, or its loss is
reported."""

from __future__ import annotations

import json
import random
from collections import deque
from pathlib import Path
from typing import Any, cast

import pytest
from holdfast.config import WebhookSection as Hook
from holdfast.gateway.agent_state import NoAnswer, Outcome
from holdfast.gateway.gateway_client import GatewayClient
from holdfast.gateway.protocol import Notices, Taken
from holdfast.notify.delivery_state import DeliveryOutcome
from holdfast.notify.notices import NoticeSender
from holdfast.notify.webhook_delivery import WebhookDelivery
from holdfast.resources.notification import Notice
from holdfast.testing.manual_clock import FakeClock
from holdfast_core.record import EventRecord
from holdfast_core.store import Store

pytestmark = pytest.mark.loop("asyncio")

STATUSES = (204, 204, 204, 200, 0, 301, 400, 404, 429, 500, 503)
SEEDS = range(12)


class Killed(Exception):
    """The keeper ends here."""


class Chance:
    """A store, a clock and a die; what happens is sent elsewhere."""

    def __init__(self, path: Path, seed: int) -> None:
        self.die, self.clock = random.Random(seed), FakeClock(share=0.5)
        self.path, self.store = path, Store.create_or_open(path, write=True)
        self.store.events.keep(True).result()
        self.happened: list[str] = []

    def happen(self) -> None:
        """A few pushes."""
        count = self.die.randrange(6)
        tags = [f"v{len(self.happened) + number}" for number in range(count)]
        now, digest = self.clock.now(), f"sha256:{'a' * 64}"
        rows = [EventRecord("push", "tag", "team/app", now, tag, digest) for tag in tags]
        self.store.documents.change(lambda view: [], quiet=frozenset(), events=lambda: rows).result()
        self.happened += tags

    def move(self) -> None:
        """Time goes on, and sometimes the wall clock is set."""
        self.clock.advance(self.die.choice((0.0, 1.0, 60.0, 2000.0)))
        if self.die.random() < 0.05:
            self.clock.step(self.die.choice((-86400.0, 86400.0)))

    def restart(self) -> None:
        """Another process opens the store; numbers have a gap."""
        self.store.close()
        self.store = Store.create_or_open(self.path, write=True)

    def kills(self, what: Any, name: str) -> None:
        """Now and then the keeper dies before it wrote how far it is."""
        kept = getattr(what, name)

        async def perhaps(*arguments: Any) -> None:
            if self.die.random() < 0.1:
                raise Killed
            await kept(*arguments)

        setattr(what, name, perhaps)


class Receiver:
    """Takes events or not, by chance, until it is `calm`."""

    def __init__(self, die: random.Random) -> None:
        self.die, self.calm = die, False
        self.taken: list[tuple[str, bytes]] = []

    async def post(self, body: bytes) -> DeliveryOutcome:
        status = 204 if self.calm else self.die.choice(STATUSES)
        if 200 <= status < 300:
            self.taken.append((json.loads(body)["data"]["target"]["tag"], body))
        return DeliveryOutcome(status, f"answered {status}", float(self.die.choice((0, 0, 30))))


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_webhook_tells_all_in_order_or_says_what_it_dropped(seed: int, tmp_path: Path) -> None:
    world = Chance(tmp_path / "store", seed)
    receiver = Receiver(world.die)

    async def keeper() -> WebhookDelivery:
        hook = Hook(name="ci", url="https://hook.example/", keep=3600.0)
        made = WebhookDelivery(hook, world.store, receiver, "", "", world.clock)
        await made.take_up()
        return made

    webhook = await keeper()
    world.kills(webhook, "_keep")
    for _ in range(120):
        world.happen()
        try:
            for _ in range(world.die.randrange(8)):
                await webhook.step()
        except Killed:
            world.restart()
            webhook = await keeper()
            world.kills(webhook, "_keep")
        world.move()
    receiver.calm = True
    webhook = await keeper()
    world.clock.advance(10_000.0)
    while await webhook.step():
        pass
    state = webhook.state
    first = list(dict.fromkeys(tag for tag, _ in receiver.taken))
    assert first == [tag for tag in world.happened if tag in set(first)]
    # one that was taken and dropped: the keeper died before it knew that it was taken
    assert len(world.happened) - len(first) <= state.dropped
    assert len(set(receiver.taken)) == len(first)  # the same event has the same bytes
    assert state.delivered >= len(first) - state.dropped
    assert (state.failures, state.failing_since) == (0, 0.0)
    world.store.close()


class Parent:
    """Takes notices as `control/notice_commands.py` does; answers are lost by chance."""

    def __init__(self, die: random.Random) -> None:
        self.die, self.calm = die, False
        self.taken: deque[Notice] = deque()

    async def notices(self, request: Notices) -> Taken | Outcome:
        chance = 1.0 if self.calm else self.die.random()
        if chance < 0.3:
            return NoAnswer("away")
        last = self.taken[-1].number if self.taken else 0
        self.taken += [notice for notice in request.notices if notice.number > last]
        if chance < 0.6:
            return NoAnswer("no answer in time")
        return Taken(request.log, max(last, request.notices[-1].number))


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_parent_gets_all_in_order_and_once(seed: int, tmp_path: Path) -> None:
    world = Chance(tmp_path / "store", seed)
    parent, active = Parent(world.die), ("one", 1)

    def keeper() -> NoticeSender:
        link = cast(GatewayClient, parent)
        made = NoticeSender(
            world.store,
            "plantA",
            link,
            lambda: active if parent.calm or world.die.random() < 0.8 else None,
            world.clock,
        )
        made._patterns = lambda: ("*:*",)  # type: ignore[method-assign]
        return made

    upward = keeper()
    await upward.step()
    world.kills(upward, "_keep")
    for _ in range(120):
        world.happen()
        try:
            for _ in range(world.die.randrange(4)):
                await upward.step()
        except Killed:
            world.restart()
            upward = keeper()
            world.kills(upward, "_keep")
        world.move()
    parent.calm = True
    upward = keeper()
    while await upward.step():
        pass
    assert [notice.event.tag for notice in parent.taken] == world.happened
    assert len({notice.event.id for notice in parent.taken}) == len(world.happened)
    world.store.close()
