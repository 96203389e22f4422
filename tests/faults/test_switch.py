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
from holdfast.gateway.child import Failed
from holdfast.gateway.environment import joined
from holdfast.gateway.link import Link
from holdfast.keeper.switches import KIND, NAME, Switches
from holdfast.parent.client import Parent
from holdfast.parent.health import Health
from holdfast.process.assembly import make_keeper, make_rounds
from holdfast.sync.offline import SETTLE_SECONDS
from holdfast.testing.clock import FakeClock
from holdfast.testing.content import Generated, digest_of
from holdfast.testing.fault import Fault
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.store import Store
from support.fills import run, until
from support.node import Node, parent_toml
from support.parent_cases import settings_for
from support.programs import wait_until
from support.transfer import fetch

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


def test_off_is_silence_through_a_kill_and_a_restart_and_auto_asks_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with ScriptedParent() as parent:
            parent.add_sample(NAME_THERE)
            with Node(
                tmp_path, configuration=parent_toml(parent.url, probe_interval=0.05), workers=1
            ) as node:
                await asyncio.to_thread(used, node, parent)

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
        assert any(f"{PARENT} is offline" in trouble for trouble in said["troubles"]), said

    asyncio.run(test())


def test_one_probe_an_interval_whatever_is_asked() -> None:
    async def case() -> None:
        clock = FakeClock(jump=False)
        async with ScriptedParent() as scripted:
            scripted.script(Fault(status=503, times=-1))
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

    run(case())


async def ended(parent: Parent) -> bool:
    """Wait for the probe that is under way."""
    probing = parent.endpoints[0]._probing
    if probing is not None:
        await asyncio.wait((probing,))
    return True


def test_what_is_under_way_ends_and_the_gateway_is_silent_too() -> None:
    async def case() -> None:
        clock = FakeClock(jump=False)
        async with ScriptedParent() as scripted:
            blob = Generated(4 << 20, "long")
            scripted.add_blob("team/app", blob)
            scripted.script(Fault(path="/blobs/", stall_after=2 << 20, times=1))
            settings = settings_for(scripted.url)
            parent, link = Parent(settings, clock), Link(settings, "plant", clock)
            parent.oversee(link.transport)
            reading = asyncio.create_task(read(parent, blob.digest))
            while parent.counters["bytes"] < 2 << 20:
                await asyncio.sleep(0.002)
            await parent.turn("offline")
            with pytest.raises(ParentUnreachable):
                await reading
            made = scripted.connections_made
            with pytest.raises(KnownOffline):
                await read(parent, blob.digest)
            assert not await parent.probe()
            outcome = await link.activate("instance", "1")
            assert isinstance(outcome, Failed)
            assert "switched off by the operator" in outcome.why
            assert scripted.connections_made == made
            await parent.turn("auto")
            assert parent.state == "degraded"
            assert await read(parent, blob.digest) == blob.size
            await parent.close()
            await link.close()

    run(case())


async def read(parent: Parent, digest: str) -> int:
    async with parent.get_blob("team/app", digest) as stream:
        return sum([len(piece) async for piece in stream])


def test_bulk_work_waits_for_a_parent_that_came_back() -> None:
    clock = FakeClock(jump=False)
    parent = Parent(settings_for("http://127.0.0.1:9"), clock)
    health: Health = parent.endpoints[0].health
    assert parent.availability.transfers(4, clock.monotonic()) == 4
    health.unreachable(clock.monotonic(), decisive=True)
    assert parent.availability.look(clock.monotonic()) == "offline"
    clock.advance(1.0)
    health.answered("")
    assert parent.availability.transfers(4, clock.monotonic()) == 0
    clock.advance(SETTLE_SECONDS)
    assert parent.availability.transfers(4, clock.monotonic()) == 1


def test_the_switch_is_a_record_and_says_what_it_means_for_a_connected_registry(tmp_path: Path) -> None:
    async def case() -> None:
        clock = FakeClock()
        store = Store.create_or_open(tmp_path / "store", write=True)
        parent = Parent(settings_for("http://127.0.0.1:9"), clock)
        switches = Switches(store, {"": parent}, clock, "")
        await switches.turn("default", "offline")
        (report,) = switches.reports()
        assert (report.name, report.state) == ("default", "offline")
        assert "the lease of this connected registry runs out" in report.note
        held = store.resource(KIND, NAME)
        assert held is not None
        assert json.loads(held.body) == ["default"]
        parent.availability.turn("auto", clock.monotonic())
        await switches.take_up()
        assert parent.availability.switch == "offline"
        store.close()

    run(case())


def test_a_connected_registry_whose_parent_is_off_says_nothing_to_it(tmp_path: Path) -> None:
    """Gateway, notices and synchronisation have connections of their own; none of them makes one."""

    async def case() -> None:
        async with ScriptedParent() as scripted:
            said = (
                "ConnectedRegistryName=plant;SyncTokenName=plant;SyncTokenPassword=secret;"
                f"ParentGatewayEndpoint=127.0.0.1:{scripted.port};ParentEndpointProtocol=http"
            )
            config = joined(from_table({"gateway": {"connection_string": said}}), {})
            for off in (True, False):
                store = Store.create_or_open(tmp_path / "store", write=True, mode="ReadOnly")
                keeper = make_keeper(config, store, SystemClock())
                rounds = make_rounds(config, keeper)
                assert rounds is not None
                if off:
                    await keeper.switches.turn("default", "offline")
                await keeper.start()
                await rounds.start()
                await until(lambda rounds=rounds: "switched off" in rounds.child.trouble)  # type: ignore[misc]
                assert scripted.connections_made == 0
                await rounds.close()
                await keeper.close()
                store.close()

    run(case())
