"""Commands on tokens and their passwords."""

from __future__ import annotations

import msgspec

from holdfast.control import scope_map_commands
from holdfast.control.command import (
    CommandResult,
    CreateToken,
    DeleteCredentials,
    DeleteToken,
    GenerateCredentials,
    GeneratedPassword,
    UpdateToken,
)
from holdfast.control.draft import AS_CLIENT, AS_SYNC, Context, Draft, require_match, unknown
from holdfast.errors import ControlConflict, ControlInvalid, ControlUnknown, PreconditionFailed
from holdfast.oci.names import shown
from holdfast.resources import rules
from holdfast.resources.model import (
    REGISTRY,
    SCOPE_MAP,
    TOKEN,
    Password,
    PasswordName,
    ScopeMap,
    Token,
    id_of,
    name_in,
)

BOTH: tuple[PasswordName, ...] = ("password1", "password2")


def create_token(draft: Draft, order: CreateToken, context: Context) -> CommandResult:
    """See `CreateToken`."""
    name = rules.token_name(name_in(order.name))
    held = draft.token(name)
    if held is not None and order.only_new:
        raise PreconditionFailed(f"the token {held.name} exists; update it, or take another name")
    scope = _scope(draft, order, context, name)
    if held is not None:
        return _same(held, scope, order)
    token = Token(
        name=name,
        scope_map_id=id_of(SCOPE_MAP, scope.name),
        status=order.status,
        creation_date=context.stamp,
    )
    if order.no_passwords:
        draft.put(TOKEN, token)
        return CommandResult(name=name)
    return _generate(draft, token, BOTH, order.expiry, context)


def _scope(draft: Draft, order: CreateToken, context: Context, name: str) -> ScopeMap:
    """The scope map that the command names, or the one it makes."""
    if (order.scope_map is None) == (order.actions is None):
        raise ControlInvalid(
            "give exactly one: the scope map, or the actions of a new one", field="scopeMapId"
        )
    if order.actions is not None:
        return scope_map_commands.make(
            draft,
            f"{name}-scope-map",
            order.actions,
            context,
            description=f"Created by token: {name}",
        )
    return named_scope(draft, order.scope_map or "")


def named_scope(draft: Draft, name: str) -> ScopeMap:
    """The scope map of that name. Raises `ControlInvalid`."""
    scope_map = draft.scope_map(name)
    if scope_map is None:
        raise ControlInvalid(
            f"scopeMapId: there is no scope map {shown(name_in(name))!r}", field="scopeMapId"
        )
    return scope_map


def _same(held: Token, scope: ScopeMap, order: CreateToken) -> CommandResult:
    """Returns the result for a token that exists: no change when it equals the requested one."""
    if name_in(held.scope_map_id).lower() != scope.name.lower():
        raise ControlConflict(
            f"the token {held.name} exists with the scope map {name_in(held.scope_map_id)}; update it, or take another"
            " name",
            field="scopeMapId",
        )
    if held.status != order.status:
        raise ControlConflict(f"the token {held.name} exists and is {held.status}; update it", field="status")
    return CommandResult(name=held.name)


def update_token(draft: Draft, order: UpdateToken, context: Context) -> CommandResult:
    """See `UpdateToken`."""
    held = _token(draft, order.name, order.if_match)
    id = held.scope_map_id
    if order.scope_map is not None:
        id = id_of(SCOPE_MAP, named_scope(draft, order.scope_map).name)
    changed = msgspec.structs.replace(held, scope_map_id=id, status=order.status or held.status)
    if changed != held:
        draft.put(TOKEN, changed)
    return CommandResult(name=held.name)


def delete_token(draft: Draft, order: DeleteToken, context: Context) -> CommandResult:
    """See `DeleteToken`."""
    held = _token(draft, order.name, order.if_match)
    synced = draft.linked(AS_SYNC, held.name, limit=1)
    if synced:
        raise ControlConflict(
            f"the token {held.name} is the sync token of the connected registry {synced[0]}, which exists; disable the"
            " token to cut the registry off, or delete the registry first",
            field="name",
        )
    for name in draft.linked(AS_CLIENT, held.name):
        registry = draft.registry(name)
        if registry is not None:
            left = tuple(id for id in registry.client_token_ids if name_in(id).lower() != held.name.lower())
            draft.put(REGISTRY, msgspec.structs.replace(registry, client_token_ids=left))
    draft.remove(TOKEN, held.name)
    return CommandResult(name=held.name)


def generate_credentials(draft: Draft, order: GenerateCredentials, context: Context) -> CommandResult:
    """See `GenerateCredentials`."""
    held = _token(draft, order.token, None)
    names = order.passwords or BOTH
    if order.secret is None:
        return _generate(draft, held, names, order.expiry, context)
    if len(order.passwords) != 1:
        raise ControlInvalid(
            "a chosen secret is for exactly one of password1 and password2", field="passwords"
        )
    password = Password(
        name=names[0],
        creation_time=context.stamp,
        verifier=context.verifier,
        expiry=rules.expiry(order.expiry, context.now),
    )
    _put_passwords(draft, held, [password])
    return CommandResult(name=held.name)


def delete_credentials(draft: Draft, order: DeleteCredentials, context: Context) -> CommandResult:
    """See `DeleteCredentials`."""
    held = _token(draft, order.token, None)
    names = order.passwords or BOTH
    missing = [name for name in order.passwords if name not in {p.name for p in held.passwords}]
    if missing:
        raise ControlUnknown(f"the token {held.name} has no {missing[0]}", field="passwords")
    left = tuple(password for password in held.passwords if password.name not in names)
    if left != held.passwords:
        draft.put(TOKEN, msgspec.structs.replace(held, passwords=left))
    return CommandResult(name=held.name)


def _token(draft: Draft, name: str, if_match: str | None) -> Token:
    held = draft.token(name)
    if held is None:
        raise unknown(TOKEN, name_in(name))
    require_match(draft, TOKEN, held.name, if_match)
    return held


def _generate(
    draft: Draft, token: Token, names: tuple[PasswordName, ...], expiry: str | None, context: Context
) -> CommandResult:
    """New secrets for some passwords; the answer is the only place where they are."""
    ends = rules.expiry(expiry, context.now)
    passwords, shown_once = [], []
    for name in dict.fromkeys(names):
        secret, verifier = context.generate()
        passwords.append(Password(name=name, creation_time=context.stamp, verifier=verifier, expiry=ends))
        shown_once.append(
            GeneratedPassword(name=name, value=secret, creation_time=context.stamp, expiry=ends)
        )
    _put_passwords(draft, token, passwords)
    return CommandResult(name=token.name, passwords=tuple(shown_once))


def _put_passwords(draft: Draft, token: Token, passwords: list[Password]) -> None:
    by_name = {password.name: password for password in [*token.passwords, *passwords]}
    draft.put(
        TOKEN,
        msgspec.structs.replace(token, passwords=tuple(by_name[name] for name in BOTH if name in by_name)),
    )
