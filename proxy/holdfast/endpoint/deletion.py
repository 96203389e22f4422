"""DELETE of tags, manifests and blobs (distribution-spec end-9, end-10). Seen by every worker at once: the
answer comes after the commit, and every read begins at the newest commit. The bytes go later."""

from __future__ import annotations

from typing import NoReturn

from holdfast_core.digest import Digest

from holdfast.endpoint.condition import checked
from holdfast.endpoint.node import Node
from holdfast.errors import BlobUnknown, ManifestUnknown, NameUnknown, Refusal
from holdfast.keeper.condition import NO_CONDITION, Condition
from holdfast.keeper.port import Kind
from holdfast.routing import Scope
from holdfast.wire import names
from holdfast.wire.message import Reply, Request


async def manifest(node: Node, request: Request) -> Reply:
    """202 when the tag is gone, or the manifest with every tag that named it. Raises `ManifestUnknown`."""
    scope = node.router.scope(request)
    reference = names.reference(request.route.reference)
    condition = checked(node, scope, request)
    by_digest = isinstance(reference, Digest)
    return await _deleted(node, scope, "manifest" if by_digest else "tag", str(reference), condition)


async def blob(node: Node, request: Request) -> Reply:
    """202 when the repository has the blob no longer. Raises `BlobUnknown`."""
    scope = node.router.scope(request)
    return await _deleted(node, scope, "blob", str(names.digest(request.route.reference)))


async def _deleted(
    node: Node, scope: Scope, kind: Kind, name: str, condition: Condition = NO_CONDITION
) -> Reply:
    try:
        await node.port.delete(scope.key, kind, name, condition)
    except (ManifestUnknown, BlobUnknown) as unknown:
        _refuse(node, scope, unknown)
    return Reply(202)


def _refuse(node: Node, scope: Scope, unknown: Refusal) -> NoReturn:
    if not node.store.has_repository(scope.key):
        raise NameUnknown("no such repository here") from unknown
    raise unknown
