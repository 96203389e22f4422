"""From a request to its endpoint."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.endpoint import blob, catalog, health, manifest, ping, referrers, tags
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import PathUnknown
from holdfast.wire.message import Request
from holdfast.wire.routes import Noun, check_method

Endpoint = Callable[[Node, Request], Answer]

ENDPOINTS: dict[Noun, Endpoint] = {
    Noun.BASE: ping.answer,
    Noun.MANIFEST: manifest.answer,
    Noun.BLOB: blob.answer,
    Noun.TAGS: tags.answer,
    Noun.REFERRERS: referrers.answer,
    Noun.CATALOG: catalog.answer,
    Noun.HEALTH: health.alive,
    Noun.READINESS: health.ready,
}


def answer(node: Node, request: Request) -> Answer:
    """The reply, or a coroutine that will have it. Raises, or the coroutine raises, what `reply_to` takes."""
    check_method(request.route, request.method)
    endpoint = ENDPOINTS.get(request.route.noun)
    if endpoint is None:
        raise PathUnknown("no such endpoint")
    return endpoint(node, request)
