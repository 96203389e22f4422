"""Blobs of one image, and of several, come side by side, as many as leave connections for people."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from support.fills import MIB, until
from support.managed import ScriptedLog, configured, managed
from support.replicas import advance, holds, idle, replica_of

pytestmark = pytest.mark.loop("asyncio")

APP = configured("app")
LIMIT = 60.0


def layers(text: str, count: int = 5) -> list[bytes]:
    """Small ones of their own."""
    return [f"{text} {number}".encode() for number in range(count)]


async def test_case_fault_15_all_blobs_of_one_image_are_asked_for_at_once(tmp_path: Path) -> None:
    """And its manifest is named after them."""
    async with ScriptedParent() as parent:
        log, gate = ScriptedLog(parent), RequestGate()
        parent.script(ScriptedFault(method="GET", path="/blobs/", gate=gate, times=-1))
        digest = log.push("app", "1", *layers("one"))
        async with managed(tmp_path, log, APP) as keeper:
            await asyncio.wait_for(gate.wait_arrived(6), LIMIT)
            assert keeper.store.references.tag("app", "1") is None
            assert keeper.store.references.manifest("app", Digest.parse(digest)) is None
            gate.release()
            await until(lambda: holds(keeper, "app", "1", digest))
        assert parent.count("GET", "/blobs/") == 6
        assert parent.count("GET", "/manifests/") == 1


async def test_case_fault_15_images_leave_connections_to_the_outbox_and_to_a_miss(tmp_path: Path) -> None:
    """Of 16 connections 4 are for questions and 12 for bodies: 2 of these for misses alone, 2 for the outbox, and 8, no
    more, for synchronisation."""
    async with ScriptedParent() as parent:
        log, gate = ScriptedLog(parent), RequestGate()
        awaited = parent.add_blob("app", b"what a client waits for")
        digests = {f"t{n}": log.push("app", f"t{n}", *layers(f"image {n}")) for n in range(20)}
        parent.script(
            ScriptedFault(method="GET", path=f"/blobs/(?!{awaited})", gate=gate, times=-1),
        )
        async with managed(tmp_path, log, APP, connections=16) as keeper:
            await asyncio.wait_for(gate.wait_arrived(8), LIMIT)
            await asyncio.wait_for(keeper.fills.bring("app", awaited), LIMIT)
            await until(lambda: keeper.store.blobs.get("app", Digest.parse(awaited)) is not None)
            assert gate.arrived == 8
            gate.release()
            for tag, digest in digests.items():
                await until(lambda t=tag, d=digest: holds(keeper, "app", t, d))  # type: ignore[misc]
        assert parent.count("GET", "/manifests/") == 20
        assert parent.count("GET", "/blobs/") == 20 * 6 + 1


async def test_a_blob_that_fails_stops_no_other_of_its_image(tmp_path: Path) -> None:
    """The next try fetches what failed, and nothing else."""
    async with ScriptedParent() as parent:
        log, gate = ScriptedLog(parent), RequestGate()
        parts = layers("one")
        parent.script(
            ScriptedFault(method="GET", path=str(Digest.of(parts[2])), status=403, times=1),
            ScriptedFault(method="GET", path=str(Digest.of(parts[4])), gate=gate, times=1),
        )
        log.push("app", "1", *parts)
        async with managed(tmp_path, log, APP) as keeper:
            await asyncio.wait_for(gate.wait_arrived(), LIMIT)
            await until(lambda: keeper.store.blobs.get("app", Digest.of(parts[3])) is not None)
            gate.release()
            await until(lambda: len(replica_of(keeper).status().troubles) == 1)
            await idle(keeper)
            assert keeper.store.blobs.get("app", Digest.of(parts[4])) is not None
            assert keeper.store.references.tag("app", "1") is None
            better = log.push("app", "1", *parts, b"another")
            await until(lambda: holds(keeper, "app", "1", better))
        assert {parent.count("GET", str(Digest.of(part))) for part in parts} == {1, 2}


#: nothing comes down in the hour after noon
NOON, HOUR = 1_800_014_400.0, 3600.0
AT_NOON = {"caps": [{"mbit": 0, "work": "sync", "hours": "12:00-13:00"}]}


async def test_case_fault_15_what_a_cap_of_0_stops_has_no_connection(tmp_path: Path) -> None:
    """Its room is the outbox's meanwhile. Afterwards it goes on at its byte."""
    clock = FakeClock(NOON - 60.0, jump=False)
    async with ScriptedParent() as parent:
        log, layer = ScriptedLog(parent), GeneratedContent(16 * MIB)
        parent.script(ScriptedFault(method="GET", path=layer.digest, stall_after=6 * MIB, times=1))
        digest = log.push("app", "1", layer, *layers("small"))
        async with managed(tmp_path, log, APP, clock=clock, link=AT_NOON) as keeper:
            caps = keeper.parents[""]._transport.caps
            free = caps._transfers._value
            await until(lambda: parent.bytes_sent.get(layer.digest, 0) >= 6 * MIB)
            await until(lambda: caps._bulk._held["sync"] == 1)
            await advance(clock, HOUR / 2, lambda: caps._bulk._held["sync"] == 0, 10.0)
            await until(lambda: caps._transfers._value == free)
            assert not holds(keeper, "app", "1", digest)
            await advance(clock, 2 * HOUR, lambda: holds(keeper, "app", "1", digest), 10.0)
        assert clock.now() >= NOON + HOUR
        assert parent.bytes_sent[layer.digest] <= layer.size + MIB
