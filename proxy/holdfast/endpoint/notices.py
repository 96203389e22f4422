"""POST of `/acr/gateway/v1/<name>/messages`: what a connected registry tells of its events and of those below it."""

from __future__ import annotations

import msgspec
import structlog

from holdfast import errors
from holdfast.control import command
from holdfast.endpoint.entitled import body_as, entitled, json_reply
from holdfast.endpoint.node import Node
from holdfast.gateway.message import Notices, Taken
from holdfast.wire.message import Reply, Request

log = structlog.get_logger()

WRITE = "message/write"
#: longest body (bytes), and most notices in it
NOTICES_BYTES, NOTICES = 1 << 20, 500


async def take(node: Node, request: Request) -> Reply:
    """Up to which number the notices are taken. Raises `ControlConflict` ALREADY_ACTIVATED or NOT_ACTIVATED, and
    `ControlInvalid`; then none was."""
    found = await entitled(node, request, WRITE)
    said = await body_as(request, Notices, NOTICES_BYTES)
    if len(said.notices) > NOTICES:
        raise errors.ControlInvalid(
            f"notices: found {len(said.notices)}; allowed: {NOTICES} at most", field="notices"
        )
    order = command.TakeNotices(
        name=found.registry.name,
        instance=said.instance,
        generation=said.generation,
        log=said.log,
        notices=said.notices,
    )
    result = command.result_of(await node.port.control(msgspec.json.encode(order)))
    if result.refused:
        log.warning("notices refused", registry=found.registry.name, notices=result.refused)
    return json_reply(Taken(log=said.log, number=result.number))
