"""A tag of which nothing is known on a node that does not synchronise its repository."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvloop
from holdfast.keeper import outgoing
from outbox.test_going_up import empty, entries, held_back, tag_at, two
from support.programs import PATIENCE
from support.pushing import Registry


@pytest.mark.parametrize("waits", [False, True])
def test_case_fault_8_a_tag_that_the_parent_had_all_along(tmp_path: Path, waits: bool) -> None:
    """A node that does not synchronise knows nothing of it, and asks: at its turn, or before that when it has to wait
    for it. What the parent gets after that is another move."""

    async def main() -> None:
        async with two(tmp_path) as (root, child):
            before = await root.image("a", "latest", number=1)
            with pytest.MonkeyPatch.context() as patch:
                if waits:
                    patch.setattr("holdfast.sync.order.Order.ready", lambda order, now, limit=1: [])
                ours = await child.image("a", "latest", number=2)
                if waits:
                    async with asyncio.timeout(PATIENCE):
                        while entries(child)[-1].base != before:
                            await asyncio.sleep(0.01)
                    theirs = await root.image("a", "latest", number=3)
            await empty(child)
            assert tag_at(root, "a", "latest") == (theirs if waits else ours)
            found = [conflict.theirs for conflict in outgoing.conflicts_of(child.store).values()]
            assert found == ([theirs] if waits else [])

    uvloop.run(main())


def test_case_fault_8_after_an_outage_nobody_knows_what_the_parent_had(tmp_path: Path) -> None:
    """So it is a conflict: nothing is overwritten in silence."""

    async def main() -> None:
        async with two(tmp_path) as (root, child):
            theirs = await root.image("a", "latest", number=1)
            with held_back(child):
                await until_away(child)
                await child.image("a", "latest", number=2)
            await empty(child)
            assert tag_at(root, "a", "latest") == theirs
            assert [found.theirs for found in outgoing.conflicts_of(child.store).values()] == [theirs]

    uvloop.run(main())


async def until_away(child: Registry) -> None:
    """Wait until it is noticed that nothing goes up."""
    async with asyncio.timeout(PATIENCE):
        while child.keeper.climbs[0]._is_reachable:
            await asyncio.sleep(0.01)
