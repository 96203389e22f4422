"""What all of a gateway's endpoints share: whose registry asks, and how questions and answers are written."""

from __future__ import annotations

from inspect import isawaitable
from typing import NamedTuple, TypeVar

import msgspec

from holdfast import errors
from holdfast.authorise import INSUFFICIENT
from holdfast.control import states
from holdfast.control.activation import LONGEST_LEASE_SECONDS
from holdfast.control.resource import ConnectedRegistry, name_in
from holdfast.control.schedule import silence_of
from holdfast.endpoint.node import Node
from holdfast.gateway.message import WAIT_SECONDS
from holdfast.login.caller import Caller
from holdfast.wire.message import Reply, Request

T = TypeVar("T")

#: an answer is sent this long before the answer time-out would end the question (seconds)
MARGIN_SECONDS = 2.0


class Entitled(NamedTuple):
    """A caller's registry, checked, and who calls."""

    registry: ConnectedRegistry
    lease_seconds: float
    caller: Caller


async def entitled(node: Node, request: Request, right: str) -> Entitled:
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
            f"{INSUFFICIENT}: the scope map of this token lacks", detail=f"gateway/{name[:60]}/{right}"
        )
    registry = node.access.catalogue.registry(name)
    if registry is None:
        raise errors.ControlUnknown(
            f"no connected registry {name[:60]!r} here; it was deleted, or never made"
        )
    _check_parent(node, registry)
    seconds = node.config.gateway.lease + silence_of(registry.parent.sync_properties, node.clock.now())
    return Entitled(registry, min(seconds, LONGEST_LEASE_SECONDS), caller)


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


def check_active(node: Node, request: Request, name: str) -> None:
    """Raise `ControlConflict` when `instance` and `generation` are given and are not those of the active instance:
    another one learns so by whatever it asks."""
    instance, generation = request.parameter("instance"), request.parameter("generation")
    if instance is not None:
        check_instance(node, name, instance, generation)


def check_instance(node: Node, name: str, instance: str, generation: int | str | None) -> None:
    """Raise `ControlConflict` unless they are those of the active instance of a connected registry."""
    lease = node.access.catalogue.status(name).lease
    if lease is None:
        raise errors.ControlConflict(
            "no instance of this connected registry is active", detail=states.NOT_ACTIVATED
        )
    if lease.instance != instance or str(lease.generation) != str(generation):
        raise errors.ControlConflict(states.ALREADY_ACTIVATED_TEXT, detail=states.ALREADY_ACTIVATED)


async def body_as(request: Request, kind: type[T], limit: int) -> T:
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


def wait_until(node: Node, request: Request) -> float:
    """Until when a question may be held open (monotonic seconds), by its `wait`. Raises `QueryInvalid`."""
    text = request.parameter("wait") or "0"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise errors.QueryInvalid(
            f"wait: found {text[:20]!r}; allowed: seconds, of which {WAIT_SECONDS:g} count"
        )
    most = min(WAIT_SECONDS, node.config.limits.answer_timeout - MARGIN_SECONDS)
    return node.clock.monotonic() + min(seconds, most)


def json_reply(body: object, *headers: tuple[str, str]) -> Reply:
    """An answer that nobody keeps."""
    said = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *headers]
    return Reply(200, said, msgspec.json.encode(body))
