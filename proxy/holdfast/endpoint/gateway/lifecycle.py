"""The gateway for the connected registries below this node, under `/acr/gateway/v1/<name>/` (references.md 1.13).
`gateway/protocol.py` has the bodies. Here are the routes, and activation, report and configuration.

    POST activate, POST deactivate, PUT status    need gateway/<name>/config/write
    GET  config                                   needs gateway/<name>/config/read
    GET  messages, GET contents, POST exists      need gateway/<name>/message/read
    POST messages                                 needs gateway/<name>/message/write

The caller authenticates with its sync token. The token's scope map is read for each request, and again while a request
is held open.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import asdict, replace

from holdfast import errors
from holdfast.control import command
from holdfast.endpoint.gateway import existence, received_notices
from holdfast.endpoint.gateway.entitled import (
    admitted,
    body_as,
    check_active,
    entitled,
    json_reply,
    wait_until,
)
from holdfast.endpoint.gateway.messages import contents, messages
from holdfast.endpoint.node import Answer, Node
from holdfast.gateway.protocol import (
    BODY_BYTES,
    REPORT_BYTES,
    ActivationRequest,
    Deactivation,
    LeaseAnswer,
    StatusReport,
)
from holdfast.gateway.rates import QUESTIONS, REPORTS
from holdfast.resources.report_bounds import bounded, fitting
from holdfast.timestamps import stamp
from holdfast.wire.message import Reply, Request

#: between two looks for a change while a request is held open; a revocation takes effect this late at most (seconds)
GLANCE_SECONDS = 0.5
READ, WRITE = "config/read", "config/write"


def answer(node: Node, request: Request) -> Answer:
    """Every request below a gateway. Raises `PathUnknown` and `MethodNotAllowed`."""
    what = request.route.reference
    if what not in _ROUTES:
        raise errors.PathUnknown(f"no such endpoint; a gateway has {', '.join(_ROUTES)}")
    by_method = _ROUTES[what]
    if request.method not in by_method:
        methods = ", ".join(by_method)
        raise errors.MethodNotAllowed(
            f"the endpoint does not take this method; it takes {methods}", headers=(("Allow", methods),)
        )
    return by_method[request.method](node, request)


async def activate(node: Node, request: Request) -> Reply:
    """The lease of the instance in the body. Raises `ControlConflict` ALREADY_ACTIVATED while another is active."""
    caller = await entitled(node, request, WRITE)
    spend = await admitted(node, caller.registry, REPORTS)
    activation = await body_as(request, ActivationRequest, BODY_BYTES, spend)
    order = command.Activate(
        name=caller.registry.name,
        instance=activation.instance,
        version=activation.version,
        lease_seconds=caller.lease_seconds,
    )
    return await _ordered(node, order, caller.lease_seconds)


async def deactivate(node: Node, request: Request) -> Reply:
    """End the activation of the instance in the body. One that is not the active one any more changes nothing."""
    caller = await entitled(node, request, WRITE)
    spend = await admitted(node, caller.registry, REPORTS)
    left = await body_as(request, Deactivation, BODY_BYTES, spend)
    order = command.Release(name=caller.registry.name, instance=left.instance, generation=left.generation)
    return await _ordered(node, order, 0.0)


async def report(node: Node, request: Request) -> Reply:
    """Store the report of the active instance and renew its lease. Raises `ControlConflict` ALREADY_ACTIVATED or
    NOT_ACTIVATED for any other instance."""
    caller = await entitled(node, request, WRITE)
    spend = await admitted(node, caller.registry, REPORTS)
    status = await body_as(request, StatusReport, REPORT_BYTES, spend)
    known = {name: below for name, below in status.below.items() if node.access.catalogue.registry(name)}
    status = replace(bounded(status), below={name: fitting(below) for name, below in known.items()})
    order = command.RecordReport(
        name=caller.registry.name, lease_seconds=caller.lease_seconds, **asdict(status)
    )
    return await _ordered(node, order, caller.lease_seconds)


async def configuration(node: Node, request: Request) -> Reply:
    """The configuration, or 304 when it is the one that the caller has. With `wait` the answer is held back up to so
    many seconds for a change. Raises `ControlConflict` as `check_active`."""
    until = wait_until(node, request)
    await admitted(node, (await entitled(node, request, READ)).registry, QUESTIONS)
    while True:
        revision = node.store.documents.revision()
        name = (await entitled(node, request, READ)).registry.name
        check_active(node, request, name)
        own = (node.config.login.server, *node.config.gateway.namespaces)
        current = node.access.catalogue.configuration_for(name, own)
        if current is None:
            raise errors.ControlUnknown("no such connected registry here", detail=name)
        if not _holds(request, current.etag):
            return json_reply(current, ("ETag", current.etag))
        while node.store.documents.revision() == revision:
            left = until - node.clock.monotonic()
            if left <= 0 or node.draining:
                return Reply(304, [("ETag", current.etag), ("Cache-Control", "no-store")])
            await node.clock.sleep(min(GLANCE_SECONDS, left))
            check_active(node, request, name)


async def _ordered(node: Node, order: command.Command, lease_seconds: float) -> Reply:
    result = command.result_of(await node.port.control(msgspec.json.encode(order)))
    expires = result.expires or stamp(node.clock.now() + lease_seconds)
    return json_reply(LeaseAnswer(generation=result.generation, lease_seconds=lease_seconds, expires=expires))


def _holds(request: Request, etag: str) -> bool:
    """Whether If-None-Match has `etag`."""
    listed = {
        part.strip().removeprefix("W/")
        for line in request.header_lines("if-none-match")
        for part in line.split(",")
    }
    return etag in listed or "*" in listed


_ROUTES: dict[str, dict[str, Callable[[Node, Request], Answer]]] = {
    "activate": {"POST": activate},
    "deactivate": {"POST": deactivate},
    "config": {"GET": configuration},
    "status": {"PUT": report},
    "messages": {"GET": messages, "POST": received_notices.take},
    "contents": {"GET": contents},
    "exists": {"POST": existence.answer},
}
