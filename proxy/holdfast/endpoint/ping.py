"""GET `/v2/`: this is a registry (distribution-spec end-1)."""

from __future__ import annotations

from holdfast.endpoint.node import Answer, Node
from holdfast.wire.message import Reply, Request


def answer(node: Node, request: Request) -> Answer:
    """200 and an empty object."""
    node.router.check_prefix(request.route.prefix)
    return Reply(200, [("Content-Type", "application/json")], b"{}")
