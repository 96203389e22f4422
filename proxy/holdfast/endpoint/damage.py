"""What a client hears of content whose bytes are here and damaged (docs/design.md, "What damage is").

The keeper is told of what was found, writes it down, and brings it from the parent where there is one. What cannot be
had is 404 to whoever may push there, because clients send only what a registry says it lacks; to everybody else it is
a fault of this node that says which content it is.
"""

from __future__ import annotations

import inspect

from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import ChunkDamaged, StoreError
from holdfast_core.record import Blob

from holdfast import authorise
from holdfast.endpoint.node import Node
from holdfast.errors import NodeFailed, ParentFailed, Refusal, Unauthorized
from holdfast.routing import Scope
from holdfast.wire.message import Request


def require_sound(node: Node, blob: Blob, start: int, end: int) -> None:
    """Raises ChunkDamaged when a chunk of [start, end) is known to be bad; its bounds are those of the first run of
    such chunks."""
    bad = [n for n in node.store.bad_chunks(blob) if n * CHUNK_BYTES < end and start < (n + 1) * CHUNK_BYTES]
    if bad:
        run = next(n for n, chunk in enumerate([*bad, -1]) if chunk != bad[0] + n)
        raise ChunkDamaged(
            str(blob.digest), bad[0] * CHUNK_BYTES, min((bad[0] + run) * CHUNK_BYTES, blob.size)
        )


async def mend(node: Node, scope: Scope, digest: Digest, damage: StoreError) -> None:
    """Have the keeper write down what was found, and bring it from the parent: the chunks that are bad, or all of a
    file that is gone or not what it should be. Raises the keeper's refusal when the parent cannot give it."""
    start, end = 0, -1
    if isinstance(damage, ChunkDamaged):
        start, end = damage.start, damage.end
    await node.port.repair(scope.key, str(digest), start, end)


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
