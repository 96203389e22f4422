"""The parents of a node over the admin API: their states, and the operator's switch."""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.admin.document import ParentStateDocument, ParentStateProperties
from holdfast.admin.operation import Call, reply
from holdfast.errors import ControlUnknown
from holdfast.keeper.switches import ParentReport
from holdfast.wire.message import Reply
from holdfast.wire.names import shown


async def show_list(call: Call) -> Reply:
    """GET of all, by name."""
    return reply({"value": [view(one) for one in await reports(call)], "nextLink": None})


async def show(call: Call) -> Reply:
    """GET of one."""
    return reply(view(await _named(call)))


async def change(call: Call) -> Reply:
    """PATCH: the switch."""
    await call.node.port.turn_parent(call.name, call.body.switch)
    return reply(view(await _named(call)))


async def _named(call: Call) -> ParentReport:
    for one in await reports(call):
        if one.name == call.name:
            return one
    raise ControlUnknown(f"no parent {shown(call.name)!r}", field="name")


async def reports(call: Call) -> list[ParentReport]:
    """What the keeper says of each."""
    return msgspec.json.decode(await call.node.port.list_parents(), type=list[ParentReport])


def view(one: ParentReport) -> dict[str, Any]:
    """The same, as it goes out."""
    found: dict[str, Any] = msgspec.to_builtins(document_of(one))
    return found


def document_of(one: ParentReport) -> ParentStateDocument:
    """What is shown of one."""
    properties = ParentStateProperties(
        url=one.url,
        state=one.state,
        switch=one.switch,
        since=one.since,
        losses=one.losses,
        requests=one.requests,
        rate_limit=one.rate_limit,
        rate_limit_remaining=one.rate_limit_remaining,
        note=one.note,
    )
    return ParentStateDocument(
        id=f"parents/{one.name}", name=one.name, type="holdfast/parents", properties=properties
    )
