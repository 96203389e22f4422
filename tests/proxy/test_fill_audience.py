"""News of growth: the first at once, then gathered; nothing that somebody can end with waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest
from holdfast.fill import audience
from holdfast.fill.audience import GATHER_READER_SECONDS, GATHER_SECONDS, Audience
from holdfast.fill.change import FillChange, Grown, Moved, Verified
from holdfast.fill.reader import Reader
from support.fills import run, until

STEP = 10_000


@dataclass(eq=False)
class Someone:
    """A reader, as the audience sees it."""

    end: int
    whole: bool
    failure: Any = None


async def turns() -> None:
    """Let the loop do what is due."""
    for _ in range(3):
        await asyncio.sleep(0)


async def grow(told: Audience, count: int, start: int = 0) -> None:
    """Bytes land, a step a turn of the loop."""
    for number in range(count):
        told.landed([(start + number * STEP, start + (number + 1) * STEP)])
        await turns()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that does not end by itself."""
    monkeypatch.setattr(audience, "GATHER_SECONDS", 3600.0)


def subscribed() -> tuple[Audience, list[FillChange]]:
    told, news = Audience(), list[FillChange]()
    told.subscribe(news.append)
    return told, news


@pytest.mark.usefixtures("endless")
def test_the_first_news_is_told_at_once_and_more_of_it_gathered() -> None:
    async def main() -> None:
        told, news = subscribed()
        await grow(told, 1)
        assert news == [Grown(0, STEP)]
        await grow(told, 500, STEP)
        assert news == [Grown(0, STEP)]

    run(main())


@pytest.mark.parametrize("readers", [0, 40])
def test_the_pause_grows_with_the_readers(readers: int) -> None:
    async def main() -> None:
        told, news = subscribed()
        told.readers = cast("set[Reader]", {Someone(7 * STEP, True) for _ in range(readers)})
        began = asyncio.get_running_loop().time()
        await grow(told, 2)
        await until(lambda: len(news) == 2)
        least = GATHER_SECONDS + readers * GATHER_READER_SECONDS
        assert asyncio.get_running_loop().time() - began >= least * 0.9

    run(main())


@pytest.mark.usefixtures("endless")
def test_the_end_of_a_range_is_told_at_once() -> None:
    async def main() -> None:
        told, news = subscribed()
        told.readers = cast("set[Reader]", {Someone(5 * STEP, False), Someone(7 * STEP, True)})
        await grow(told, 8)
        assert news == [Grown(0, STEP), Grown(STEP, 5 * STEP)]

    run(main())


@pytest.mark.usefixtures("endless")
def test_nothing_overtakes_what_was_gathered() -> None:
    async def main() -> None:
        told, news = subscribed()
        await grow(told, 3)
        told.moved([(3 * STEP, "/elsewhere")])
        told.landed([(3 * STEP, 4 * STEP)])
        told.verified()
        await turns()
        rest = [Grown(STEP, 3 * STEP), Moved(3 * STEP, "/elsewhere"), Grown(3 * STEP, 4 * STEP), Verified()]
        assert news == [Grown(0, STEP), *rest]

    run(main())


def test_the_pause_ends() -> None:
    async def main() -> None:
        told, news = subscribed()
        await grow(told, 2)
        await until(lambda: news[-1] == Grown(STEP, 2 * STEP))
        await until(lambda: told._pause is None)
        await grow(told, 1, 2 * STEP)
        assert news[-1] == Grown(2 * STEP, 3 * STEP)

    run(main())
