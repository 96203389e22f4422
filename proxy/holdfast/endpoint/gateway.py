"""The gateway: what a connected registry asks of its parent, under `/acr/gateway/v1/<name>/` (connected-registry 3.5).
`gateway/message.py` has the bodies.

    POST activate, POST deactivate, PUT status    need gateway/<name>/config/write
    GET  config                                   needs gateway/<name>/config/read

The caller proves itself by its sync token. What it may is what the token's scope map says now, looked at again while a
question is held open.
"""

from __future__ import annotations

from inspect import isawaitable
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import asdict

from holdfast import errors
from holdfast.control import command, states
from holdfast.control.activation import LONGEST_LEASE_SECONDS
from holdfast.control.moment import stamp
from holdfast.control.resource import ConnectedRegistry, name_in
from holdfast.control.schedule import silence_of
from holdfast.endpoint.node import Answer, Node
from holdfast.gateway.message import (
    BODY_BYTES,
    REPORT_BYTES,
    WAIT_SECONDS,
    Activation,
    Deactivation,
    Lease,
    StatusReport,
)
from holdfast.wire.message import Reply, Request

T = TypeVar("T")

#: between looks at whether a held question has an answer; a revocation is this late at most (seconds)
GLANCE_SECONDS = 0.5
#: an answer is sent this long before the answer time-out would end the question (seconds)
MARGIN_SECONDS = 2.0
READ, WRITE = "config/read", "config/write"


class Entitled(NamedTuple):
    """A caller's registry, checked."""

    registry: ConnectedRegistry
    lease_seconds: float


def answer(node: Node, request: Request) -> Answer:
    """Every request below a gateway. Raises `PathUnknown` and `MethodNotAllowed`."""
    what = request.route.reference
    if what not in _ASKED:
        raise errors.PathUnknown(f"no such endpoint; a gateway has {', '.join(_ASKED)}")
    method, do = _ASKED[what]
    if request.method != method:
        raise errors.MethodNotAllowed(
            f"the endpoint does not take this method; it takes {method}", headers=(("Allow", method),)
        )
    return do(node, request)


async def activate(node: Node, request: Request) -> Reply:
    """The lease of the instance that asks. Raises `ControlConflict` ALREADY_ACTIVATED while another is active."""
    found = await _entitled(node, request, WRITE)
    said = await _body(request, Activation, BODY_BYTES)
    order = command.Activate(
        name=found.registry.name,
        instance=said.instance,
        version=said.version,
        lease_seconds=found.lease_seconds,
    )
    return await _ordered(node, order, found.lease_seconds)


async def deactivate(node: Node, request: Request) -> Reply:
    """The instance leaves. One that is not the active one any more changes nothing."""
    found = await _entitled(node, request, WRITE)
    said = await _body(request, Deactivation, BODY_BYTES)
    order = command.Release(name=found.registry.name, instance=said.instance, generation=said.generation)
    return await _ordered(node, order, 0.0)


async def report(node: Node, request: Request) -> Reply:
    """Keep what the active instance says of itself, and renew its lease. Raises `ControlConflict` ALREADY_ACTIVATED or
    NOT_ACTIVATED when it is not the active one."""
    found = await _entitled(node, request, WRITE)
    said = await _body(request, StatusReport, REPORT_BYTES)
    order = command.Report(name=found.registry.name, lease_seconds=found.lease_seconds, **asdict(said))
    return await _ordered(node, order, found.lease_seconds)


async def configuration(node: Node, request: Request) -> Reply:
    """The configuration, or 304 when it is the one that the caller has. With `wait` the answer is held back up to so
    many seconds for a change. Raises `ControlConflict` when `instance` and `generation` are given and are not those of
    the active instance: another one learns so here, too."""
    wait = min(_seconds(request), WAIT_SECONDS, node.config.limits.answer_timeout - MARGIN_SECONDS)
    until = node.clock.monotonic() + wait
    while True:
        revision = node.store.control_revision()
        name = (await _entitled(node, request, READ)).registry.name
        _check_active(node, request, name)
        found = node.access.catalogue.configuration_for(name)
        if found is None:
            raise errors.ControlUnknown("no such connected registry here", detail=name)
        if not _holds(request, found.etag):
            return _json(found, ("ETag", found.etag))
        while node.store.control_revision() == revision:
            left = until - node.clock.monotonic()
            if left <= 0 or node.draining:
                return Reply(304, [("ETag", found.etag), ("Cache-Control", "no-store")])
            await node.clock.sleep(min(GLANCE_SECONDS, left))
            _check_active(node, request, name)


