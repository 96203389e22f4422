"""Changes side by side, or one alone: every order of arrivals, and those that leave while they wait."""

from __future__ import annotations

import asyncio

import pytest
from holdfast.keeper.repository_locks import RepositoryLocks
from hypothesis import given, settings
from hypothesis import strategies as st
from support.patience import patience

pytestmark = pytest.mark.loop("asyncio")

STEP = st.tuples(
    st.sampled_from("ab"),  # repository
    st.booleans(),  # alone
    st.integers(0, 3),  # turns of the loop that it takes
    st.one_of(st.none(), st.integers(0, 5)),  # cancelled after so many
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=12))
async def test_whoever_is_alone_is_alone_and_everybody_gets_a_turn(
    steps: list[tuple[str, bool, int, int | None]],
) -> None:
    turns = RepositoryLocks()
    here: list[tuple[str, bool]] = []
    seen: list[int] = []

    async def change(number: int, repository: str, alone: bool, length: int) -> None:
        async with turns.alone(repository) if alone else turns.beside(repository):
            others = [found for found in here if found[0] == repository]
            assert not others if alone else all(not found[1] for found in others)
            here.append((repository, alone))
            seen.append(number)
            try:
                for _ in range(length):
                    await asyncio.sleep(0)
            finally:
                here.remove((repository, alone))

    async def cancelled(task: asyncio.Task[None], after: int) -> None:
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()

    tasks = [asyncio.create_task(change(n, *step[:3])) for n, step in enumerate(steps)]
    cuts = [cancelled(t, step[3]) for t, step in zip(tasks, steps, strict=True) if step[3] is not None]
    async with patience():
        results = await asyncio.gather(*tasks, *cuts, return_exceptions=True)
    assert not [r for r in results if isinstance(r, AssertionError)]
    assert {n for n, step in enumerate(steps) if step[3] is None} <= set(seen)
    assert not here
    assert not turns._beside
    assert not turns._alone
    assert not turns._going
    assert not turns._waiting


async def test_who_waits_to_be_alone_is_not_overtaken() -> None:
    turns, order = RepositoryLocks(), list[str]()
    go = asyncio.Event()

    async def first() -> None:
        async with turns.beside("a"):
            await go.wait()
            order.append("first")

    async def alone() -> None:
        async with turns.alone("a"):
            order.append("alone")

    async def late(repository: str) -> None:
        async with turns.beside(repository):
            order.append(f"late {repository}")

    tasks = [asyncio.create_task(work) for work in (first(), alone(), late("a"), late("b"))]
    for _ in range(5):
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)
    assert order == ["late b", "first", "alone", "late a"]
