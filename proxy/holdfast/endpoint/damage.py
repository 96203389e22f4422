"""What a client hears of content whose bytes are here and damaged (docs/design.md, "What damage is").

The keeper is told of what was found, writes it down, and brings it from the parent where there is one. What cannot be
had is 404 to whoever may push there, because clients send only what a registry says it lacks; to everybody else it is
a fault of this node that says which content it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from holdfast_core import format as layout
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import ChunkDamaged, RecordDamaged, StoreError
from holdfast_core.record import Blob

from holdfast import authorise
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
from holdfast.keeper.port import UnstoredChunk
from holdfast.routing import Scope
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import READS, Noun

#: damaged records that one request may meet
RECORDS = 16
#: what is not here, by what is asked for, and the tables whose records say that it is
_UNKNOWN: dict[Noun, type[Refusal]] = {Noun.BLOB: BlobUnknown, Noun.MANIFEST: ManifestUnknown}
_CONTENT = (layout.BLOB, layout.CHUNKS, layout.LINK, layout.TAG)


def require_sound(node: Node, blob: Blob, start: int, end: int) -> None:
    """Raises ChunkDamaged when a chunk of [start, end) is known to be bad; its bounds are those of the first run of
    such chunks."""
    bad = [n for n in node.store.bad_chunks(blob) if n * CHUNK_BYTES < end and start < (n + 1) * CHUNK_BYTES]
    if bad:
        run = next(n for n, chunk in enumerate([*bad, -1]) if chunk != bad[0] + n)
        raise ChunkDamaged(
            str(blob.digest), bad[0] * CHUNK_BYTES, min((bad[0] + run) * CHUNK_BYTES, blob.size)
        )


async def mend(node: Node, scope: Scope, digest: Digest, damage: StoreError) -> UnstoredChunk | None:
    """Have the keeper write down what was found, and bring it from the parent: the chunks that are bad, or all of a
    file that is gone or not what it should be. Where the disk takes no writes the first chunk of them is returned.
    Raises the keeper's refusal when the parent cannot give it."""
    start, end = 0, -1
    if isinstance(damage, ChunkDamaged):
        start, end = damage.start, damage.end
    return await node.port.repair(scope.key, str(digest), start, end)


async def undeliverable(node: Node, request: Request, failure: Exception, unknown: type[Refusal]) -> Refusal:
    """The answer to who asked for what is damaged and cannot be had. `failure` says why."""
    why = getattr(failure, "message", "") or str(failure)
    if await may_push(node, request):
        return unknown("it is damaged here; push it again", detail=why)
    if isinstance(failure, ParentFailed) and not failure.permanent:
        return failure
    return NodeFailed("it is damaged here and no copy can be had; whoever may push it heals it", detail=why)


async def may_push(node: Node, request: Request) -> bool:
    """Whether the caller may push to the repository that is asked about. Pulls that anybody may make come here
    without a caller: who it is matters only now."""
    if node.store.mode == "ReadOnly":
        return False
    try:
        found = node.access.caller(request)
        caller = await found if inspect.isawaitable(found) else found
    except Unauthorized:
        return False
    return caller.may(authorise.Right.CONTENT_WRITE.value, authorise.repository(node, request))


async def mended(
    node: Node,
    request: Request,
    damage: RecordDamaged,
    answer: Callable[[Node, Request], Answer],
) -> Reply:
    """The answer to a request that met a damaged record, once that was mended; asked for again, so that one after
    another may be met. Raises what a client hears of one that is lost, and `KeeperAway` for a request whose body was
    read: its client sends it again."""
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
    found = answer(node, msgspec.structs.replace(request, mended=request.mended + 1))
    return found if isinstance(found, Reply) else await found


async def settled(
    node: Node,
    request: Request,
    coming: Coroutine[Any, Any, Reply],
    answer: Callable[[Node, Request], Answer],
) -> Reply:
    """What a request comes to, be a damaged record met on the way. Raises as `mended`."""
    try:
        return await coming
    except RecordDamaged as damage:
        return await mended(node, request, damage, answer)