async def _entitled(node: Node, request: Request, right: str) -> Entitled:
    """The registry of the path, for a caller that may do this with it now. What it may not even know looks the same
    whether it is there or not. Raises `Unauthorized`, `Denied` and `ControlUnknown`."""
    found = node.access.caller(request)
    caller = await found if isawaitable(found) else found
    name = request.route.name
    if not caller.name:
        raise errors.Unauthorized(
            "a gateway wants the sync token of its connected registry",
            headers=(node.access.realm.challenge(request),),
        )
    if not caller.gateway(name, right):
        raise errors.Denied(
            f"this token may not {right} the gateway of {name[:60]!r}", detail=f"gateway/{name[:60]}/{right}"
        )
    registry = node.access.catalogue.registry(name)
    if registry is None:
        raise errors.ControlUnknown(
            f"no connected registry {name[:60]!r} here; it was deleted, or never made"
        )
    _check_parent(node, registry)
    seconds = node.config.gateway.lease + silence_of(registry.parent.sync_properties, node.clock.now())
    return Entitled(registry, min(seconds, LONGEST_LEASE_SECONDS))


def _check_parent(node: Node, registry: ConnectedRegistry) -> None:
    """Each connected registry has one parent that keeps its lease. Raises `Denied` at any other."""
    identity = node.access.catalogue.identity()
    here = "" if identity is None else identity.name
    wanted = "" if registry.parent.id is None else name_in(registry.parent.id)
    if here.lower() != wanted.lower():
        raise errors.Denied(
            f"the parent of connected registry {registry.name} is {wanted or 'the root'}; this is {here or 'the root'}."
            " Connect it there: ParentGatewayEndpoint of its connection string"
        )


def _check_active(node: Node, request: Request, name: str) -> None:
    instance, generation = request.parameter("instance"), request.parameter("generation")
    if instance is None:
        return
    lease = node.access.catalogue.status(name).lease
    if lease is None:
        raise errors.ControlConflict(
            "no instance of this connected registry is active", detail=states.NOT_ACTIVATED
        )
    if lease.instance != instance or str(lease.generation) != generation:
        raise errors.ControlConflict(states.ALREADY_ACTIVATED_TEXT, detail=states.ALREADY_ACTIVATED)


async def _ordered(node: Node, order: command.Command, lease_seconds: float) -> Reply:
    result = command.result_of(await node.port.control(msgspec.json.encode(order)))
    expires = result.expires or stamp(node.clock.now() + lease_seconds)
    return _json(Lease(generation=result.generation, lease_seconds=lease_seconds, expires=expires))


async def _body(request: Request, kind: type[T], limit: int) -> T:
    """The body as JSON. Raises `ControlInvalid`, which names the field."""
    parts, source = bytearray(), request.body
    while source is not None and (data := await source.read()):
        parts += data
        if len(parts) > limit:
            raise errors.ControlInvalid(f"a body over {limit} bytes; allowed: {limit}")
    try:
        return msgspec.json.decode(parts, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise errors.ControlInvalid(f"the body is not as it must be: {error}"[:300]) from None


def _seconds(request: Request) -> float:
    text = request.parameter("wait") or "0"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise errors.QueryInvalid(
            f"wait: found {text[:20]!r}; allowed: seconds, of which {WAIT_SECONDS:g} count"
        )
    return seconds


def _holds(request: Request, etag: str) -> bool:
    """Whether If-None-Match names what the caller would be sent."""
    listed = {
        part.strip().removeprefix("W/")
        for line in request.header_lines("if-none-match")
        for part in line.split(",")
    }
    return etag in listed or "*" in listed


def _json(body: object, *headers: tuple[str, str]) -> Reply:
    said = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *headers]
    return Reply(200, said, msgspec.json.encode(body))


_ASKED = {
    "activate": ("POST", activate),
    "deactivate": ("POST", deactivate),
    "config": ("GET", configuration),
    "status": ("PUT", report),
}
