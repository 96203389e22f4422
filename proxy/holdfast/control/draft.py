"""The control plane during a command: the stored resources under the changes of the command, and the command's
context.

A command changes the draft step by step; then the rules check the whole draft, and only then it becomes changes of the
store. Links between resources are records of their own, so that "which tokens have this scope map" is one look-up and
not a walk over 200,000 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.errors import Mistake
from holdfast_core.record import EventRecord, Resource, ResourceChange

from holdfast import timestamps
from holdfast.config import ControlSection
from holdfast.errors import ControlUnknown, PreconditionFailed
from holdfast.oci.names import shown
from holdfast.resources import model, password
from holdfast.resources.actions import Grants
from holdfast.resources.model import (
    IDENTITY,
    KINDS,
    NOTICES,
    REGISTRY,
    REVISION,
    SCOPE_MAP,
    STATUS,
    TOKEN,
    ConnectedRegistry,
    Identity,
    NoticesTaken,
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

#: Kind of the records that link: named "<what> <target> <source>", in lower case, with no body. Names hold no space.
LINK = "link"
#: what a link means: a token's scope map, client tokens and sync token of a registry, child of a registry
OF_SCOPE_MAP, AS_CLIENT, AS_SYNC, CHILD = "map", "client", "sync", "child"
#: The target of a CHILD link whose registry has the root as its parent. No name is like it.
ROOT = "."
SELF = "self"
SYSTEM_ETAG = '"system"'
#: Links that are read at once.
LINKS = 100
#: kind -> its name in messages
NOUNS = {"connected-registry": "connected registry", "scope-map": "scope map", "token": "token"}

_DECODERS = {kind: msgspec.json.Decoder(struct) for kind, struct in KINDS.items()}
_encoder = msgspec.json.Encoder()


def decoded(kind: str, body: bytes) -> ResourceStruct:
    """A stored body as its struct."""
    value: ResourceStruct = _DECODERS[kind].decode(body)
    return value


class Draft:
    """The stored resources and the changes of a command."""

    def __init__(self, view: ResourceView) -> None:
        self._view = view
        #: (kind, lower-cased name) -> its new value, None when it is removed
        self._changed: dict[tuple[str, str], ResourceStruct | None] = {}
        self._links: dict[str, bool] = {}
        self._read: dict[tuple[str, str], Resource | None] = {}
        self._decoded: dict[tuple[str, str], ResourceStruct] = {}
        self._grants: dict[tuple[str, ...], Grants] = {}
        #: to be appended to the event log, in order
        self.events: list[EventRecord] = []

    # --- reading ------------------------------------------------------------------------------------------------

    def held(self, kind: str, name: str) -> Resource | None:
        """The stored document, as it was before the command."""
        key = (kind, lowered(name))
        if key not in self._read:
            self._read[key] = self._stored(kind, name)
        return self._read[key]

    def _stored(self, kind: str, name: str) -> Resource | None:
        """The record; None for a name that none can have, as a request may hold it."""
        try:
            return self._view.get(kind, name)
        except Mistake:
            return None

    def before(self, kind: str, name: str) -> ResourceStruct | None:
        """The resource as it was before the command."""
        key = (kind, lowered(name))
        stored = self.held(kind, name)
        if stored is None:
            return None
        if key not in self._decoded:
            self._decoded[key] = decoded(kind, stored.body)
        return self._decoded[key]

    def get(self, kind: str, name: str) -> ResourceStruct | None:
        """The resource as it is now."""
        key = (kind, lowered(name))
        return self._changed[key] if key in self._changed else self.before(kind, name)

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
        """Returns a scope map compiled, once for each command: that of the top of a tree has thousands of actions."""
        if scope.actions not in self._grants:
            self._grants[scope.actions] = Grants.of(scope.actions)
        return self._grants[scope.actions]

    def status(self, name: str) -> Status:
        """The last report of a connected registry on itself."""
        return _as(Status, self.get(STATUS, name_in(name))) or Status()

    def revision(self, name: str) -> Revision:
        """How often the configuration of a connected registry was changed."""
        return _as(Revision, self.get(REVISION, name_in(name))) or Revision()

    def taken(self, name: str) -> NoticesTaken | None:
        """Returns the cursor of a connected registry's notices."""
        return _as(NoticesTaken, self.get(NOTICES, name_in(name)))

    def identity(self) -> Identity | None:
        """The identity of this node; None when it is not managed."""
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
        names = {row.name.lower() for row in self._view.list(kind)}
        for (changed, name), value in self._changed.items():
            if changed == kind:
                (names.discard if value is None else names.add)(name)
        return sorted(names)

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

    # --- changing ----------------------------------------------------------------------------------------------

    def put(self, kind: str, value: ResourceStruct, name: str = "") -> None:
        """Sets a resource to `value`."""
        name = name or str(getattr(value, "name", ""))
        self._link_anew(kind, name, value)
        self._changed[kind, lowered(name)] = value

    def remove(self, kind: str, name: str) -> None:
        """Removes a resource."""
        self._link_anew(kind, name, None)
        self._changed[kind, lowered(name)] = None

    def _link_anew(self, kind: str, name: str, value: ResourceStruct | None) -> None:
        for link in links_of(self.get(kind, name)):
            self._links[link] = False
        for link in links_of(value):
            self._links[link] = True

    def changed(self, kind: str) -> list[str]:
        """Lower-cased names of the resources of a kind that the command touched."""
        return [name for changed, name in self._changed if changed == kind]

    def differing(self, kind: str) -> list[str]:
        """Returns those of them whose value differs from the stored one."""
        return [name for name in self.changed(kind) if self.before(kind, name) != self.get(kind, name)]

    def changes(self) -> list[ResourceChange]:
        """Returns the changes to write, with the links. The store skips unchanged ones."""
        rows = []
        for (kind, name), value in self._changed.items():
            body = None if value is None else _encoder.encode(value)
            shown = name if value is None else str(getattr(value, "name", "") or name)
            rows.append(ResourceChange(kind, SELF if kind == IDENTITY else shown, body))
        rows += [ResourceChange(LINK, name, b"" if there else None) for name, there in self._links.items()]
        return rows


