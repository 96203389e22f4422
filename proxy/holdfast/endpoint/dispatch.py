"""From a request to its endpoint: route and method, mode, right, endpoint, in this order."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from holdfast_core import errors as store_errors

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
    upload,
)
from holdfast.endpoint.node import Answer, Node
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import METHODS, READS, Noun, check_method

Endpoint = Callable[[Node, Request], Answer]

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
}


class Plan(NamedTuple):
    """What a request of one route and method goes through: `authorise`, looked up once. `levels` are the values
    of `anonymous` that allow it."""

    endpoint: Endpoint
    changes: bool
    levels: frozenset[str]


def _plan(noun: Noun, method: str, endpoint: Endpoint) -> Plan:
    return Plan(endpoint, authorise.changes(noun, method), authorise.levels(noun, method))


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
        check_method(request.route, request.method)
        raise errors.PathUnknown("no such endpoint")
    try:
        if plan.changes:
            node.store.require_writable()
        if node.config.anonymous not in plan.levels:
            authorise.require(noun, request.method, node.config.anonymous)
        found = plan.endpoint(node, request)
    except _REFUSED as refused:
        raise _allowing(refused, noun) from refused
    return found if isinstance(found, Reply) else _settled(found, noun)


async def _settled(reply: Coroutine[Any, Any, Reply], noun: Noun) -> Reply:
    try:
        return await reply
    except _REFUSED as refused:
        raise _allowing(refused, noun) from refused


def _allowing(refused: Exception, noun: Noun) -> errors.Refusal:
    """The refusal with what the route does take: RFC 9110 15.5.6 wants that of every 405."""
    if isinstance(refused, store_errors.StoreError):
        refused = errors.of_store(refused)
    assert isinstance(refused, errors.Refusal)
    reads = (method for method in METHODS[noun] if not authorise.changes(noun, method))
    refused.headers = (*refused.headers, ("Allow", ", ".join(reads)))
    return refused
