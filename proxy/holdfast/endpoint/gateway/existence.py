"""POST of `/acr/gateway/v1/<name>/exists`: which names of a list exist on this node. A connected registry sends it
before it pushes, in place of a HEAD for each. Only content that this node holds counts, in repositories that the child
may pull from.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from holdfast_core.errors import Damaged, RecordDamaged
from holdfast_core.record import LockTarget

from holdfast import errors
from holdfast.endpoint.gateway.entitled import admitted, body_as, check_instance, entitled, json_reply
from holdfast.endpoint.gateway.messages import MEMBER_COST, READ, readable
from holdfast.endpoint.node import Node
from holdfast.endpoint.unavailable import require_sound
from holdfast.gateway.protocol import (
    INQUIRY_BYTES,
    INQUIRY_NAMES,
    InquiredNames,
    Inquiry,
    InquiryAnswer,
    Present,
)
from holdfast.gateway.rates import QUESTIONS
from holdfast.oci import names
from holdfast.wire.message import Reply, Request

#: so many bytes of an inquiry take as long to read as one event
BYTES_BY_EVENT = 100


async def answer(node: Node, request: Request) -> Reply:
    """The answers, in the order of the inquiry. Raises `ControlInvalid` for more than INQUIRY_NAMES names, and
    `ControlConflict` for an instance that is not the active one."""
    caller = await entitled(node, request, READ)
    spend = await admitted(node, caller.registry, QUESTIONS)
    inquiry = await body_as(request, Inquiry, INQUIRY_BYTES, lambda length: spend(length / BYTES_BY_EVENT))
    count = sum(len(row.blobs) + len(row.manifests) + len(row.tags) for row in inquiry.sought)
    if max(count, len(inquiry.sought)) > INQUIRY_NAMES:
        raise errors.ControlInvalid(f"an inquiry for {count} names; allowed: {INQUIRY_NAMES}")
    spend(count * MEMBER_COST)
    check_instance(node, caller.registry.name, inquiry.instance, inquiry.generation)
    name_of = readable(node, caller)
    return json_reply(InquiryAnswer(tuple(_present(node, request, name_of, row) for row in inquiry.sought)))


def _present(node: Node, request: Request, name_of: Callable[[str], str], sought: InquiredNames) -> Present:
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
    """The store's name of the repository with this name at the child; "" for none."""
    route = request.route._replace(name=repository)
    try:
        return node.router.scope(msgspec.structs.replace(request, route=route)).key
    except errors.Refusal:
        return ""


def _has(node: Node, key: str, kind: str, text: str) -> bool:
    """Whether a repository has a blob or manifest that is not hidden and not known to be damaged."""
    try:
        digest = names.digest(text)
        if node.references.hides(key, *([LockTarget("manifest", text)] if kind == "manifest" else [])):
            return False
        if kind == "manifest":
            return node.references.manifest(key, digest) is not None
        blob = node.blobs.get(key, digest)
        if blob is None or blob.inline is not None:
            return blob is not None
        require_sound(node, blob, 0, blob.size)
        return node.blobs.is_whole(blob)
    except (errors.Refusal, Damaged):
        return False


def _named(node: Node, key: str, tag: str) -> str:
    """The digest of a tag, "" for a tag that does not exist or is hidden."""
    if not names.is_tag(tag) or node.references.hides(key, LockTarget("tag", tag)):
        return ""
    try:
        record = node.references.tag(key, tag)
    except RecordDamaged:
        return ""
    return "" if record is None else str(record.digest)
