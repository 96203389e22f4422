"""What a process reads of the control plane. Writes are commands (control/command.py).

Resources that were decoded are kept until the control plane's revision changes, which one look at the index tells; what
a node reports of itself (kind "status") changes without a revision and is read anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from holdfast_core.errors import Mistake
from holdfast_core.record import Resource
from holdfast_core.store import Store

from holdfast.control.draft import AS_CLIENT, CHILD, LINK, ROOT, SELF, decoded
from holdfast.control.resource import (
    IDENTITY,
    REGISTRY,
    SCOPE_MAP,
    STATUS,
    TOKEN,
    Configuration,
    ConnectedRegistry,
    Identity,
    ScopeMap,
    Status,
    Token,
    Wire,
    lowered,
    name_in,
)
from holdfast.control.system import SYSTEM_SCOPE_MAPS
from holdfast.control.view import etag_of

T = TypeVar("T", bound=Wire)

#: Decoded resources kept at most; beyond it all are let go, so that a walk over 200,000 tokens stays small.
KEPT = 10_000
#: names of levels above that go down to a connected registry
NAMESPACES = 64


class Catalogue:
    """Reads of one store, for one thread. Names are taken plain or as ids, whatever their casing. Every method may
    raise RecordDamaged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._revision = -1
        self._kept: dict[tuple[str, str], tuple[Wire, str] | None] = {}

    @property
    def revision(self) -> int:
        """See `Store.control_revision`."""
        return self._store.control_revision()

    # --- one ---------------------------------------------------------------------------------------------------

    def registry(self, name: str) -> ConnectedRegistry | None:
        """A connected registry."""
        return _of(ConnectedRegistry, self._find(REGISTRY, name))

    def token(self, name: str) -> Token | None:
        """A token."""
        return _of(Token, self._find(TOKEN, name))

    def scope_map(self, name: str) -> ScopeMap | None:
        """A scope map, the system's own included."""
        return SYSTEM_SCOPE_MAPS.get(lowered(name_in(name))) or _of(ScopeMap, self._find(SCOPE_MAP, name))

    def status(self, name: str) -> Status:
        """What a connected registry last said of itself; an empty one when nothing yet."""
        found = self._stored(STATUS, name_in(name))
        return Status() if found is None else _as(Status, decoded(STATUS, found.body))

    def identity(self) -> Identity | None:
        """Who this node is when it is managed; None on a root."""
        found = self._store.resource(IDENTITY, SELF)
        return None if found is None else _as(Identity, decoded(IDENTITY, found.body))

    def etag(self, kind: str, name: str) -> str:
        """The ETag of a resource, "" for none."""
        if kind == SCOPE_MAP and lowered(name_in(name)) in SYSTEM_SCOPE_MAPS:
            return etag_of(None)
        found = self._find(kind, name)
        return "" if found is None else found[1]

    def _find(self, kind: str, name: str) -> tuple[Wire, str] | None:
        self._refresh()
        place = (kind, lowered(name_in(name)))
        if place not in self._kept:
            found = self._stored(kind, place[1])
            self._keep(place, None if found is None else (decoded(kind, found.body), etag_of(found)))
        return self._kept[place]

    def _stored(self, kind: str, name: str) -> Resource | None:
        """The record; None for a name that none can have, as a stranger may send it."""
        try:
            return self._store.resource(kind, name)
        except Mistake:
            return None

    def _refresh(self) -> None:
        """Revision first, then the records: what is kept may be newer than the revision says, never older."""
        revision = self._store.control_revision()
        if revision != self._revision:
            self._kept.clear()
            self._revision = revision

    def _keep(self, place: tuple[str, str], value: tuple[Wire, str] | None) -> None:
        if len(self._kept) >= KEPT:
            self._kept.clear()
        self._kept[place] = value

    # --- many --------------------------------------------------------------------------------------------------

    def registries(self, *, after: str = "", limit: int | None = None) -> list[ConnectedRegistry]:
        """Connected registries by lower-cased name, those above `after`, at most `limit`."""
        return self._list(ConnectedRegistry, REGISTRY, after, limit)

    def tokens(self, *, after: str = "", limit: int | None = None) -> list[Token]:
        """Tokens by lower-cased name, those above `after`, at most `limit`."""
        return self._list(Token, TOKEN, after, limit)

    def scope_maps(self, *, after: str = "", limit: int | None = None) -> list[ScopeMap]:
        """Scope maps by lower-cased name, those above `after`, at most `limit`; the system's stand among them."""
        stored = self._list(ScopeMap, SCOPE_MAP, after, limit)
        system = [value for name, value in SYSTEM_SCOPE_MAPS.items() if name > after.lower()]
        every = sorted([*stored, *system], key=lambda value: value.name.lower())
        return every if limit is None else every[:limit]

    def count(self, kind: str) -> int:
        """How many resources of a kind are stored."""
        return self._store.resource_count(kind)

    def _list(self, struct: type[T], kind: str, after: str, limit: int | None) -> list[T]:
        self._refresh()
        return [
            _as(struct, self._taken(kind, row))
            for row in self._store.resources(kind, after=after, limit=limit)
        ]

    def _taken(self, kind: str, row: Resource) -> Wire:
        value = decoded(kind, row.body)
        self._keep((kind, lowered(row.name)), (value, etag_of(row)))
        return value

    # --- the tree ----------------------------------------------------------------------------------------------

    def children(self, name: str | None) -> list[ConnectedRegistry]:
        """Those directly below a connected registry, or with None below the root, by name."""
        found = map(self.registry, self._linked(CHILD, ROOT if name is None else name))
        return [registry for registry in found if registry is not None]

    def ancestors(self, name: str) -> list[ConnectedRegistry]:
        """Those above a connected registry, the nearest first. On a managed node those it knows: itself at most."""
        found: list[ConnectedRegistry] = []
        at = self.registry(name)
        while at is not None and at.parent.id is not None and len(found) <= self.count(REGISTRY):
            at = self.registry(at.parent.id)
            found += [] if at is None else [at]
        return found

    def descendants(self, name: str | None) -> list[ConnectedRegistry]:
        """All below a connected registry, or with None all, parents before children."""
        found, at = self.children(name), 0
        while at < len(found):
            found += self.children(found[at].name)
            at += 1
        return found

    def listed_by(self, token: str) -> list[str]:
        """Lower-cased names of the connected registries that have a token among their client tokens."""
        return self._linked(AS_CLIENT, token)

    def _linked(self, what: str, target: str) -> list[str]:
        """Lower-cased names of those that link to `target`."""
        prefix = f"{what} {name_in(target).lower()} "
        return [row.name[len(prefix) :] for row in self._store.resources(LINK, prefix=prefix)]

    # --- what goes down ----------------------------------------------------------------------------------------

    def configuration_for(self, name: str, names: Sequence[str] = ()) -> Configuration | None:
        """What the gateway hands to a connected registry; None when there is none of that name. Its own sync token is
        in it without passwords: its rights say what the node synchronises, and nobody logs in with it there. `names`
        are those of this node, which go down with those of the levels above it."""
        registry = self.registry(name)
        if registry is None:
            return None
        below = self.descendants(registry.name)
        listed = [id for one in [registry, *below] for id in one.client_token_ids]
        wanted = [*listed, *(one.parent.sync_properties.token_id for one in below)]
        tokens = self._each(self.token, wanted)
        own = self.token(registry.parent.sync_properties.token_id)
        if own is not None and own not in tokens:
            tokens.append(msgspec.structs.replace(own, passwords=()))
        maps = self._each(self.scope_map, [token.scope_map_id for token in tokens])
        found = Configuration(
            registry=registry,
            below=tuple(below),
            tokens=tuple(sorted(tokens, key=lambda token: token.name.lower())),
            scope_maps=tuple(one for one in maps if one.type == "UserDefined"),
            namespaces=self._namespaces(names),
        )
        digest = hashlib.sha256(msgspec.json.encode(found)).hexdigest()
        return msgspec.structs.replace(found, etag=f'"{digest[:32]}"')

    def _namespaces(self, own: Sequence[str]) -> tuple[str, ...]:
        identity = self.identity()
        every = {*own, *(identity.namespaces if identity is not None else ())}
        return tuple(sorted(name.lower() for name in every if name))[:NAMESPACES]

    @staticmethod
    def _each(find: Callable[[str], T | None], ids: list[str]) -> list[T]:
        names = dict.fromkeys(name_in(id).lower() for id in ids)
        return [value for name in names if (value := find(name)) is not None]


def _of(struct: type[T], found: tuple[Wire, str] | None) -> T | None:
    return None if found is None else _as(struct, found[0])


def _as(struct: type[T], value: Wire) -> T:
    assert isinstance(value, struct)
    return value
