"""From a path to an endpoint, read from the right: `blobs`, `manifests` and `a/tags/list` are repositories.

`METHODS` is the one table of what a route takes. What is not in it is refused.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from holdfast.errors import MethodNotAllowed, PathUnknown
from holdfast.wire.query import Pairs, split


class Noun(StrEnum):
    """The endpoints: those of the distribution spec ("Endpoints"), then this server's own. ATTRIBUTES is
    where Azure's registries have it."""

    BASE = "base"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    TAGS = "tags"
    REFERRERS = "referrers"
    CATALOG = "catalog"
    TAG_HISTORY = "tag-history"
    ATTRIBUTES = "attributes"
    TOKEN = "token"
    GATEWAY = "gateway"
    API = "api"
    HEALTH = "health"
    READINESS = "readiness"


class Route(NamedTuple):
    """Where a path leads. `prefix` is what stood before `/v2`, without slashes. `name` and `reference` are
    as in the path, not yet checked against their grammar.

    ATTRIBUTES are a repository's (`reference` empty), a manifest's (with a colon) or a tag's. GATEWAY has the
    connected registry as `name` and its endpoint as `reference`; API what follows `/api/v1/` as `name`."""

    noun: Noun
    name: str = ""
    reference: str = ""
    prefix: str = ""


class RouteTarget(NamedTuple):
    """A whole request target, read."""

    path: str
    query: Pairs
    route: Route


#: What each route takes; these are also the values of `Allow`. READS change nothing.
READS = ("GET", "HEAD")
METHODS: dict[Noun, tuple[str, ...]] = {
    Noun.BASE: READS,
    Noun.MANIFEST: (*READS, "PUT", "DELETE"),
    Noun.BLOB: (*READS, "DELETE"),
    Noun.UPLOADS: ("POST",),
    Noun.UPLOAD: ("GET", "PATCH", "PUT", "DELETE"),
    Noun.TAGS: READS,
    Noun.REFERRERS: READS,
    Noun.CATALOG: READS,
    Noun.TAG_HISTORY: READS,
    Noun.ATTRIBUTES: ("GET", "PATCH"),
    Noun.TOKEN: ("GET", "POST"),
    Noun.GATEWAY: ("GET", "POST", "PUT"),
    Noun.API: ("GET", "POST", "PUT", "PATCH", "DELETE"),
    Noun.HEALTH: READS,
    Noun.READINESS: READS,
}

_FIXED = {
    "/healthz": Noun.HEALTH,
    "/readyz": Noun.READINESS,
    "/acr/oauth2/token": Noun.TOKEN,
}
#: The other name of the token endpoint (references.md 1.19).
_TOKEN = "/oauth2/token"
_SAFE = "/:@+=,"
_ATTRIBUTES = "/acr/v1/"
_GATEWAY = "/acr/gateway/v1/"
_API = "/api/v1/"
_HISTORY = "/_holdfast"
_NAMED = {"manifests": Noun.MANIFEST, "blobs": Noun.BLOB, "referrers": Noun.REFERRERS}

# The targets of pulls repeat, and parsing one is pure. Longer ones are rare and not kept, so the
# memory is bounded at about 1 MiB.
_KEPT_TARGETS, _KEPT_LENGTH = 1024, 512


def read(target: str) -> RouteTarget:
    """Path, query and route of a request target. Raises `PathUnknown` or `QueryInvalid`."""
    return _kept(target) if len(target) <= _KEPT_LENGTH else _read(target)


def _read(target: str) -> RouteTarget:
    path, query = split(target)
    return RouteTarget(path, query, locate(path))


_kept = lru_cache(_KEPT_TARGETS)(_read)


def locate(path: str) -> Route:
    """The route of a decoded path. Raises `PathUnknown`."""
    if path in _FIXED:
        return Route(_FIXED[path])
    if path.startswith(_ATTRIBUTES):
        return _attributes(path[len(_ATTRIBUTES) :])
    if path.startswith((_GATEWAY, _API, _TOKEN)):
        return _control(path)
    before, separator, rest = f"{path}/".partition("/v2/")
    if not separator:
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
    if name and noun in _NAMED and (noun, last) != ("blobs", "uploads"):
        return Route(_NAMED[noun], name, last)
    return _uncommon(name, noun, last)


