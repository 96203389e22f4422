"""From a request to its endpoint: route and method, host, mode, right, endpoint, in this order.

What strangers may at the level of this node is done for anybody, without asking who it is. For the rest, and where an
endpoint wants to know, the caller is identified, and goes along in the request.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import msgspec
from holdfast_core import errors as store_errors
from holdfast_core.errors import RecordDamaged

from holdfast import authorise, errors
from holdfast.endpoint import (
    attributes,
    blob,
    catalog,
    deletion,
    health,
    history,
    manifest,
    manifest_push,
    ping,
    referrers,
    tags,
    token,
    upload,
)
from holdfast.endpoint.damage import mended, settled
from holdfast.endpoint.node import Answer, Node
from holdfast.login.caller import Caller, Holder, Stranger
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import METHODS, READS, Noun, check_method

Endpoint = Callable[[Node, Request], Answer]


def _gateway(node: Node, request: Request) -> Answer:
    """The gateway is imported with the first call of a child: a node without children does without its half MB."""
    from holdfast.endpoint import gateway

    return gateway.answer(node, request)


#: What answers GET and, by the same headers, HEAD.
READERS: dict[Noun, Endpoint] = {
    Noun.BASE: ping.answer,
    Noun.MANIFEST: manifest.answer,
    Noun.BLOB: blob.answer,
    Noun.TAGS: tags.answer,
    Noun.REFERRERS: referrers.answer,
    Noun.CATALOG: catalog.answer,
    Noun.TAG_HISTORY: history.answer,
    Noun.HEALTH: health.alive,
    Noun.READINESS: health.ready,
}

ENDPOINTS: dict[tuple[Noun, str], Endpoint] = {
    **{(noun, method): endpoint for noun, endpoint in READERS.items() for method in READS},
    (Noun.MANIFEST, "PUT"): manifest_push.answer,
    (Noun.MANIFEST, "DELETE"): deletion.manifest,
    (Noun.BLOB, "DELETE"): deletion.blob,
    **upload.ENDPOINTS,
    (Noun.ATTRIBUTES, "GET"): attributes.show,
    (Noun.ATTRIBUTES, "PATCH"): attributes.change,
    **token.ENDPOINTS,
    **{(Noun.GATEWAY, method): _gateway for method in METHODS[Noun.GATEWAY]},
}

#: They answer under any name: whoever asks for the health of a node has its address and nothing else.
UNPINNED = frozenset({Noun.HEALTH, Noun.READINESS})


class Plan(NamedTuple):
    """What a request of one route and method goes through: `authorise`, looked up once. At `levels` anybody may make
    it, and the endpoint does not ask who it is."""

    endpoint: Endpoint
    changes: bool
    levels: frozenset[str]


def _plan(noun: Noun, method: str, endpoint: Endpoint) -> Plan:
    return Plan(endpoint, authorise.changes(noun, method), authorise.plain_levels(noun, method))


#: By route, then by method: every request looks here, and an enumeration's members are slow to hash.
PLANS: dict[Noun, dict[str, Plan]] = {
    noun: {
        method: _plan(noun, method, endpoint)
        for (found, method), endpoint in ENDPOINTS.items()
        if found is noun
    }
    for noun in Noun
}

#: What the store refuses, below every endpoint.
_REFUSED = (store_errors.ReadOnly, store_errors.Locked, errors.ReadOnly, errors.Locked)


def answer(node: Node, request: Request) -> Answer:
    """The reply, or a coroutine that will have it. Raises, or the coroutine raises, what `reply_to` takes."""
    noun = request.route.noun
    plan = PLANS[noun].get(request.method)
    if plan is None:
        raise _unplanned(request)
    access = node.access
    if access.is_pinned and noun not in UNPINNED:
        access.realm.check_host(request)
    try:
        # a change is judged by what the parent says now, not half a second ago
        level = access.refresh().level if plan.changes else access.level()
        if plan.changes:
            node.store.require_writable()
        found = plan.endpoint(node, request) if level in plan.levels else _identified(node, request, plan)
    except _REFUSED as refused:
        raise _allowing(refused, noun) from refused
    except RecordDamaged as damage:
        return mended(node, request, damage, answer)
    return found if isinstance(found, Reply) else _settled(node, request, found)


def _unplanned(request: Request) -> errors.Refusal:
    if (
        request.route.noun is not Noun.API
    ):  # the operator's, on another listener: nothing tells that it is there
        check_method(request.route, request.method)
    return errors.PathUnknown("no such endpoint")


def _identified(node: Node, request: Request, plan: Plan) -> Answer:
    """The same for a caller that has to be known."""
    found = node.access.caller(request)
    if isinstance(found, Stranger | Holder):
        return _admitted(node, request, plan, found)
    return _admitted_later(node, request, plan, found)


async def _admitted_later(
    node: Node, request: Request, plan: Plan, coming: Coroutine[Any, Any, Caller]
) -> Reply:
    reply = _admitted(node, request, plan, await coming)
    return reply if isinstance(reply, Reply) else await reply


def _admitted(node: Node, request: Request, plan: Plan, caller: Caller) -> Answer:
    authorise.require(node, request, caller)
    return plan.endpoint(node, msgspec.structs.replace(request, caller=caller))


async def _settled(node: Node, request: Request, reply: Coroutine[Any, Any, Reply]) -> Reply:
    try:
        return await settled(node, request, reply, answer)
    except _REFUSED as refused:
        raise _allowing(refused, request.route.noun) from refused


def _allowing(refused: Exception, noun: Noun) -> errors.Refusal:
    """The refusal with what the route does take: RFC 9110 15.5.6 wants that of every 405."""
    if isinstance(refused, store_errors.StoreError):
        refused = errors.of_store(refused)
    assert isinstance(refused, errors.Refusal)
    reads = (method for method in METHODS[noun] if not authorise.changes(noun, method))
    refused.headers = (*refused.headers, ("Allow", ", ".join(reads)))
    return refused
