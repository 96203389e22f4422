"""GET of the node's state: `/healthz` (the process answers), `/readyz` (it can serve clients), and `/v2/`."""

from __future__ import annotations

import asyncio

import msgspec

from holdfast.endpoint.authorization import REQUIRED
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import Refusal, Unauthorized
from holdfast.login.caller import Stranger
from holdfast.wire.message import Reply, Request

#: a keeper that does not answer within this time counts as absent (seconds)
KEEPER_SECONDS = 2.0


def alive(_node: Node, _request: Request) -> Answer:
    """200 while this process takes requests."""
    return status_reply(200, {"status": "ok"})


def ready(node: Node, _request: Request) -> Answer:
    """200 when the store is open, the keeper answers and the node is not draining; else 503 with the reasons.

    Troubles (a parent that is offline, a disk that is full or read-only) are listed and do not make a node unready: it
    serves what it holds and fetches what it does not hold. A store that failed makes it unready.
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
    return status_reply(503 if reasons else 200, body)


def status_reply(status: int, body: dict[str, object]) -> Reply:
    """A JSON answer on the state of this process, which no cache stores."""
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    return Reply(status, headers, msgspec.json.encode(body))


def ping(node: Node, request: Request) -> Answer:
    """GET `/v2/`, 200 and an empty object: this is a registry (distribution-spec end-1). Clients use it to find out
    whether they can log in, and whether their login is good (references.md 2.12). Raises `Unauthorized` for a caller
    without credentials where a login gives more rights: most clients log in only after a 401 here."""
    node.router.check_prefix(request.route.prefix)
    if _is_unknown(request) and node.access.invites and node.access.level() != "push":
        raise Unauthorized(REQUIRED, headers=(node.access.realm.challenge(request),))
    return Reply(200, [("Content-Type", "application/json")], b"{}")


def _is_unknown(request: Request) -> bool:
    """Whether the caller has neither a token nor rights by its certificate or address."""
    caller = request.caller
    return isinstance(caller, Stranger) and not caller.scheme and not caller.is_near
