"""If-Match and If-None-Match on PUT and DELETE of manifests, so that writers of one tag can take turns: `If-Match`
names what must be there, `If-None-Match: *` says that nothing may be.

Looked at here before the body is read, and again by the keeper, where nobody else changes the repository
between that look and the commit.
"""

from __future__ import annotations

from holdfast.endpoint.node import Node
from holdfast.keeper.condition import NO_CONDITION, Condition, require
from holdfast.keeper.push import present
from holdfast.routing import Scope
from holdfast.wire import names
from holdfast.wire.message import Request


def checked(node: Node, scope: Scope, request: Request) -> Condition:
    """The request's condition. Raises `PreconditionFailed` when it does not hold now. Only what is held here
    counts, not what the parent has."""
    match, none_match = _value(request, "if-match"), _value(request, "if-none-match")
    reference = request.route.reference
    if match is None and none_match is None:
        return NO_CONDITION
    known = ":" in reference or names.is_tag(reference)
    require((reference, match, none_match), present(node.store, scope.key, reference) if known else "")
    return reference, match, none_match


def _value(request: Request, header: str) -> str | None:
    lines = request.header_lines(header)
    return ",".join(lines) if lines else None
