"""What of a list of names exists here, for a connected registry below that is about to push: one question in place of a
HEAD each. Only what is held here counts, and only in repositories that the child may pull from.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from holdfast_core.errors import Damaged, RecordDamaged
from holdfast_core.record import Target

from holdfast import errors
from holdfast.endpoint.damage import require_sound
from holdfast.endpoint.entitled import body_as, check_instance, entitled, json_reply
from holdfast.endpoint.messages import READ, readable
from holdfast.endpoint.node import Node
from holdfast.gateway.message import INQUIRY_BYTES, INQUIRY_NAMES, Inquiry, Known, Present, Sought
from holdfast.wire import names
from holdfast.wire.message import Reply, Request


async def answer(node: Node, request: Request) -> Reply:
    """The answers, in the order of the question. Raises `ControlInvalid` for more than INQUIRY_NAMES names, and
    `ControlConflict` for an instance that is not the active one."""
    caller = await entitled(node, request, READ)
    asked = await body_as(request, Inquiry, INQUIRY_BYTES)
    count = sum(len(row.blobs) + len(row.manifests) + len(row.tags) for row in asked.sought)
    if max(count, len(asked.sought)) > INQUIRY_NAMES:
        raise errors.ControlInvalid(f"a question for {count} names; allowed: {INQUIRY_NAMES}")
    check_instance(node, caller.registry.name, asked.instance, asked.generation)
    name_of = readable(node, caller)
    return json_reply(Known(tuple(_present(node, request, name_of, row) for row in asked.sought)))


def _present(node: Node, request: Request, name_of: Callable[[str], str], sought: Sought) -> Present:
    key = _key(node, request, sought.repository)
    if not key or not name_of(key):
        return Present(
            (False,) * len(sought.blobs), (False,) * len(sought.manifests), ("",) * len(sought.tags)
        )
    return Present(
        tuple(_has(node, key, "blob", text) for text in sought.blobs),
        tuple(_has(node, key, "manifest", text) for text in sought.manifests),
        tuple(_named(node, key, tag) for tag in sought.tags),
    )


def _key(node: Node, request: Request, repository: str) -> str:
    """The store's name of a repository that the child names so, "" for none."""
    route = request.route._replace(name=repository)
    try:
        return node.router.scope(msgspec.structs.replace(request, route=route)).key
    except errors.Refusal:
        return ""


def _has(node: Node, key: str, kind: str, text: str) -> bool:
    """Whether a repository has a blob or manifest, whole as far as it is known, and may show it."""
    try:
        digest = names.digest(text)
        if node.store.hides(key, *([Target("manifest", text)] if kind == "manifest" else [])):
            return False
        if kind == "manifest":
            return node.store.manifest(key, digest) is not None
        blob = node.store.blob(key, digest)
        if blob is None or blob.inline is not None:
            return blob is not None
        require_sound(node, blob, 0, blob.size)
        return node.store.is_whole(blob)
    except (errors.Refusal, Damaged):
        return False


def _named(node: Node, key: str, tag: str) -> str:
    """What a tag names, "" for nothing that may be shown."""
    if not names.is_tag(tag) or node.store.hides(key, Target("tag", tag)):
        return ""
    try:
        found = node.store.tag(key, tag)
    except RecordDamaged:
        return ""
    return "" if found is None else str(found.digest)
