"""From a request to its endpoint: route and method, host, mode, right, endpoint, in this order.

A request that needs no login at the node's level is answered without identifying the caller. For all others, and for
endpoints that need the caller's identity, the caller is identified and becomes a field of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import msgspec
from holdfast_core import errors as store_errors
from holdfast_core.errors import RecordDamaged

from holdfast import errors
from holdfast.endpoint import (
    attributes,
    authorization,
    blobs,
    deletion,
    lists,
    manifest_push,
    manifests,
    probes,
    referrers,
    token_grant,
    upload,
)
from holdfast.endpoint.node import Answer, Node
from holdfast.endpoint.unavailable import mended, settled
from holdfast.login.caller import Caller, Stranger, TokenHolder
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import METHODS, READS, Noun, check_method

Endpoint = Callable[[Node, Request], Answer]


def _gateway(node: Node, request: Request) -> Answer:
    """The answer of the gateway, which is imported with the first request of a child: it takes half a MB."""
    from holdfast.endpoint.gateway import lifecycle

    return lifecycle.answer(node, request)


#: Endpoints that answer GET and, with the same headers, HEAD.
READERS: dict[Noun, Endpoint] = {
    Noun.BASE: probes.ping,
    Noun.MANIFEST: manifests.answer,
    Noun.BLOB: blobs.answer,
    Noun.TAGS: lists.tag_list,
    Noun.REFERRERS: referrers.answer,
    Noun.CATALOG: lists.catalog_list,
    Noun.TAG_HISTORY: lists.tag_history,
    Noun.HEALTH: probes.alive,
    Noun.READINESS: probes.ready,
}

ENDPOINTS: dict[tuple[Noun, str], Endpoint] = {
    **{(noun, method): endpoint for noun, endpoint in READERS.items() for method in READS},
    (Noun.MANIFEST, "PUT"): manifest_push.answer,
    (Noun.MANIFEST, "DELETE"): deletion.manifest,
    (Noun.BLOB, "DELETE"): deletion.blob,
    **upload.ENDPOINTS,
    (Noun.ATTRIBUTES, "GET"): attributes.show,
    (Noun.ATTRIBUTES, "PATCH"): attributes.change,
    **token_grant.ENDPOINTS,
    **{(Noun.GATEWAY, method): _gateway for method in METHODS[Noun.GATEWAY]},
}

#: They answer under any host name: a probe knows only the address of a node.
UNPINNED = frozenset({Noun.HEALTH, Noun.READINESS})


class RoutePlan(NamedTuple):
    """How requests of one route and method are answered, by the table of `authorization`. At `levels` the caller is not
    identified."""

    endpoint: Endpoint
    changes: bool
    levels: frozenset[str]


def _plan(noun: Noun, method: str, endpoint: Endpoint) -> RoutePlan:
    return RoutePlan(endpoint, authorization.changes(noun, method), authorization.plain_levels(noun, method))


#: By route, then by method: every request is looked up here, and a tuple with an enumeration's member is slow to hash.
PLANS: dict[Noun, dict[str, RoutePlan]] = {
    noun: {
        method: _plan(noun, method, endpoint)
        for (route_noun, method), endpoint in ENDPOINTS.items()
        if route_noun is noun
    }
    for noun in Noun
}

#: refusals of the store, which any endpoint may raise
_REFUSED = (store_errors.StoreReadOnly, store_errors.ContentLocked, errors.ReadOnly, errors.Locked)

#: refusals that mean that the disk takes no write
_UNWRITTEN = (errors.NodeFull, errors.NodeUnwritable)


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
        # a change is checked by the newest configuration, a read by one that is up to half a second old
        level = access.refresh().level if plan.changes else access.level()
        if plan.changes:
            node.store.require_writable()
        reply = plan.endpoint(node, request) if level in plan.levels else _identified(node, request, plan)
    except _REFUSED as refused:
        raise _allowing(refused, noun) from refused
    except RecordDamaged as damage:
        return mended(node, request, damage, answer)
    return reply if isinstance(reply, Reply) else _settled(node, request, reply)


def _unplanned(request: Request) -> errors.Refusal:
    if request.route.noun is not Noun.API:  # the admin API has its own listener; this one does not reveal it
        check_method(request.route, request.method)
    return errors.PathUnknown("no such endpoint")


def _identified(node: Node, request: Request, plan: RoutePlan) -> Answer:
    """The answer after the caller was identified and authorized."""
    caller = node.access.caller(request)
    if isinstance(caller, Stranger | TokenHolder):
        return _admitted(node, request, plan, caller)
    return _admitted_later(node, request, plan, caller)


async def _admitted_later(
    node: Node, request: Request, plan: RoutePlan, coming: Coroutine[Any, Any, Caller]
) -> Reply:
    reply = _admitted(node, request, plan, await coming)
    return reply if isinstance(reply, Reply) else await reply


def _admitted(node: Node, request: Request, plan: RoutePlan, caller: Caller) -> Answer:
    authorization.require(node, request, caller)
    return plan.endpoint(node, msgspec.structs.replace(request, caller=caller))


async def _settled(node: Node, request: Request, reply: Coroutine[Any, Any, Reply]) -> Reply:
    try:
        return await settled(node, request, reply, answer)
    except _UNWRITTEN as refused:
        node.port.disk_refused()
        if request.route.noun is Noun.GATEWAY and isinstance(refused, errors.NodeFull):
            raise _put_off(refused) from refused
        raise
    except _REFUSED as refused:
        raise _allowing(refused, request.route.noun) from refused


def _put_off(full: errors.NodeFull) -> errors.NodeUnwritable:
    """What a connected registry below is told whose report finds no room: it did not ask to store content, so that it
    is to come again (503), not to make room (507)."""
    return errors.NodeUnwritable(
        full.message,
        detail="its operator frees space; the report is sent again",
        retry_after=full.retry_after,
    )


def _allowing(refused: Exception, noun: Noun) -> errors.Refusal:
    """The refusal with the methods that the route allows, which RFC 9110 15.5.6 requires of every 405."""
    if isinstance(refused, store_errors.StoreError):
        refused = errors.of_store(refused)
    assert isinstance(refused, errors.Refusal)
    reads = (method for method in METHODS[noun] if not authorization.changes(noun, method))
    refused.headers = (*refused.headers, ("Allow", ", ".join(reads)))
    return refused
