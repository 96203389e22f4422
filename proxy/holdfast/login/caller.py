"""The callers of requests and their rights, and the ranges of addresses that give rights. Pure: no clock, no store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, Protocol

from holdfast.login import token_scope
from holdfast.login.access_token import Claims
from holdfast.resources.actions import Grants
from holdfast.resources.model import lowered

Level = Literal["none", "pull", "push"]
Scheme = Literal["", "basic", "bearer"]

#: The rights of strangers in every repository, by level.
OF_LEVEL: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "pull": frozenset({"content/read", "metadata/read"}),
    "push": frozenset({"content/read", "content/write", "content/delete", "metadata/read", "metadata/write"}),
}
READS = OF_LEVEL["pull"]
#: not a repository's name: only a right to every repository covers it
EVERY = "*"

Range = IPv4Network | IPv6Network


class NamePattern(Protocol):
    """A compiled pattern of repository names."""

    def fullmatch(self, string: str, /) -> object:
        """Returns None when a name does not match, anything else when it does."""
        ...


@dataclass(frozen=True, slots=True)
class Stranger:
    """A caller without login. `rights` hold for every repository; those that match `open_to_all` may be read.

    `scheme` is "bearer" for a token without a name. `is_near` says that a certificate or an address gives it more
    rights than other strangers have."""

    rights: frozenset[str]
    open_to_all: NamePattern
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
        """False: a stranger may call no gateway."""
        return False

    @property
    def may_list(self) -> bool:
        """Whether the catalog is allowed."""
        return "metadata/read" in self.rights


@dataclass(frozen=True, slots=True)
class TokenHolder:
    """A caller with a token of the control plane. `grants` are those of its scope map now, `beside` the rights of a
    stranger. A Bearer token narrows the grants to its scope: `claimed`, by repository or gateway; None with Basic."""

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
        if self._claims(token_scope.REPOSITORY, repository, right) and self.grants.allows(repository, right):
            return True
        return self.beside.may(right, repository)

    def lists(self, repository: str) -> bool:
        """Whether the catalog shows a repository: by the scope map, with any scope of the token."""
        both = self.grants.allows(repository, "content/read") and self.grants.allows(
            repository, "metadata/read"
        )
        return both or self.beside.lists(repository)

    def gateway(self, name: str, right: str) -> bool:
        """Whether a call of a connected registry's gateway is allowed now. Names compare without casing."""
        return self._claims(token_scope.GATEWAY, lowered(name), right) and self.grants.gateway(name, right)

    @property
    def may_list(self) -> bool:
        """Whether the catalog is allowed."""
        return self._claims(token_scope.REGISTRY, token_scope.CATALOG, "*") or self.beside.may_list

    def _claims(self, type: str, name: str, right: str) -> bool:
        return self.claimed is None or right in self.claimed.get((type, name), ())


Caller = Stranger | TokenHolder


def claimed_by(claims: Claims) -> dict[tuple[str, str], frozenset[str]]:
    """The rights that the claims of a token name, by type and name."""
    return {(entry.type, entry.name): _rights(entry.type, entry.actions) for entry in claims.access}


def _rights(type: str, actions: tuple[str, ...]) -> frozenset[str]:
    if type == token_scope.REPOSITORY:
        return frozenset(right for action in actions for right in token_scope.RIGHTS.get(action, ()))
    if type == token_scope.GATEWAY:
        return frozenset(
            token_scope.GATEWAY_RIGHTS[action] for action in actions if action in token_scope.GATEWAY_RIGHTS
        )
    return frozenset(actions)


def granted(caller: Caller, scope: token_scope.TokenScope) -> tuple[str, ...]:
    """The actions of a requested scope that the caller is granted. For repositories the name is the canonical one."""
    actions = token_scope.expanded(scope)
    if scope.type == token_scope.REPOSITORY:
        return tuple(action for action in actions if caller.may(token_scope.RIGHTS[action][0], scope.name))
    if scope.type == token_scope.GATEWAY:
        return tuple(
            action for action in actions if caller.gateway(scope.name, token_scope.GATEWAY_RIGHTS[action])
        )
    if scope[:2] == token_scope.WHOLE_CATALOG[:2]:
        return ("*",) if scope.actions == ("*",) and caller.may_list else ()
    return ()


def read(text: str) -> Range:
    """`10.0.0.0/8`, `10.1.2.3`, `fd00::/8`. Raises ValueError, also for a range with bits behind its mask."""
    return ip_network(text)


class Network:
    """Ranges of addresses: `in` says whether an address lies in one. False when there are none."""

    def __init__(self, ranges: Sequence[str]) -> None:
        self._ranges = [read(text) for text in ranges]
        self._known = lru_cache(1024)(self._holds)

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __contains__(self, address: str) -> bool:
        return bool(self._ranges) and self._known(address)

    def _holds(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in one for one in self._ranges)


def neighbourhood(text: str) -> str:
    """The network by which failed logins are counted: an IPv4 address, the /64 of an IPv6 address."""
    if ":" not in text:
        return text
    address = _address(text)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return text if address is None else str(address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address; one of IPv4 that is written as IPv6 is IPv4, and a zone does not count."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
