"""What a process reads of the control plane. Writes are commands (control/command.py).

Resources that were decoded are kept until the control plane's revision changes, which one read of the index shows; what
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

from holdfast.control.draft import AS_CLIENT, CHILD, LINK, ROOT, SELF, decoded, etag_of
from holdfast.resources.model import (
    IDENTITY,
    REGISTRY,
    REVISION,
    SCOPE_MAP,
    STATUS,
    TOKEN,
    ConnectedRegistry,
    Identity,
    RegistryConfiguration,
    ResourceStruct,
    Revision,
    ScopeMap,
    Status,
    Token,
    lowered,
    name_in,
)
from holdfast.resources.system_scope_maps import SYSTEM_SCOPE_MAPS

T = TypeVar("T", bound=ResourceStruct)

#: Decoded resources kept at most; beyond it all are let go, so that a walk over 200,000 tokens stays small.
KEPT = 10_000
#: names of levels above that go down to a connected registry
NAMESPACES = 64


class Catalogue:
    """Reads of one store, for one thread. Names are taken plain or as ids, whatever their casing. Every method may
    raise RecordDamaged."""

    def __init__(self, store: Store) -> None:
        self._documents = store.documents
        self._revision = -1
        self._kept: dict[tuple[str, str], tuple[ResourceStruct, str] | None] = {}

    @property
    def revision(self) -> int:
        """See `ControlDocuments.revision`."""
        return self._documents.revision()

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
        """The last report of a connected registry on itself; an empty one when nothing yet."""
        record = self._stored(STATUS, name_in(name))
        return Status() if record is None else _as(Status, decoded(STATUS, record.body))

    def revision_of(self, name: str) -> Revision:
        """How often the configuration of a connected registry was changed, and since when not taken over."""
        return self._counted(name) or Revision()

    def number_of(self, name: str) -> int | None:
        """The number of that revision; None where the parent does not count, as older ones."""
        revision = self._counted(name)
        return None if revision is None else revision.number

    def _counted(self, name: str) -> Revision | None:
        return _of(Revision, self._find(REVISION, name))

    def identity(self) -> Identity | None:
        """The identity of this node; None when it is not managed."""
        record = self._documents.get(IDENTITY, SELF)
        return None if record is None else _as(Identity, decoded(IDENTITY, record.body))

    def etag(self, kind: str, name: str) -> str:
        """The ETag of a resource, "" for none."""
        if kind == SCOPE_MAP and lowered(name_in(name)) in SYSTEM_SCOPE_MAPS:
            return etag_of(None)
        kept = self._find(kind, name)
        return "" if kept is None else kept[1]

    def _find(self, kind: str, name: str) -> tuple[ResourceStruct, str] | None:
        self._refresh()
        key = (kind, lowered(name_in(name)))
        if key not in self._kept:
            record = self._stored(kind, key[1])
            self._keep(key, None if record is None else (decoded(kind, record.body), etag_of(record)))
        return self._kept[key]

    def _stored(self, kind: str, name: str) -> Resource | None:
        """The record; None for a name that none can have, as a request may hold it."""
        try:
            return self._documents.get(kind, name)
        except Mistake:
            return None

    def _refresh(self) -> None:
        """Revision first, then the records: what is kept may be newer than the revision says, never older."""
        revision = self._documents.revision()
        if revision != self._revision:
            self._kept.clear()
            self._revision = revision

    def _keep(self, key: tuple[str, str], value: tuple[ResourceStruct, str] | None) -> None:
        if len(self._kept) >= KEPT:
            self._kept.clear()
        self._kept[key] = value

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
        return self._documents.count(kind)

    def _list(self, struct: type[T], kind: str, after: str, limit: int | None) -> list[T]:
        self._refresh()
        return [
            _as(struct, self._taken(kind, row))
            for row in self._documents.of_kind(kind, after=after, limit=limit)
        ]

    def _taken(self, kind: str, row: Resource) -> ResourceStruct:
        value = decoded(kind, row.body)
        self._keep((kind, lowered(row.name)), (value, etag_of(row)))
        return value

    # --- the tree ----------------------------------------------------------------------------------------------

    def children(self, name: str | None) -> list[ConnectedRegistry]:
        """Those directly below a connected registry, or with None below the root, by name."""
        registries = map(self.registry, self._linked(CHILD, ROOT if name is None else name))
        return [registry for registry in registries if registry is not None]

    def ancestors(self, name: str) -> list[ConnectedRegistry]:
        """Those above a connected registry, the nearest first. On a managed node those it knows: itself at most."""
        above: list[ConnectedRegistry] = []
        at = self.registry(name)
        while at is not None and at.parent.id is not None and len(above) <= self.count(REGISTRY):
            at = self.registry(at.parent.id)
            above += [] if at is None else [at]
        return above

    def descendants(self, name: str | None) -> list[ConnectedRegistry]:
        """All below a connected registry, or with None all, parents before children."""
        below, at = self.children(name), 0
        while at < len(below):
            below += self.children(below[at].name)
            at += 1
        return below

    def listed_by(self, token: str) -> list[str]:
        """Lower-cased names of the connected registries that have a token among their client tokens."""
        return self._linked(AS_CLIENT, token)

    def _linked(self, what: str, target: str) -> list[str]:
        """Lower-cased names of those that link to `target`."""
        prefix = f"{what} {name_in(target).lower()} "
        return [row.name[len(prefix) :] for row in self._documents.of_kind(LINK, prefix=prefix)]

    # --- what goes down ----------------------------------------------------------------------------------------

    def configuration_for(self, name: str, names: Sequence[str] = ()) -> RegistryConfiguration | None:
        """What the gateway hands to a connected registry; None when there is none of that name. Its own sync token is
        in it without passwords: its rights say what the node synchronises, and it is no login there. `names`
        are those of this node, which go down with those of the levels above it."""
        registry = self.registry(name)
        if registry is None:
            return None
        below = self.descendants(registry.name)
        listed = [id for one in [registry, *below] for id in one.client_token_ids]
        token_ids = [*listed, *(one.parent.sync_properties.token_id for one in below)]
        tokens = self._each(self.token, token_ids)
        own = self.token(registry.parent.sync_properties.token_id)
        if own is not None and own not in tokens:
            tokens.append(msgspec.structs.replace(own, passwords=()))
        maps = self._each(self.scope_map, [token.scope_map_id for token in tokens])
        configuration = RegistryConfiguration(
            registry=registry,
            below=tuple(below),
            tokens=tuple(sorted(tokens, key=lambda token: token.name.lower())),
            scope_maps=tuple(one for one in maps if one.type == "UserDefined"),
            namespaces=self._namespaces(names),
            revisions={one.name.lower(): self.revision_of(one.name) for one in [registry, *below]},
        )
        digest = hashlib.sha256(msgspec.json.encode(configuration)).hexdigest()
        return msgspec.structs.replace(configuration, etag=f'"{digest[:32]}"')

    def _namespaces(self, own: Sequence[str]) -> tuple[str, ...]:
        identity = self.identity()
        every = {*own, *(identity.namespaces if identity is not None else ())}
        return tuple(sorted(name.lower() for name in every if name))[:NAMESPACES]

    @staticmethod
    def _each(find: Callable[[str], T | None], ids: list[str]) -> list[T]:
        names = dict.fromkeys(name_in(id).lower() for id in ids)
        return [value for name in names if (value := find(name)) is not None]


def _of(struct: type[T], kept: tuple[ResourceStruct, str] | None) -> T | None:
    return None if kept is None else _as(struct, kept[0])


def _as(struct: type[T], value: ResourceStruct) -> T:
    assert isinstance(value, struct)
    return value
