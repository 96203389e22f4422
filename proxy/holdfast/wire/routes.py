"""From a path to an endpoint, read from the right: `blobs`, `manifests` and `a/tags/list` are repositories.

`METHODS` is the one table of what a route takes. What is not in it is refused.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from holdfast.errors import MethodNotAllowed, PathUnknown, ReadOnly
from holdfast.wire.query import Pairs, split


class Noun(StrEnum):
    """The endpoints (distribution-spec, "Endpoints"; the last two are this server's own)."""

    BASE = "base"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    TAGS = "tags"
    REFERRERS = "referrers"
    CATALOG = "catalog"
    HEALTH = "health"
    READINESS = "readiness"


class Route(NamedTuple):
    """Where a path leads. `prefix` is what stood before `/v2`, without slashes. `name` and `reference` are
    as in the path, not yet checked against their grammar."""

    noun: Noun
    name: str = ""
    reference: str = ""
    prefix: str = ""


class Target(NamedTuple):
    """A whole request target, read."""

    path: str
    query: Pairs
    route: Route


#: What each route takes. Reads are answered; writes are what the spec defines and this node refuses so far.
READS = ("GET", "HEAD")
METHODS: dict[Noun, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Noun.BASE: (READS, ()),
    Noun.MANIFEST: (READS, ("PUT", "DELETE")),
    Noun.BLOB: (READS, ("DELETE",)),
    Noun.UPLOADS: ((), ("POST",)),
    Noun.UPLOAD: ((), ("GET", "PATCH", "PUT", "DELETE")),
    Noun.TAGS: (READS, ()),
    Noun.REFERRERS: (READS, ()),
    Noun.CATALOG: (READS, ()),
    Noun.HEALTH: (READS, ()),
    Noun.READINESS: (READS, ()),
}

_FIXED = {"/healthz": Noun.HEALTH, "/readyz": Noun.READINESS}
_NAMED = {"manifests": Noun.MANIFEST, "blobs": Noun.BLOB, "referrers": Noun.REFERRERS}

# Targets of a pull come again and again; reading one is pure. Longer ones are rare and not kept, so the
# memory is bounded at about 1 MiB.
_KEPT_TARGETS, _KEPT_LENGTH = 1024, 512


def read(target: str) -> Target:
    """Path, query and route of a request target. Raises `PathUnknown` or `QueryInvalid`."""
    return _kept(target) if len(target) <= _KEPT_LENGTH else _read(target)


def _read(target: str) -> Target:
    path, query = split(target)
    return Target(path, query, locate(path))


_kept = lru_cache(_KEPT_TARGETS)(_read)


def locate(path: str) -> Route:
    """The route of a decoded path. Raises `PathUnknown`."""
    if path in _FIXED:
        return Route(_FIXED[path])
    before, found, rest = f"{path}/".partition("/v2/")
    if not found:
        raise PathUnknown("no such endpoint")
    route = _below_v2(rest[:-1])
    return route._replace(prefix=before[1:]) if before else route


def _below_v2(rest: str) -> Route:
    if not rest:
        return Route(Noun.BASE)
    if rest == "_catalog":
        return Route(Noun.CATALOG)
    above, _, last = rest.rpartition("/")
    name, _, noun = above.rpartition("/")
    if name and noun in _NAMED:
        return Route(_NAMED[noun], name, last)
    if name and noun == "tags" and last == "list":
        return Route(Noun.TAGS, name)
    return _upload(name, noun, last)


def _upload(name: str, noun: str, last: str) -> Route:
    """`<name>/blobs/uploads/` and `<name>/blobs/uploads/<session>`."""
    if noun == "uploads" and name.endswith("/blobs"):
        repository = name[: -len("/blobs")]
        return Route(Noun.UPLOAD, repository, last) if last else Route(Noun.UPLOADS, repository)
    raise PathUnknown("no such endpoint")


def build(route: Route) -> str:
    """The escaped path of a route: the inverse of `locate`."""
    tails = {
        Noun.BASE: "",
        Noun.CATALOG: "_catalog",
        Noun.TAGS: f"{route.name}/tags/list",
        Noun.UPLOADS: f"{route.name}/blobs/uploads/",
        Noun.UPLOAD: f"{route.name}/blobs/uploads/{route.reference}",
    }
    for path, noun in _FIXED.items():
        if route.noun is noun:
            return path
    tail = tails.get(route.noun, f"{route.name}/{route.noun.value}s/{route.reference}")
    if route.noun is Noun.REFERRERS:
        tail = f"{route.name}/referrers/{route.reference}"
    return quote(f"/{route.prefix}/v2/{tail}" if route.prefix else f"/v2/{tail}", safe="/:@+=,")


def check_method(route: Route, method: str) -> None:
    """Raises `ReadOnly` for a write the spec defines, `MethodNotAllowed` for anything else not taken."""
    reads, writes = METHODS[route.noun]
    if method in reads:
        return
    allow = (("Allow", ", ".join(reads)),)
    if method in writes:
        raise ReadOnly("this node is read-only so far: it takes no pushes and no deletes", headers=allow)
    raise MethodNotAllowed("the endpoint does not take this method", detail=method[:20], headers=allow)
