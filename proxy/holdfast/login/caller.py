"""Whose request it is, and what that gives. Pure: no clock, no store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from holdfast.control.actions import Grants
from holdfast.control.resource import lowered
from holdfast.login import scope
from holdfast.login.token import Claims

Level = Literal["none", "pull", "push"]
Scheme = Literal["", "basic", "bearer"]

#: What strangers may do with every repository, by level.
OF_LEVEL: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "pull": frozenset({"content/read", "metadata/read"}),
    "push": frozenset({"content/read", "content/write", "content/delete", "metadata/read", "metadata/write"}),
}
READS = OF_LEVEL["pull"]
#: No repository's name: only a right to every repository covers it.
EVERY = "*"


class Pattern(Protocol):
    """Names of repositories, compiled."""

    def fullmatch(self, string: str, /) -> object:
        """Whether a name is one of them: anything but None."""
        ...


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody without login. `rights` go for every repository; those that match `open_to_all` may be read.

    `scheme` is "bearer" when a token came along that says no more than this. `is_near` says that a certificate or an
    address gives more than others have."""

    rights: frozenset[str]
    open_to_all: Pattern
    scheme: Scheme = ""
    is_near: bool = False
    name: str = ""

    def may(self, right: str, repository: str) -> bool:
        """Whether this is allowed now."""
        if right in self.rights:
            return True
        return right in READS and self.open_to_all.fullmatch(repository) is not None

    def lists(self, repository: str) -> bool:
        """Whether the catalog shows a repository."""
        return self.may("content/read", repository) and self.may("metadata/read", repository)

    def gateway(self, name: str, right: str) -> bool:
        """No gateway is a stranger's."""
        return False

    @property
    def may_list(self) -> bool:
        """Whether the catalog may be asked for."""
        return "metadata/read" in self.rights


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody with a token of the control plane. `grants` are what its scope map says now, `beside` what anybody
    may. A Bearer narrows the grants to what it was asked for: `claimed`, by repository or gateway; None is Basic."""

    name: str
    grants: Grants
    beside: Stranger
    proof: str = ""
    claimed: dict[tuple[str, str], frozenset[str]] | None = None
    scheme: Scheme = "basic"
    #: the session ends then (wall seconds), when nothing else ends it before: that of the password or the token
    until: float = field(default=float("inf"))

    def may(self, right: str, repository: str) -> bool:
        """Whether this is allowed now."""
        if self._claims(scope.REPOSITORY, repository, right) and self.grants.allows(repository, right):
            return True
        return self.beside.may(right, repository)

    def lists(self, repository: str) -> bool:
        """Whether the catalog shows a repository: by the scope map, whatever the token was asked for."""
        both = self.grants.allows(repository, "content/read") and self.grants.allows(
            repository, "metadata/read"
        )
        return both or self.beside.lists(repository)

    def gateway(self, name: str, right: str) -> bool:
        """Whether a call of a connected registry's gateway is allowed now. Names compare without casing."""
        return self._claims(scope.GATEWAY, lowered(name), right) and self.grants.gateway(name, right)

    @property
    def may_list(self) -> bool:
        """Whether the catalog may be asked for."""
        return self._claims(scope.REGISTRY, scope.CATALOG, "*") or self.beside.may_list

    def _claims(self, type: str, name: str, right: str) -> bool:
        return self.claimed is None or right in self.claimed.get((type, name), ())


Caller = Stranger | Holder


def claimed_by(claims: Claims) -> dict[tuple[str, str], frozenset[str]]:
    """The rights that a token was asked for and given, by type and name."""
    return {(entry.type, entry.name): _rights(entry.type, entry.actions) for entry in claims.access}


def _rights(type: str, actions: tuple[str, ...]) -> frozenset[str]:
    if type == scope.REPOSITORY:
        return frozenset(right for action in actions for right in scope.RIGHTS.get(action, ()))
    if type == scope.GATEWAY:
        return frozenset(scope.GATEWAY_RIGHTS[action] for action in actions if action in scope.GATEWAY_RIGHTS)
    return frozenset(actions)


def granted(caller: Caller, asked: scope.Scope) -> tuple[str, ...]:
    """The actions of a scope that a caller is given. For repositories the name is the canonical one."""
    actions = scope.expanded(asked)
    if asked.type == scope.REPOSITORY:
        return tuple(action for action in actions if caller.may(scope.RIGHTS[action][0], asked.name))
    if asked.type == scope.GATEWAY:
        return tuple(action for action in actions if caller.gateway(asked.name, scope.GATEWAY_RIGHTS[action]))
    if asked[:2] == scope.WHOLE_CATALOG[:2]:
        return ("*",) if asked.actions == ("*",) and caller.may_list else ()
    return ()
