"""Lists through a node while the parent's tags change under the walk (references.md 4.2, case 47). Real keeper, real
parent client, real sockets; only the clock is the test's, so that every page may ask the parent anew."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from holdfast.config import Configuration, ParentSection, TagsSection
from holdfast.endpoint.node import Node
from holdfast.process.assembly import make_keeper
from holdfast.routing import Router
from holdfast.server.server import Server
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.scripted_parent import ScriptedParent, ScriptedRepository
from holdfast_core.store import Store
from support.transfer import Answer, fetch

pytestmark = pytest.mark.loop("asyncio")

NAME = "library/walk"
PAGE, PARENT_PAGE, LIST_TTL = 7, 11, 5.0
LASTING = [f"keep-{number:03}" for number in range(60)]
FIRST = f"/v2/{NAME}/tags/list?n={PAGE}"
Next = Callable[[Answer], str | None]


@asynccontextmanager
async def node_before(parent: ScriptedParent, place: Path, clock: FakeClock) -> AsyncIterator[str]:
    """The URL of a node."""
    origin = ParentSection(url=parent.url, name="registry.example", insecure=True)
    config = Configuration(data=str(place), parent=(origin,), tags=TagsSection(list_ttl=LIST_TTL))
    store = Store.create_or_open(place, write=True, inline_bytes=config.inline_bytes)
    keeper = make_keeper(config, store, clock)
    await keeper.start()
    server = Server(Node(store, keeper, Router(config), config, clock))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.start([listener])
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        await server.close()
    await keeper.close()
    store.close()


def by_link(page: Answer) -> str | None:
    """The target of the Link header; None at the end."""
    link = page.headers.get("link")
    return link.partition("<")[2].partition(">")[0] if link else None


def by_last(page: Answer) -> str | None:
    """The walk of a client that knows no Link: from the last tag it got, to an empty page."""
    tags = json.loads(page.body)["tags"]
    return f"{FIRST}&last={tags[-1]}" if tags else None


def change(repository: ScriptedRepository, turn: int) -> None:
    """Between two pages tags appear before, around and far behind the walk; some go again."""
    (digest,) = repository.tags[LASTING[0]]
    around = LASTING[min(turn * PAGE, len(LASTING) - 1)]
    for place in ("a", around, f"y{turn:02}", "z"):
        repository.tags[f"{place}.passing-{turn}"] = [digest]
    for place in ("a", "z"):
        repository.tags.pop(f"{place}.passing-{turn - 1}", None)


async def walk(base: str, repository: ScriptedRepository, following: Next, clock: FakeClock) -> list[str]:
    """Every tag of every page, in the order it came."""
    target: str | None = FIRST
    found: list[str] = []
    turn = 0
    while target is not None:
        page = await asyncio.to_thread(fetch, base, target)
        assert page.status == 200
        tags = json.loads(page.body)["tags"]
        assert len(tags) <= PAGE
        found += tags
        turn += 1
        if turn < 20:  # a walk ends, though tags keep coming at its end for a while
            change(repository, turn)
        clock.advance(LIST_TTL + 1)
        target = following(page)
    return found


@pytest.mark.parametrize("following", [by_link, by_last])
async def test_case_47_a_walk_gives_every_tag_once_while_the_parents_tags_change(
    following: Next, tmp_path: Path
) -> None:
    clock = FakeClock(jump=False)
    async with ScriptedParent() as parent, node_before(parent, tmp_path, clock) as base:
        parent.add_manifest(NAME, b"{}", "application/json", *LASTING)
        parent.page_size = PARENT_PAGE
        found = await walk(base, parent.repositories[NAME], following, clock)
        asked = parent.count("GET", "tags/list")
    assert found == sorted(set(found)), "in order, and none twice"
    assert [tag for tag in found if tag in LASTING] == LASTING
    assert sum(".passing-" in tag for tag in found) > 5, "the walk met changes"
    assert asked >= len(found) // PAGE * (len(LASTING) // PARENT_PAGE), "each page asked the parent"
