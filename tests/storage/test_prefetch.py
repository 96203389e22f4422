"""Prefetch: an image comes whole from its parent, once, whatever synchronisation selects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from holdfast.clock import SystemClock
from holdfast.config_file import from_table
from holdfast.errors import ControlConflict
from holdfast.keeper.keeper import Keeper
from holdfast.process.assembly import make_keeper
from holdfast.sync.image_copy import ImageCopy
from holdfast.sync.report import ImageOrder, PrefetchReport
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from holdfast_core.store import Store
from support.fills import until
from support.images import has
from support.logs import captured_logs
from support.replicas import holds, image_of

MIB = 1 << 20


@asynccontextmanager
async def node(place: Path, *parents: ScriptedParent, **more: Any) -> AsyncIterator[Keeper]:
    """A keeper that does not synchronise."""
    rows = [{"url": one.url, "insecure": True, "stall_timeout": 600.0} for one in parents]
    config = from_table({"parent": rows, "fills": {"reserve_bytes": 0}, **more})
    store = Store.create_or_open(place / "store", write=True, mode="ReadOnly" if parents else "root")
    keeper = make_keeper(config, store, SystemClock())
    await keeper.start()
    try:
        yield keeper
    finally:
        await keeper.close()
        store.close()


def order(reference: str) -> ImageOrder:
    return ImageOrder(repository="demo", reference=reference, image=f"demo/{reference}")


async def over(keeper: Keeper) -> tuple[PrefetchReport, ...]:
    """The reports once nothing is under way."""
    assert keeper.parts.prefetches is not None
    await until(lambda: keeper.parts.prefetches.since() == float("inf"))  # type: ignore[union-attr]
    return await keeper.prefetches()


async def test_an_image_is_here_afterwards_and_its_bytes_crossed_the_link_once(tmp_path: Path) -> None:
    async with ScriptedParent() as parent, node(tmp_path, parent) as keeper:
        layer = GeneratedContent(4 * MIB)
        first = image_of(parent, "demo", "v1", layer)
        second = image_of(parent, "demo", "v2", layer)
        with captured_logs() as logs:
            begun = await keeper.order_prefetch((order("v1"), order(second)), "operator")
            assert [(one.image, one.state) for one in begun] == [
                ("demo/v1", "Waiting"),
                (f"demo/{second}", "Waiting"),
            ]
            reports = await over(keeper)
        assert [(one.image, one.state, one.reason) for one in reports] == [
            ("demo/v1", "Done", ""),
            (f"demo/{second}", "Done", ""),
        ]
        assert holds(keeper, "demo", "v1", first)
        assert keeper.store.references.tag("demo", "v2") is None, "by its digest: no tag"
        assert parent.bytes_sent[layer.digest] == 4 * MIB
        ordered = [(line["by"], line["image"]) for line in logs if line["event"] == "prefetch ordered"]
        assert ordered == [("operator", "demo/v1"), ("operator", f"demo/{second}")]
        assert keeper.store.space.loose()[0] == [("demo", Digest.parse(second))]


async def test_an_order_for_what_is_under_way_joins_it(tmp_path: Path) -> None:
    async with ScriptedParent() as parent, node(tmp_path, parent) as keeper:
        image_of(parent, "demo", "v1", GeneratedContent(MIB))
        await keeper.order_prefetch((order("v1"),), "x")
        await keeper.order_prefetch((order("v1"),), "x")
        assert len(await over(keeper)) == 1
        assert parent.count("HEAD") == 1
        nowhere = ImageOrder(repository="nowhere:demo", reference="v1", image="nowhere/demo:v1")
        with pytest.raises(ControlConflict, match="no parent has nowhere/demo:v1"):
            await keeper.order_prefetch((order("v1"), nowhere), "x")
        assert parent.count("HEAD") == 1, "all of an order, or nothing"


async def test_what_cannot_be_had_says_why_and_can_be_ordered_again(tmp_path: Path) -> None:
    async with ScriptedParent() as parent, node(tmp_path, parent) as keeper:
        await keeper.order_prefetch((order("v1"),), "x")
        (failed,) = await over(keeper)
        assert (failed.state, failed.reason) == ("Failed", "the parent answered 404")
        layer = GeneratedContent(MIB)
        digest = image_of(parent, "demo", "v1", layer)
        parent.script(ScriptedFault(method="GET", path=layer.digest, status=404, times=1))
        await keeper.order_prefetch((order("v1"),), "x")
        (failed,) = await over(keeper)
        assert failed.state == "Failed"
        await keeper.order_prefetch((order("v1"),), "x")
        (done,) = await over(keeper)
        assert (done.state, done.reason) == ("Done", "")
        assert holds(keeper, "demo", "v1", digest)


async def test_a_root_has_nothing_to_prefetch_from(tmp_path: Path) -> None:
    async with node(tmp_path) as keeper:
        with pytest.raises(ControlConflict, match="this node has no parent"):
            await keeper.order_prefetch((order("v1"),), "x")
        assert await keeper.prefetches() == ()


async def test_nothing_of_an_image_is_evicted_before_the_last_of_it_is_here(tmp_path: Path) -> None:
    async with ScriptedParent() as parent, node(tmp_path, parent) as keeper:
        early, late, gate = b"e" * 50_000, GeneratedContent(MIB), RequestGate()
        digest = image_of(parent, "demo", "v1", early, late)
        parent.script(ScriptedFault(method="GET", path=late.digest, gate=gate))
        await keeper.order_prefetch((order("v1"),), "x")
        await until(lambda: has(keeper.store, "demo", early))
        await gate.wait_arrived()
        assert await keeper.parts.eviction.make_room(64 * MIB) == 0
        gate.release()
        assert [one.state for one in await over(keeper)] == ["Done"]
        assert holds(keeper, "demo", "v1", digest)
        assert await keeper.parts.eviction.make_room(64 * MIB) >= MIB, "afterwards it may go"
        assert parent.bytes_sent[str(Digest.of(early))] == 50_000


@pytest.mark.parametrize("times", [1, 9])
async def test_what_is_removed_as_it_comes_is_brought_again_or_said(
    tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever removes it."""
    async with ScriptedParent() as parent, node(tmp_path, parent) as keeper:
        early, late = b"e" * 50_000, GeneratedContent(MIB)
        digest = image_of(parent, "demo", "v1", early, late)
        fetch, removed = ImageCopy.fetch, list[bytes]()

        async def removing(*arguments: Any) -> bool:
            is_named = await fetch(*arguments)
            if len(removed) < times:
                removed.append(early)
                keeper.store.blobs.discard(Digest.of(early)).result()
            return is_named

        monkeypatch.setattr(ImageCopy, "fetch", removing)
        await keeper.order_prefetch((order("v1"),), "x")
        (one,) = await over(keeper)
        if times == 1:
            assert (one.state, one.reason) == ("Done", "")
            assert holds(keeper, "demo", "v1", digest)
            assert has(keeper.store, "demo", early)
        else:
            assert one.state == "Failed"
            assert one.reason.startswith("1 of its parts were removed as they came")
            assert len(removed) == 3


