"""`$filter` of the list of connected registries: `eq` on parent.id, mode and connectionState, joined by `and`
(connected-registry 2.1).

    properties/parent/id eq '/connectedRegistries/plant' and properties/mode eq 'ReadOnly'

Names may be written with dots or slashes, with `properties` before them or without. Text stands in single quotes, in
which a quote is doubled (OData 4.01, 5.1.1.14.1); `null` is what is directly below this registry.
"""

from __future__ import annotations

import re
from typing import NamedTuple, get_args

from holdfast.control.resource import ConnectedRegistry, ConnectionState, Mode, name_in
from holdfast.errors import QueryInvalid

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
    found: dict[str, str] = {}
    place = 0
    while True:
        term = TERM.match(value, place)
        if term is None or term[2].lower() != "eq":
            raise QueryInvalid(f"{name}: found {value[place : place + 40]!r}; {GRAMMAR}", detail=name)
        field = FIELDS.get(term[1].replace("/", ".").removeprefix("properties.").lower())
        if field is None or field in found:
            raise QueryInvalid(
                f"{name}: found {term[1][:40]!r}, unknown or given twice; {GRAMMAR}", detail=name
            )
        found[field] = _value(name, field, term[3])
        place = term.end()
        if place == len(value):
            return Filter(**found)
        if not (joint := JOINT.match(value, place)):
            raise QueryInvalid(f"{name}: found {value[place : place + 40]!r}; {GRAMMAR}", detail=name)
        place = joint.end()


def _value(name: str, field: str, text: str) -> str:
    plain = "" if text == "null" else text[1:-1].replace("''", "'")
    if field == "parent":
        return name_in(plain).lower()
    for word in ALLOWED[field]:
        if word.lower() == plain.lower():
            return str(word)
    raise QueryInvalid(f"{name}: found {plain[:40]!r}; allowed: {', '.join(ALLOWED[field])}", detail=name)
