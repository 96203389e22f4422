"""POST of `/acr/gateway/v1/<name>/messages`: the notices of a connected registry, on its own events and those below
it."""

from __future__ import annotations

import msgspec

from holdfast import errors
from holdfast.control import command
from holdfast.endpoint.gateway.entitled import admitted, body_as, entitled, json_reply
from holdfast.endpoint.node import Node
from holdfast.gateway.protocol import Notices, Taken
from holdfast.gateway.rates import NOTICES as KIND
from holdfast.log import log
from holdfast.wire.message import Reply, Request

WRITE = "message/write"
#: longest body (bytes), and most notices in it
NOTICES_BYTES, NOTICES = 1 << 20, 500


async def take(node: Node, request: Request) -> Reply:
    """The number up to which the notices are stored. Raises `ControlConflict` ALREADY_ACTIVATED or NOT_ACTIVATED, and
    `ControlInvalid`; then none is."""
    caller = await entitled(node, request, WRITE)
    spend = await admitted(node, caller.registry, KIND)
    body = await body_as(request, Notices, NOTICES_BYTES, spend)
    if len(body.notices) > NOTICES:
        raise errors.ControlInvalid(
            f"notices: found {len(body.notices)}; allowed: {NOTICES} at most", field="notices"
        )
    order = command.TakeNotices(
        name=caller.registry.name,
        instance=body.instance,
        generation=body.generation,
        log=body.log,
        notices=body.notices,
    )
    result = command.result_of(await node.port.control(msgspec.json.encode(order)))
    if result.refused:
        log.warning("notices refused", registry=caller.registry.name, notices=result.refused)
    return json_reply(Taken(log=body.log, number=result.number))
