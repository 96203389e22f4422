"""Which parent a request means, and which repository there. Pure: built from the configuration.

In this order: the `ns` parameter · the Host header or TLS server name · a path prefix
before or after `/v2` · the default parent. Whichever way a client came, the repository is the same, so
there is one cache entry. A prefix hides repositories of the parent whose first segment is that prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from holdfast.config import Configuration, ParentSection
from holdfast.errors import NameUnknown, PathUnknown, QueryInvalid
from holdfast.oci.names import DOCKER_HUB_HOSTS
from holdfast.oci.names import repository as checked_name
from holdfast.wire.message import Request

#: among a parent's namespaces: every name that no parent has for itself
ANY = "*"
#: routed repositories that are kept, and the longest `ns` of one
SCOPES, NAMESPACE_CHARACTERS = 4096, 255


class Repository(NamedTuple):
    """A repository as this node knows it: the parent's name in the configuration ("" for the default parent and on a
    root), and the name there.

    The store sees one string, `key`. Names never hold a colon (references.md 2.1), so `namespace:name` splits in one
    way only, and one cache entry is reached whichever way a client came.
    """

    namespace: str
    name: str

    @property
    def key(self) -> str:
        """The store's name of it."""
        return f"{self.namespace}:{self.name}" if self.namespace else self.name

    @classmethod
    def from_key(cls, key: str) -> Repository:
        """The inverse of `key`."""
        namespace, _, name = key.rpartition(":")
        return cls(namespace, name)


class RoutedRepository(NamedTuple):
    """A repository, its store key, whether a parent stands behind it, and the `ns` that scoped it or ""."""

    repository: Repository
    key: str
    has_parent: bool
    namespace: str = ""


class _Target(NamedTuple):
    name: str
    prefixes: tuple[str, ...]
    allowed: re.Pattern[str]


class Router:
    """Finds the repository of a request, and its parent."""

    def __init__(self, config: Configuration) -> None:
        self._targets = {parent.name: _target(parent) for parent in config.parent}
        self._namespaces = _index(config.parent, _namespaces)
        self._hosts = _index(config.parent, lambda parent: [host.lower() for host in parent.hosts])
        self._prefixes = _index(config.parent, _prefixes)
        self._default = default_parent(config.parent)
        #: names of the levels above a connected registry, lower case
        self._adopted: frozenset[str] = frozenset()
        self._kept = lru_cache(SCOPES)(self._find)
        #: counts the changes of what is found
        self.adoptions = 0

    def adopt(self, names: Iterable[str]) -> None:
        """From now on these names mean the default parent, too, where `ns` says them: those of the levels above a
        connected registry, which has every repository under the name that it has there."""
        if (adopted := frozenset(map(str.lower, names))) != self._adopted:
            self._adopted = adopted
            self.adoptions += 1
            self._kept.cache_clear()

    def scope(self, request: Request) -> RoutedRepository:
        """The repository that a request means. Raises `NameInvalid`, `NameUnknown` when no parent takes it
        or the allow-list leaves it out, `PathUnknown` for an unknown prefix before `/v2`."""
        route = request.route
        return self._routed(route.prefix, route.name, namespace_of(request), request.host, request.sni)

    def _routed(self, before: str, name: str, namespace: str, host: str, sni: str) -> RoutedRepository:
        """The repository by the parts that a client chooses. A host that leads to no parent is no part of the cache's
        key: a host of 28 kB, or ever new ones, cost no memory and displace nothing."""
        host, sni = host if host in self._hosts else "", sni if sni in self._hosts else ""
        namespace = namespace if self._targets else ""
        find = self._kept if len(namespace) <= NAMESPACE_CHARACTERS else self._find
        return find(before, name, namespace, host, sni)

    def check_prefix(self, prefix: str) -> None:
        """Raises `PathUnknown` unless `prefix` may stand before `/v2`."""
        if prefix and prefix not in self._prefixes:
            raise PathUnknown("no such path prefix")

    def shown(self) -> list[tuple[str, str]]:
        """Namespaces whose repositories a client without `ns` reaches, and the prefix of their names there."""
        behind = (
            (name, f"{target.prefixes[0]}/") for name, target in self._targets.items() if target.prefixes
        )
        default = self._default or ""
        return [(default, ""), *(pair for pair in behind if pair[0] != default)]

    def listed(self, key: str) -> str | None:
        """The name under which a client without `ns` reaches the repository `key`; None when it cannot."""
        return self._listed(Repository.from_key(key))

    def _listed(self, repository: Repository) -> str | None:
        if repository.namespace == (self._default or ""):
            return repository.name
        target = self._targets.get(repository.namespace)
        return f"{target.prefixes[0]}/{repository.name}" if target and target.prefixes else None

    def named(self, name: str) -> RoutedRepository:
        """The repository that a client without `ns` reaches by this name. Raises as `scope`."""
        return self._routed("", name, "", "", "")

    def shown_name(self, key: str) -> str:
        """The name for people of a repository `key`: that of `named`, or the key where no name leads to it."""
        return self.listed(key) or key

    def name(self, request: Request) -> str:
        """The one name of a request's repository, whichever way it was reached: what scope maps speak of. One that no
        path reaches has its store key, which no scope map but `*` covers. Raises as `scope`."""
        return self._named(self.scope(request))

    def called(self, name: str, host: str, sni: str) -> str:
        """The same for a name that a client of `host` and `sni` writes elsewhere than in a path, as in the scope of a
        login."""
        return self._named(self._routed("", name, "", host, sni))

    def _named(self, routed: RoutedRepository) -> str:
        return self._listed(routed.repository) or routed.key

    def _find(self, before: str, name: str, namespace: str, host: str, sni: str) -> RoutedRepository:
        self.check_prefix(before)
        parent, scoped = self._parent(before, name, namespace, host, sni)
        if parent is None:
            return _scope(Repository("", checked_name(name)), False)
        target = self._targets[parent]
        rest = checked_name(_without_prefix(name, target.prefixes))
        if not target.allowed.fullmatch(rest):
            raise NameUnknown("this node does not serve that repository")
        return _scope(Repository(parent, rest), True, scoped)

    def _parent(self, before: str, name: str, namespace: str, host: str, sni: str) -> tuple[str | None, str]:
        """The parent's name and the `ns` that chose it."""
        if namespace and self._targets:
            return self._of_namespace(namespace), namespace
        for named in (self._hosts.get(host), self._hosts.get(sni), self._prefixes.get(before)):
            if named is not None:
                return named, ""
        for prefix in self._prefixes:
            if name.startswith(f"{prefix}/"):
                return self._prefixes[prefix], ""
        return self._default, ""

    def _of_namespace(self, namespace: str) -> str:
        if namespace in self._namespaces:
            return self._namespaces[namespace]
        if self._default is not None and namespace in self._adopted:
            return self._default
        if ANY in self._namespaces:
            return self._namespaces[ANY]
        raise NameUnknown(f"this node does not serve the namespace {namespace[:80]!r}")


