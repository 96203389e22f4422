"""GET and HEAD of manifests, by tag and by digest (distribution-spec end-3).

The stored bytes under the stored type, whatever Accept says: a manifest converted is another manifest.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from holdfast_core.digest import Digest
from holdfast_core.errors import ChunkDamaged, FileDamaged, NotHeld, StoreError
from holdfast_core.record import Manifest, Tag

from holdfast.endpoint.content import Content, from_memory, headers_of, is_current
from holdfast.endpoint.damage import mend, undeliverable
from holdfast.endpoint.miss import absent_to_pushers, check_asked
from holdfast.endpoint.node import Answer, Node
from holdfast.endpoint.warning import warning
from holdfast.errors import (
    KeeperAway,
    ManifestUnknown,
    NodeFailed,
    NodeFull,
    NodeUnwritable,
    ParentFailed,
    ParentNotFound,
    Refusal,
)
from holdfast.keeper.freshness import is_fresh
from holdfast.keeper.port import Kind, ManifestAnswer
from holdfast.routing import Scope
from holdfast.wire import names
from holdfast.wire.message import Reply, Request


class Asked(NamedTuple):
    """One question to this endpoint."""

    node: Node
    request: Request
    scope: Scope
    reference: Digest | str


def answer(node: Node, request: Request) -> Answer:
    """The manifest, or what will ask the keeper for it."""
    scope = node.router.scope(request)
    asked = Asked(node, request, scope, names.reference(request.route.reference))
    return (
        _by_tag(asked, asked.reference)
        if isinstance(asked.reference, str)
        else _by_digest(asked, asked.reference)
    )


def _by_digest(asked: Asked, digest: Digest) -> Answer:
    try:
        held = asked.node.store.manifest(asked.scope.key, digest)
    except (ChunkDamaged, FileDamaged, NotHeld) as damage:
        return _damaged(asked, digest, damage)
    return _reply(asked, held) if held is not None else _missing(asked)


async def _damaged(asked: Asked, digest: Digest, damage: StoreError) -> Reply:
    """The answer once the parent mended a manifest that lies in a file, or sent what the disk does not take, or why it
    could not."""
    node, chunks = asked.node, dict[int, bytes]()
    try:
        while True:
            if (unstored := await mend(node, asked.scope, digest, damage)) is not None:
                chunks[unstored.start] = unstored.body
            try:
                held = node.store.manifest(asked.scope.key, digest, chunks)
                break
            except ChunkDamaged as more:
                if not isinstance(damage, ChunkDamaged) or more.start <= damage.start:
                    raise
                damage = more
    except (Refusal, StoreError) as failure:
        raise await undeliverable(node, asked.request, failure, ManifestUnknown) from failure
    if held is None:
        raise NodeFailed("the manifest is damaged")
    return _reply(asked, held)


def _by_tag(asked: Asked, name: str) -> Answer:
    node, key = asked.node, asked.scope.key
    tag = node.store.tag(key, name)
    try:
        held = node.store.manifest(key, tag.digest) if tag is not None else None
    except (ChunkDamaged, FileDamaged, NotHeld) as damage:
        assert tag is not None
        return _damaged(asked, tag.digest, damage)
    if tag is None or held is None:
        return _missing(asked)
    if not node.asks(asked.scope) or is_fresh(tag, node.clock.now(), node.config.tags):
        return _reply(asked, held)
    return _confirm(asked, tag, held)


def _missing(asked: Asked) -> Answer:
    kind: Kind = "tag" if isinstance(asked.reference, str) else "manifest"
    check_asked(asked.node, asked.scope, kind, str(asked.reference), ManifestUnknown)
    return _fetch(asked)


async def _fetch(asked: Asked) -> Reply:
    """The answer to a miss. Raises what the keeper raises."""
    with absent_to_pushers(asked.node, asked.request, ManifestUnknown):
        told = await asked.node.port.manifest(asked.scope.key, str(asked.reference))
    return _told(asked, told)


async def _confirm(asked: Asked, tag: Tag, held: Manifest) -> Reply:
    """The answer for a held tag whose time to live is over: the parent's word if it comes in time, else
    what is held, with its age. The keeper bounds the wait; a keeper that is silent is bounded here."""
    config = asked.node.config.tags
    try:
        async with asyncio.timeout(2 * config.confirm_budget + 1):
            told = await asked.node.port.manifest(asked.scope.key, tag.name)
    except (ParentFailed, KeeperAway, NodeFailed, NodeFull, NodeUnwritable, TimeoutError) as error:
        if isinstance(error, ParentNotFound) and config.on_parent_404 == "refuse":
            raise
        age = max(0, int(asked.node.clock.now() - tag.checked_at))
        why = getattr(error, "message", "the keeper did not answer in time")
        return _reply(asked, held, ManifestAnswer(str(held.digest), age, why))
    if not told.stale and told.digest == str(held.digest):
        now = asked.node.clock.now() - told.age
        asked.node.store.confirm_tag(asked.scope.key, tag.name, held.digest, now)
    return _told(asked, told)


def _told(asked: Asked, told: ManifestAnswer) -> Reply:
    """The manifest that the keeper put into the store, or handed over because the disk is full."""
    if told.body:
        return _reply(
            asked, Manifest(Digest.parse(told.digest), told.media_type, told.body, owned=False), told
        )
    held = asked.node.store.manifest(asked.scope.key, Digest.parse(told.digest))
    if held is None:
        raise NodeFailed("the manifest is not where the keeper put it")
    return _reply(asked, held, told)


def _reply(asked: Asked, held: Manifest, told: ManifestAnswer | None = None) -> Reply:
    node, request = asked.node, asked.request
    by_digest = isinstance(asked.reference, Digest)
    content = Content(str(held.digest), held.media_type, len(held.body), by_digest)
    headers = headers_of(content, asked.scope)
    if told is not None and told.stale:
        headers += [("Age", str(told.age)), ("Warning", warning(told.stale, told.age))]
    if is_current(request, content.digest):
        return Reply(304, headers)
    node.port.seen(asked.scope.key, content.digest)
    return from_memory(request, content, headers, held.body, node.config.limits.ranges)
