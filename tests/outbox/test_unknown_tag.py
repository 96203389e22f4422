"""A tag of which nothing is known on a node that does not synchronise its repository."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from holdfast import errors
from holdfast.gateway.protocol import InquiredNames
from holdfast.outbox import records, sender
from holdfast.outbox.entry import OutboxEntry
from holdfast.outbox.parent_inventory import FoundAtParent, ParentInventory
from holdfast.outbox.queue import Outbox
from holdfast.parent.push_client import RemoteTag
from holdfast_core.errors import StoreError
from outbox.test_going_up import empty, entries, held_back, tag_at, two
from support.patience import PATIENCE, patience
from support.pushing import Registry


@pytest.mark.parametrize("waits", [False, True])
async def test_case_fault_8_a_tag_that_the_parent_had_all_along(tmp_path: Path, waits: bool) -> None:
    """A node that does not synchronise knows nothing of it, and asks: at its turn, or before that when it has to wait
    for it. What the parent gets after that is another move."""
    async with two(tmp_path) as (root, child):
        before = await root.image("a", "latest", number=1)
        with pytest.MonkeyPatch.context() as patch:
            if waits:
                patch.setattr("holdfast.outbox.order.OutboxOrder.ready", lambda order, now, limit=1: [])
            ours = await child.image("a", "latest", number=2)
            if waits:
                async with patience():
                    while entries(child)[-1].base != before:
                        await asyncio.sleep(0.01)
                theirs = await root.image("a", "latest", number=3)
        await empty(child)
        assert tag_at(root, "a", "latest") == (theirs if waits else ours)
        found = [conflict.theirs for conflict in records.conflicts_of(child.store).values()]
        assert found == ([theirs] if waits else [])


async def test_case_fault_8_after_an_outage_nobody_knows_what_the_parent_had(tmp_path: Path) -> None:
    """So it is a conflict: nothing is overwritten in silence."""
    async with two(tmp_path) as (root, child):
        theirs = await root.image("a", "latest", number=1)
        with held_back(child):
            await until_away(child)
            await child.image("a", "latest", number=2)
        await empty(child)
        assert tag_at(root, "a", "latest") == theirs
        assert [found.theirs for found in records.conflicts_of(child.store).values()] == [theirs]


async def test_case_fault_8_the_question_does_not_wait_for_bodies_that_go_up(tmp_path: Path) -> None:
    """What the parent gets while they do would count as there before."""
    async with two(tmp_path) as (root, child), AsyncExitStack() as bodies:
        before = await root.image("a", "latest", number=1)
        caps = child.keeper.parts.senders[0]._parent._transport.caps
        for _ in range(caps._bulk._alone):
            await bodies.enter_async_context(caps.push())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("holdfast.outbox.order.OutboxOrder.ready", lambda order, now, limit=1: [])
            await child.image("a", "latest", number=2)
            async with patience():
                while entries(child)[-1].base != before:
                    await asyncio.sleep(0.01)


class Slow:
    """Counts who asks at once, and answers when it may."""

    keeps = True

    def __init__(self) -> None:
        self.asking = self.most = 0
        self.may_answer = asyncio.Event()
        self.tags = set[str]()

    async def find(self, sought: InquiredNames) -> FoundAtParent:
        """See `ParentInventory`."""
        self.asking += 1
        self.most = max(self.most, self.asking)
        await self.may_answer.wait()
        self.asking -= 1
        self.tags |= {*sought.tags}
        return FoundAtParent(frozenset(), {tag: RemoteTag("", "") for tag in sought.tags})

    async def close(self) -> None:
        """See `ParentInventory`."""


async def test_case_fault_8_few_questions_are_under_way_at_once(tmp_path: Path) -> None:
    """However many tags wait, and each is asked for."""
    async with two(tmp_path) as (_, child):
        climbing = child.keeper.parts.senders[0]
        climbing.inventory = slow = Slow()
        tags = {f"v{number}" for number in range(5 * sender.TAG_REQUESTS)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("holdfast.outbox.order.OutboxOrder.ready", lambda order, now, limit=1: [])
            await child.image("a", *tags, number=2)
            async with patience():
                while len(climbing) <= len(tags):
                    await asyncio.sleep(0.01)
                patch.setattr(sender, "IDLE_SECONDS", 10 * PATIENCE)  # what has room goes at once
                climbing._request_tags()
                await asyncio.sleep(0)
                slow.may_answer.set()
                while slow.tags != tags:
                    await asyncio.sleep(0.01)
        assert slow.most == sender.TAG_REQUESTS


async def until_away(child: Registry) -> None:
    """Wait until it is noticed that nothing goes up."""
    async with patience():
        while child.keeper.parts.senders[0]._is_reachable:
            await asyncio.sleep(0.01)


class Refusing:
    """Asks the parent for any tag but one, and for the others when that was refused."""

    keeps = True

    def __init__(self, otherwise: ParentInventory, tag: str, failure: errors.ParentFailed) -> None:
        self._otherwise, self._tag, self._failure = otherwise, tag, failure
        self._refused = asyncio.Event()
        self.answers = 0

    async def find(self, sought: InquiredNames) -> FoundAtParent:
        """See `ParentInventory`."""
        if sought.tags == (self._tag,):
            self._refused.set()
            raise self._failure
        await self._refused.wait()
        await asyncio.sleep(0)  # whoever was refused has drawn what follows
        found = await self._otherwise.find(sought)
        self.answers += 1
        return found

    async def close(self) -> None:
        """See `ParentInventory`."""
        await self._otherwise.close()


@pytest.mark.parametrize(
    ("failure", "is_known"),
    [
        (errors.ParentDenied("403"), True),
        (errors.ParentThrottled("429"), True),
        (errors.ParentErred("500"), True),
        (errors.TimedOut("no answer"), False),
    ],
)
async def test_case_fault_8_a_question_that_is_refused_is_no_outage(
    tmp_path: Path, failure: errors.ParentFailed, is_known: bool
) -> None:
    """What the parent says of other tags holds; only after an outage it does not."""
    async with two(tmp_path) as (root, child):
        before = await root.image("a", "latest", number=1)
        climbing = child.keeper.parts.senders[0]
        climbing.inventory = above = Refusing(climbing.inventory, "refused", failure)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("holdfast.outbox.order.OutboxOrder.ready", lambda order, now, limit=1: [])
            await child.image("a", "latest", number=2)
            await child.image("a", "refused", number=3)
            async with patience():
                while not above.answers or climbing._tag_requests:
                    await asyncio.sleep(0.01)
            found = {entry.tag: entry.base for entry in entries(child) if entry.deed == "tag"}
            assert found == {"latest": before if is_known else None, "refused": None}


async def test_case_fault_8_a_disk_that_refuses_is_no_outage_of_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest that follows ends, and what was known of tags is known after it."""
    forgot = list[Outbox]()
    async with two(tmp_path) as (root, child):
        await child.image("a", "first", number=1)
        await empty(child)
        climbing, refused = child.keeper.parts.senders[0], list[OutboxEntry]()
        send = climbing._send

        async def full(entry: OutboxEntry) -> sender.Stop | None:
            if not refused:
                refused.append(entry)
                raise StoreError("no space left")
            return await send(entry)

        def waited(queue: Outbox) -> None:
            forgot.append(queue)

        monkeypatch.setattr(Outbox, "waited", waited)
        monkeypatch.setattr(climbing, "_send", full)
        digest = await child.image("a", "second", number=2)
        await empty(child)
        assert (tag_at(root, "a", "second"), len(refused), forgot) == (digest, 1, [])


async def test_case_fault_8_whatever_an_entry_ends_with_the_next_is_looked_for(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        climbing = child.keeper.parts.senders[0]

        async def surprised() -> None:
            raise ValueError("a surprise")

        task = asyncio.create_task(surprised())
        await asyncio.wait([task])
        climbing._changed.clear()
        climbing._tasks.add(task)
        climbing._ended(task)
        assert (climbing._changed.is_set(), climbing._tasks, climbing._stops) == (True, set(), {"unwritten"})
