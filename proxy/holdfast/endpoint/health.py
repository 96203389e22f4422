"""`/healthz`: the process answers. `/readyz`: clients may be sent here."""

from __future__ import annotations

import asyncio

import msgspec

from holdfast.endpoint.node import Answer, Node
from holdfast.errors import Refusal
from holdfast.wire.message import Reply, Request

#: a keeper that says nothing for this long is not there (seconds)
KEEPER_SECONDS = 2.0


def alive(_node: Node, _request: Request) -> Answer:
    """200 while this process takes requests."""
    return said(200, {"status": "ok"})


def ready(node: Node, _request: Request) -> Answer:
    """200 when the store is open, the keeper is there and nobody drains; else 503 with the reasons.

    Troubles (a parent that is offline, a disk that is full or read-only) are told and do not make a node unready: it
    serves what it holds, and brings what it does not. A store that failed does.
    """
    return _ready(node)


async def _ready(node: Node) -> Reply:
    reasons: list[str] = ["draining"] if node.draining else []
    troubles: tuple[str, ...] = ()
    parents: dict[str, str] = {}
    try:
        async with asyncio.timeout(KEEPER_SECONDS):
            status = await node.port.status()
    except (Refusal, TimeoutError) as error:
        reasons.append(getattr(error, "message", "the keeper does not answer"))
    else:
        troubles, parents = status.troubles, status.parents
        if not status.ready:
            reasons.append(troubles[0] if troubles else "the keeper is not ready")
    body = {"ready": not reasons, "reasons": reasons, "troubles": troubles, "parents": parents}
    return said(503 if reasons else 200, body)


def said(status: int, body: dict[str, object]) -> Reply:
    """An answer about this process as it is now."""
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    return Reply(status, headers, msgspec.json.encode(body))
