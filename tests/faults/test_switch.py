"""The operator's switch of a parent: not a packet while it is off, also across a kill and a restart; held things are
served meanwhile, and what is absent is refused at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from holdfast.clock import SystemClock
from holdfast.config_file import from_table
from holdfast.errors import KnownOffline, ParentUnreachable
from holdfast.gateway.agent_state import NoAnswer
from holdfast.gateway.environment import joined
from holdfast.gateway.gateway_client import GatewayClient
from holdfast.http.health import Health
from holdfast.parent.availability import SETTLE_SECONDS
from holdfast.parent.client import Parent
from holdfast.parent.switch import KIND, NAME, Switches
from holdfast.process.assembly import make_keeper
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent, digest_of
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from support.fills import until
from support.node import Node, parent_toml
from support.parent_cases import settings_for
from support.programs import wait_until
from support.transfer import fetch

pytestmark = pytest.mark.loop("asyncio")

NAME_THERE, PARENT = "library/held", "registry.example"
MISSES = 500


def switch(node: Node, *words: str) -> Any:
    """`holdfast parent …` on the node's machine."""
    command = [sys.executable, "-m", "holdfast", "parent", *words, "--data", str(node.data), "-o", "json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout)


def absent(node: Node, seed: str) -> tuple[int, int]:
    """A pull of something that nobody asked for before: the status, and Retry-After."""
    answer = fetch(node.url, f"/v2/{NAME_THERE}/blobs/{digest_of(seed.encode())}")
    return answer.status, int(answer.headers.get("retry-after", 0))


def held(node: Node) -> int:
    return fetch(node.url, f"/v2/{NAME_THERE}/manifests/latest").status


async def test_off_is_silence_through_a_kill_and_a_restart_and_auto_asks_at_once(tmp_path: Path) -> None:

    def used(node: Node, parent: ScriptedParent) -> None:
        assert held(node) == 200
        assert absent(node, "before")[0] == 404
        found = switch(node, "set", PARENT, "offline")
        assert (found["properties"]["state"], found["properties"]["switch"]) == ("offline", "offline")
        seen = parent.connections_made, parent.count()
        silent(node, "first")
        keeper = node.children("keeper")[-1]
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: node.children("keeper")[-1] != keeper and node.ready(), "another keeper")
        silent(node, "killed")
        node.restart()
        silent(node, "restarted")
        assert (parent.connections_made, parent.count()) == seen
        listed = switch(node, "list")
        rows = listed["value"] if isinstance(listed, dict) else listed
        assert [(row["name"], row["properties"]["switch"]) for row in rows] == [(PARENT, "offline")]
        back = switch(node, "set", PARENT, "auto")["properties"]
        assert (back["state"], back["switch"]) == ("degraded", "auto")
        assert parent.count("GET", "^/v2/$") == 1
        assert absent(node, "after")[0] == 404
        node.restart()
        assert absent(node, "later")[0] == 404

    def silent(node: Node, when: str) -> None:
        for number in range(20):
            status, after = absent(node, f"{when} {number}")
            assert (status, after > 0) == (503, True)
            assert held(node) == 200
        said = json.loads(fetch(node.url, "/readyz").body)
        assert any(
            f"{PARENT} is offline because an operator switched it off" in one for one in said["troubles"]
        ), said
        assert any(
            f"`holdfast parent set {PARENT} auto` switches it on again" in one for one in said["troubles"]
        )

    async with ScriptedParent() as parent:
        parent.add_sample(NAME_THERE)
        with Node(tmp_path, configuration=parent_toml(parent.url, probe_interval=0.05), workers=1) as node:
            await asyncio.to_thread(used, node, parent)


async def test_one_probe_an_interval_whatever_is_asked() -> None:
    clock = FakeClock(jump=False)
    async with ScriptedParent() as scripted:
        scripted.script(ScriptedFault(status=503, times=-1))
        parent = Parent(settings_for(scripted.url, probe_interval=10.0), clock)
        parent.endpoints[0].health.unreachable(clock.monotonic(), decisive=True)
        for interval in range(1, 4):
            clock.advance(10.0)
            for _ in range(2):
                asks = (parent.get_manifest("team/app", f"v{n}") for n in range(MISSES))
                found = await asyncio.gather(*asks, return_exceptions=True)
                assert {type(one) for one in found} == {KnownOffline}
                assert await ended(parent)
            assert scripted.count() == scripted.count("GET", "^/v2/$") == interval
        await parent.close()


