"""Synchronisation over the admin API: its state, an order for a run, and what the next run would fetch."""

from __future__ import annotations

from holdfast.admin.operation import AdminCall, reply
from holdfast.wire.message import Reply


async def show(call: AdminCall) -> Reply:
    """GET of the status."""
    return reply(await call.node.port.synchronisation())


async def begin(call: AdminCall) -> Reply:
    """POST: begin a run now, also outside the window."""
    return reply(await call.node.port.order_synchronisation())


async def plan(call: AdminCall) -> Reply:
    """GET of the plan, as far as it is."""
    return reply(await call.node.port.plan_synchronisation())
