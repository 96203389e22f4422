"""DELETE of tags, manifests and blobs (distribution-spec end-9, end-10). The answer is sent after the commit, and every
read begins at the newest commit, so that all workers see it at once. Garbage collection removes the bytes later."""

from __future__ import annotations

from typing import NoReturn

from holdfast_core.digest import Digest

from holdfast.endpoint.content import checked
from holdfast.endpoint.node import Node
from holdfast.errors import BlobUnknown, ManifestUnknown, NameUnknown, Refusal
from holdfast.keeper.api import NO_CONDITION, Condition, Kind
from holdfast.oci import names
from holdfast.routing import RoutedRepository
from holdfast.wire.message import Reply, Request


async def manifest(node: Node, request: Request) -> Reply:
    """202 after the tag was deleted, or the manifest with all its tags. Raises `ManifestUnknown`."""
    scope = node.router.scope(request)
    reference = names.reference(request.route.reference)
    condition = checked(node, scope, request)
    by_digest = isinstance(reference, Digest)
    return await _deleted(node, scope, "manifest" if by_digest else "tag", str(reference), condition)


async def blob(node: Node, request: Request) -> Reply:
    """202 after the repository's link to the blob was deleted. Raises `BlobUnknown`."""
    scope = node.router.scope(request)
    return await _deleted(node, scope, "blob", str(names.digest(request.route.reference)))


async def _deleted(
    node: Node, scope: RoutedRepository, kind: Kind, name: str, condition: Condition = NO_CONDITION
) -> Reply:
    try:
        await node.port.delete(scope.key, kind, name, condition)
    except (ManifestUnknown, BlobUnknown) as unknown:
        _refuse(node, scope, unknown)
    return Reply(202)


def _refuse(node: Node, scope: RoutedRepository, unknown: Refusal) -> NoReturn:
    if not node.references.has_repository(scope.key):
        raise NameUnknown("no such repository here") from unknown
    raise unknown
