"""Bodies held at once: never more than the budget, everybody gets on, in the order of asking; and what a body
that broke off held is free at once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from holdfast.config import PushSection
from holdfast.endpoint import manifest_push
from holdfast.push.body_budget import BodyBudget, BodyShare
from holdfast.server.connection import ClientConnection
from holdfast.wire.message import Request
from hypothesis import given, settings
from hypothesis import strategies as st
from support.patience import PATIENCE, patience
from support.pushing import OCI_INDEX, OPEN, chunked, index, put, request, running

SPARSE = msgspec.structs.replace(OPEN, push=PushSection(require_blobs=False))
TOTAL, RESERVE = 40, 10


def padded(size: int, number: int = 0) -> bytes:
    """An index of so many bytes."""
    body = index(annotations={"n": str(number), "x": ""})
    return body.replace(b'"x": ""', b'"x": "%b"' % (b"x" * (size - len(body))))


@settings(max_examples=60, deadline=None)
@given(
    bodies=st.lists(st.lists(st.integers(1, 4), max_size=5), max_size=40), leaving=st.sets(st.integers(0, 39))
)
def test_all_get_on_within_the_total(bodies: list[list[int]], leaving: set[int]) -> None:
    """Steps of any size, all at once; some leave while they wait."""

    async def main() -> None:
        budget = BodyBudget(TOTAL, RESERVE)
        shares: list[BodyShare] = []

        async def body(steps: list[int]) -> None:
            with budget.share() as share:
                shares.append(share)
                for step in steps:
                    await share.cover(min(RESERVE, share.held + step))
                    assert sum(s.held for s in shares) <= TOTAL
                    await asyncio.sleep(0)

        tasks = [asyncio.ensure_future(body(steps)) for steps in bodies]
        await asyncio.sleep(0)
        for number in leaving:
            if number < len(tasks):
                tasks[number].cancel()
        async with patience():
            await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        assert budget.free == TOTAL

    asyncio.run(main())


@pytest.mark.loop("asyncio")
async def test_a_share_that_does_not_grow_holds_up_nobody() -> None:
    """It has the first step of a long body, and its client sends nothing more."""
    budget = BodyBudget(TOTAL, RESERVE)
    with budget.share() as slow:
        await slow.cover(1)
        for _ in range(10):
            shares = [budget.share() for _ in range(3)]
            for share in shares:
                await asyncio.wait_for(share.cover(RESERVE), PATIENCE)
            for share in shares:
                share.__exit__(None, None, None)
    assert budget.free == TOTAL


@pytest.mark.loop("asyncio")
async def test_those_who_wait_go_on_in_the_order_of_asking() -> None:
    budget = BodyBudget(20, 10)
    order: list[int] = []

    async def one(number: int) -> None:
        with budget.share() as share:
            await share.cover(10)
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*map(one, range(9))), PATIENCE)
    assert order == list(range(9))


class Held(bytearray):
    """The bytes of a body that are in hand; all of them together are counted."""

    live: ClassVar[weakref.WeakSet[Held]] = weakref.WeakSet()
    most = 0

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self) -> None:
        Held.live.add(self)

    def __iadd__(self, data: Any) -> Held:  # type: ignore[misc]
        super().__iadd__(data)
        Held.most = max(Held.most, sum(map(len, Held.live)))
        return self


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Held]]:
    """Bodies of manifests are counted, and no collector runs."""
    monkeypatch.setattr(manifest_push, "bytearray", Held, raising=False)
    Held.live, Held.most = weakref.WeakSet(), 0
    gc.collect()
    gc.disable()
    yield Held
    gc.enable()


async def test_many_long_manifests_at_once(tmp_path: Path, counted: type[Held]) -> None:
    """24 of 3 MiB, each begun before any is finished, with and without a length, and room for 16 MiB."""
    size, many = 3 << 20, 24
    async with running(tmp_path, SPARSE) as node:
        node.node.manifest_bodies = BodyBudget(16 << 20, 4 << 20)
        clients = []
        for number in range(many):
            body = padded(size, number)
            halves = [body[: size // 2], body[size // 2 :]]
            kind, target = {"Content_Type": OCI_INDEX}, f"/v2/a/manifests/t{number}"
            framed = chunked("PUT", target, halves, **kind), put(f"t{number}", body, OCI_INDEX)
            raw = framed[number % 2]
            client = await node.connect()
            client.send(raw[: len(raw) - 5])
            clients.append((client, raw[-5:]))
        for client, rest in clients:
            client.send(rest)
        async with patience():
            answers = await asyncio.gather(*(client.answer() for client, _ in clients))
        assert [answer.status for answer in answers] == [201] * many
        first_reads = many // 2 << 20  # of bodies without a length, before they are counted
        assert 4 << 20 < counted.most <= (16 << 20) + first_reads < many * size
        assert node.node.manifest_bodies.free == 16 << 20


async def test_short_manifests_pass_while_long_ones_wait(tmp_path: Path) -> None:
    async with running(tmp_path, SPARSE) as node:
        budget = node.node.manifest_bodies = BodyBudget(8 << 20, 8 << 20)
        with budget.share() as all_of_it:
            await all_of_it.cover(8 << 20)
            long = await node.connect()
            long.send(put("long", padded(1 << 20), OCI_INDEX))
            waiting = asyncio.ensure_future(long.answer())
            for raw in (index(), padded(64 << 10)):
                assert (await node.put("a", "short", raw, OCI_INDEX)).status == 201
            short = await node.connect()
            short.send(chunked("PUT", "/v2/a/manifests/chunked", [index()], Content_Type=OCI_INDEX))
            assert (await short.answer()).status == 201
            assert not waiting.done()
        async with patience():
            assert (await waiting).status == 201


@pytest.mark.parametrize("framed", ["length", "chunked"])
async def test_a_body_that_broke_off_is_free_at_once(
    tmp_path: Path, counted: type[Held], monkeypatch: pytest.MonkeyPatch, framed: str
) -> None:
    """Without the collector, which comes late to a process that has little to do: what the endpoint had, and the
    connection with what waited there."""
    connections: weakref.WeakSet[ClientConnection] = weakref.WeakSet()
    begin = ClientConnection._begin

    def noted(self: ClientConnection, request: Request) -> None:
        connections.add(self)
        begin(self, request)

    monkeypatch.setattr(ClientConnection, "_begin", noted)
    async with running(tmp_path, SPARSE) as node:
        body = padded(3 << 20)
        target, kind = "/v2/a/manifests/x", {"Content_Type": OCI_INDEX}
        raw = (
            request("PUT", target, body, **kind)
            if framed == "length"
            else chunked("PUT", target, [body], **kind)
        )
        client = await node.connect()
        client.send(raw[:-100])
        async with patience():
            while sum(map(len, counted.live)) < 2 << 20:
                await asyncio.sleep(0.01)
            assert len(connections) == 1
            client.close()
            while counted.live or connections:
                await asyncio.sleep(0.01)
        assert node.node.manifest_bodies.free == 64 << 20
