"""GET and PATCH of what may be done to a repository, a manifest or a tag (image locking, C7), in the paths and
names of Azure Container Registry's data plane, so that its tools work here.

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
from holdfast_core.record import Lock, TagMove, Target

from holdfast.endpoint.history import stamp
from holdfast.endpoint.node import Node
from holdfast.errors import AttributesInvalid, ManifestUnknown, NameUnknown
from holdfast.keeper.port import Lockable
from holdfast.manifest import Child, ManifestInvalid, decode, parse_aside
from holdfast.routing import Scope
from holdfast.wire import names
from holdfast.wire.message import Reply, Request

#: a body of four booleans is never longer (bytes)
BODY_LIMIT = 4096


class Changes(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a PATCH; what is not said stays."""

    deleteEnabled: bool | None = None
    writeEnabled: bool | None = None
    readEnabled: bool | None = None
    listEnabled: bool | None = None


async def show(node: Node, request: Request) -> Reply:
    """The object and its attributes. Raises `NameUnknown` or `ManifestUnknown`."""
    scope = node.router.scope(request)
    return await _reply(node, request, scope, Target(*_target(request)))


async def change(node: Node, request: Request) -> Reply:
    """The object as it is once the change is on disk. Raises `AttributesInvalid` and what `show` raises."""
    scope, (kind, name) = node.router.scope(request), _target(request)
    target = Target(kind, name)
    _described(node, scope, target)
    said = _decoded(await _body(request))
    # what is not said is looked up by who writes: another worker may be changing it now
    wanted = (said.readEnabled, said.writeEnabled, said.deleteEnabled, said.listEnabled)
    await node.port.set_lock(scope.key, kind, name, wanted)
    return await _reply(node, request, scope, target)


def _target(request: Request) -> tuple[Lockable, str]:
    """What the path names. Raises `DigestInvalid`, and `ManifestUnknown` for what is no tag."""
    reference = request.route.reference
    if not reference:
        return "repository", ""
    found = names.reference(reference)
    return "manifest" if isinstance(found, Digest) else "tag", str(found)


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
    except (ManifestInvalid, msgspec.ValidationError) as error:
        allowed = ", ".join(Changes.__struct_fields__)
        raise AttributesInvalid(
            f"the body is no JSON object of booleans; allowed keys: {allowed}", detail=names.shown(str(error))
        ) from None


async def _reply(node: Node, request: Request, scope: Scope, target: Target) -> Reply:
    described = _described(node, scope, target)
    if target.kind == "manifest":
        described |= await _absent(node, scope, target.name)
    described["changeableAttributes"] = _shown(node.store.lock(scope.key, target))
    body: dict[str, Any] = {"registry": registry_of(request), "imageName": request.route.name}
    body |= described if target.kind == "repository" else {target.kind: described}
    return Reply(200, [("Content-Type", "application/json")], msgspec.json.encode(body))


def registry_of(request: Request) -> str:
    """The name by which the client reached this registry, port and all."""
    return request.header("host") or request.host


def _described(node: Node, scope: Scope, target: Target) -> dict[str, Any]:
    """What is known of the object, lock or no lock: who may lock must be able to unlock."""
    if not node.store.is_there(scope.key, target):
        if target.kind == "repository":
            raise NameUnknown("no such repository here")
        raise ManifestUnknown(f"no such {target.kind} here", detail=target.name)
    if target.kind == "tag":
        return _tag(node.store.tag_moves(scope.key, target.name), target.name)
    return _manifest(node, scope, target.name) if target.kind == "manifest" else {}


def _manifest(node: Node, scope: Scope, digest: str) -> dict[str, Any]:
    """A manifest; on a node with a parent also whether what was pushed here has arrived there."""
    if not scope.has_parent:
        return {"digest": digest}
    pending = node.store.is_pending(scope.key, Digest.parse(digest))
    return {"digest": digest, "pending": pending, "pushed": not pending}


async def _absent(node: Node, scope: Scope, digest: str) -> dict[str, list[str]]:
    """Children, config and layers that a manifest names and that are not here, such as those for platforms that
    nobody wanted. Nothing is said where there is no parent to have them, or where it may not be read."""
    if not scope.has_parent:
        return {}
    try:
        held = node.store.manifest(scope.key, Digest.parse(digest))
        children = () if held is None else (await parse_aside(held.body, held.media_type)).children
        needed = [child for child in children if not child.is_foreign]
        return {"absent": [child.digest for child in needed if not _is_here(node, scope, child)]}
    except (StoreError, ManifestInvalid):
        return {}


def _is_here(node: Node, scope: Scope, child: Child) -> bool:
    if child.is_manifest:
        return node.store.is_there(scope.key, Target("manifest", child.digest))
    return node.store.blob(scope.key, Digest.parse(child.digest)) is not None


def _tag(moves: Sequence[TagMove], name: str) -> dict[str, Any]:
    """A tag by its moves, which are there whether it may be read or not. Raises `ManifestUnknown` when the last
    of them is a deletion: it went since it was looked for."""
    if not moves or moves[0].digest is None:
        raise ManifestUnknown("no such tag here", detail=name)
    return {
        "name": name,
        "digest": str(moves[0].digest),
        "createdTime": stamp(moves[-1].moved_at),
        "lastUpdateTime": stamp(moves[0].moved_at),
    }


def _shown(lock: Lock) -> dict[str, bool]:
    return {
        "deleteEnabled": lock.delete,
        "writeEnabled": lock.write,
        "readEnabled": lock.read,
        "listEnabled": lock.list,
    }
