"""The token endpoint: `/acr/oauth2/token` and `/oauth2/token` (oci-spec 4.3, connected-registry 4.4).

    GET   with Basic, or nothing for a stranger      ?service=&scope=&scope=
    POST  a form with grant_type password, for clients of OAuth2

What is granted is what was asked and is allowed, and be it nothing: that is no error. Tokens are for this node.

No refresh token is given, also where a client asks for one (`offline_token`, `access_type`): docker keeps that in place
of the password and is locked out when it ends, and podman does not read the file it is kept in. A client keeps the
password, which the operator ends when he wants to.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, NamedTuple

import msgspec

from holdfast.control.moment import stamp
from holdfast.control.resource import lowered
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import QueryInvalid, Refusal, SizeInvalid, Unauthorized
from holdfast.login import scope
from holdfast.login.caller import Caller, Holder, granted
from holdfast.login.credentials import Basic, of_request
from holdfast.login.given import Given, Question
from holdfast.login.scope import Scope
from holdfast.login.token import Entry
from holdfast.wire.message import Reply, Request
from holdfast.wire.query import Pairs, decode_query
from holdfast.wire.routes import Noun

#: of a form
FORM_BYTES = 64 * 1024
#: An answer of OAuth2 is nobody's but the asker's (RFC 6749 5.1).
HEADERS = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("Pragma", "no-cache")]
BASIC = ("WWW-Authenticate", 'Basic realm="holdfast"')


class Grant(msgspec.Struct, omit_defaults=True):
    """The answer. `token` and `access_token` are the same: both names exist in the field."""

    token: str
    access_token: str
    expires_in: int
    issued_at: str
    scope: str = ""


class Asked(NamedTuple):
    """One question. `service` is this node's."""

    node: Node
    request: Request
    pairs: Pairs
    service: str

    def value(self, name: str) -> str:
        """A parameter, "" without one. Raises `QueryInvalid` when it is given twice differently."""
        found = {value for key, value in self.pairs if key == name}
        if len(found) > 1:
            raise QueryInvalid(f"{name} is given twice")
        return found.pop() if found else ""


def by_query(node: Node, request: Request) -> Answer:
    """GET. Raises `Unauthorized`, `TooManyLogins`, `QueryInvalid`."""
    asked = Asked(node, request, request.query, node.access.realm.service(request))
    _check_service(asked)
    said = of_request(request)
    if said is None:
        return _answer(asked, node.access.stranger(request))
    if not isinstance(said, Basic):
        raise Unauthorized("the token endpoint wants a name and a password (Basic)", headers=(BASIC,))
    return _by_password(asked, said)


async def by_form(node: Node, request: Request) -> Reply:
    """POST. Raises as `by_query`, and `SizeInvalid`."""
    pairs = await _form(request)
    asked = Asked(node, request, pairs, node.access.realm.service(request))
    _check_service(asked)
    kind = asked.value("grant_type")
    if kind == "refresh_token":
        raise Unauthorized(
            "this node knows no refresh tokens; log in with name and password", headers=(BASIC,)
        )
    if kind != "password":
        raise QueryInvalid("grant_type is missing or unknown", detail="allowed: password")
    said = Basic(asked.value("username"), asked.value("password"))
    if said == ("", ""):
        return _answer(asked, node.access.stranger(request))
    reply = _by_password(asked, said)
    return reply if isinstance(reply, Reply) else await reply


def _by_password(asked: Asked, said: Basic) -> Answer:
    try:
        found = asked.node.access.login(asked.request, said)
    except Unauthorized as refused:
        raise _basic(refused) from None
    return _answer(asked, found) if isinstance(found, Holder) else _later(asked, found)


async def _later(asked: Asked, coming: Coroutine[Any, Any, Holder]) -> Reply:
    try:
        found = await coming
    except Unauthorized as refused:
        raise _basic(refused) from None
    return _answer(asked, found)


def _basic(refused: Unauthorized) -> Unauthorized:
    """Here the way in is a password, not another token."""
    return Unauthorized(refused.message, headers=(BASIC,))


def _answer(asked: Asked, caller: Caller) -> Reply:
    """The token, with what was asked and is allowed now. Its life is told from now on: it may be a moment old."""
    now = asked.node.clock.now()
    given = _given(asked, caller, now)
    body = Grant(given.text, given.text, given.end - int(now), stamp(given.at))
    if asked.request.method == "POST":
        body.scope = " ".join(Scope(*entry).text for entry in map(msgspec.structs.astuple, given.entries))
    return Reply(200, HEADERS, msgspec.json.encode(body))


def _given(asked: Asked, caller: Caller, now: float) -> Given:
    """An access token: the one that the same caller got for the same question just now, or a new one. All that a
    token says follows from what is compared."""
    request, recent = asked.request, asked.node.access.given
    scopes = tuple([value for name, value in asked.pairs if name == "scope"])
    question = Question(caller, asked.service, request.host, request.sni, scopes)
    if (found := recent.find(question, now)) is not None:
        return found
    at, life = int(now), int(asked.node.config.login.token_ttl)
    entries = _granted(asked, caller, scopes)
    holder = caller if isinstance(caller, Holder) else None
    text = asked.node.access.mint.issue(
        *(caller.name, asked.service, now, life),
        access=entries,
        grant_type="password" if holder is not None else "anonymous",
        proof=holder.proof if holder is not None else "",
    )
    return recent.keep(question, Given(text, entries, at, at + life))


def _granted(asked: Asked, caller: Caller, scopes: tuple[str, ...]) -> tuple[Entry, ...]:
    found: dict[tuple[str, str], dict[str, None]] = {}
    for one in scope.parse(scopes):
        named = _canonical(asked, one)
        if named is not None and (actions := granted(caller, named)):
            found.setdefault((named.type, named.name), {}).update(dict.fromkeys(actions))
    return tuple([Entry(type, name, tuple(actions)) for (type, name), actions in found.items()])


def _canonical(asked: Asked, one: Scope) -> Scope | None:
    """A scope by the names that scope maps speak of; None for what can be no repository here. A client writes a
    repository as it does in paths, so it may reach one in several ways."""
    if one.type == scope.GATEWAY:
        return one._replace(name=lowered(one.name))
    if one.type != scope.REPOSITORY:
        return one
    try:
        name = asked.node.router.called(one.name, asked.request.host, asked.request.sni)
    except Refusal:
        return None
    return one if name == one.name else one._replace(name=name)


def _check_service(asked: Asked) -> None:
    """Raises `QueryInvalid` for another node's tokens (security.md S30)."""
    said = asked.value("service")
    if said and said.lower() != asked.service:
        raise QueryInvalid(
            "this node makes tokens for itself alone", detail="ask with the service of its own challenge"
        )


async def _form(request: Request) -> Pairs:
    """The fields of a body of type application/x-www-form-urlencoded."""
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise QueryInvalid("the body is no form", detail="allowed: application/x-www-form-urlencoded")
    parts, source = bytearray(), request.body
    while source is not None and (data := await source.read()):
        parts += data
        if len(parts) > FORM_BYTES:
            raise SizeInvalid(f"a form over {FORM_BYTES} bytes")
    try:
        return decode_query(parts.decode("ascii"))
    except UnicodeDecodeError:
        raise QueryInvalid("the form holds what should be escaped") from None


ENDPOINTS = {(Noun.TOKEN, "GET"): by_query, (Noun.TOKEN, "POST"): by_form}
