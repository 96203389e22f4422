"""What a node learns of the connected registries below it goes up when it is new, not with the next report's time."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import pytest
from holdfast.clock import SystemClock
from holdfast.config_file import from_table
from holdfast.control import command
from holdfast.gateway.agent import GatewayAgent
from holdfast.gateway.agent_state import Outcome, Reported, Unchanged
from holdfast.gateway.gateway_client import GatewayClient
from holdfast.gateway.own_registry import OwnRegistry
from holdfast.gateway.protocol import REPORT_BYTES, StatusReport
from holdfast.gateway.status_relay import StatusRelay
from holdfast.keeper.heartbeats import Heartbeats
from holdfast.resources.model import (
    ConnectedRegistry,
    Identity,
    ParentProperties,
    RegistryConfiguration,
    Status,
    StatusDetail,
    SyncProgress,
    SyncProperties,
    SyncResult,
)
from holdfast.testing.port import ScriptedPort
from holdfast_core.store import Store
from support.fills import run, until

pytestmark = pytest.mark.loop("asyncio")

HOUR = 3600.0


def registry(name: str, parent: str | None) -> ConnectedRegistry:
    """One of a row."""
    sync = SyncProperties(token_id=f"/tokens/{name}")
    return ConnectedRegistry(
        name=name, mode="ReadOnly", parent=ParentProperties(sync_properties=sync, id=parent)
    )


class Above:
    """A parent that answers at once, holds the question for configuration open when it may, and keeps what it is
    told."""

    own_address = ""

    def __init__(self) -> None:
        self.reports: list[StatusReport] = []

    async def report(self, report: StatusReport) -> Outcome:
        """See `GatewayClient`."""
        self.reports.append(report)
        return Reported(3 * HOUR)

    async def configuration(self, instance: str, generation: int, etag: str, wait: float) -> Outcome:
        """See `GatewayClient`."""
        if wait:
            await asyncio.Event().wait()
        return Unchanged()

    async def close(self) -> None:
        """See `GatewayClient`."""


async def test_what_is_new_below_is_reported_at_once_and_a_heartbeat_is_not(tmp_path: Path) -> None:
    config = from_table({"parent": [{"url": "http://parent", "insecure": True}], "gateway": {"poll": HOUR}})
    store = Store.create_or_open(tmp_path / "store", write=True, mode="ReadOnly")
    clock, above, own = SystemClock(), Above(), OwnRegistry("plant1", HOUR, SystemClock())
    heartbeats = Heartbeats(clock.now())
    relay = StatusRelay(own, partial(heartbeats.statuses, store))
    port = ScriptedPort(store, clock, None, heartbeats, relay.status_received)
    client = cast(GatewayClient, above)
    rounds = GatewayAgent(config, own, store, port.control, list, clock, client, relay)
    own.state.active, own.state.etag = True, "x"

    async def tell(order: command.Command) -> command.CommandResult:
        return command.result_of(await port.control(msgspec.json.encode(order)))

    line = registry("line1", "/connectedRegistries/plant1")
    said = RegistryConfiguration(registry=registry("plant1", None), below=(line,))
    identity = Identity(name="plant1", instance="i", activated="2026-11-26T22:00:00Z", generation=1, etag="x")
    await tell(command.Receive(identity=identity, configuration=said))
    await rounds.start()
    try:
        await until(lambda: len(above.reports) == 1)
        lease = await tell(command.Activate(name="line1", instance="a", lease_seconds=60.0))
        await until(lambda: len(above.reports) == 2)
        words = command.RecordReport(
            name="line1",
            instance="a",
            generation=lease.generation,
            lease_seconds=60.0,
            registry_sync_result=SyncResult(sync_trigger="InitialSync", sync_state="Syncing"),
        )
        await tell(words)
        await until(lambda: len(above.reports) == 3)
        assert above.reports[-1].below["line1"].registry_sync_result.sync_state == "Syncing"
        for minute in range(5):
            await tell(msgspec.structs.replace(words, last_sync_time=f"2026-11-26T22:0{minute}:00Z"))
        far = SyncProgress(1, 3, 10, 30, 5.0, 4.0, 0, 0, 0)
        await tell(msgspec.structs.replace(words, syncing=True, sync_progress=far))
        await until(lambda: len(above.reports) == 4)
        assert above.reports[-1].below["line1"].syncing
        assert above.reports[-1].below["line1"].sync_progress == far
        for minute in (1, 2, 3):
            trouble = StatusDetail("Outbox", "OutboxWaiting", f"{minute} changes wait, for {minute} min")
            await tell(
                msgspec.structs.replace(words, syncing=True, sync_progress=far, status_details=(trouble,))
            )
            assert own.report_due.is_set() == (minute == 1)
            await until(lambda: len(above.reports) == 5)
        own.report_due.set()  # as when the time of the next report has come
        await until(lambda: len(above.reports) == 6)
        assert above.reports[4].below["line1"].status_details[0].code == trouble.code
        assert above.reports[5].below["line1"].status_details[0].description == trouble.description
    finally:
        await rounds.close()
        store.close()


def test_case_trust_19_a_report_is_within_what_the_parent_takes(tmp_path: Path) -> None:
    """Whatever those below said, also to an earlier release, which kept it whole."""
    detail = StatusDetail(type="Disk", code="DiskError", description="d" * 3_000)
    long = Status(version="7" * 3_900_000, status_details=(detail,) * 400)

    async def main(registries: int) -> None:
        config = from_table(
            {"parent": [{"url": "http://parent", "insecure": True}], "gateway": {"poll": HOUR}}
        )
        store = Store.create_or_open(tmp_path / str(registries), write=True, mode="ReadOnly")
        port, above = ScriptedPort(store, SystemClock()), Above()
        own = OwnRegistry("plant1", HOUR, SystemClock())
        relay = StatusRelay(own, lambda: {f"line{at}": long for at in range(registries)})
        rounds = GatewayAgent(
            config, own, store, port.control, lambda: [detail] * 400, SystemClock(), cast(GatewayClient, above), relay
        )  # fmt: skip
        own.state.active, own.state.etag = True, "x"
        await rounds.start()
        try:
            await until(lambda: len(above.reports) == 1)
            (report,) = above.reports
            assert len(msgspec.json.encode(report)) <= REPORT_BYTES * 3 // 4
            assert report.status_details
            assert all(status.status_details for status in report.below.values())
            assert len(report.below) == registries
        finally:
            await rounds.close()
            store.close()

    run(main(2))
    run(main(500))
