"""GET and PATCH of the locks of a repository, a manifest or a tag (image locking, C7), with the paths and field names
of Azure Container Registry's data plane, so that its tools work.

    /acr/v1/<name>                        the repository
    /acr/v1/<name>/_manifests/<digest>    a manifest
    /acr/v1/<name>/_tags/<tag>            a tag
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.record import Lock, LockTarget, TagMove

from holdfast.endpoint.node import Node
from holdfast.errors import AttributesInvalid, ManifestUnknown, NameUnknown
from holdfast.keeper.api import Lockable
from holdfast.oci import names
from holdfast.oci.manifest import ChildDescriptor, ManifestUnreadable, decode, parse_aside
from holdfast.routing import RoutedRepository
from holdfast.timestamps import stamp_milliseconds
from holdfast.wire.message import Reply, Request

#: a body of four booleans is never longer (bytes)
BODY_LIMIT = 4096


class Changes(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a PATCH; a field that is absent stays as it is."""

    deleteEnabled: bool | None = None
    writeEnabled: bool | None = None
    readEnabled: bool | None = None
    listEnabled: bool | None = None


async def show(node: Node, request: Request) -> Reply:
    """The object and its attributes. Raises `NameUnknown` or `ManifestUnknown`."""
    scope = node.router.scope(request)
    return await _reply(node, request, scope, LockTarget(*_target(request)))


async def change(node: Node, request: Request) -> Reply:
    """The object as it is once the change is on disk. Raises `AttributesInvalid` and what `show` raises."""
    scope, (kind, name) = node.router.scope(request), _target(request)
    target = LockTarget(kind, name)
    _described(node, scope, target)
    changes = _decoded(await _body(request))
    # the keeper fills in the absent fields when it writes, because another worker may change them at the same time
    lock = (changes.readEnabled, changes.writeEnabled, changes.deleteEnabled, changes.listEnabled)
    await node.port.set_lock(scope.key, kind, name, lock)
    return await _reply(node, request, scope, target)


def _target(request: Request) -> tuple[Lockable, str]:
    """Kind and name of the object in the path. Raises `DigestInvalid`, and `ManifestUnknown` for an invalid tag."""
    reference = request.route.reference
    if not reference:
        return "repository", ""
    parsed = names.reference(reference)
    return "manifest" if isinstance(parsed, Digest) else "tag", str(parsed)


async def _body(request: Request) -> bytes:
    parts, source = bytearray(), request.body
    while source is not None and (data := await source.read()):
        parts += data
        if len(parts) > BODY_LIMIT:
            raise AttributesInvalid(f"a body over {BODY_LIMIT} bytes; four booleans need less")
    return bytes(parts)


def _decoded(body: bytes) -> Changes:
    try:
        return msgspec.convert(decode(body), Changes)
    except (ManifestUnreadable, msgspec.ValidationError) as error:
        allowed = ", ".join(Changes.__struct_fields__)
        raise AttributesInvalid(
            f"the body is no JSON object of booleans; allowed keys: {allowed}", detail=names.shown(str(error))
        ) from None


async def _reply(node: Node, request: Request, scope: RoutedRepository, target: LockTarget) -> Reply:
    described = _described(node, scope, target)
    if target.kind == "manifest":
        described |= await _absent(node, scope, target.name)
    described["changeableAttributes"] = _shown(node.references.lock(scope.key, target))
    body: dict[str, Any] = {"registry": registry_of(request), "imageName": request.route.name}
    body |= described if target.kind == "repository" else {target.kind: described}
    return Reply(200, [("Content-Type", "application/json")], msgspec.json.encode(body))


def registry_of(request: Request) -> str:
    """The host and port by which the client reached this registry."""
    return request.header("host") or request.host


def _described(node: Node, scope: RoutedRepository, target: LockTarget) -> dict[str, Any]:
    """The description of the object, also of one that is locked, so that it can be unlocked."""
    if not node.references.is_there(scope.key, target):
        if target.kind == "repository":
            raise NameUnknown("no such repository here")
        raise ManifestUnknown(f"no such {target.kind} here", detail=target.name)
    if target.kind == "tag":
        return _tag(node.references.tag_moves(scope.key, target.name), target.name)
    return _manifest(node, scope, target.name) if target.kind == "manifest" else {}


def _manifest(node: Node, scope: RoutedRepository, digest: str) -> dict[str, Any]:
    """A manifest; on a node with a parent also whether it was pushed to the parent."""
    if not scope.has_parent:
        return {"digest": digest}
    pending = node.references.outbox.is_pending(scope.key, Digest.parse(digest))
    return {"digest": digest, "pending": pending, "pushed": not pending}


async def _absent(node: Node, scope: RoutedRepository, digest: str) -> dict[str, list[str]]:
    """The children, config and layers of a manifest that this node does not hold, such as those of platforms that no
    client pulled. {} on a node without parent, and for a manifest that cannot be read."""
    if not scope.has_parent:
        return {}
    try:
        held = node.references.manifest(scope.key, Digest.parse(digest))
        children = () if held is None else (await parse_aside(held.body, held.media_type)).children
        needed = [child for child in children if not child.is_foreign]
        return {"absent": [child.digest for child in needed if not _is_here(node, scope, child)]}
    except (StoreError, ManifestUnreadable):
        return {}


def _is_here(node: Node, scope: RoutedRepository, child: ChildDescriptor) -> bool:
    if child.is_manifest:
        return node.references.is_there(scope.key, LockTarget("manifest", child.digest))
    return node.blobs.get(scope.key, Digest.parse(child.digest)) is not None


def _tag(moves: Sequence[TagMove], name: str) -> dict[str, Any]:
    """A tag by its moves, which can be read while the tag is locked. Raises `ManifestUnknown` when the last move is a
    deletion, which happened since the lookup."""
    if not moves or moves[0].digest is None:
        raise ManifestUnknown("no such tag here", detail=name)
    return {
        "name": name,
        "digest": str(moves[0].digest),
        "createdTime": stamp_milliseconds(moves[-1].moved_at),
        "lastUpdateTime": stamp_milliseconds(moves[0].moved_at),
    }


def _shown(lock: Lock) -> dict[str, bool]:
    return {
        "deleteEnabled": lock.delete,
        "writeEnabled": lock.write,
        "readEnabled": lock.read,
        "listEnabled": lock.list,
    }
