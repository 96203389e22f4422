"""Authorization: one table has the right that each request needs; a request that is not in it is denied.

A caller without login has the rights of the node's level (`anonymous`), a caller with login those of its token's
present scope map. They are checked before any content is looked up, and after the mode of the node: in ReadOnly a login
would not help.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from holdfast.errors import Denied, Refusal, Unauthorized
from holdfast.login import token_scope
from holdfast.login.caller import OF_LEVEL, Caller, Stranger
from holdfast.wire.routes import METHODS, Noun

if TYPE_CHECKING:
    from holdfast.endpoint.node import Node
    from holdfast.wire.message import Request


class Right(StrEnum):
    """The right that a request needs. OPEN needs none: health shows nothing that a port scan does not, and the token
    endpoint checks passwords itself. LOGIN is for `GET /v2/`, which clients send to find out whether they must log in
    (`endpoint.probes.ping`). GATEWAY needs a login; the endpoint checks which gateway. The others are the original's
    five actions (references.md 1.18)."""

    OPEN = "open"
    LOGIN = "login"
    CATALOG = "catalog"
    GATEWAY = "gateway"
    CONTENT_READ = "content/read"
    CONTENT_WRITE = "content/write"
    CONTENT_DELETE = "content/delete"
    METADATA_READ = "metadata/read"
    METADATA_WRITE = "metadata/write"


#: Status and cancel of an upload need the right to push. The admin API is not in the table: it has its own listener.
TABLE: dict[tuple[Noun, str], Right] = {
    **{(noun, method): Right.OPEN for noun in (Noun.HEALTH, Noun.READINESS) for method in ("GET", "HEAD")},
    **{(Noun.TOKEN, method): Right.OPEN for method in ("GET", "POST")},
    **{(Noun.GATEWAY, method): Right.GATEWAY for method in ("GET", "POST", "PUT")},
    **{(Noun.BASE, method): Right.LOGIN for method in ("GET", "HEAD")},
    **{(Noun.CATALOG, method): Right.CATALOG for method in ("GET", "HEAD")},
    **{
        (noun, method): Right.CONTENT_READ
        for noun in (Noun.MANIFEST, Noun.BLOB, Noun.REFERRERS)
        for method in ("GET", "HEAD")
    },
    **{
        (noun, method): Right.METADATA_READ
        for noun in (Noun.TAGS, Noun.TAG_HISTORY)
        for method in ("GET", "HEAD")
    },
    **{(Noun.UPLOAD, method): Right.CONTENT_WRITE for method in ("GET", "PATCH", "PUT", "DELETE")},
    (Noun.UPLOADS, "POST"): Right.CONTENT_WRITE,
    (Noun.MANIFEST, "PUT"): Right.CONTENT_WRITE,
    (Noun.MANIFEST, "DELETE"): Right.CONTENT_DELETE,
    (Noun.BLOB, "DELETE"): Right.CONTENT_DELETE,
    (Noun.ATTRIBUTES, "GET"): Right.METADATA_READ,
    (Noun.ATTRIBUTES, "PATCH"): Right.METADATA_WRITE,
}

#: What a right allows, after "may not".
PHRASES = {
    Right.OPEN: "ask for the health",
    Right.LOGIN: "ask for anything",
    Right.CATALOG: "list the repositories",
    Right.GATEWAY: "use the gateway of a connected registry",
    Right.CONTENT_READ: "pull",
    Right.CONTENT_WRITE: "push",
    Right.CONTENT_DELETE: "delete",
    Right.METADATA_READ: "list tags and read attributes",
    Right.METADATA_WRITE: "change attributes",
}

#: Rights that change content. A ReadOnly node grants none of them.
CHANGES = frozenset({Right.CONTENT_WRITE, Right.CONTENT_DELETE, Right.METADATA_WRITE})

_ALWAYS = frozenset({Right.OPEN})
_READING = frozenset({Right.LOGIN, Right.CATALOG})

#: The rights of a client without login, by level.
STRANGERS: dict[str, frozenset[Right]] = {
    level: _ALWAYS | (_READING if rights else frozenset()) | frozenset(Right(right) for right in rights)
    for level, rights in OF_LEVEL.items()
}

#: Endpoints that need the caller's identity also where no login is required: an upload belongs to the client that began
#: it, a mount reads another repository, lists are filtered, and `/v2/` shows clients that they can log in.
PERSONAL = frozenset({Noun.BASE, Noun.CATALOG, Noun.UPLOADS, Noun.UPLOAD, Noun.GATEWAY})

#: The original's texts (references.md 1.9, 1.19): a client prints them after "unauthorized: " and "denied: ".
REQUIRED = "authentication required"
INSUFFICIENT = "Insufficient scopes to perform the operation"


def changes(noun: Noun, method: str) -> bool:
    """Whether a request changes content. A request that is not in the table counts as one that does."""
    return TABLE.get((noun, method), Right.CONTENT_WRITE) in CHANGES


def levels(noun: Noun, method: str) -> frozenset[str]:
    """The levels at which a request needs no login; none for one that is not in the table."""
    right = TABLE.get((noun, method))
    return frozenset(level for level, rights in STRANGERS.items() if right in rights)


def plain_levels(noun: Noun, method: str) -> frozenset[str]:
    """The levels at which the caller is not identified."""
    return frozenset() if noun in PERSONAL else levels(noun, method)


def needed(noun: Noun, method: str, reference: str = "") -> tuple[Right, ...]:
    """The rights of which any one is enough; () for a request that is not in the table. A tag, whose manifest stays,
    may also be deleted with the right to change metadata."""
    right = TABLE.get((noun, method))
    if right is None:
        return ()
    if (noun, method) == (Noun.MANIFEST, "DELETE") and ":" not in reference:
        return Right.CONTENT_DELETE, Right.METADATA_WRITE
    return (right,)


def require(node: Node, request: Request, caller: Caller) -> None:
    """Raises `Unauthorized` or `Denied` unless the caller may make the request. It does not look whether the content
    exists, so that the refusal does not reveal it."""
    route = request.route
    rights = needed(route.noun, request.method, route.reference)
    name = repository(node, request)
    if not any(_allows(caller, right, name) for right in rights):
        scopes = [needed_scope(node, request, rights, name)] if rights else []
        raise refusal(node, request, caller, rights[0] if rights else None, scopes)


def _allows(caller: Caller, right: Right, name: str) -> bool:
    match right:
        case Right.OPEN:
            return True
        case Right.LOGIN:
            return not isinstance(caller, Stranger) or bool(caller.rights) or caller.scheme == "bearer"
        case Right.CATALOG:
            return caller.may_list
        case Right.GATEWAY:
            return not isinstance(caller, Stranger)
    return caller.may(right.value, name)


def repository(node: Node, request: Request) -> str:
    """The repository's name in scope maps; the name in the path where it is of no repository, which the endpoint then
    refuses."""
    if not request.route.name or request.route.noun is Noun.GATEWAY:
        return request.route.name
    try:
        return node.router.name(request)
    except Refusal:
        return request.route.name


def needed_scope(node: Node, request: Request, rights: tuple[Right, ...], name: str) -> str:
    """The scope that a token needs for this request; "" where it needs none."""
    match rights[0]:
        case Right.OPEN | Right.LOGIN:
            return ""
        case Right.CATALOG:
            return token_scope.WHOLE_CATALOG.text
        case Right.GATEWAY:
            return token_scope.TokenScope(token_scope.GATEWAY, name.lower(), ("*",)).text
    source = request.parameter("from") if request.route.noun is Noun.UPLOADS else None
    scope = token_scope.of_repository(name, [right.value for right in rights]).text
    return f"{scope} {token_scope.of_repository(source, ['content/read']).text}" if source else scope


def refusal(node: Node, request: Request, caller: Caller, right: Right | None, scopes: list[str]) -> Refusal:
    """The refusal for a caller without the right: 401 with a challenge, so that a client without login logs in and one
    with a token gets another; 403 after a password, because another login would not help."""
    realm = node.access.realm
    scopes = [text for text in scopes if text and _is_quotable(text)]
    if isinstance(caller, Stranger):
        error = "insufficient_scope" if caller.scheme == "bearer" else ""
        headers = (realm.challenge(request, scopes, error),)
        return Unauthorized(_sentence(right, node.access.level()), headers=headers)
    detail = f"needed: {right.value}" if right is not None else ""
    if caller.scheme == "bearer":
        headers = (realm.challenge(request, scopes, "insufficient_scope"),)
        return Unauthorized(INSUFFICIENT, detail=detail, code="DENIED", headers=headers)
    return Denied(INSUFFICIENT, detail=detail)


def _is_quotable(text: str) -> bool:
    """Whether a scope may stand in a quoted string."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _sentence(right: Right | None, level: str) -> str:
    if right is None:
        return "no caller may do this"
    if right is Right.GATEWAY:
        return f"{REQUIRED}: the gateway of a connected registry takes its sync token"
    level_needed = "pull" if right in STRANGERS["pull"] else "push"
    return (
        f"{REQUIRED}: a caller without login may not {PHRASES[right]} here (anonymous = {level});"
        f" log in, or the operator can allow it with --anonymous {level_needed}"
    )


#: all routes of the registry's listener
ROUTES = frozenset(
    (noun, method) for noun, methods in METHODS.items() if noun is not Noun.API for method in methods
)
