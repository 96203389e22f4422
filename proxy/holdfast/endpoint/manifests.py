"""GET and HEAD of manifests, by tag and by digest (distribution-spec end-3).

The answer is the stored bytes with the stored media type, whatever Accept says: a converted manifest would have another
digest.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from holdfast_core.digest import Digest
from holdfast_core.errors import ChunkDamaged, FileDamaged, NotHeld, StoreError
from holdfast_core.record import Manifest, Tag

from holdfast.endpoint.content import (
    ServedContent,
    from_memory,
    headers_of,
    is_current,
    note_use,
    unconfirmed,
)
from holdfast.endpoint.node import Answer, Node
from holdfast.endpoint.unavailable import absent_to_pushers, check_asked, mend, undeliverable
from holdfast.errors import (
    FillGone,
    KeeperAway,
    ManifestUnknown,
    NodeFailed,
    NodeFull,
    NodeUnwritable,
    ParentFailed,
    ParentNotFound,
    Refusal,
)
from holdfast.keeper.api import Kind, ManifestAnswer
from holdfast.keeper.misses.tag_cache import fresh_until, is_fresh
from holdfast.oci import names
from holdfast.routing import RoutedRepository
from holdfast.wire.message import Reply, Request

#: answers of the keeper after which a manifest was gone again
TRIES = 3


class ManifestRequest(NamedTuple):
    """A GET or HEAD of one manifest."""

    node: Node
    request: Request
    scope: RoutedRepository
    reference: Digest | str


def answer(node: Node, request: Request) -> Answer:
    """The answer to a GET or HEAD; waits for the keeper where the manifest is not held, or its tag is to be
    confirmed."""
    scope = node.router.scope(request)
    context = ManifestRequest(node, request, scope, names.reference(request.route.reference))
    return (
        _by_tag(context, context.reference)
        if isinstance(context.reference, str)
        else _by_digest(context, context.reference)
    )


def _by_digest(context: ManifestRequest, digest: Digest) -> Answer:
    try:
        held = context.node.references.manifest(context.scope.key, digest)
    except (ChunkDamaged, FileDamaged, NotHeld) as damage:
        return _damaged(context, digest, damage)
    return _reply(context, held) if held is not None else _missing(context)


async def _damaged(context: ManifestRequest, digest: Digest, damage: StoreError) -> Reply:
    """The answer for a manifest in a damaged file, after its bad chunks were fetched from the parent; they are used
    from memory where the disk takes no write. One that was evicted meanwhile is a miss."""
    node, chunks = context.node, dict[int, bytes]()
    try:
        while True:
            if (unstored := await mend(node, context.scope, digest, damage)) is not None:
                chunks[unstored.start] = unstored.body
            try:
                held = node.references.manifest(context.scope.key, digest, chunks)
                break
            except ChunkDamaged as more:
                if not isinstance(damage, ChunkDamaged) or more.start <= damage.start:
                    raise
                damage = more
    except (FillGone, NotHeld):
        held = None
    except (Refusal, StoreError) as failure:
        raise await undeliverable(node, context.request, failure, ManifestUnknown) from failure
    if held is not None:
        return _reply(context, held)
    missing = _missing(context)
    return missing if isinstance(missing, Reply) else await missing


def _by_tag(context: ManifestRequest, name: str) -> Answer:
    node, key = context.node, context.scope.key
    tag = node.references.tag(key, name)
    try:
        held = node.references.manifest(key, tag.digest) if tag is not None else None
    except (ChunkDamaged, FileDamaged, NotHeld) as damage:
        assert tag is not None
        return _damaged(context, tag.digest, damage)
    if tag is None or held is None:
        return _missing(context)
    if not node.asks(context.scope):
        return _reply(context, held)
    if is_fresh(tag, node.clock.now(), node.config.tags):
        context.request.note.end(fresh_until(tag, node.config.tags))
        return _reply(context, held)
    return _confirm(context, tag, held)


def _missing(context: ManifestRequest) -> Answer:
    kind: Kind = "tag" if isinstance(context.reference, str) else "manifest"
    check_asked(context.node, context.scope, kind, str(context.reference), ManifestUnknown)
    return _fetch(context)


async def _fetch(context: ManifestRequest) -> Reply:
    """The answer to a miss. One that was evicted before it was read here is asked for again. Raises the keeper's
    refusal."""
    context.request.note.cache = "miss"
    for _ in range(TRIES):
        with absent_to_pushers(context.node, context.request, ManifestUnknown):
            fetched = await context.node.port.manifest(context.scope.key, str(context.reference))
        if (stored := _stored(context, fetched)) is not None:
            return _reply(context, stored, fetched)
    raise NodeFailed("the manifest is not where the keeper put it")


async def _confirm(context: ManifestRequest, tag: Tag, held: Manifest) -> Reply:
    """The answer for a held tag whose time to live is over: the parent's manifest if it arrives in time, else the held
    one, with its age. The keeper bounds the wait; the time-out here is for a keeper that does not answer."""
    config = context.node.config.tags
    try:
        async with asyncio.timeout(2 * config.confirm_budget + 1):
            fetched = await context.node.port.manifest(context.scope.key, tag.name)
    except (ParentFailed, KeeperAway, NodeFailed, NodeFull, NodeUnwritable, TimeoutError) as error:
        if isinstance(error, ParentNotFound) and config.on_parent_404 == "refuse":
            raise
        age = max(0, int(context.node.clock.now() - tag.checked_at))
        why = getattr(error, "message", "the keeper did not answer in time")
        return _reply(context, held, ManifestAnswer(str(held.digest), age, why))
    if fetched.digest != str(held.digest):
        context.request.note.cache = "miss"
    elif not fetched.stale:
        now = context.node.clock.now() - fetched.age
        context.node.references.confirm_tag(context.scope.key, tag.name, held.digest, now)
    stored = _stored(context, fetched)
    return await _fetch(context) if stored is None else _reply(context, stored, fetched)


def _stored(context: ManifestRequest, fetched: ManifestAnswer) -> Manifest | None:
    """The manifest that the keeper stored, or returned because the disk is full; None when it has gone since."""
    digest = Digest.parse(fetched.digest)
    if fetched.body:
        return Manifest(digest, fetched.media_type, fetched.body, owned=False)
    return context.node.references.manifest(context.scope.key, digest)


def _reply(context: ManifestRequest, held: Manifest, fetched: ManifestAnswer | None = None) -> Reply:
    node, request = context.node, context.request
    request.note.cache = request.note.cache or "hit"
    by_digest = isinstance(context.reference, Digest)
    content = ServedContent(str(held.digest), held.media_type, len(held.body), by_digest)
    headers = headers_of(content, context.scope)
    if fetched is not None and fetched.stale:
        headers += unconfirmed(fetched.stale, fetched.age)
    if is_current(request, content.digest):
        return Reply(304, headers)
    note_use(node, request, context.scope.key, content.digest)
    return from_memory(request, content, headers, held.body, node.config.limits.ranges)
