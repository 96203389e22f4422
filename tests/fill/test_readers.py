"""News of growth: the first at once, then gathered; nothing that somebody can end with waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest
from holdfast.fill import readers
from holdfast.fill.phases import Lifecycle
from holdfast.fill.readers import (
    GATHER_READER_SECONDS,
    GATHER_SECONDS,
    FillChange,
    FillGrown,
    FillMoved,
    FillReaders,
    FillVerified,
    Reader,
)
from support.fills import until

pytestmark = pytest.mark.loop("asyncio")

STEP = 10_000


@dataclass(eq=False)
class ReaderDouble:
    """A reader, as its fill sees it."""

    end: int
    whole: bool
    failure: Any = None


async def turns() -> None:
    """Let the loop do what is due."""
    for _ in range(3):
        await asyncio.sleep(0)


async def grow(fill_readers: FillReaders, count: int, start: int = 0) -> None:
    """Bytes land, a step a turn of the loop."""
    for number in range(count):
        fill_readers.landed([(start + number * STEP, start + (number + 1) * STEP)])
        await turns()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that does not end by itself."""
    monkeypatch.setattr(readers, "GATHER_SECONDS", 3600.0)


def subscribed() -> tuple[FillReaders, list[FillChange]]:
    fill_readers, changes = FillReaders(Lifecycle()), list[FillChange]()
    fill_readers.subscribe(changes.append)
    return fill_readers, changes


@pytest.mark.usefixtures("endless")
async def test_the_first_growth_is_told_at_once_and_more_of_it_gathered() -> None:
    fill_readers, changes = subscribed()
    await grow(fill_readers, 1)
    assert changes == [FillGrown(0, STEP)]
    await grow(fill_readers, 500, STEP)
    assert changes == [FillGrown(0, STEP)]


@pytest.mark.parametrize("readers", [0, 40])
async def test_the_pause_grows_with_the_readers(readers: int) -> None:
    fill_readers, changes = subscribed()
    fill_readers.attached = cast("set[Reader]", {ReaderDouble(7 * STEP, True) for _ in range(readers)})
    began = asyncio.get_running_loop().time()
    await grow(fill_readers, 2)
    await until(lambda: len(changes) == 2)
    least = GATHER_SECONDS + readers * GATHER_READER_SECONDS
    assert asyncio.get_running_loop().time() - began >= least * 0.9


@pytest.mark.usefixtures("endless")
async def test_the_end_of_a_range_is_told_at_once() -> None:
    fill_readers, changes = subscribed()
    fill_readers.attached = cast("set[Reader]", {ReaderDouble(5 * STEP, False), ReaderDouble(7 * STEP, True)})
    await grow(fill_readers, 8)
    assert changes == [FillGrown(0, STEP), FillGrown(STEP, 5 * STEP)]


@pytest.mark.usefixtures("endless")
async def test_nothing_overtakes_what_was_gathered() -> None:
    fill_readers, changes = subscribed()
    await grow(fill_readers, 3)
    fill_readers.moved([(3 * STEP, "/elsewhere")])
    fill_readers.landed([(3 * STEP, 4 * STEP)])
    fill_readers.verified()
    await turns()
    rest = [
        FillGrown(STEP, 3 * STEP),
        FillMoved(3 * STEP, "/elsewhere"),
        FillGrown(3 * STEP, 4 * STEP),
        FillVerified(),
    ]
    assert changes == [FillGrown(0, STEP), *rest]


async def test_the_pause_ends() -> None:
    fill_readers, changes = subscribed()
    await grow(fill_readers, 2)
    await until(lambda: changes[-1] == FillGrown(STEP, 2 * STEP))
    await until(lambda: fill_readers._pause is None)
    await grow(fill_readers, 1, 2 * STEP)
    assert changes[-1] == FillGrown(2 * STEP, 3 * STEP)
