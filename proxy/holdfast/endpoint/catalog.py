"""GET of `/v2/_catalog`, off unless configured: even names are more than most callers may see. It lists what the caller
may both pull and list the tags of (connected-registry 3.12)."""

from __future__ import annotations

import msgspec

from holdfast.endpoint.node import Answer, Node
from holdfast.endpoint.page import asked_page, next_link
from holdfast.errors import PageInvalid, PathUnknown
from holdfast.wire.message import Reply, Request

#: distribution's default page (oci-spec 4.6)
PAGE = 100


def answer(node: Node, request: Request) -> Answer:
    """Repositories held here, under the names that reach them. Raises `PathUnknown` when it is off."""
    if not node.config.catalog:
        raise PathUnknown("this node lists no catalog")
    limit = node.config.limits.page_size
    page = asked_page(request, limit + 1)
    if page.size is None:
        page = page._replace(size=min(PAGE, limit))
    elif page.size > limit:
        raise PageInvalid("n is over the limit", detail=f"0 to {limit}")
    listed = (node.router.listed(key) for key in node.store.repositories())
    names, more = page.cut(sorted(name for name in listed if name is not None and request.caller.lists(name)))
    headers = [("Content-Type", "application/json")]
    if more:
        headers.append(next_link(request, names[-1]))
    return Reply(200, headers, msgspec.json.encode({"repositories": names}))
