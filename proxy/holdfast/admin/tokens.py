"""Tokens and their passwords over the admin API (connected-registry 4.1)."""

from __future__ import annotations

from typing import Any, get_args

from msgspec import to_builtins

from holdfast.admin.body import CredentialsGone, CredentialsWanted, NewToken, TokenChange
from holdfast.admin.operation import Call, change_reply, or_none, reply
from holdfast.admin.pages import PAGE_ENTRIES, page_reply
from holdfast.control import command
from holdfast.control.moment import stamp
from holdfast.control.resource import TOKEN, PasswordName, Token
from holdfast.control.view import token_view
from holdfast.errors import ControlInvalid, ControlUnknown
from holdfast.wire.message import Reply
from holdfast.wire.names import shown

DAY_SECONDS = 86400
PASSWORDS: tuple[PasswordName, ...] = get_args(PasswordName)


def view(call: Call, token: Token) -> dict[str, Any]:
    """What is shown of one."""
    return token_view(token, call.catalogue.etag(TOKEN, token.name))


def _found(call: Call) -> dict[str, Any]:
    token = call.catalogue.token(call.name)
    if token is None:
        raise ControlUnknown(f"no token is named {shown(call.name)!r}", field="name")
    return view(call, token)


async def show(call: Call) -> Reply:
    """GET of one."""
    document = _found(call)
    return reply(document, etag=document["etag"])


async def show_list(call: Call) -> Reply:
    """GET of all, by name."""
    size, after = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "")
    return page_reply(call, call.catalogue.tokens(after=after, limit=size + 1), size, view)


async def put(call: Call) -> Reply:
    """PUT: create it, with its passwords in this one answer; one that is equal is no change."""
    body: NewToken = call.body
    wanted = body.properties
    order = command.CreateToken(
        name=call.name,
        scope_map=wanted.scope_map_id,
        actions=wanted.actions,
        status=wanted.status,
        no_passwords=wanted.no_passwords,
        expiry=_expiry(call, wanted.expiry, wanted.expiration_in_days),
        only_new=call.if_absent,
    )
    result = await call.order(order)
    document = _found(call)
    if result.passwords:
        document["properties"]["credentials"]["passwords"] = to_builtins(result.passwords)
    return reply(document, call.created(TOKEN, result), document["etag"])


async def change(call: Call) -> Reply:
    """PATCH: what is not said stays."""
    body: TokenChange = call.body
    order = command.UpdateToken(
        name=call.name,
        scope_map=or_none(body.properties.scope_map_id),
        status=or_none(body.properties.status),
        if_match=call.if_match,
    )
    await call.order(order)
    return await show(call)


async def delete(call: Call) -> Reply:
    """DELETE: refused while it is a sync token."""
    return change_reply(await call.order(command.DeleteToken(name=call.name, if_match=call.if_match)))


async def generate(call: Call) -> Reply:
    """POST …/credentials: new passwords; the values of those that were generated are in this one answer, what a person
    chose is not told back."""
    body: CredentialsWanted = call.body
    order = command.GenerateCredentials(
        token=call.name,
        passwords=body.passwords,
        expiry=_expiry(call, body.expiry, body.expiration_in_days),
        secret=body.value,
    )
    result = await call.order(order)
    document, made = _found(call), {one.name: to_builtins(one) for one in result.passwords}
    rows = document["properties"]["credentials"]["passwords"]
    wanted = body.passwords or PASSWORDS
    passwords = [made.get(row["name"], row) for row in rows if row["name"] in wanted]
    return reply({"username": document["name"], "passwords": passwords})


async def end_credentials(call: Call) -> Reply:
    """DELETE …/credentials: passwords end at once."""
    body: CredentialsGone = call.body
    await call.order(command.DeleteCredentials(token=call.name, passwords=body.passwords))
    return await show(call)


def _expiry(call: Call, moment: str | None, days: int | None) -> str | None:
    """When passwords end. Raises `ControlInvalid` for two ways to say it."""
    if moment is not None and days is not None:
        raise ControlInvalid(
            "expirationInDays: found beside expiry; allowed: one of the two", field="expirationInDays"
        )
    return moment if days is None else stamp(call.node.clock.now() + days * DAY_SECONDS)
