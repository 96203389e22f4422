"""Random receivers, parents, kills and clocks against what must hold: everything is told, in order, or its loss is."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from pathlib import Path
from typing import Any, cast

import pytest
from holdfast.config import Webhook as Hook
from holdfast.gateway.child import Failed, Outcome
from holdfast.gateway.link import Link
from holdfast.gateway.message import Notice, Notices, Taken
from holdfast.notify.standing import Answer
from holdfast.notify.upward import Upward
from holdfast.notify.webhook import Webhook
from holdfast.testing.clock import FakeClock
from holdfast_core.record import Event as Row
from holdfast_core.store import Store

STATUSES = (204, 204, 204, 200, 0, 301, 400, 404, 429, 500, 503)
SEEDS = range(12)


class Killed(Exception):
    """The keeper ends here."""


class Chance:
    """A store, a clock and a die; what happens is `told` elsewhere."""

    def __init__(self, path: Path, seed: int) -> None:
        self.die, self.clock = random.Random(seed), FakeClock(share=0.5)
        self.path, self.store = path, Store.create_or_open(path, write=True)
        self.store.keep_events(True).result()
        self.happened: list[str] = []

    def happen(self) -> None:
        """A few pushes."""
        count = self.die.randrange(6)
        tags = [f"v{len(self.happened) + number}" for number in range(count)]
        now, digest = self.clock.now(), f"sha256:{'a' * 64}"
        rows = [Row("push", "tag", "team/app", now, tag, digest) for tag in tags]
        self.store.change_resources(lambda view: [], quiet=frozenset(), told=lambda: rows).result()
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

    async def post(self, body: bytes) -> Answer:
        status = 204 if self.calm else self.die.choice(STATUSES)
        if 200 <= status < 300:
            self.taken.append((json.loads(body)["data"]["target"]["tag"], body))
        return Answer(status, f"answered {status}", float(self.die.choice((0, 0, 30))))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_webhook_tells_all_in_order_or_says_what_it_dropped(seed: int, tmp_path: Path) -> None:
    world = Chance(tmp_path / "store", seed)
    receiver = Receiver(world.die)

    async def keeper() -> Webhook:
        hook = Hook(name="ci", url="https://hook.example/", keep=3600.0)
        made = Webhook(hook, world.store, receiver, "", "", world.clock)
        await made.take_up()
        return made

    async def test() -> None:
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
        standing = webhook.standing
        first = list(dict.fromkeys(tag for tag, _ in receiver.taken))
        assert first == [tag for tag in world.happened if tag in set(first)]
        # one that was taken and dropped: the keeper died before it knew that it was taken
        assert len(world.happened) - len(first) <= standing.dropped
        assert len(set(receiver.taken)) == len(first)  # the same event has the same bytes
        assert standing.delivered >= len(first) - standing.dropped
        assert (standing.failures, standing.failing_since) == (0, 0.0)

    asyncio.run(test())
    world.store.close()


class Parent:
    """Takes notices as `control/notices.py` does; answers are lost by chance."""

    def __init__(self, die: random.Random) -> None:
        self.die, self.calm = die, False
        self.taken: deque[Notice] = deque()

    async def notices(self, said: Notices) -> Taken | Outcome:
        chance = 1.0 if self.calm else self.die.random()
        if chance < 0.3:
            return Failed("away")
        last = self.taken[-1].number if self.taken else 0
        self.taken += [notice for notice in said.notices if notice.number > last]
        if chance < 0.6:
            return Failed("no answer in time")
        return Taken(said.log, max(last, said.notices[-1].number))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_parent_is_told_all_in_order_and_once(seed: int, tmp_path: Path) -> None:
    world = Chance(tmp_path / "store", seed)
    parent, standing = Parent(world.die), ("one", 1)

    def keeper() -> Upward:
        link = cast(Link, parent)
        made = Upward(
            world.store,
            "plantA",
            link,
            lambda: standing if parent.calm or world.die.random() < 0.8 else None,
            world.clock,
        )
        made._list = lambda: ("*:*",)  # type: ignore[method-assign]
        return made

    async def test() -> None:
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

    asyncio.run(test())
    world.store.close()
