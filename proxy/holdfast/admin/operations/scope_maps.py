"""Scope maps over the admin API (references.md 1.17)."""

from __future__ import annotations

from holdfast.admin.documents import ScopeMapDocument
from holdfast.admin.filter import PAGE_ENTRIES, page_reply
from holdfast.admin.operation import AdminCall, change_reply, or_none, reply
from holdfast.admin.request_bodies import NewScopeMap, ScopeMapChange
from holdfast.control import command
from holdfast.errors import ControlUnknown
from holdfast.oci.names import shown
from holdfast.resources.model import SCOPE_MAP, ScopeMap
from holdfast.wire.message import Reply


def document(call: AdminCall, scope_map: ScopeMap) -> ScopeMapDocument:
    """A scope map with its ETag."""
    return ScopeMapDocument.of(scope_map, call.catalogue.etag(SCOPE_MAP, scope_map.name))


def _shown(call: AdminCall, status: int = 200) -> Reply:
    scope_map = call.catalogue.scope_map(call.name)
    if scope_map is None:
        raise ControlUnknown(f"no scope map is named {shown(call.name)!r}", field="name")
    answer = document(call, scope_map)
    return reply(answer, status, answer.etag)


async def show(call: AdminCall) -> Reply:
    """GET of one."""
    return _shown(call)


async def show_list(call: AdminCall) -> Reply:
    """GET of all, by name, the system's own included."""
    size, after = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "")
    return page_reply(call, call.catalogue.scope_maps(after=after, limit=size + 1), size, document)


async def put(call: AdminCall) -> Reply:
    """PUT: create it; one that is equal is no change."""
    body: NewScopeMap = call.body
    order = command.CreateScopeMap(
        name=call.name,
        actions=body.properties.actions,
        description=body.properties.description,
        only_new=call.if_absent,
    )
    return _shown(call, call.created(SCOPE_MAP, await call.order(order)))


async def change(call: AdminCall) -> Reply:
    """PATCH: a field that is left out stays."""
    body: ScopeMapChange = call.body
    change = body.properties
    order = command.UpdateScopeMap(
        name=call.name,
        add=change.add_actions,
        remove=change.remove_actions,
        actions=or_none(change.actions),
        description=or_none(change.description),
        if_match=call.if_match,
    )
    await call.order(order)
    return _shown(call)


async def delete(call: AdminCall) -> Reply:
    """DELETE: refused while a token has it."""
    return change_reply(await call.order(command.DeleteScopeMap(name=call.name, if_match=call.if_match)))