async def ended(parent: Parent) -> bool:
    """Wait for the probe that is under way."""
    probing = parent.endpoints[0]._probing
    if probing is not None:
        await asyncio.wait((probing,))
    return True


async def test_what_is_under_way_ends_and_the_gateway_is_silent_too() -> None:
    clock = FakeClock(jump=False)
    async with ScriptedParent() as scripted:
        blob = GeneratedContent(4 << 20, "long")
        scripted.add_blob("team/app", blob)
        scripted.script(ScriptedFault(path="/blobs/", stall_after=2 << 20, times=1))
        settings = settings_for(scripted.url)
        parent, link = Parent(settings, clock), GatewayClient(settings, "plant", clock)
        parent.add_transport(link.transport)
        reading = asyncio.create_task(read(parent, blob.digest))
        while parent.counters["bytes"] < 2 << 20:
            await asyncio.sleep(0.002)
        await parent.set_switch("offline")
        with pytest.raises(ParentUnreachable):
            await reading
        made = scripted.connections_made
        with pytest.raises(KnownOffline):
            await read(parent, blob.digest)
        assert not await parent.probe()
        outcome = await link.activate("instance", "1")
        assert isinstance(outcome, NoAnswer)
        assert "switched off by the operator" in outcome.why
        assert scripted.connections_made == made
        await parent.set_switch("auto")
        assert parent.state == "degraded"
        assert await read(parent, blob.digest) == blob.size
        await parent.close()
        await link.close()


async def read(parent: Parent, digest: str) -> int:
    async with parent.get_blob("team/app", digest) as stream:
        return sum([len(piece) async for piece in stream])


def test_bulk_work_waits_for_a_parent_that_came_back() -> None:
    clock = FakeClock(jump=False)
    parent = Parent(settings_for("http://127.0.0.1:9"), clock)
    health: Health = parent.endpoints[0].health
    assert parent.availability.transfers(4, clock.monotonic()) == 4
    health.unreachable(clock.monotonic(), decisive=True)
    assert parent.availability.refresh(clock.monotonic()) == "offline"
    clock.advance(1.0)
    health.answered("")
    assert parent.availability.transfers(4, clock.monotonic()) == 0
    clock.advance(SETTLE_SECONDS)
    assert parent.availability.transfers(4, clock.monotonic()) == 1


async def test_the_switch_is_a_record_and_says_what_it_means_for_a_connected_registry(tmp_path: Path) -> None:
    clock = FakeClock()
    store = Store.create_or_open(tmp_path / "store", write=True)
    parent = Parent(settings_for("http://127.0.0.1:9"), clock)
    switches = Switches(store, {"": parent}, clock, "")
    await switches.set("default", "offline")
    (report,) = switches.reports()
    assert (report.name, report.state) == ("default", "offline")
    assert "the lease of this connected registry expires" in report.note
    held = store.documents.get(KIND, NAME)
    assert held is not None
    assert json.loads(held.body) == ["default"]
    parent.availability.set_switch("auto", clock.monotonic())
    await switches.load()
    assert parent.availability.switch == "offline"
    store.close()


async def test_a_connected_registry_whose_parent_is_off_says_nothing_to_it(tmp_path: Path) -> None:
    """Gateway, notices and synchronisation have connections of their own; none of them makes one."""
    async with ScriptedParent() as scripted:
        said = (
            "ConnectedRegistryName=plant;SyncTokenName=plant;SyncTokenPassword=secret;"
            f"ParentGatewayEndpoint=127.0.0.1:{scripted.port};ParentEndpointProtocol=http"
        )
        config = joined(from_table({"gateway": {"connection_string": said}}), {})
        for off in (True, False):
            store = Store.create_or_open(tmp_path / "store", write=True, mode="ReadOnly")
            keeper = make_keeper(config, store, SystemClock())
            own = keeper.parts.own_registry
            assert own is not None
            if off:
                await keeper.parts.switches.set("default", "offline")
            await keeper.start()
            await until(lambda own=own: "switched off" in own.state.trouble)  # type: ignore[misc]
            assert scripted.connections_made == 0
            await keeper.close()
            store.close()
