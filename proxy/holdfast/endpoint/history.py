"""GET of `/v2/<name>/_holdfast/tag-history/<tag>`: what a tag named before, newest first."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from holdfast_core.record import TagMove, Target

from holdfast.endpoint.node import Answer, Node
from holdfast.errors import ManifestUnknown
from holdfast.wire import names
from holdfast.wire.message import Reply, Request


def answer(node: Node, request: Request) -> Answer:
    """A JSON list of `{"digest", "time", "origin"}`; a digest of null is a deletion. The last moves of a tag stay
    when the tag goes. Raises `ManifestUnknown` for a tag that never was, `Locked` where reading is not allowed."""
    scope = node.router.scope(request)
    tag = request.route.reference
    targets = [Target("tag", tag)] if names.is_tag(tag) else []
    node.store.require_read(scope.key, *targets)
    moves = node.store.tag_moves(scope.key, tag) if targets else ()
    if not moves:
        raise ManifestUnknown("no such tag here, now or before", detail=names.shown(tag))
    return Reply(200, [("Content-Type", "application/json")], msgspec.json.encode([_row(m) for m in moves]))


def _row(move: TagMove) -> dict[str, str | None]:
    digest = None if move.digest is None else str(move.digest)
    return {"digest": digest, "time": stamp(move.moved_at), "origin": move.origin}


def stamp(seconds: float) -> str:
    """A time as RFC 3339 writes it, in UTC, to the millisecond."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
