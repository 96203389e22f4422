"""GET `/v2/`: this is a registry (distribution-spec end-1). Clients ask it to find out whether they can log in, and
whether their login is good (oci-spec 4.1)."""

from __future__ import annotations

from holdfast.authorise import REQUIRED
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import Unauthorized
from holdfast.login.caller import Stranger
from holdfast.wire.message import Reply, Request


def answer(node: Node, request: Request) -> Answer:
    """200 and an empty object. Raises `Unauthorized` for who said nothing of himself, where somebody can log in and
    that makes a difference: most clients log in nowhere unless they are asked here."""
    node.router.check_prefix(request.route.prefix)
    if _is_unknown(request) and node.access.invites and node.access.level() != "push":
        raise Unauthorized(REQUIRED, headers=(node.access.realm.challenge(request),))
    return Reply(200, [("Content-Type", "application/json")], b"{}")


def _is_unknown(request: Request) -> bool:
    """Whether it is a stranger without a token, whom neither certificate nor address makes more."""
    caller = request.caller
    return isinstance(caller, Stranger) and not caller.scheme and not caller.is_near