async def test_a_restart_goes_on_with_what_was_under_way(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        early, late = b"e" * 50_000, GeneratedContent(MIB)
        done = image_of(parent, "demo", "v0", b"d" * 40_000)
        digest = image_of(parent, "demo", "v1", early, late)
        gate = RequestGate()
        parent.script(ScriptedFault(method="GET", path=late.digest, gate=gate))
        async with node(tmp_path, parent) as keeper:
            await keeper.order_prefetch((order("v0"), order("v1")), "x")
            await until(lambda: has(keeper.store, "demo", early) and holds(keeper, "demo", "v0", done))
            await gate.wait_arrived()
            await until(lambda: keeper.parts.prefetches.reports()[0].state == "Done")  # type: ignore[union-attr]
        gate.release()
        async with node(tmp_path, parent) as keeper:
            assert [(one.image, one.state) for one in await keeper.prefetches()] == [("demo/v1", "Waiting")]
            assert [one.state for one in await over(keeper)] == ["Done"]
            assert holds(keeper, "demo", "v1", digest)
        async with node(tmp_path, parent) as keeper:
            assert await keeper.prefetches() == (), "what is over is not begun again"
        assert parent.bytes_sent[str(Digest.of(early))] == 50_000


async def test_a_budget_without_room_is_no_full_disk(tmp_path: Path) -> None:
    async with ScriptedParent() as parent, node(tmp_path, parent, store={"max_bytes": 48 * MIB}) as keeper:
        image_of(parent, "demo", "v1", GeneratedContent(64 * MIB))
        await keeper.order_prefetch((order("v1"),), "x")
        (one,) = await over(keeper)
        assert (one.state, one.reason) == (
            "Failed",
            "there is no room: the disk is full or the budget spent",
        )
