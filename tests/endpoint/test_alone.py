"""One process (`--workers 0`): the endpoints ask the keeper itself, and a fill may fail between two questions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from holdfast.config import Configuration, FillsSection, ParentSection
from holdfast.endpoint.node import Node
from holdfast.errors import ParentUnreachable
from holdfast.fill.readers import BlobAnswer
from holdfast.fill.registry import FillRegistry
from holdfast.keeper.keeper import Keeper
from holdfast.parent.client import Parent as ParentClient
from holdfast.process.assembly import compose
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from support.serving import Answer, serving

MIB = 1 << 20
Between = Callable[[FillRegistry, BlobAnswer], Awaitable[None]]


class Interrupted:
    """The keeper, and what happens between its answer to `blob` and the call of `follow`."""

    def __init__(self, keeper: Keeper, between: Iterator[Between]) -> None:
        self._keeper, self._between = keeper, between

    def __getattr__(self, name: str) -> Any:
        return getattr(self._keeper, name)

    async def blob(self, *asked: Any) -> BlobAnswer:
        told = await self._keeper.blob(*asked)
        event = next(self._between, None)
        if event is not None and told.fill:
            await event(self._keeper.fills, told)
        return told


async def fails(fills: FillRegistry, told: BlobAnswer) -> None:
    """The fill ends in failure and takes its part along."""
    fill = fills._by_number[told.fill]
    fill.fail(ParentUnreachable("the link broke"), drop=True)
    while not fill.is_over:
        await asyncio.sleep(0)


async def ends(fills: FillRegistry, told: BlobAnswer) -> None:
    """The fill is through, and its blob in the store."""
    fill = fills._by_number[told.fill]
    reader = await fills.attach(told.fill, 0, -1, True)
    await reader.wait_verified()
    reader.close()
    while not fill.is_over:
        await asyncio.sleep(0)


async def ask(
    place: Path, between: list[Between], content: GeneratedContent, **headers: str
) -> tuple[Answer, int]:
    """The answer to a GET of the blob, and how many GETs the parent saw."""
    async with ScriptedParent() as parent:
        digest = parent.add_blob("demo", content)
        where = ParentSection(url=parent.url, insecure=True)
        config = Configuration(parent=(where,), fills=FillsSection(reserve_bytes=0))
        async with serving(place, config) as held:
            client = ParentClient(where, held.clock)
            fills = FillRegistry(held.store, {"": client}.__getitem__, config.fills, held.clock)
            keeper = compose(config, held.store, held.clock, {"": client}, fills)
            await fills.start()
            held.node.port = Interrupted(keeper, iter(between))
            assert isinstance(held.node, Node)
            answer = await held.ask(f"/v2/demo/blobs/{digest}", **headers)
            await fills.close()
            await client.close()
        return answer, parent.count("GET", "/blobs/")


@pytest.mark.parametrize(
    ("headers", "status", "start", "end"),
    [
        ({}, 200, 0, 3 * MIB),
        ({"Range": "bytes=70-199"}, 206, 70, 200),
        ({"Range": "bytes=-10"}, 206, -10, None),
    ],
)
@pytest.mark.parametrize(("event", "gets"), [(fails, 2), (ends, 1)])
def test_a_fill_that_ended_before_it_was_followed_is_asked_for_again(
    tmp_path: Path,
    event: Between,
    gets: int,
    headers: dict[str, str],
    status: int,
    start: int,
    end: int | None,
) -> None:
    content = GeneratedContent(3 * MIB)
    answer, seen = uvloop.run(ask(tmp_path, [event], content, **headers))
    assert answer.status == status
    assert answer.complete
    assert answer.body == content.read(0, content.size)[start:end]
    if not headers or event is fails:
        assert seen == gets


def test_a_blob_whose_fill_fails_every_time_is_a_503_that_can_be_tried_again(tmp_path: Path) -> None:
    answer, seen = uvloop.run(ask(tmp_path, [fails] * 9, GeneratedContent(3 * MIB)))
    assert answer.status == 503
    assert answer.headers["retry-after"] == "5"
    assert b"BLOB_UNKNOWN" in answer.body
    assert seen == 3
