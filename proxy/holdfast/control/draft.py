"""The control plane while a command works on it: what is there, under what the command has put so far.

A command changes the draft step by step; then the rules are asked about the whole, and only then does it become
changes of the store. Links between resources are records of their own here, so that a question such as "who has this
scope map" costs one look and not a walk over 200,000 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

import msgspec
from holdfast_core.errors import Mistake
from holdfast_core.record import Event, Resource, ResourceChange
from holdfast_core.resources import ResourceView

from holdfast.control import resource
from holdfast.control.actions import Grants
from holdfast.control.resource import (
    IDENTITY,
    KINDS,
    NOTICES,
    REGISTRY,
    SCOPE_MAP,
    STATUS,
    TOKEN,
    ConnectedRegistry,
    Identity,
    NoticesTaken,
    ScopeMap,
    Status,
    Token,
    Wire,
    lowered,
    name_in,
)
from holdfast.control.system import SYSTEM_SCOPE_MAPS

T = TypeVar("T", bound=Wire)

#: Kind of the records that link: named "<what> <target> <source>", in lower case, with no body. Names hold no space.
LINK = "link"
#: what -> whom the link leads from
OF_SCOPE_MAP, AS_CLIENT, AS_SYNC, CHILD = "map", "client", "sync", "child"
#: The target of a CHILD link whose registry has the root as its parent. No name is like it.
ROOT = "."
SELF = "self"
#: Links that are read at once.
LINKS = 100

_DECODERS = {kind: msgspec.json.Decoder(struct) for kind, struct in KINDS.items()}
_encoder = msgspec.json.Encoder()


def decoded(kind: str, body: bytes) -> Wire:
    """A stored body as its struct."""
    value: Wire = _DECODERS[kind].decode(body)
    return value


class Draft:
    """What is there and what a command changes about it."""

    def __init__(self, view: ResourceView) -> None:
        self._view = view
        #: (kind, lower-cased name) -> what it is from now on, None for gone
        self._changed: dict[tuple[str, str], Wire | None] = {}
        self._links: dict[str, bool] = {}
        self._read: dict[tuple[str, str], Resource | None] = {}
        self._decoded: dict[tuple[str, str], Wire] = {}
        self._grants: dict[tuple[str, ...], Grants] = {}
        #: what the event log is told, in order
        self.told: list[Event] = []

    # --- what is there -----------------------------------------------------------------------------------------

    def held(self, kind: str, name: str) -> Resource | None:
        """The stored document, as it was before the command."""
        place = (kind, lowered(name))
        if place not in self._read:
            self._read[place] = self._stored(kind, name)
        return self._read[place]

    def _stored(self, kind: str, name: str) -> Resource | None:
        """The record; None for a name that none can have, as a request may hold it."""
        try:
            return self._view.get(kind, name)
        except Mistake:
            return None

    def before(self, kind: str, name: str) -> Wire | None:
        """The resource as it was before the command."""
        place = (kind, lowered(name))
        stored = self.held(kind, name)
        if stored is None:
            return None
        if place not in self._decoded:
            self._decoded[place] = decoded(kind, stored.body)
        return self._decoded[place]

    def get(self, kind: str, name: str) -> Wire | None:
        """The resource as it is now."""
        place = (kind, lowered(name))
        return self._changed[place] if place in self._changed else self.before(kind, name)

    def registry(self, name: str) -> ConnectedRegistry | None:
        """A connected registry, by name or id."""
        return _as(ConnectedRegistry, self.get(REGISTRY, name_in(name)))

    def token(self, name: str) -> Token | None:
        """A token, by name or id."""
        return _as(Token, self.get(TOKEN, name_in(name)))

    def scope_map(self, name: str) -> ScopeMap | None:
        """A scope map, by name or id; the system's own are always there."""
        plain = name_in(name)
        return SYSTEM_SCOPE_MAPS.get(lowered(plain)) or _as(ScopeMap, self.get(SCOPE_MAP, plain))

    def grants(self, scope: ScopeMap) -> Grants:
        """A scope map compiled, once a command: that of the top of a tree has thousands of actions."""
        if scope.actions not in self._grants:
            self._grants[scope.actions] = Grants.of(scope.actions)
        return self._grants[scope.actions]

    def status(self, name: str) -> Status:
        """What a connected registry last said of itself."""
        return _as(Status, self.get(STATUS, name_in(name))) or Status()

    def taken(self, name: str) -> NoticesTaken | None:
        """How far a connected registry's notices are taken."""
        return _as(NoticesTaken, self.get(NOTICES, name_in(name)))

    def identity(self) -> Identity | None:
        """Who this node is, when it is managed."""
        return _as(Identity, self.get(IDENTITY, SELF))

    def count(self, kind: str) -> int:
        """How many resources of a kind there are now."""
        number = self._view.count(kind)
        for (changed, name), value in self._changed.items():
            if changed == kind:
                number += (value is not None) - (self.held(kind, name) is not None)
        return number

    def names(self, kind: str) -> list[str]:
        """Lower-cased names of all resources of a kind: a walk, for what replaces them all."""
        found = {row.name.lower() for row in self._view.list(kind)}
        for (changed, name), value in self._changed.items():
            if changed == kind:
                (found.discard if value is None else found.add)(name)
        return sorted(found)

    def linked(self, what: str, target: str, *, limit: int | None = None) -> list[str]:
        """Lower-cased names of those that link to `target`, at most `limit`."""
        return list(islice(self._linked(what, target), limit))

    def is_linked(self, what: str, target: str) -> bool:
        """Whether anything links to `target`."""
        return next(self._linked(what, target), None) is not None

    def _linked(self, what: str, target: str) -> Iterator[str]:
        prefix = f"{what} {name_in(target).lower()} "
        mine = sorted(name for name, there in self._links.items() if there and name.startswith(prefix))
        yield from (name[len(prefix) :] for name in mine)
        after = ""
        while rows := self._view.list(LINK, after=after, limit=LINKS, prefix=prefix):
            for row in rows:
                if row.name not in self._links:
                    yield row.name[len(prefix) :]
            after = rows[-1].name

    # --- changing it -------------------------------------------------------------------------------------------

    def put(self, kind: str, value: Wire, name: str = "") -> None:
        """From now on the resource is `value`."""
        name = name or str(getattr(value, "name", ""))
        self._link_anew(kind, name, value)
        self._changed[kind, lowered(name)] = value

    def remove(self, kind: str, name: str) -> None:
        """From now on there is no such resource."""
        self._link_anew(kind, name, None)
        self._changed[kind, lowered(name)] = None

    def _link_anew(self, kind: str, name: str, value: Wire | None) -> None:
        for link in links_of(self.get(kind, name)):
            self._links[link] = False
        for link in links_of(value):
            self._links[link] = True

    def changed(self, kind: str) -> list[str]:
        """Lower-cased names of the resources of a kind that the command touched."""
        return [name for changed, name in self._changed if changed == kind]

    def changes(self) -> list[ResourceChange]:
        """What to write, with the links. The store leaves out what is as it was."""
        rows = []
        for (kind, name), value in self._changed.items():
            body = None if value is None else _encoder.encode(value)
            shown = name if value is None else str(getattr(value, "name", "") or name)
            rows.append(ResourceChange(kind, SELF if kind == IDENTITY else shown, body))
        rows += [ResourceChange(LINK, name, b"" if there else None) for name, there in self._links.items()]
        return rows


def links_of(value: Wire | None) -> list[str]:
    """The names of the link records that a resource has."""
    if isinstance(value, Token):
        return [_link(OF_SCOPE_MAP, value.scope_map_id, value.name)]
    if isinstance(value, ConnectedRegistry):
        parent = value.parent.id
        return [
            _link(CHILD, ROOT if parent is None else parent, value.name),
            _link(AS_SYNC, value.parent.sync_properties.token_id, value.name),
            *(_link(AS_CLIENT, id, value.name) for id in value.client_token_ids),
        ]
    return []


def _link(what: str, target: str, source: str) -> str:
    return f"{what} {resource.name_in(target)} {source}".lower()


def _as(kind: type[T], value: Wire | None) -> T | None:
    return value if isinstance(value, kind) else None
