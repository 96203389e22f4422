"""Disk space over the admin API: by parent, by repository, by image."""

from __future__ import annotations

import asyncio

from holdfast_core.errors import ContentLocked

from holdfast.admin.filter import PAGE_ENTRIES, next_link
from holdfast.admin.operation import AdminCall, reply
from holdfast.clock import give_way
from holdfast.errors import NameUnknown, QueryInvalid
from holdfast.oci.names import shown
from holdfast.storage.disk_usage import node_usage, outside_bytes, repository_usage, tag_usage
from holdfast.storage.usage_report import RepositoryUsageList, TagUsageList
from holdfast.wire.message import Reply


async def show(call: AdminCall) -> Reply:
    """GET of the whole node."""
    store = call.node.store
    outside = await asyncio.get_running_loop().run_in_executor(None, outside_bytes, store.path)
    return reply(await node_usage(store, outside, store.free_bytes()))


async def repositories(call: AdminCall) -> Reply:
    """GET of the repositories, a page of them by name."""
    node, size = call.node, call.query.get("$top", PAGE_ENTRIES)
    keys = node.references.every_name(last=call.query.get("$skipToken", ""), limit=size + 1)
    rows = []
    for key in keys[:size]:
        rows.append(repository_usage(node.store, key, node.router.shown_name(key), node.clock.now()))
        await give_way()
    following = next_link(call, keys[size - 1]) if len(keys) > size else None
    return reply(RepositoryUsageList(value=tuple(rows), next_link=following))


async def tags(call: AdminCall) -> Reply:
    """GET of the images of a repository, a page of them by tag. Raises `NameUnknown`."""
    node, size = call.node, call.query.get("$top", PAGE_ENTRIES)
    if not (name := call.query.get("repository", "")):
        raise QueryInvalid("repository: missing; it must be given", detail="repository")
    key = node.router.named(name).key
    if not node.references.has_repository(key):
        raise NameUnknown(f"no repository {shown(name)!r} here")
    names = node.references.tags(key, last=call.query.get("$skipToken", ""), limit=size + 1)
    rows = []
    for tag in names[:size]:
        try:
            held = node.references.tag(key, tag)
        except ContentLocked:
            continue
        if held is not None:
            rows.append(tag_usage(node.store, key, tag, held.digest, node.clock.now()))
        await give_way()
    following = next_link(call, names[size - 1]) if len(names) > size else None
    return reply(TagUsageList(repository=name, value=tuple(rows), next_link=following))
