"""The blobs of a pushed image that only the parent has come over, whatever interrupts that: the keeper's end, a
parent that is away, a fill that breaks off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from holdfast import errors
from holdfast.keeper import pushed_images
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from support.patience import patience
from support.pushing import OPEN, Registry, image, pushing

READ_WRITE = msgspec.structs.replace(OPEN, mode="ReadWrite")
LAYER = b"a layer of the parent"


async def held(node: Registry, text: str) -> None:
    async with patience():
        while node.store.blobs.get("a", Digest.parse(text)) is None:
            await asyncio.sleep(0.01)


async def forgotten(node: Registry) -> None:
    async with patience():
        while node.keeper.parts.images.incomplete:
            await asyncio.sleep(0.01)


async def test_a_keeper_brings_what_the_one_before_it_did_not(tmp_path: Path) -> None:
    """That one ended before it had asked for the first byte. What was deleted meanwhile stays away."""
    async with ScriptedParent() as parent:
        layer, other = parent.add_blob("a", LAYER), parent.add_blob("a", b"deleted here")
        gate = RequestGate()
        fault = ScriptedFault(method="GET", path="/blobs/", gate=gate)
        async with pushing(tmp_path / "data", READ_WRITE, parent) as node:
            config = await node.blob("a", b"{}")
            body = image(config, layer, other)
            parent.script(fault)
            answer = await node.put("a", "x", body)
            assert answer.status == 201
            await gate.wait_arrived()
            await node.keeper.close()
            for state in node.store.blobs.fills.states():  # one that left a checkpoint is taken up by itself
                node.store.blobs.fills.drop(state.repository, state.digest)
            assert node.store.blobs.get("a", Digest.parse(layer)) is None
            tombstone = node.store.blobs.delete("a", Digest.of(b"{}"), now=2.0, tombstone=True)
            await asyncio.wrap_future(tombstone)
        gate.release()
        parent.reset_counts()
        parent.add_blob("a", b"{}")
        async with pushing(tmp_path / "data", READ_WRITE, parent) as node:
            await held(node, layer)
            await held(node, other)
            assert node.store.blobs.get("a", Digest.parse(config)) is None
            assert parent.count(path=config) == 0


async def test_a_parent_that_was_away_is_asked_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is cut three times before the parent says how long the blob is."""
    monkeypatch.setattr(pushed_images, "BRING_SECONDS", 0.05)
    tries = 0
    async with ScriptedParent() as parent, pushing(tmp_path / "data", READ_WRITE, parent) as node:
        layer = parent.add_blob("a", LAYER)
        bring = node.keeper.fills.bring

        async def broken(repository: str, text: str) -> None:
            nonlocal tries
            tries += 1
            if tries <= 3:
                raise errors.ParentUnreachable("the link is cut")
            await bring(repository, text)

        monkeypatch.setattr(node.keeper.parts.images, "_bring", broken)
        body = image(await node.blob("a", b"{}"), layer)
        assert (await node.put("a", "x", body)).status == 201
        await held(node, layer)
        await forgotten(node)
        assert tries >= 4
        tries = -100
        await node.keeper.parts.images.complete("a", Digest.of(body))
        assert tries == -100


async def test_nobody_is_asked_while_the_parent_is_offline_and_none_again_for_what_it_has_not(
    tmp_path: Path,
) -> None:
    sparse = msgspec.structs.replace(READ_WRITE, push=msgspec.structs.replace(OPEN.push, require_blobs=False))
    lacking = f"sha256:{'b' * 64}"
    async with ScriptedParent() as parent, pushing(tmp_path / "data", sparse, parent) as node:
        for endpoint in node.keeper.parents[""].endpoints:
            endpoint.health.unreachable(node.clock.monotonic(), decisive=True)
        parent.reset_counts()
        body = image(await node.blob("a", b"{}"), lacking)
        assert (await node.put("a", "x", body)).status == 201
        one = ("a", Digest.of(body))
        await node.keeper.parts.images.complete(*one)
        assert node.keeper.parts.images.incomplete == {one}
        assert parent.count(path="/blobs/") == 0
        for endpoint in node.keeper.parents[""].endpoints:
            endpoint.health.answered("")
        await node.keeper.parts.images.complete(*one)
        assert node.keeper.parts.images.incomplete == set()
        assert parent.count(path="/blobs/") > 0
