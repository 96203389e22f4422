"""The scrub over the admin API: how far it is, and an order to read everything now."""

from __future__ import annotations

from holdfast.admin.operation import AdminCall, reply
from holdfast.wire.message import Reply


async def show(call: AdminCall) -> Reply:
    """GET of the pass under way, and of the last full one."""
    return reply(await call.node.port.scrub())


async def begin(call: AdminCall) -> Reply:
    """POST: begin a pass now."""
    return reply(await call.node.port.order_scrub(call.request.note.user))
