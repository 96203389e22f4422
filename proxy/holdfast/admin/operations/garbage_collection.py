"""Garbage collection over the admin API: its schedule, its last report, and an order to collect now."""

from __future__ import annotations

from holdfast.admin.operation import AdminCall, reply
from holdfast.wire.message import Reply


async def show(call: AdminCall) -> Reply:
    """GET of the schedule and the last report."""
    return reply(await call.node.port.collection(call.is_dry))


async def begin(call: AdminCall) -> Reply:
    """POST: collect now, or with `dryRun` count what would go."""
    return reply(await call.node.port.order_collection(call.is_dry, call.request.note.user))
