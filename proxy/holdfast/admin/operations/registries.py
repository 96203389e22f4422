"""Connected registries over the admin API (references.md 1.6, 1.8)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from holdfast.admin.documents import RegistryDocument, ScopeMapDocument, TokenDocument, TokenList
from holdfast.admin.filter import PAGE_ENTRIES, Filter, page_reply
from holdfast.admin.operation import AdminCall, change_reply, reply
from holdfast.admin.operations.parents import gateway_endpoint
from holdfast.admin.request_bodies import NewRegistry, PermissionsChange, RegistryChange
from holdfast.control import command
from holdfast.errors import ControlUnknown, Refusal
from holdfast.oci.names import shown
from holdfast.resources import states
from holdfast.resources.model import REGISTRY, SCOPE_MAP, TOKEN, ConnectedRegistry, ScopeMap, Status, Token
from holdfast.wire.message import Reply


def named(call: AdminCall) -> ConnectedRegistry:
    """The connected registry that the path names. Raises `ControlUnknown`."""
    registry = call.catalogue.registry(call.name)
    if registry is None:
        raise ControlUnknown(f"no connected registry is named {shown(call.name)!r}", field="name")
    return registry


async def statuses(call: AdminCall) -> Mapping[str, Status]:
    """The last report of each; without a keeper, the stored one is the last that is known."""
    try:
        return await call.node.port.statuses()
    except Refusal:
        return {}


def document(
    reported: Mapping[str, Status], call: AdminCall, registry: ConnectedRegistry
) -> RegistryDocument:
    """A connected registry, with the status in `reported` or else the stored one."""
    return RegistryDocument.of(
        registry,
        _status(reported, call, registry),
        call.catalogue.revision_of(registry.name),
        call.node.clock.now(),
        call.catalogue.etag(REGISTRY, registry.name),
        gateway_endpoint(call, registry),
    )


def _status(reported: Mapping[str, Status], call: AdminCall, registry: ConnectedRegistry) -> Status:
    return reported.get(registry.name.lower()) or call.catalogue.status(registry.name)


async def _shown(call: AdminCall, status: int = 200) -> Reply:
    answer = document(await statuses(call), call, named(call))
    return reply(answer, status, answer.etag)


async def show(call: AdminCall) -> Reply:
    """GET of one."""
    return await _shown(call)


async def put(call: AdminCall) -> Reply:
    """PUT: create it, or replace what may change."""
    body: NewRegistry = call.body
    order = command.CreateRegistry(
        name=call.name,
        properties=body.properties,
        if_match=call.if_match,
        only_new=call.if_absent,
        dry_run=call.is_dry,
    )
    result = await call.order(order)
    return change_reply(result) if call.is_dry else await _shown(call, call.created(REGISTRY, result))


async def change(call: AdminCall) -> Reply:
    """PATCH: a field that is left out stays."""
    body: RegistryChange = call.body
    order = command.UpdateRegistry(
        name=call.name, properties=body.properties, if_match=call.if_match, dry_run=call.is_dry
    )
    result = await call.order(order)
    return change_reply(result) if call.is_dry else await _shown(call)


async def delete(call: AdminCall) -> Reply:
    """DELETE: the answer lists what was deleted and what the operator still has to do."""
    cleanup = call.query.get("cleanup", False)
    return change_reply(
        await call.order(
            command.DeleteRegistry(
                name=call.name, cleanup=cleanup, if_match=call.if_match, dry_run=call.is_dry
            )
        )
    )


async def deactivate(call: AdminCall) -> Reply:
    """POST …/deactivate."""
    await call.order(command.Deactivate(name=call.name))
    return await _shown(call)


async def resync(call: AdminCall) -> Reply:
    """POST …/resync."""
    await call.order(command.Resync(name=call.name))
    return await _shown(call)


# -- what belongs to one -------------------------------------------------------------------------------


def sync_token(call: AdminCall) -> Token:
    """Its sync token. Raises `ControlUnknown`."""
    token = call.catalogue.token(named(call).parent.sync_properties.token_id)
    if token is None:
        raise ControlUnknown(f"the sync token of {shown(call.name)!r} is not there", field="name")
    return token


def _permissions(call: AdminCall) -> ScopeMap:
    scope_map = call.catalogue.scope_map(sync_token(call).scope_map_id)
    if scope_map is None:
        raise ControlUnknown(f"the scope map of {shown(call.name)!r} is not there", field="name")
    return scope_map


async def permissions(call: AdminCall) -> Reply:
    """GET …/permissions: the scope map of its sync token."""
    scope_map = _permissions(call)
    etag = call.catalogue.etag(SCOPE_MAP, scope_map.name)
    return reply(ScopeMapDocument.of(scope_map, etag), etag=etag)


async def change_permissions(call: AdminCall) -> Reply:
    """POST …/permissions: its repositories, with its ancestors' or its descendants'."""
    body: PermissionsChange = call.body
    order = command.UpdatePermissions(
        name=call.name, add=body.add, remove=body.remove, if_match=call.if_match, dry_run=call.is_dry
    )
    result = await call.order(order)
    return change_reply(result) if call.is_dry else await permissions(call)


async def client_tokens(call: AdminCall) -> Reply:
    """GET …/clientTokens: each of them, in the order of the list."""
    tokens = map(call.catalogue.token, named(call).client_token_ids)
    value = tuple(
        TokenDocument.of(token, call.catalogue.etag(TOKEN, token.name))
        for token in tokens
        if token is not None
    )
    return reply(TokenList(value=value, next_link=None))


# -- lists ---------------------------------------------------------------------------------------------


async def show_list(call: AdminCall) -> Reply:
    """GET of all, by name, as far as `$filter`, `parent` and `noChildren` take them."""
    below = _below(call)
    condition: Filter = call.query.get("$filter", Filter())
    size, after = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "").lower()
    taken: list[ConnectedRegistry] = []
    reported = await statuses(call)
    while len(taken) <= size:
        rows = _next(call, below, after)
        if not rows:
            break
        after = rows[-1].name.lower()
        taken += [
            row for row in rows if condition.takes(row) and _has_state(reported, call, row, condition.state)
        ]
    return page_reply(call, taken, size, partial(document, reported))


def _below(call: AdminCall) -> list[ConnectedRegistry] | None:
    """Those below a registry of the tree, by name; None for all."""
    parent, direct = call.query.get("parent"), call.query.get("noChildren", False)
    if parent is None and not direct:
        return None
    registry = call.catalogue.registry(parent) if parent else None
    if parent and registry is None:
        raise ControlUnknown(f"no connected registry is named {shown(parent)!r}", field="parent")
    name = registry.name if registry else None
    rows = call.catalogue.children(name) if direct else call.catalogue.descendants(name)
    return sorted(rows, key=lambda row: row.name.lower())


def _next(call: AdminCall, below: list[ConnectedRegistry] | None, after: str) -> list[ConnectedRegistry]:
    """The next rows behind a name."""
    if below is None:
        return call.catalogue.registries(after=after, limit=PAGE_ENTRIES)
    return [row for row in below if row.name.lower() > after][:PAGE_ENTRIES]


def _has_state(
    reported: Mapping[str, Status], call: AdminCall, registry: ConnectedRegistry, state: str | None
) -> bool:
    if state is None:
        return True
    status = _status(reported, call, registry)
    return states.connection(status, registry, call.node.clock.now()) == state
