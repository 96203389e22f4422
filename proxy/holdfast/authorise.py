"""Who may do what. One table says which right a request needs; what is not in it is denied.

Strangers have what the level of the node gives them (`anonymous`), who logged in has what the scope map of his token
says now, and both are asked before anything is looked up. The mode of the node is looked at before this: in ReadOnly a
login would not help.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from holdfast.errors import Denied, Refusal, Unauthorized
from holdfast.login import scope
from holdfast.login.caller import OF_LEVEL, Caller, Stranger
from holdfast.wire.routes import METHODS, Noun

if TYPE_CHECKING:
    from holdfast.endpoint.node import Node
    from holdfast.wire.message import Request


class Right(StrEnum):
    """What a request needs. OPEN is everybody's: health says nothing that a scanner does not see, and the token
    endpoint looks at passwords itself. LOGIN is the question whether this is a registry, which a node where somebody
    can log in answers to who is known (`endpoint.ping`). GATEWAY is for who logged in; which gateway, the endpoint
    asks. The others are the original's five actions (connected-registry 4.2)."""

    OPEN = "open"
    LOGIN = "login"
    CATALOG = "catalog"
    GATEWAY = "gateway"
    CONTENT_READ = "content/read"
    CONTENT_WRITE = "content/write"
    CONTENT_DELETE = "content/delete"
    METADATA_READ = "metadata/read"
    METADATA_WRITE = "metadata/write"


#: Uploads belong to who pushes, status and cancel with them. The admin API is not here: clients do not reach it.
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

#: Rights that change what is here. A ReadOnly node grants none of them to anybody.
CHANGES = frozenset({Right.CONTENT_WRITE, Right.CONTENT_DELETE, Right.METADATA_WRITE})

_ALWAYS = frozenset({Right.OPEN})
_READING = frozenset({Right.LOGIN, Right.CATALOG})

#: What strangers may, by level. Beside it, whoever is known to be somebody may ask for his own gateway.
STRANGERS: dict[str, frozenset[Right]] = {
    level: _ALWAYS | (_READING if rights else frozenset()) | frozenset(Right(right) for right in rights)
    for level, rights in OF_LEVEL.items()
}

#: Endpoints that want to know whose request it is, whatever strangers may: uploads are bound to who began them, a
#: mount reads another repository, lists are filtered, and `/v2/` is how clients find out that they can log in.
PERSONAL = frozenset({Noun.BASE, Noun.CATALOG, Noun.UPLOADS, Noun.UPLOAD, Noun.GATEWAY})

#: The original's words (connected-registry 2.5, 4.4): a client prints them after "unauthorized: " and "denied: ".
REQUIRED = "authentication required"
INSUFFICIENT = "Insufficient scopes to perform the operation"


def changes(noun: Noun, method: str) -> bool:
    """Whether a request belongs to a change. What is not in the table counts as one."""
    return TABLE.get((noun, method), Right.CONTENT_WRITE) in CHANGES


def levels(noun: Noun, method: str) -> frozenset[str]:
    """The levels at which anybody may make a request; none for what is not in the table."""
    right = TABLE.get((noun, method))
    return frozenset(level for level, rights in STRANGERS.items() if right in rights)


def plain_levels(noun: Noun, method: str) -> frozenset[str]:
    """The levels at which nobody needs to ask whose request it is."""
    return frozenset() if noun in PERSONAL else levels(noun, method)


def needed(noun: Noun, method: str, reference: str = "") -> tuple[Right, ...]:
    """The rights any of which is enough; none is for what is not in the table. A tag may also be taken away by who
    may change metadata: the manifest stays."""
    right = TABLE.get((noun, method))
    if right is None:
        return ()
    if (noun, method) == (Noun.MANIFEST, "DELETE") and ":" not in reference:
        return Right.CONTENT_DELETE, Right.METADATA_WRITE
    return (right,)


def require(node: Node, request: Request, caller: Caller) -> None:
    """Raises `Unauthorized` or `Denied` unless the caller may make the request. Whether there is anything is not
    looked at: what is forbidden looks like what is not there, to who may not look."""
    route = request.route
    rights = needed(route.noun, request.method, route.reference)
    name = repository(node, request)
    if not any(_allows(caller, right, name) for right in rights):
        asked = [wanted(node, request, rights, name)] if rights else []
        raise refusal(node, request, caller, rights[0] if rights else None, asked)


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
    """The name that scope maps speak of; that of the path where it leads nowhere, which the endpoint will say."""
    if not request.route.name or request.route.noun is Noun.GATEWAY:
        return request.route.name
    try:
        return node.router.name(request)
    except Refusal:
        return request.route.name


def wanted(node: Node, request: Request, rights: tuple[Right, ...], name: str) -> str:
    """The scope that a token for this request has; "" where none is meant."""
    match rights[0]:
        case Right.OPEN | Right.LOGIN:
            return ""
        case Right.CATALOG:
            return scope.WHOLE_CATALOG.text
        case Right.GATEWAY:
            return scope.Scope(scope.GATEWAY, name.lower(), ("*",)).text
    source = request.parameter("from") if request.route.noun is Noun.UPLOADS else None
    asked = scope.of_repository(name, [right.value for right in rights]).text
    return f"{asked} {scope.of_repository(source, ['content/read']).text}" if source else asked


def refusal(node: Node, request: Request, caller: Caller, right: Right | None, asked: list[str]) -> Refusal:
    """What a caller without the right is told: who did not log in, to do so; who has a token, to get another; who sent
    a password, that nothing will help."""
    realm = node.access.realm
    scopes = [text for text in asked if text and _is_quotable(text)]
    if isinstance(caller, Stranger):
        error = "insufficient_scope" if caller.scheme == "bearer" else ""
        told = (realm.challenge(request, scopes, error),)
        return Unauthorized(_sentence(right, node.access.level()), headers=told)
    detail = f"needed: {right.value}" if right is not None else ""
    if caller.scheme == "bearer":
        told = (realm.challenge(request, scopes, "insufficient_scope"),)
        return Unauthorized(INSUFFICIENT, detail=detail, code="DENIED", headers=told)
    return Denied(INSUFFICIENT, detail=detail)


def _is_quotable(text: str) -> bool:
    """Whether a scope may stand in a quoted string."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _sentence(right: Right | None, level: str) -> str:
    if right is None:
        return "nobody may do this"
    if right is Right.GATEWAY:
        return f"{REQUIRED}: the gateway of a connected registry takes its sync token"
    enough = "pull" if right in STRANGERS["pull"] else "push"
    return (
        f"{REQUIRED}: a caller without login may not {PHRASES[right]} here (anonymous = {level});"
        f" log in, or the operator can allow it with --anonymous {enough}"
    )


#: routes that clients reach here
ROUTES = frozenset(
    (noun, method) for noun, methods in METHODS.items() if noun is not Noun.API for method in methods
)
