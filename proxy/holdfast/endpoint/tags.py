"""GET of a repository's tags: the parent's list and what is held, in byte order (distribution-spec end-8)."""

from __future__ import annotations

import msgspec

from holdfast.endpoint.node import Answer, Node
from holdfast.endpoint.page import Page, asked_page, next_link
from holdfast.endpoint.warning import warning
from holdfast.errors import KeeperAway, NameUnknown, ParentFailed
from holdfast.keeper.port import ListAnswer
from holdfast.routing import Scope
from holdfast.wire.message import Reply, Request

CURRENT = ListAnswer()


def answer(node: Node, request: Request) -> Answer:
    """The list, or what will ask the keeper for the parent's. Raises `Locked` where reading is not allowed."""
    scope = node.router.scope(request)
    page = asked_page(request, node.config.limits.page_size)
    node.store.require_read(scope.key)
    if not node.asks(scope) or _is_fresh(node, scope):
        return _reply(node, request, scope, page, CURRENT)
    return _fetched(node, request, scope, page)


def _is_fresh(node: Node, scope: Scope) -> bool:
    held = node.store.tag_list(scope.key)
    return held is not None and 0 <= node.clock.now() - held.fetched_at < node.config.tags.list_ttl


async def _fetched(node: Node, request: Request, scope: Scope, page: Page) -> Reply:
    try:
        told = await node.port.tags(scope.key)
        if not told.stale and told.unstored is None:
            node.store.confirm_tag_list(scope.key, node.clock.now() - told.age)
    except (ParentFailed, KeeperAway) as error:
        if not node.store.has_repository(scope.key):
            raise
        held = node.store.tag_list(scope.key)
        age = max(0, int(node.clock.now() - held.fetched_at)) if held else 0
        told = ListAnswer(age, error.message)
    return _reply(node, request, scope, page, told)


def _reply(node: Node, request: Request, scope: Scope, page: Page, told: ListAnswer) -> Reply:
    fetched = node.store.tag_list(scope.key, told.unstored)
    held = node.store.tags(scope.key)
    if fetched is None and not held and not node.store.has_repository(scope.key):
        raise NameUnknown("no such repository here")
    # str order is byte order here: tags are ASCII
    tags, more = page.cut(sorted({*held, *(fetched.tags if fetched else ())}))
    headers = [("Content-Type", "application/json")]
    if more:
        headers.append(next_link(request, tags[-1]))
    if told.stale:
        headers += [("Age", str(told.age)), ("Warning", warning(told.stale, told.age))]
    if scope.namespace:
        headers.append(("OCI-Namespace", scope.namespace))
    return Reply(200, headers, msgspec.json.encode({"name": _shown_name(request, scope), "tags": tags}))


def _shown_name(request: Request, scope: Scope) -> str:
    """The name as the client knows it: with the prefix it put behind /v2."""
    return request.route.name or scope.repository.name
