"""Commands on connected registries."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import UNSET, Struct

from holdfast.control import hierarchy
from holdfast.control.command import (
    CommandResult,
    CreateRegistry,
    Deactivate,
    DeleteRegistry,
    Resync,
    UpdatePermissions,
    UpdateRegistry,
)
from holdfast.control.draft import AS_CLIENT, AS_SYNC, OF_SCOPE_MAP, Context, Draft, require_match, unknown
from holdfast.errors import ControlConflict, ControlInvalid, PreconditionFailed
from holdfast.oci.names import shown
from holdfast.resources import actions, rules, states
from holdfast.resources.actions import Grants
from holdfast.resources.derived_fields import applied
from holdfast.resources.model import (
    AT_CREATION,
    INTERNAL,
    NOTICES,
    REGISTRY,
    SCOPE_MAP,
    STATUS,
    TOKEN,
    ConnectedRegistry,
    Mode,
    ParentProperties,
    ScopeMap,
    SyncProperties,
    SyncResult,
    Token,
    id_of,
    name_in,
)
from holdfast.resources.registry_requests import MODES, NewRegistryProperties, RegistryChangeProperties

OFFLINE = "ConnectedRegistryHasOfflineChildren"


def create_registry(draft: Draft, order: CreateRegistry, context: Context) -> CommandResult:
    """See `CreateRegistry`."""
    name = rules.registry_name(name_in(order.name))
    held = draft.registry(name)
    require_match(draft, REGISTRY, name, order.if_match)
    if held is not None:
        if order.only_new:
            raise PreconditionFailed(
                f"the connected registry {held.name} exists; update it, or take another name"
            )
        return _replace(draft, held, order.properties)
    request = order.properties
    sync_token = request.parent.sync_properties.token_id
    if (request.repositories is None) == (sync_token is None):
        raise ControlInvalid(
            "give exactly one: the repositories to synchronise, or a sync token", field="repositories"
        )
    mode = MODES[request.mode]
    parent = _parent(draft, request.parent.id, mode)
    if sync_token is None:
        token = _own_token(draft, name, mode, request.repositories or (), context)
    else:
        token = _given_token(draft, name, mode, sync_token)
    registry = ConnectedRegistry(
        name=name,
        mode=mode,
        parent=ParentProperties(id=parent, sync_properties=SyncProperties(token_id=id_of(TOKEN, token.name))),
        created=context.stamp,
    )
    registry = _configured(registry, request.parent.sync_properties, request)
    draft.put(REGISTRY, registry)
    hierarchy.widen_ancestors(draft, registry)
    return CommandResult(name=name)


def _parent(draft: Draft, parent: str | None, mode: Mode) -> str | None:
    """The id of the parent; None for the root. Raises `ControlInvalid` for one that is not there."""
    if parent is None:
        return None
    registry = draft.registry(parent)
    if registry is None:
        raise ControlInvalid(
            f"parent.id: there is no connected registry {shown(name_in(parent))!r}; create it first, or leave the"
            " parent out for the root",
            field="parent.id",
        )
    if registry.mode == "ReadOnly" and mode != "ReadOnly":
        raise ControlConflict(
            f"mode {mode} below {registry.name}, which is ReadOnly; allowed: ReadOnly", field="mode"
        )
    return id_of(REGISTRY, registry.name)


def _own_token(draft: Draft, name: str, mode: Mode, requested: tuple[str, ...], context: Context) -> Token:
    """The scope map and the enabled sync token that are named like the registry, new or over what an earlier registry
    of that name left. Passwords of an earlier one end."""
    repositories = rules.repositories(requested)
    if not repositories:
        raise ControlInvalid(
            "repositories is empty; give one at least, it need not exist yet", field="repositories"
        )
    held_scope, held_token = draft.scope_map(name), draft.token(name)
    _refuse_taken(draft, held_scope, held_token, name)
    rights = actions.OF_MODE[mode]
    granted = [text for repository in repositories for text in actions.of_repository(repository, rights)]
    scope = ScopeMap(
        name=name,
        actions=(*granted, *actions.of_gateway(name)),
        description=f"Created by connected registry: {name}",
        creation_date=context.stamp if held_scope is None else held_scope.creation_date,
    )
    created = context.stamp if held_token is None else held_token.creation_date
    token = Token(name=name, scope_map_id=id_of(SCOPE_MAP, name), creation_date=created)
    draft.put(SCOPE_MAP, scope)
    draft.put(TOKEN, token)
    return token


def _refuse_taken(draft: Draft, scope: ScopeMap | None, token: Token | None, name: str) -> None:
    """Refuses a name whose token or scope map is used for something else."""
    other_scope = token is not None and name_in(token.scope_map_id).lower() != name.lower()
    in_use = token is not None and (draft.is_linked(AS_CLIENT, name) or draft.is_linked(AS_SYNC, name))
    users = [] if scope is None else draft.linked(OF_SCOPE_MAP, name, limit=2)
    if other_scope or in_use or any(user != name.lower() for user in users):
        what = "token" if other_scope or in_use else "scope map"
        raise ControlConflict(
            f"the {what} {name} exists and is used for something else; take another name for the connected registry, or"
            " delete it",
            field="name",
        )


def _given_token(draft: Draft, name: str, mode: Mode, sync_token: str) -> Token:
    """The operator's sync token; its scope map gets the registry's gateway (references.md 1.4)."""
    token = draft.token(sync_token)
    if token is None:
        raise ControlInvalid(
            f"tokenId: there is no token {shown(name_in(sync_token))!r}",
            field="parent.syncProperties.tokenId",
        )
    if draft.is_linked(AS_SYNC, token.name):
        raise ControlConflict(
            f"tokenId: {token.name} is the sync token of another connected registry; each has its own",
            field="parent.syncProperties.tokenId",
        )
    scope = draft.scope_map(token.scope_map_id)
    if scope is None or scope.type == "SystemDefined":
        raise ControlConflict(
            f"tokenId: the scope map of {token.name} cannot be changed; give the token one of its own",
            field="parent.syncProperties.tokenId",
        )
    _require_sync_actions(scope, mode)
    hierarchy.set_actions(draft, scope, actions.merged(scope.actions, actions.of_gateway(name)))
    draft.put(TOKEN, token)  # so that the rules check it
    return token


def _require_sync_actions(scope: ScopeMap, mode: Mode) -> None:
    """Only repositories, and for each of them what the mode needs; nothing beyond reading for ReadOnly."""
    needed, held = actions.OF_MODE[mode], [actions.parse(text) for text in scope.actions]
    names = dict.fromkeys(action.name for action in held if action.noun == "repositories")
    given = {(action.name, action.right) for action in held}
    lacking = [
        f"repositories/{name}/{right}" for name in names for right in needed if (name, right) not in given
    ]
    extra = [a.text for a in held if a.noun == "gateway" or a.right not in needed]
    if lacking or extra or not names:
        what = f"lacks {lacking[0]}" if lacking else f"has {extra[0]}" if extra else "names no repository"
        raise ControlConflict(
            f"tokenId: the scope map {scope.name} {what}; the sync token of a {mode} registry has {', '.join(needed)}"
            " for each of its repositories and nothing else",
            field="parent.syncProperties.tokenId",
        )


def _configured(held: ConnectedRegistry, sync: Struct, settings: Struct) -> ConnectedRegistry:
    """`held` with what a request sets: `sync` has fields of `SyncProperties`, `settings` of `ConnectedRegistry`. Raises
    `ControlInvalid`. The lists of names are as the request has them, each entry once."""
    before = held.parent.sync_properties
    now = applied(before, sync, without=frozenset({"token_id"}))
    if now.schedule != before.schedule:
        rules.cron(now.schedule, "schedule")
    now = msgspec.structs.replace(
        now,
        sync_window=rules.sync_window(now.sync_window, now.schedule),
        message_ttl=rules.message_ttl(now.message_ttl),
    )
    registry = applied(held, settings, without=INTERNAL | AT_CREATION)
    rules.cron(registry.garbage_collection.schedule, "garbageCollection.schedule")
    return msgspec.structs.replace(
        registry,
        parent=msgspec.structs.replace(held.parent, sync_properties=now),
        client_token_ids=_ids(registry.client_token_ids),
        notifications_list=rules.notifications(registry.notifications_list),
    )


def _ids(names: Iterable[str]) -> tuple[str, ...]:
    """Token ids, each once whatever its casing."""
    plain = {name_in(name).lower(): name_in(name) for name in reversed(tuple(names))}
    order = dict.fromkeys(name_in(name).lower() for name in names)
    return tuple(id_of(TOKEN, plain[key]) for key in order)


def _replace(draft: Draft, held: ConnectedRegistry, request: NewRegistryProperties) -> CommandResult:
    """A registry that is there: what cannot change must be as it is, the rest is as the request says."""
    sync = request.parent.sync_properties
    token_id = held.parent.sync_properties.token_id
    parent = None if request.parent.id is None else name_in(request.parent.id).lower()
    held_parent = None if held.parent.id is None else name_in(held.parent.id).lower()
    if MODES[request.mode] != held.mode:
        raise immutable("mode", held.mode)
    if parent != held_parent:
        raise immutable("parent.id", held.parent.id or "the root")
    if sync.token_id is not None and name_in(sync.token_id).lower() != name_in(token_id).lower():
        raise immutable("parent.syncProperties.tokenId", token_id)
    if request.repositories is not None and set(rules.repositories(request.repositories)) != _repositories(
        draft, held
    ):
        raise ControlConflict(
            f"the connected registry {held.name} exists with other repositories; change them with permissions update",
            field="repositories",
        )
    return _put(draft, held, _configured(held, sync, request))


def _put(draft: Draft, held: ConnectedRegistry, registry: ConnectedRegistry) -> CommandResult:
    if registry != held:
        draft.put(REGISTRY, registry)
    return CommandResult(name=held.name)


def _repositories(draft: Draft, registry: ConnectedRegistry) -> set[str]:
    held = map(actions.parse, hierarchy.sync_scope(draft, registry).actions)
    return {action.name for action in held if action.noun == "repositories"}


def immutable(field: str, held: str) -> ControlConflict:
    """What is decided at creation."""
    return ControlConflict(
        f"{field} cannot be changed (it is {held}); delete the connected registry and create it anew",
        field=field,
    )


def update_registry(draft: Draft, order: UpdateRegistry, context: Context) -> CommandResult:
    """See `UpdateRegistry`."""
    held = _held(draft, order.name)
    require_match(draft, REGISTRY, held.name, order.if_match)
    change = msgspec.structs.replace(
        order.properties,
        client_token_ids=_clients(held, order.properties),
        notifications_list=_notifications(held, order.properties),
    )
    return _put(draft, held, _configured(held, change.sync_properties, change))


def _clients(held: ConnectedRegistry, change: RegistryChangeProperties) -> tuple[str, ...]:
    add, remove = change.add_client_tokens, change.remove_client_tokens
    if change.client_token_ids is not UNSET:
        _refuse_both(add or remove, "clientTokenIds")
        return change.client_token_ids
    rules.unambiguous(add, remove, "Client tokens", "clientTokenIds")
    gone = {name_in(name).lower() for name in remove}
    return tuple(id for id in [*held.client_token_ids, *add] if name_in(id).lower() not in gone)


def _notifications(held: ConnectedRegistry, change: RegistryChangeProperties) -> tuple[str, ...]:
    add, remove = change.add_notifications, change.remove_notifications
    if change.notifications_list is not UNSET:
        _refuse_both(add or remove, "notificationsList")
        return change.notifications_list
    rules.unambiguous_patterns(add, remove)
    return tuple(p for p in [*held.notifications_list, *add] if p not in set(remove))


def _refuse_both(more: object, field: str) -> None:
    if more:
        raise ControlInvalid(
            f"{field} replaces the whole list; give either it or what to add and remove", field=field
        )


def delete_registry(draft: Draft, order: DeleteRegistry, context: Context) -> CommandResult:
    """See `DeleteRegistry`."""
    held = _held(draft, order.name)
    require_match(draft, REGISTRY, held.name, order.if_match)
    below = hierarchy.children(draft, held)
    if below:
        raise ControlConflict(
            f"the connected registry {held.name} has {len(below)} below it ({below[0].name}); delete them first",
            field="name",
        )
    if order.cleanup:
        hierarchy.remove_gateway(draft, held)
    else:
        follow_up = _follow_up(draft, held)
    draft.remove(REGISTRY, held.name)
    draft.remove(STATUS, held.name)
    draft.remove(NOTICES, held.name)
    if not order.cleanup:
        return CommandResult(name=held.name, follow_up=follow_up)
    _remove_sync_token(draft, held)
    return CommandResult(name=held.name)


def _remove_sync_token(draft: Draft, held: ConnectedRegistry) -> None:
    token = draft.token(held.parent.sync_properties.token_id)
    if token is None:
        return
    draft.remove(TOKEN, token.name)
    scope = draft.scope_map(token.scope_map_id)
    if scope is not None and scope.type == "UserDefined" and not draft.is_linked(OF_SCOPE_MAP, scope.name):
        draft.remove(SCOPE_MAP, scope.name)


def _follow_up(draft: Draft, held: ConnectedRegistry) -> tuple[str, ...]:
    """What `--cleanup` would have done, as commands."""
    token, scope = name_in(held.parent.sync_properties.token_id), hierarchy.sync_scope(draft, held)
    rights = " ".join(actions.GATEWAY_RIGHTS)
    return (
        f"holdfast token delete --name {token}",
        f"holdfast scope-map delete --name {scope.name}",
        *(
            f"holdfast scope-map update --name {hierarchy.sync_scope(draft, above).name}"
            f" --remove-gateway {held.name.lower()} {rights}"
            for above in hierarchy.ancestors(draft, held)
        ),
    )


def deactivate(draft: Draft, order: Deactivate, context: Context) -> CommandResult:
    """See `Deactivate`."""
    held = _held(draft, order.name)
    status = draft.status(held.name)
    if status.lease is not None:
        none = msgspec.structs.replace(status, lease=None, syncing=False, sync_progress=None)
        draft.put(STATUS, none, held.name)
        draft.put(REGISTRY, msgspec.structs.replace(held, deactivated=context.stamp))
    return CommandResult(name=held.name)


def resync(draft: Draft, order: Resync, context: Context) -> CommandResult:
    """See `Resync`."""
    held = _held(draft, order.name)
    status = draft.status(held.name)
    if states.connection(status, held, context.now) == "Offline":
        raise ControlConflict(
            f"{OFFLINE}: the connected registry {held.name} is not connected; try again when it is",
            detail=OFFLINE,
        )
    last = status.registry_sync_result
    pending = SyncResult(
        sync_trigger="ManualResync",
        sync_state="Pending",
        last_sync_start_time=last.last_sync_start_time,
        last_sync_end_time=last.last_sync_end_time,
        last_successful_sync_end_time=last.last_successful_sync_end_time,
    )
    draft.put(STATUS, msgspec.structs.replace(status, registry_sync_result=pending), held.name)
    draft.put(REGISTRY, msgspec.structs.replace(held, resync_requested=context.stamp))
    return CommandResult(name=held.name)


def update_permissions(draft: Draft, order: UpdatePermissions, context: Context) -> CommandResult:
    """See `UpdatePermissions`."""
    held = _held(draft, order.name)
    scope = hierarchy.sync_scope(draft, held)
    require_match(draft, SCOPE_MAP, scope.name, order.if_match)
    add, remove = rules.repositories(order.add, "add"), rules.repositories(order.remove, "remove")
    if not add and not remove:
        raise ControlInvalid("add and remove are both empty; name a repository in one of them", field="add")
    rules.unambiguous_patterns(add, remove, what="Repositories", field="add")
    gone = [text for repository in remove for text in actions.of_repository(repository, actions.RIGHTS)]
    left = actions.without(scope.actions, gone)
    _require_gone(held, left, remove)
    rights = actions.OF_MODE[held.mode]
    more = [text for repository in add for text in actions.of_repository(repository, rights)]
    hierarchy.set_actions(draft, scope, actions.merged(left, actions.uncovered(left, more)))
    if remove:
        hierarchy.narrow_descendants(draft, held, gone)
    if add:
        hierarchy.widen_ancestors(draft, held)
    return CommandResult(name=held.name)


def _require_gone(registry: ConnectedRegistry, left: tuple[str, ...], removed: tuple[str, ...]) -> None:
    """Refuse a removal that removes nothing, because a pattern still covers the repository."""
    held = Grants.of(left)
    for name in removed:
        if any(held.covers(actions.parse(text)) for text in actions.of_repository(name, actions.RIGHTS)):
            raise ControlConflict(
                f"{name} would still be synchronised by {registry.name}: a pattern of its scope map covers it; remove"
                " the pattern, and add what is to stay",
                field="remove",
            )


def _held(draft: Draft, name: str) -> ConnectedRegistry:
    registry = draft.registry(name)
    if registry is None:
        raise unknown(REGISTRY, name_in(name))
    return registry
