"""Pages of lists: `value` and `nextLink`, which leads on from the last name (connected-registry 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from holdfast.admin.operation import Call, reply
from holdfast.wire.message import Reply
from holdfast.wire.query import encode_query

#: entries on a page, unless `$top` says otherwise
PAGE_ENTRIES = 100


class Named(Protocol):
    """A resource."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def page_reply(call: Call, rows: Sequence[N], size: int, view: Callable[[Call, N], dict[str, Any]]) -> Reply:
    """The first `size` rows; when there are more, `nextLink` says where."""
    page = rows[:size]
    following = _next_link(call, page[-1].name) if len(rows) > size else None
    return reply({"value": [view(call, row) for row in page], "nextLink": following})


def _next_link(call: Call, last: str) -> str:
    """A path, so that it holds behind any proxy that keeps paths (RFC 3986 4.2); it stays with the same query."""
    kept = tuple(pair for pair in call.request.query if pair[0] != "$skipToken")
    return f"{quote(call.request.path, safe='/')}?{encode_query((*kept, ('$skipToken', last.lower())))}"
