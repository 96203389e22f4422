"""The token endpoint: `/acr/oauth2/token` and `/oauth2/token` (references.md 2.14, 1.19).

    GET   with Basic, or nothing for a stranger      ?service=&scope=&scope=
    POST  a form with grant_type password, for clients of OAuth2

A token has the requested actions that the caller is allowed; none of them is no error. Tokens are valid at this node
alone.

No refresh token is issued, also where a client requests one (`offline_token`, `access_type`): docker stores it in place
of the password and is locked out when it expires, and podman does not read the file in which it is stored. A client
keeps the password, which the operator can revoke.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, NamedTuple

import msgspec

from holdfast.endpoint.node import Answer, Node
from holdfast.errors import QueryInvalid, Refusal, SizeInvalid, Unauthorized
from holdfast.login import token_scope
from holdfast.login.access_token import GrantedResource
from holdfast.login.authorization_header import Basic, of_request
from holdfast.login.caller import Caller, TokenHolder, granted
from holdfast.login.token_cache import CachedToken, TokenCacheKey
from holdfast.login.token_scope import TokenScope
from holdfast.resources.model import lowered
from holdfast.timestamps import stamp
from holdfast.wire.message import Reply, Request
from holdfast.wire.query import Pairs, decode_query
from holdfast.wire.routes import Noun

#: longest form (bytes)
FORM_BYTES = 64 * 1024
#: An answer of OAuth2 is for its client alone (RFC 6749 5.1).
HEADERS = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("Pragma", "no-cache")]
BASIC = ("WWW-Authenticate", 'Basic realm="holdfast"')


class Grant(msgspec.Struct, omit_defaults=True):
    """The answer. `token` and `access_token` are the same: both names exist in the field."""

    token: str
    access_token: str
    expires_in: int
    issued_at: str
    scope: str = ""


class TokenRequest(NamedTuple):
    """A request for a token. `service` is this node's."""

    node: Node
    request: Request
    pairs: Pairs
    service: str

    def value(self, name: str) -> str:
        """A parameter, "" without one. Raises `QueryInvalid` when it is given twice differently."""
        values = {value for key, value in self.pairs if key == name}
        if len(values) > 1:
            raise QueryInvalid(f"{name} is given twice")
        return values.pop() if values else ""


def by_query(node: Node, request: Request) -> Answer:
    """GET. Raises `Unauthorized`, `TooManyLogins`, `QueryInvalid`."""
    token_request = TokenRequest(node, request, request.query, node.access.realm.service(request))
    _check_service(token_request)
    credentials = of_request(request)
    if credentials is None:
        return _answer(token_request, node.access.stranger(request))
    if not isinstance(credentials, Basic):
        raise Unauthorized("the token endpoint requires a name and a password (Basic)", headers=(BASIC,))
    return _by_password(token_request, credentials)


async def by_form(node: Node, request: Request) -> Reply:
    """POST. Raises as `by_query`, and `SizeInvalid`."""
    pairs = await _form(request)
    token_request = TokenRequest(node, request, pairs, node.access.realm.service(request))
    _check_service(token_request)
    kind = token_request.value("grant_type")
    if kind == "refresh_token":
        raise Unauthorized(
            "this node issues no refresh tokens; log in with name and password", headers=(BASIC,)
        )
    if kind != "password":
        raise QueryInvalid("grant_type is missing or unknown", detail="allowed: password")
    credentials = Basic(token_request.value("username"), token_request.value("password"))
    if credentials == ("", ""):
        return _answer(token_request, node.access.stranger(request))
    reply = _by_password(token_request, credentials)
    return reply if isinstance(reply, Reply) else await reply


def _by_password(token_request: TokenRequest, credentials: Basic) -> Answer:
    try:
        holder = token_request.node.access.login(token_request.request, credentials)
    except Unauthorized as refused:
        raise _basic(refused) from None
    return (
        _answer(token_request, holder) if isinstance(holder, TokenHolder) else _later(token_request, holder)
    )


async def _later(token_request: TokenRequest, coming: Coroutine[Any, Any, TokenHolder]) -> Reply:
    try:
        holder = await coming
    except Unauthorized as refused:
        raise _basic(refused) from None
    return _answer(token_request, holder)


def _basic(refused: Unauthorized) -> Unauthorized:
    """The refusal with a challenge for a password in place of a token."""
    return Unauthorized(refused.message, headers=(BASIC,))


def _answer(token_request: TokenRequest, caller: Caller) -> Reply:
    """The answer with a token. `expires_in` counts from now, because a cached token is a moment old."""
    now = token_request.node.clock.now()
    token = _token(token_request, caller, now)
    body = Grant(token.text, token.text, token.end - int(now), stamp(token.at))
    if token_request.request.method == "POST":
        body.scope = " ".join(
            TokenScope(*entry).text for entry in map(msgspec.structs.astuple, token.entries)
        )
    return Reply(200, HEADERS, msgspec.json.encode(body))


def _token(token_request: TokenRequest, caller: Caller, now: float) -> CachedToken:
    """An access token: the one that the same caller got for the same question just now, or a new one. The question has
    everything on which a token depends."""
    request, recent = token_request.request, token_request.node.access.cached_tokens
    scopes = tuple([value for name, value in token_request.pairs if name == "scope"])
    question = TokenCacheKey(caller, token_request.service, request.host, request.sni, scopes)
    if (cached := recent.find(question, now)) is not None:
        return cached
    at, life = int(now), int(token_request.node.config.login.token_ttl)
    entries = _granted(token_request, caller, scopes)
    holder = caller if isinstance(caller, TokenHolder) else None
    text = token_request.node.access.mint.issue(
        *(caller.name, token_request.service, now, life),
        access=entries,
        grant_type="password" if holder is not None else "anonymous",
        proof=holder.proof if holder is not None else "",
    )
    return recent.keep(question, CachedToken(text, entries, at, at + life))


def _granted(
    token_request: TokenRequest, caller: Caller, scopes: tuple[str, ...]
) -> tuple[GrantedResource, ...]:
    actions_of: dict[tuple[str, str], dict[str, None]] = {}
    for one in token_scope.parse(scopes):
        named = _canonical(token_request, one)
        if named is not None and (actions := granted(caller, named)):
            actions_of.setdefault((named.type, named.name), {}).update(dict.fromkeys(actions))
    return tuple(
        [GrantedResource(type, name, tuple(actions)) for (type, name), actions in actions_of.items()]
    )


def _canonical(token_request: TokenRequest, one: TokenScope) -> TokenScope | None:
    """The scope with the repository's name in scope maps; None for an invalid repository. A client uses the name of its
    paths, and several such names may be of one repository."""
    if one.type == token_scope.GATEWAY:
        return one._replace(name=lowered(one.name))
    if one.type != token_scope.REPOSITORY:
        return one
    try:
        name = token_request.node.router.called(
            one.name, token_request.request.host, token_request.request.sni
        )
    except Refusal:
        return None
    return one if name == one.name else one._replace(name=name)


def _check_service(token_request: TokenRequest) -> None:
    """Raises `QueryInvalid` for another node's tokens (security.md S30)."""
    service = token_request.value("service")
    if service and service.lower() != token_request.service:
        raise QueryInvalid(
            "this node issues tokens for itself alone", detail="use the service of its own challenge"
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
        raise QueryInvalid("the form has characters that must be escaped") from None


ENDPOINTS = {(Noun.TOKEN, "GET"): by_query, (Noun.TOKEN, "POST"): by_form}
