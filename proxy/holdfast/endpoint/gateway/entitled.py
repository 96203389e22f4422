"""Shared by the gateway's endpoints: the caller's registry and its rights, rate limits, bodies of requests and
answers."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from math import ceil
from typing import NamedTuple, TypeVar

import msgspec

from holdfast import errors
from holdfast.control.activation import LONGEST_LEASE_SECONDS
from holdfast.endpoint.authorization import INSUFFICIENT
from holdfast.endpoint.node import Node
from holdfast.gateway.protocol import WAIT_SECONDS
from holdfast.gateway.rates import PATIENCE_SECONDS
from holdfast.login.caller import Caller
from holdfast.resources import states
from holdfast.resources.cron import silence_of
from holdfast.resources.model import ConnectedRegistry, name_in
from holdfast.wire.message import Reply, Request

T = TypeVar("T")

#: an answer is sent this long before the answer time-out would end the request (seconds)
MARGIN_SECONDS = 2.0

#: charges the cost of a request (`gateway.rates`)
Spend = Callable[[float], None]


class Entitled(NamedTuple):
    """A caller that may use the gateway of `registry`. `lease_seconds` is the length of a lease granted now."""

    registry: ConnectedRegistry
    lease_seconds: float
    caller: Caller


async def entitled(node: Node, request: Request, right: str) -> Entitled:
    """The registry of the path, for a caller with this right to it. Rights are checked first, so that other callers do
    not learn whether the registry exists. Raises `Unauthorized`, `Denied` and `ControlUnknown`."""
    identified = node.access.caller(request)
    caller = await identified if isawaitable(identified) else identified
    name = request.route.name
    if not caller.name:
        raise errors.Unauthorized(
            "a gateway requires the sync token of its connected registry",
            headers=(node.access.realm.challenge(request),),
        )
    if not caller.gateway(name, right):
        raise errors.Denied(
            f"{INSUFFICIENT}: the scope map of this token lacks", detail=f"gateway/{name[:60]}/{right}"
        )
    registry = node.access.catalogue.registry(name)
    if registry is None:
        raise errors.ControlUnknown(
            f"no connected registry {name[:60]!r} here; it was deleted or never created"
        )
    _check_parent(node, registry)
    seconds = node.config.gateway.lease + silence_of(registry.parent.sync_properties, node.clock.now())
    return Entitled(registry, min(seconds, LONGEST_LEASE_SECONDS), caller)


async def admitted(node: Node, registry: ConnectedRegistry, kind: str) -> Spend:
    """Wait until the registry's rate allows a request of this kind, before its body is read. The function returned
    charges what the request costs beyond the least. Raises `ShareSpent`."""

    paid, spent = node.shares.least(kind), 0.0

    def spend(cost: float) -> None:
        nonlocal paid, spent
        spent += cost
        more = max(0.0, spent - paid)
        paid += more
        node.shares.take(registry.name, kind, more, node.clock.monotonic())

    # a child with one request at a time is slowed down; of many at once those with a long wait are refused
    wait = node.shares.wait(registry.name, kind, node.clock.monotonic())
    if wait > PATIENCE_SECONDS:
        # the delay also slows down a child that repeats refused requests with long bodies
        await node.clock.sleep(PATIENCE_SECONDS)
        after = ceil(wait - PATIENCE_SECONDS)
        raise errors.ShareSpent(
            f"connected registry {registry.name}: too many {kind}; the next one is taken in {after} s",
            retry_after=after,
        )
    node.shares.spend(registry.name, kind, 0.0, node.clock.monotonic())
    if wait:
        await node.clock.sleep(wait)
    return spend


def _check_parent(node: Node, registry: ConnectedRegistry) -> None:
    """Raises `Denied` unless this node is the registry's parent, which alone keeps its lease."""
    identity = node.access.catalogue.identity()
    here = "" if identity is None else identity.name
    parent = "" if registry.parent.id is None else name_in(registry.parent.id)
    if here.lower() != parent.lower():
        raise errors.Denied(
            f"the parent of connected registry {registry.name} is {parent or 'the root'}; this is {here or 'the root'}."
            " Connect it there: ParentGatewayEndpoint of its connection string"
        )


def check_active(node: Node, request: Request, name: str) -> None:
    """Raise `ControlConflict` when `instance` and `generation` are given and are not those of the active instance, so
    that another instance learns of it by any request."""
    instance, generation = request.parameter("instance"), request.parameter("generation")
    if instance is not None:
        check_instance(node, name, instance, generation)


def check_instance(node: Node, name: str, instance: str, generation: int | str | None) -> None:
    """Raise `ControlConflict` unless this is the active instance of a connected registry and its generation."""
    lease = node.access.catalogue.status(name).lease
    if lease is None:
        raise errors.ControlConflict(
            "no instance of this connected registry is active", detail=states.NOT_ACTIVATED
        )
    if lease.instance != instance or str(lease.generation) != str(generation):
        raise errors.ControlConflict(states.ALREADY_ACTIVATED_TEXT, detail=states.ALREADY_ACTIVATED)


async def body_as(request: Request, kind: type[T], limit: int, spend: Spend) -> T:
    """The body, decoded from JSON; `spend` is called with its length. Raises `ControlInvalid`, which names the
    field."""
    parts, source = bytearray(), request.body
    while source is not None and (data := await source.read()):
        parts += data
        if len(parts) > limit:
            spend(len(parts))
            raise errors.ControlInvalid(f"a body over {limit} bytes; allowed: {limit}")
    spend(len(parts))
    try:
        return msgspec.json.decode(parts, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise errors.ControlInvalid(f"the body is not as it must be: {error}"[:300]) from None


def wait_until(node: Node, request: Request) -> float:
    """Until when the request may be held open (monotonic seconds), by its `wait`. Raises `QueryInvalid`."""
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
    """A JSON answer that no cache stores."""
    fields = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *headers]
    return Reply(200, fields, msgspec.json.encode(body))