def namespace_of(request: Request) -> str:
    """The `ns` parameter, lower case, "" without one. Raises `QueryInvalid` when given twice differently."""
    if not request.query:
        return ""
    values = {value.lower() for name, value in request.query if name == "ns"}
    if len(values) > 1:
        raise QueryInvalid("ns is given twice")
    return values.pop() if values else ""


def compile_patterns(patterns: Iterable[str]) -> re.Pattern[str]:
    """One regex of repository patterns: `*` stays within a segment, `**` crosses; all else is literal."""
    parts = (re.split(r"(\*\*|\*)", pattern) for pattern in patterns)
    glob = {"*": "[^/]*", "**": ".*"}
    return re.compile(
        "|".join("".join(glob.get(p) or re.escape(p) for p in part) for part in parts) or "(?!)"
    )


def _scope(repository: Repository, has_parent: bool, namespace: str = "") -> RoutedRepository:
    return RoutedRepository(repository, repository.key, has_parent, namespace)


def _without_prefix(name: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        if name.startswith(f"{prefix}/"):
            return name[len(prefix) + 1 :]
    return name


def _target(parent: ParentSection) -> _Target:
    return _Target(parent.name, tuple(_prefixes(parent)), compile_patterns(parent.repositories))


def _prefixes(parent: ParentSection) -> list[str]:
    """Longest first, so that a prefix that extends another wins."""
    prefixes = {prefix.strip("/") for prefix in (*parent.prefixes, parent.name)} - {""}
    return sorted(prefixes, key=lambda prefix: (-len(prefix), prefix))


def _namespaces(parent: ParentSection) -> list[str]:
    """Its name, the configured ones, and the host of its URL; for Docker Hub all of Hub's names."""
    names = {name.lower() for name in (*parent.namespaces, parent.name, urlsplit(parent.url).netloc)} - {""}
    # one of the names of Docker Hub in a parent's configuration means all of them
    return sorted(names.union(DOCKER_HUB_HOSTS) if names.intersection(DOCKER_HUB_HOSTS) else names)


def _index(parents: tuple[ParentSection, ...], names: Callable[[ParentSection], list[str]]) -> dict[str, str]:
    """name -> parent, longest name first; the first parent in the file keeps a name two parents claim."""
    pairs = [(name, parent.name) for parent in reversed(parents) for name in names(parent)]
    return dict(sorted(dict(pairs).items(), key=lambda pair: -len(pair[0])))


def default_parent(parents: tuple[ParentSection, ...]) -> str | None:
    """The parent marked default, else the unnamed one, else the only one."""
    for parent in parents:
        if parent.default:
            return parent.name
    names = [parent.name for parent in parents]
    if "" in names:
        return ""
    return names[0] if len(names) == 1 else None
