"""Connected registries over the admin API (connected-registry 2.1, 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from holdfast.admin.body import NewRegistry, PermissionsChange, RegistryChange
from holdfast.admin.filter import Filter
from holdfast.admin.operation import Call, change_reply, or_none, reply
from holdfast.admin.pages import PAGE_ENTRIES, page_reply
from holdfast.control import command, states
from holdfast.control.resource import REGISTRY, SCOPE_MAP, ConnectedRegistry, Mode, ScopeMap, Status, Token
from holdfast.control.view import registry_view, scope_map_view, token_view
from holdfast.errors import ControlUnknown, Refusal
from holdfast.wire.message import Reply
from holdfast.wire.names import shown

#: what modes were called before (C1)
MODES: dict[str, Mode] = {
    "ReadWrite": "ReadWrite",
    "ReadOnly": "ReadOnly",
    "Registry": "ReadWrite",
    "Mirror": "ReadOnly",
}


def found(call: Call) -> ConnectedRegistry:
    """The connected registry that the path names. Raises `ControlUnknown`."""
    registry = call.catalogue.registry(call.name)
    if registry is None:
        raise ControlUnknown(f"no connected registry is named {shown(call.name)!r}", field="name")
    return registry


async def statuses(call: Call) -> Mapping[str, Status]:
    """What each said last; without a keeper, what is in the store is the last that is known."""
    try:
        return msgspec.json.decode(await call.node.port.statuses(), type=dict[str, Status])
    except Refusal:
        return {}


def view(said: Mapping[str, Status], call: Call, registry: ConnectedRegistry) -> dict[str, Any]:
    """What is shown of one."""
    etag = call.catalogue.etag(REGISTRY, registry.name)
    return registry_view(registry, _status(said, call, registry), call.node.clock.now(), etag)


def _status(said: Mapping[str, Status], call: Call, registry: ConnectedRegistry) -> Status:
    return said.get(registry.name.lower()) or call.catalogue.status(registry.name)


async def _shown(call: Call, status: int = 200) -> Reply:
    document = view(await statuses(call), call, found(call))
    return reply(document, status, document["etag"])


async def show(call: Call) -> Reply:
    """GET of one."""
    return await _shown(call)


async def put(call: Call) -> Reply:
    """PUT: create it, or replace what may change."""
    body: NewRegistry = call.body
    wanted, sync = body.properties, body.properties.parent.sync_properties
    order = command.CreateRegistry(
        name=call.name,
        mode=MODES[wanted.mode],
        parent=wanted.parent.id,
        repositories=wanted.repositories,
        sync_token=sync.token_id,
        schedule=sync.schedule,
        sync_window=sync.sync_window,
        message_ttl=sync.message_ttl,
        log_level=wanted.logging.log_level,
        audit_log_status=wanted.logging.audit_log_status,
        client_tokens=wanted.client_token_ids,
        notifications=wanted.notifications_list,
        gc_enabled=wanted.garbage_collection.enabled,
        gc_schedule=wanted.garbage_collection.schedule,
        if_match=call.if_match,
        only_new=call.if_absent,
        dry_run=call.is_dry,
    )
    result = await call.order(order)
    return change_reply(result) if call.is_dry else await _shown(call, call.created(REGISTRY, result))


async def change(call: Call) -> Reply:
    """PATCH: what is not said stays."""
    body: RegistryChange = call.body
    wanted, sync = body.properties, body.properties.sync_properties
    order = command.UpdateRegistry(
        name=call.name,
        schedule=or_none(sync.schedule),
        sync_window=sync.sync_window,
        message_ttl=or_none(sync.message_ttl),
        log_level=or_none(wanted.logging.log_level),
        audit_log_status=or_none(wanted.logging.audit_log_status),
        client_tokens=or_none(wanted.client_token_ids),
        add_client_tokens=wanted.add_client_tokens,
        remove_client_tokens=wanted.remove_client_tokens,
        notifications=or_none(wanted.notifications_list),
        add_notifications=wanted.add_notifications,
        remove_notifications=wanted.remove_notifications,
        gc_enabled=or_none(wanted.garbage_collection.enabled),
        gc_schedule=or_none(wanted.garbage_collection.schedule),
        if_match=call.if_match,
        dry_run=call.is_dry,
    )
    result = await call.order(order)
    return change_reply(result) if call.is_dry else await _shown(call)


async def delete(call: Call) -> Reply:
    """DELETE: the answer says what went and what is left to do."""
    cleanup = call.query.get("cleanup", False)
    return change_reply(
        await call.order(
            command.DeleteRegistry(
                name=call.name, cleanup=cleanup, if_match=call.if_match, dry_run=call.is_dry
            )
        )
    )


async def deactivate(call: Call) -> Reply:
    """POST …/deactivate."""
    await call.order(command.Deactivate(name=call.name))
    return await _shown(call)


async def resync(call: Call) -> Reply:
    """POST …/resync."""
    await call.order(command.Resync(name=call.name))
    return await _shown(call)


# -- what belongs to one -------------------------------------------------------------------------------


def sync_token(call: Call) -> Token:
    """Its sync token. Raises `ControlUnknown`."""
    token = call.catalogue.token(found(call).parent.sync_properties.token_id)
    if token is None:
        raise ControlUnknown(f"the sync token of {shown(call.name)!r} is not there", field="name")
    return token


def _permissions(call: Call) -> ScopeMap:
    scope_map = call.catalogue.scope_map(sync_token(call).scope_map_id)
    if scope_map is None:
        raise ControlUnknown(f"the scope map of {shown(call.name)!r} is not there", field="name")
    return scope_map


async def permissions(call: Call) -> Reply:
    """GET …/permissions: the scope map of its sync token."""
    scope_map = _permissions(call)
    etag = call.catalogue.etag(SCOPE_MAP, scope_map.name)
    return reply(scope_map_view(scope_map, etag), etag=etag)


async def change_permissions(call: Call) -> Reply:
    """POST …/permissions: its repositories, with its ancestors' or its descendants'."""
    body: PermissionsChange = call.body
    order = command.UpdatePermissions(
        name=call.name, add=body.add, remove=body.remove, if_match=call.if_match, dry_run=call.is_dry
    )
    result = await call.order(order)
    return change_reply(result) if call.is_dry else await permissions(call)


async def client_tokens(call: Call) -> Reply:
    """GET …/clientTokens: each of them, in the order of the list."""
    tokens = map(call.catalogue.token, found(call).client_token_ids)
    views = [
        token_view(token, call.catalogue.etag("token", token.name)) for token in tokens if token is not None
    ]
    return reply({"value": views, "nextLink": None})


# -- lists ---------------------------------------------------------------------------------------------


async def show_list(call: Call) -> Reply:
    """GET of all, by name, as far as `$filter`, `parent` and `noChildren` take them."""
    below = _below(call)
    wanted: Filter = call.query.get("$filter", Filter())
    size, after = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "").lower()
    taken: list[ConnectedRegistry] = []
    said = await statuses(call)
    while len(taken) <= size:
        rows = _next(call, below, after)
        if not rows:
            break
        after = rows[-1].name.lower()
        taken += [row for row in rows if wanted.takes(row) and _has_state(said, call, row, wanted.state)]
    return page_reply(call, taken, size, partial(view, said))


def _below(call: Call) -> list[ConnectedRegistry] | None:
    """Those below a place in the tree, by name; None for all."""
    parent, direct = call.query.get("parent"), call.query.get("noChildren", False)
    if parent is None and not direct:
        return None
    registry = call.catalogue.registry(parent) if parent else None
    if parent and registry is None:
        raise ControlUnknown(f"no connected registry is named {shown(parent)!r}", field="parent")
    name = registry.name if registry else None
    rows = call.catalogue.children(name) if direct else call.catalogue.descendants(name)
    return sorted(rows, key=lambda row: row.name.lower())


def _next(call: Call, below: list[ConnectedRegistry] | None, after: str) -> list[ConnectedRegistry]:
    """The next rows behind a name."""
    if below is None:
        return call.catalogue.registries(after=after, limit=PAGE_ENTRIES)
    return [row for row in below if row.name.lower() > after][:PAGE_ENTRIES]


def _has_state(
    said: Mapping[str, Status], call: Call, registry: ConnectedRegistry, state: str | None
) -> bool:
    if state is None:
        return True
    status = _status(said, call, registry)
    return states.connection(status, registry, call.node.clock.now()) == state