def links_of(value: ResourceStruct | None) -> list[str]:
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
    return f"{what} {model.name_in(target)} {source}".lower()


def _as(kind: type[T], value: ResourceStruct | None) -> T | None:
    return value if isinstance(value, kind) else None


@dataclass(frozen=True, slots=True)
class Context:
    """Time, limits and randomness for a command, so that executing it is a function of its arguments. `now` is wall
    seconds. `verifier` is that of the secret in the command, computed beforehand because it is slow. `generate` makes a
    secret and its verifier."""

    now: float
    limits: ControlSection = field(default_factory=ControlSection)
    verifier: str = ""
    generate: Callable[[], tuple[str, str]] = password.generate

    @property
    def stamp(self) -> str:
        """`now` as RFC 3339."""
        return timestamps.stamp(self.now)


def unknown(kind: str, name: str) -> ControlUnknown:
    """The refusal of a name that no resource has."""
    return ControlUnknown(f"there is no {NOUNS[kind]} {shown(name)!r}")


def etag_of(resource: Resource | None) -> str:
    """The ETag of a stored resource; that of what the system defines for None."""
    return SYSTEM_ETAG if resource is None else f'"{resource.revision:x}"'


def require_match(draft: Draft, kind: str, name: str, etag: str | None) -> None:
    """Refuse a command whose condition does not hold. Raises `PreconditionFailed` (RFC 9110 13.1.1)."""
    held = draft.held(kind, name)
    if etag is None or (etag == "*" and held is not None):
        return
    present = "" if held is None else etag_of(held)
    if etag != present:
        raise PreconditionFailed(
            f"the {NOUNS[kind]} {shown(name)!r} has changed: its ETag is {present or 'none'}; read it again,"
            " then decide",
            detail=present,
        )
