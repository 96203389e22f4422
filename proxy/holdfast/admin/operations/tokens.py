"""Tokens and their passwords over the admin API (references.md 1.17)."""

from __future__ import annotations

from typing import get_args

from holdfast.admin.documents import NewCredentials, PasswordDocument, TokenDocument
from holdfast.admin.filter import PAGE_ENTRIES, page_reply
from holdfast.admin.operation import AdminCall, change_reply, or_none, reply
from holdfast.admin.request_bodies import CredentialsGone, CredentialsWanted, NewToken, TokenChange
from holdfast.control import command
from holdfast.errors import ControlInvalid, ControlUnknown
from holdfast.oci.names import shown
from holdfast.resources.model import TOKEN, PasswordName, Token
from holdfast.timestamps import stamp
from holdfast.wire.message import Reply

DAY_SECONDS = 86400
PASSWORDS: tuple[PasswordName, ...] = get_args(PasswordName)


def document(call: AdminCall, token: Token) -> TokenDocument:
    """A token with its ETag."""
    return TokenDocument.of(token, call.catalogue.etag(TOKEN, token.name))


def _named(call: AdminCall) -> Token:
    token = call.catalogue.token(call.name)
    if token is None:
        raise ControlUnknown(f"no token is named {shown(call.name)!r}", field="name")
    return token


async def show(call: AdminCall) -> Reply:
    """GET of one."""
    answer = document(call, _named(call))
    return reply(answer, etag=answer.etag)


async def show_list(call: AdminCall) -> Reply:
    """GET of all, by name."""
    size, after = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "")
    return page_reply(call, call.catalogue.tokens(after=after, limit=size + 1), size, document)


async def put(call: AdminCall) -> Reply:
    """PUT: create it, with its passwords in this one answer; one that is equal is no change."""
    body: NewToken = call.body
    request = body.properties
    order = command.CreateToken(
        name=call.name,
        scope_map=request.scope_map_id,
        actions=request.actions,
        status=request.status,
        no_passwords=request.no_passwords,
        expiry=_expiry(call, request.expiry, request.expiration_in_days),
        only_new=call.if_absent,
    )
    result = await call.order(order)
    token = _named(call)
    answer = TokenDocument.of(token, call.catalogue.etag(TOKEN, token.name), result.passwords)
    return reply(answer, call.created(TOKEN, result), answer.etag)


async def change(call: AdminCall) -> Reply:
    """PATCH: a field that is left out stays."""
    body: TokenChange = call.body
    order = command.UpdateToken(
        name=call.name,
        scope_map=or_none(body.properties.scope_map_id),
        status=or_none(body.properties.status),
        if_match=call.if_match,
    )
    await call.order(order)
    return await show(call)


async def delete(call: AdminCall) -> Reply:
    """DELETE: refused while it is a sync token."""
    return change_reply(await call.order(command.DeleteToken(name=call.name, if_match=call.if_match)))


async def generate(call: AdminCall) -> Reply:
    """POST …/credentials: new passwords; the values of those that were generated are in this one answer; a chosen
    password is not repeated."""
    body: CredentialsWanted = call.body
    order = command.GenerateCredentials(
        token=call.name,
        passwords=body.passwords,
        expiry=_expiry(call, body.expiry, body.expiration_in_days),
        secret=body.value,
    )
    result = await call.order(order)
    token, generated = _named(call), {one.name: one for one in result.passwords}
    names = body.passwords or PASSWORDS
    passwords = tuple(
        PasswordDocument.of(generated.get(one.name, one)) for one in token.passwords if one.name in names
    )
    return reply(NewCredentials(username=token.name, passwords=passwords))


async def end_credentials(call: AdminCall) -> Reply:
    """DELETE …/credentials: passwords end at once."""
    body: CredentialsGone = call.body
    await call.order(command.DeleteCredentials(token=call.name, passwords=body.passwords))
    return await show(call)


def _expiry(call: AdminCall, expiry: str | None, days: int | None) -> str | None:
    """When passwords expire. Raises `ControlInvalid` for two expiries."""
    if expiry is not None and days is not None:
        raise ControlInvalid(
            "expirationInDays: found beside expiry; allowed: one of the two", field="expirationInDays"
        )
    return expiry if days is None else stamp(call.node.clock.now() + days * DAY_SECONDS)
