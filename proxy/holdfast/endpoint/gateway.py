"""The gateway: what a connected registry asks of its parent, under `/acr/gateway/v1/<name>/` (connected-registry 3.5).
`gateway/message.py` has the bodies.

    POST activate, POST deactivate, PUT status    need gateway/<name>/config/write
    GET  config                                   needs gateway/<name>/config/read
    GET  messages, GET contents, POST exists      need gateway/<name>/message/read
    POST messages                                 needs gateway/<name>/message/write

The caller proves itself by its sync token. What it may is what the token's scope map says now, looked at again while a
question is held open.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import asdict, replace

from holdfast import errors
from holdfast.control import command
from holdfast.control.bounds import bounded, fitting
from holdfast.control.moment import stamp
from holdfast.endpoint import existence, notices
from holdfast.endpoint.entitled import body_as, check_active, entitled, json_reply, wait_until
from holdfast.endpoint.messages import contents, messages
from holdfast.endpoint.node import Answer, Node
from holdfast.gateway.message import BODY_BYTES, REPORT_BYTES, Activation, Deactivation, Lease, StatusReport
from holdfast.wire.message import Reply, Request

#: between looks at whether a held question has an answer; a revocation is this late at most (seconds)
GLANCE_SECONDS = 0.5
READ, WRITE = "config/read", "config/write"


def answer(node: Node, request: Request) -> Answer:
    """Every request below a gateway. Raises `PathUnknown` and `MethodNotAllowed`."""
    what = request.route.reference
    if what not in _ASKED:
        raise errors.PathUnknown(f"no such endpoint; a gateway has {', '.join(_ASKED)}")
    asked = _ASKED[what]
    if request.method not in asked:
        methods = ", ".join(asked)
        raise errors.MethodNotAllowed(
            f"the endpoint does not take this method; it takes {methods}", headers=(("Allow", methods),)
        )
    return asked[request.method](node, request)


async def activate(node: Node, request: Request) -> Reply:
    """The lease of the instance that asks. Raises `ControlConflict` ALREADY_ACTIVATED while another is active."""
    found = await entitled(node, request, WRITE)
    said = await body_as(request, Activation, BODY_BYTES)
    order = command.Activate(
        name=found.registry.name,
        instance=said.instance,
        version=said.version,
        lease_seconds=found.lease_seconds,
    )
    return await _ordered(node, order, found.lease_seconds)


async def deactivate(node: Node, request: Request) -> Reply:
    """The instance leaves. One that is not the active one any more changes nothing."""
    found = await entitled(node, request, WRITE)
    said = await body_as(request, Deactivation, BODY_BYTES)
    order = command.Release(name=found.registry.name, instance=said.instance, generation=said.generation)
    return await _ordered(node, order, 0.0)


async def report(node: Node, request: Request) -> Reply:
    """Keep what the active instance says of itself, and renew its lease. Raises `ControlConflict` ALREADY_ACTIVATED or
    NOT_ACTIVATED when it is not the active one."""
    found = await entitled(node, request, WRITE)
    said = await body_as(request, StatusReport, REPORT_BYTES)
    known = {name: status for name, status in said.below.items() if node.access.catalogue.registry(name)}
    said = replace(bounded(said), below={name: fitting(status) for name, status in known.items()})
    order = command.Report(name=found.registry.name, lease_seconds=found.lease_seconds, **asdict(said))
    return await _ordered(node, order, found.lease_seconds)


async def configuration(node: Node, request: Request) -> Reply:
    """The configuration, or 304 when it is the one that the caller has. With `wait` the answer is held back up to so
    many seconds for a change. Raises `ControlConflict` when `instance` and `generation` are given and are not those of
    the active instance: another one learns so here, too."""
    until = wait_until(node, request)
    while True:
        revision = node.store.control_revision()
        name = (await entitled(node, request, READ)).registry.name
        check_active(node, request, name)
        own = (node.config.login.server, *node.config.gateway.namespaces)
        found = node.access.catalogue.configuration_for(name, own)
        if found is None:
            raise errors.ControlUnknown("no such connected registry here", detail=name)
        if not _holds(request, found.etag):
            return json_reply(found, ("ETag", found.etag))
        while node.store.control_revision() == revision:
            left = until - node.clock.monotonic()
            if left <= 0 or node.draining:
                return Reply(304, [("ETag", found.etag), ("Cache-Control", "no-store")])
            await node.clock.sleep(min(GLANCE_SECONDS, left))
            check_active(node, request, name)


async def _ordered(node: Node, order: command.Command, lease_seconds: float) -> Reply:
    result = command.result_of(await node.port.control(msgspec.json.encode(order)))
    expires = result.expires or stamp(node.clock.now() + lease_seconds)
    return json_reply(Lease(generation=result.generation, lease_seconds=lease_seconds, expires=expires))


def _holds(request: Request, etag: str) -> bool:
    """Whether If-None-Match names what the caller would be sent."""
    listed = {
        part.strip().removeprefix("W/")
        for line in request.header_lines("if-none-match")
        for part in line.split(",")
    }
    return etag in listed or "*" in listed


_ASKED: dict[str, dict[str, Callable[[Node, Request], Answer]]] = {
    "activate": {"POST": activate},
    "deactivate": {"POST": deactivate},
    "config": {"GET": configuration},
    "status": {"PUT": report},
    "messages": {"GET": messages, "POST": notices.take},
    "contents": {"GET": contents},
    "exists": {"POST": existence.answer},
}
