"""Synchronisation over the admin API: where it stands, a run now, and what the next one would fetch."""

from __future__ import annotations

from holdfast.admin.operation import Call
from holdfast.keeper.port import SyncOrder
from holdfast.wire.message import Reply


async def show(call: Call) -> Reply:
    """GET of the status."""
    return await _asked(call, "status")


async def begin(call: Call) -> Reply:
    """POST: a run now, whatever the window."""
    return await _asked(call, "run")


async def plan(call: Call) -> Reply:
    """GET of the plan, as far as it is."""
    return await _asked(call, "plan")


async def _asked(call: Call, order: SyncOrder) -> Reply:
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    return Reply(200, headers, await call.node.port.synchronise(order))