def _uncommon(name: str, noun: str, last: str) -> Route:
    """`<name>/tags/list`, `<name>/_holdfast/tag-history/<tag>`, `<name>/blobs/uploads/<session>` and
    `<name>/blobs/uploads/`, whose last slash may be left out: `uploads` is no digest."""
    if name and (noun, last) == ("tags", "list"):
        return Route(Noun.TAGS, name)
    if name and (noun, last) == ("blobs", "uploads"):
        return Route(Noun.UPLOADS, name)
    if noun == "tag-history" and name.endswith(_HISTORY):
        return Route(Noun.TAG_HISTORY, name[: -len(_HISTORY)], last)
    if noun == "uploads" and name.endswith("/blobs"):
        repository = name[: -len("/blobs")]
        return Route(Noun.UPLOAD, repository, last) if last else Route(Noun.UPLOADS, repository)
    raise PathUnknown("no such endpoint")


def _attributes(rest: str) -> Route:
    """`<name>`, `<name>/_tags/<tag>` and `<name>/_manifests/<digest>`; no name has a part that begins with _."""
    above, _, last = rest.rpartition("/")
    name, _, noun = above.rpartition("/")
    if noun not in ("_tags", "_manifests"):
        return Route(Noun.ATTRIBUTES, rest)
    if not name or (noun == "_manifests") is not (":" in last):
        raise PathUnknown("no such endpoint: a tag is named by its tag, a manifest by its digest")
    return Route(Noun.ATTRIBUTES, name, last)


def _control(path: str) -> Route:
    """`/oauth2/token`, `/acr/gateway/v1/<connected registry>/<what>` and `/api/v1/<what>`."""
    if path == _TOKEN:
        return Route(Noun.TOKEN)
    if path.startswith(_API):
        return Route(Noun.API, path[len(_API) :])
    name, _, what = path.removeprefix(_GATEWAY).partition("/")
    if not path.startswith(_GATEWAY) or not name or not what:
        raise PathUnknown("no such endpoint")
    return Route(Noun.GATEWAY, name, what)


def build(route: Route) -> str:
    """The escaped path of a route: the inverse of `locate`."""
    for path, noun in _FIXED.items():
        if route.noun is noun:
            return path
    if route.noun is Noun.GATEWAY:
        return quote(f"{_GATEWAY}{route.name}/{route.reference}", safe=_SAFE)
    if route.noun is Noun.API:
        return quote(_API + route.name, safe=_SAFE)
    if route.noun is Noun.ATTRIBUTES:
        path = _ATTRIBUTES + route.name
        if route.reference:
            path += f"/{'_manifests' if ':' in route.reference else '_tags'}/{route.reference}"
        return quote(path, safe=_SAFE)
    tails = {
        Noun.BASE: "",
        Noun.CATALOG: "_catalog",
        Noun.TAGS: f"{route.name}/tags/list",
        Noun.UPLOADS: f"{route.name}/blobs/uploads/",
        Noun.UPLOAD: f"{route.name}/blobs/uploads/{route.reference}",
        Noun.REFERRERS: f"{route.name}/referrers/{route.reference}",
        Noun.TAG_HISTORY: f"{route.name}{_HISTORY}/tag-history/{route.reference}",
    }
    tail = tails.get(route.noun, f"{route.name}/{route.noun.value}s/{route.reference}")
    return quote(f"/{route.prefix}/v2/{tail}" if route.prefix else f"/v2/{tail}", safe=_SAFE)


def check_method(route: Route, method: str) -> None:
    """Raises `MethodNotAllowed`, with what is allowed, for a method that the route does not take."""
    allowed = METHODS[route.noun]
    if method not in allowed:
        allow = ", ".join(allowed)
        raise MethodNotAllowed(
            f"the endpoint does not take this method; it takes {allow}",
            detail=method[:20],
            headers=(("Allow", allow),),
        )
