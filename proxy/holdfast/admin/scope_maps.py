"""Scope maps over the admin API (connected-registry 4.1)."""

from __future__ import annotations

from typing import Any

from holdfast.admin.body import NewScopeMap, ScopeMapChange
from holdfast.admin.operation import Call, change_reply, or_none, reply
from holdfast.admin.pages import PAGE_ENTRIES, page_reply
from holdfast.control import command
from holdfast.control.resource import SCOPE_MAP, ScopeMap
from holdfast.control.view import scope_map_view
from holdfast.errors import ControlUnknown
from holdfast.wire.message import Reply
from holdfast.wire.names import shown


def view(call: Call, scope_map: ScopeMap) -> dict[str, Any]:
    """What is shown of one."""
    return scope_map_view(scope_map, call.catalogue.etag(SCOPE_MAP, scope_map.name))


def _shown(call: Call, status: int = 200) -> Reply:
    scope_map = call.catalogue.scope_map(call.name)
    if scope_map is None:
        raise ControlUnknown(f"no scope map is named {shown(call.name)!r}", field="name")
    document = view(call, scope_map)
    return reply(document, status, document["etag"])


async def show(call: Call) -> Reply:
    """GET of one."""
    return _shown(call)


async def show_list(call: Call) -> Reply:
    """GET of all, by name, the system's own included."""
    size, after = call.query.get("$top", PAGE_ENTRIES), call.query.get("$skipToken", "")
    return page_reply(call, call.catalogue.scope_maps(after=after, limit=size + 1), size, view)


async def put(call: Call) -> Reply:
    """PUT: create it; one that is equal is no change."""
    body: NewScopeMap = call.body
    order = command.CreateScopeMap(
        name=call.name,
        actions=body.properties.actions,
        description=body.properties.description,
        only_new=call.if_absent,
    )
    return _shown(call, call.created(SCOPE_MAP, await call.order(order)))


async def change(call: Call) -> Reply:
    """PATCH: what is not said stays."""
    body: ScopeMapChange = call.body
    wanted = body.properties
    order = command.UpdateScopeMap(
        name=call.name,
        add=wanted.add_actions,
        remove=wanted.remove_actions,
        actions=or_none(wanted.actions),
        description=or_none(wanted.description),
        if_match=call.if_match,
    )
    await call.order(order)
    return _shown(call)


async def delete(call: Call) -> Reply:
    """DELETE: refused while a token has it."""
    return change_reply(await call.order(command.DeleteScopeMap(name=call.name, if_match=call.if_match)))
