"""Lists of the admin API: their pages, and `$filter` of the list of connected registries.

A page has `value` and `nextLink`, which leads on from the last name. A filter is `eq` on parent.id, mode and
connectionState, joined by `and`
(references.md 1.6).

    properties/parent/id eq '/connectedRegistries/plant' and properties/mode eq 'ReadOnly'

Names may be written with dots or slashes, with `properties` before them or without. Text stands in single quotes, in
which a quote is doubled (OData 4.01, 5.1.1.14.1); `null` is what is directly below this registry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar, get_args
from urllib.parse import quote

from holdfast.admin.documents import Document
from holdfast.admin.operation import AdminCall, reply
from holdfast.errors import QueryInvalid
from holdfast.resources.model import ConnectedRegistry, ConnectionState, Mode, name_in
from holdfast.wire.message import Reply
from holdfast.wire.query import encode_query

#: entries on a page without `$top`
PAGE_ENTRIES = 100
TERM = re.compile(r"\s*([\w./]+)\s+(\w+)\s+('(?:[^']|'')*'|null)\s*", re.ASCII)
JOINT = re.compile(r"and\b")
FIELDS = {"parent.id": "parent", "mode": "mode", "connectionstate": "state"}
ALLOWED = {"mode": get_args(Mode), "state": get_args(ConnectionState)}
GRAMMAR = "allowed: parent.id, mode or connectionState, then eq, then a text in single quotes; several joined by and"


class Filter(NamedTuple):
    """What a connected registry must be; None where anything will do. `parent` "" is directly below this registry."""

    parent: str | None = None
    mode: str | None = None
    state: str | None = None

    def takes(self, registry: ConnectedRegistry) -> bool:
        """Whether parent and mode are right; the state is another record's."""
        above = name_in(registry.parent.id or "").lower()
        return self.parent in (None, above) and self.mode in (None, registry.mode)


def read_filter(name: str, value: str) -> Filter:
    """The filter in a query. Raises `QueryInvalid`."""
    conditions: dict[str, str] = {}
    position = 0
    while True:
        term = TERM.match(value, position)
        if term is None or term[2].lower() != "eq":
            raise QueryInvalid(f"{name}: found {value[position : position + 40]!r}; {GRAMMAR}", detail=name)
        field = FIELDS.get(term[1].replace("/", ".").removeprefix("properties.").lower())
        if field is None or field in conditions:
            raise QueryInvalid(
                f"{name}: found {term[1][:40]!r}, unknown or given twice; {GRAMMAR}", detail=name
            )
        conditions[field] = _value(name, field, term[3])
        position = term.end()
        if position == len(value):
            return Filter(**conditions)
        if not (joint := JOINT.match(value, position)):
            raise QueryInvalid(f"{name}: found {value[position : position + 40]!r}; {GRAMMAR}", detail=name)
        position = joint.end()


def _value(name: str, field: str, text: str) -> str:
    plain = "" if text == "null" else text[1:-1].replace("''", "'")
    if field == "parent":
        return name_in(plain).lower()
    for value in ALLOWED[field]:
        if value.lower() == plain.lower():
            return str(value)
    raise QueryInvalid(f"{name}: found {plain[:40]!r}; allowed: {', '.join(ALLOWED[field])}", detail=name)


class Named(Protocol):
    """An entry of a list."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def page_reply(
    call: AdminCall, rows: Sequence[N], size: int, document: Callable[[AdminCall, N], Document]
) -> Reply:
    """The first `size` rows; when there are more, with `nextLink`."""
    page = rows[:size]
    following = next_link(call, page[-1].name.lower()) if len(rows) > size else None
    return reply({"value": [document(call, row) for row in page], "nextLink": following})


def next_link(call: AdminCall, last: str) -> str:
    """Where the page after the entry `last` is. A path, so that it holds behind any proxy that keeps paths (RFC 3986
    4.2); it stays with the same query."""
    kept = tuple(pair for pair in call.request.query if pair[0] != "$skipToken")
    return f"{quote(call.request.path, safe='/')}?{encode_query((*kept, ('$skipToken', last)))}"
