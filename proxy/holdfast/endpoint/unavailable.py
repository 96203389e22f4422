"""Answers for content that cannot be served: damaged here, deleted here, or not available from the parent.

Damage is reported to the keeper, which records it and fetches the content from the parent where there is one
(docs/design.md, "What damage is"). Damaged content without a copy is 404 to a caller that may push there, because
clients push only content that the registry reports as missing; to every other caller it is an error of this node, and
the answer names the content.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from holdfast_core import format as layout
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import ChunkDamaged, RecordDamaged, StoreError
from holdfast_core.record import Blob

from holdfast.endpoint import authorization
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import (
    BlobUnknown,
    KeeperAway,
    ManifestUnknown,
    NodeFailed,
    ParentFailed,
    RecordLost,
    Refusal,
    Unauthorized,
)
from holdfast.fill.repair import UnstoredChunk
from holdfast.keeper.api import Kind
from holdfast.routing import RoutedRepository
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import READS, Noun

#: most damaged records that are mended for one request
RECORDS = 16
#: the refusals for content that is not held, and the tables with the records of content
_UNKNOWN: dict[Noun, type[Refusal]] = {Noun.BLOB: BlobUnknown, Noun.MANIFEST: ManifestUnknown}
_CONTENT = (layout.BLOB, layout.CHUNKS, layout.LINK, layout.TAG)


def is_deleted(node: Node, scope: RoutedRepository, kind: Kind, name: str) -> bool:
    """Whether a client deleted the content here, so that it is not fetched from the parent again. False on a root,
    which has no such records."""
    return scope.has_parent and node.references.is_deleted(scope.key, kind, name)


def check_asked(node: Node, scope: RoutedRepository, kind: Kind, name: str, unknown: type[Refusal]) -> None:
    """Raises `unknown` for content that is not held and that the keeper must not fetch: this node has no parent for it,
    or a client deleted it here."""
    if not node.asks(scope):
        raise unknown(f"no such {kind} here", detail=name)
    if is_deleted(node, scope, kind, name):
        raise unknown(f"this {kind} was deleted here", detail=name)


@contextmanager
def absent_to_pushers(node: Node, request: Request, unknown: type[Refusal]) -> Iterator[None]:
    """Turns a parent's failure into 404 for a HEAD in ReadWrite: clients send one before they push, and containerd and
    podman push only after 200 or 404. A GET gets the failure (503): its client needs the bytes."""
    try:
        yield
    except ParentFailed as failure:
        if request.method != "HEAD" or node.store.mode != "ReadWrite":
            raise
        raise unknown("not held here, and the parent does not answer", detail=failure.message) from failure


def require_sound(node: Node, blob: Blob, start: int, end: int) -> None:
    """Raises ChunkDamaged when a chunk of [start, end) is known to be bad; its bounds are those of the first run of
    such chunks."""
    bad = [n for n in node.blobs.bad_chunks(blob) if n * CHUNK_BYTES < end and start < (n + 1) * CHUNK_BYTES]
    if bad:
        run = next(n for n, chunk in enumerate([*bad, -1]) if chunk != bad[0] + n)
        raise ChunkDamaged(
            str(blob.digest), bad[0] * CHUNK_BYTES, min((bad[0] + run) * CHUNK_BYTES, blob.size)
        )


async def mend(
    node: Node, scope: RoutedRepository, digest: Digest, damage: StoreError
) -> UnstoredChunk | None:
    """Have the keeper record the damage and fetch the content from the parent: the bad chunks, or all of a file that is
    gone or not what it should be. Returns the first of the chunks where the disk takes no writes. Raises the keeper's
    refusal when the parent cannot give it, FillGone when it was evicted meanwhile: then it is a miss."""
    start, end = 0, -1
    if isinstance(damage, ChunkDamaged):
        start, end = damage.start, damage.end
    return await node.port.repair(scope.key, str(digest), start, end)


async def undeliverable(node: Node, request: Request, failure: Exception, unknown: type[Refusal]) -> Refusal:
    """The refusal for damaged content without a copy; `failure` is why there is none. While the keeper restarts nobody
    knows whether there is one."""
    if isinstance(failure, KeeperAway):
        return failure
    why = getattr(failure, "message", "") or str(failure)
    if await may_push(node, request):
        return unknown("it is damaged here; push it again", detail=why)
    if isinstance(failure, ParentFailed) and not failure.permanent:
        return failure
    return NodeFailed("it is damaged here and no copy is available; a push repairs it", detail=why)


async def may_push(node: Node, request: Request) -> bool:
    """Whether the caller may push to the repository of the request. The caller is identified here, because a pull
    without login does not identify it."""
    if node.store.mode == "ReadOnly":
        return False
    try:
        identified = node.access.caller(request)
        caller = await identified if inspect.isawaitable(identified) else identified
    except Unauthorized:
        return False
    return caller.may(authorization.Right.CONTENT_WRITE.value, authorization.repository(node, request))


async def mended(
    node: Node,
    request: Request,
    damage: RecordDamaged,
    answer: Callable[[Node, Request], Answer],
) -> Reply:
    """The answer to a request that read a damaged record, after the record was mended: the request is answered again,
    and may read further damaged records. Raises the refusal for a lost record, and `KeeperAway` for a request whose
    body was read already: the client has to send it again."""
    if request.mended >= RECORDS:
        raise NodeFailed(str(damage))
    try:
        await node.port.mend(damage.key)
    except RecordLost as lost:
        noun = request.route.noun
        if request.method in READS and noun in _UNKNOWN and damage.key[:1] in _CONTENT:
            raise await undeliverable(node, request, lost, _UNKNOWN[noun]) from damage
        raise
    if request.body is not None:
        raise KeeperAway("a damaged record was mended; send the request again", retry_after=1)
    reply = answer(node, msgspec.structs.replace(request, mended=request.mended + 1))
    return reply if isinstance(reply, Reply) else await reply


async def settled(
    node: Node,
    request: Request,
    coming: Coroutine[Any, Any, Reply],
    answer: Callable[[Node, Request], Answer],
) -> Reply:
    """The answer of `coming`; where that reads a damaged record, the answer after it was mended. Raises as `mended`."""
    try:
        return await coming
    except RecordDamaged as damage:
        return await mended(node, request, damage, answer)
