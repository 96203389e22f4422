"""GET and HEAD of blobs, held or on their way in (distribution-spec end-2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from holdfast_core.digest import Digest
from holdfast_core.errors import ChunkDamaged, Damaged, FileDamaged, NotHeld, StoreError
from holdfast_core.record import Blob

from holdfast.endpoint.content import Content, from_memory, from_source, headers_of, is_current
from holdfast.endpoint.damage import mend, require_sound, undeliverable
from holdfast.endpoint.miss import absent_to_pushers, check_asked
from holdfast.endpoint.node import Answer, Node
from holdfast.endpoint.source import FillSource, NoSource, StoredSource
from holdfast.errors import BlobUnknown, FillGone, KeeperAway, NodeFailed, RangeRefused, Refusal
from holdfast.keeper.port import BlobAnswer, Following, UnstoredChunk
from holdfast.routing import Scope
from holdfast.wire import names, ranges
from holdfast.wire.message import Reply, Request
from holdfast.wire.ranges import Choice, Form, Run, Span

MEDIA_TYPE = "application/octet-stream"
#: a blob is asked for so often when its fill fails before anybody follows it
TRIES = 3


class Asked(NamedTuple):
    """One question to this endpoint."""

    node: Node
    request: Request
    scope: Scope
    digest: Digest


def answer(node: Node, request: Request) -> Answer:
    """The blob, or what will ask the keeper for it."""
    scope = node.router.scope(request)
    asked = Asked(node, request, scope, names.digest(request.route.reference))
    blob = node.store.blob(scope.key, asked.digest)
    if blob is not None:
        try:
            return _held(asked, blob)
        except (NotHeld, Damaged) as damage:
            return _damaged(asked, damage)
    check_asked(node, scope, "blob", str(asked.digest), BlobUnknown)
    # a client that names the digest has the bytes: 304 needs the parent's word that it has them, no transfer
    sized = request.method == "HEAD" or is_current(request, str(asked.digest))
    return _sized(asked) if sized else _filled(asked)


def _content(asked: Asked, size: int) -> Content:
    return Content(str(asked.digest), MEDIA_TYPE, size, True)


def _held(asked: Asked, blob: Blob, unstored: UnstoredChunk | None = None) -> Answer:
    """The answer from the store. Raises `NotHeld` or `Damaged` when the file is not what the index says, or what is
    asked for is known to be bad. `unstored` says that what is bad passes through, and is the first of it."""
    node, request = asked.node, asked.request
    content = _content(asked, blob.size)
    headers = headers_of(content, asked.scope)
    if is_current(request, content.digest):
        return Reply(304, headers)
    node.port.seen(asked.scope.key, content.digest)
    if blob.inline is not None:
        return from_memory(request, content, headers, blob.inline, node.config.limits.ranges)
    if request.method == "HEAD":
        require_sound(node, blob, 0, blob.size)
        if not node.store.is_whole(blob):
            raise FileDamaged(f"{asked.digest}: its file is gone, or not what it should be")
        return from_source(ranges.WHOLE, content, headers, NoSource(blob.size))
    choice = ranges.choose(ranges.asked(request, content.etag), blob.size, node.config.limits.ranges)
    if choice.form is Form.NONE:
        return from_source(choice, content, headers, NoSource(blob.size))
    runs = choice.runs or (Run(0, blob.size),)
    reader = node.store.open_blob(blob)
    source = StoredSource(reader, node.port, asked.scope.key, content.digest)
    try:
        if unstored is not None:
            source.take(unstored)
        for run in runs if blob.damaged and unstored is None else ():
            require_sound(node, blob, run.start, run.end)
    except StoreError:
        source.close()
        raise
    if reader.verified(runs[0].start, 1):
        return from_source(choice, content, headers, source)
    return _proven(asked, choice, content, headers, source, runs[0].start)


async def _proven(
    asked: Asked,
    choice: Choice,
    content: Content,
    headers: list[tuple[str, str]],
    source: StoredSource,
    first: int,
) -> Reply:
    """The answer once its first chunk was checked, so that one that cannot be had is refused and not begun."""
    try:
        await source.read(first, 1)
    except BaseException as failure:
        source.close()
        if not isinstance(failure, (Refusal, StoreError)):
            raise
        raise await undeliverable(asked.node, asked.request, failure, BlobUnknown) from failure
    return from_source(choice, content, headers, source)


async def _damaged(asked: Asked, damage: StoreError) -> Reply:
    """The answer for a blob that is here, and whose bytes are not. HEAD is what the parent says; of GET the parent
    brings what is missing."""
    node, scope = asked.node, asked.scope
    try:
        lost = isinstance(damage, NotHeld | FileDamaged)
        if node.asks(scope) and (asked.request.method == "HEAD" or lost):
            return await (_sized(asked) if asked.request.method == "HEAD" else _filled(asked))
        while True:
            unstored = await mend(node, scope, asked.digest, damage)
            try:
                return await _mended(asked, unstored=unstored)
            except ChunkDamaged as more:
                if not isinstance(damage, ChunkDamaged) or more.start <= damage.start:
                    raise
                damage = more
    except (Refusal, StoreError) as failure:
        raise await undeliverable(node, asked.request, failure, BlobUnknown) from failure


async def _mended(asked: Asked, unlinked: bool = False, unstored: UnstoredChunk | None = None) -> Reply:
    """The answer for a blob that the keeper mended, or found. Raises `NotHeld` or `Damaged` when it did not."""
    store, digest = asked.node.store, asked.digest
    blob = store.blob_anywhere(digest) if unlinked else store.blob(asked.scope.key, digest)
    if blob is None:
        raise NodeFailed("the blob is not where the keeper put it", code="BLOB_UNKNOWN")
    found = _held(asked, blob, unstored)
    return found if isinstance(found, Reply) else await found


async def _sized(asked: Asked) -> Reply:
    """HEAD of a blob that is not held, or a condition on it: its size by the parent's HEAD, no transfer."""
    with absent_to_pushers(asked.node, asked.request, BlobUnknown):
        size = await asked.node.port.blob_size(asked.scope.key, str(asked.digest))
    content = _content(asked, size)
    headers = headers_of(content, asked.scope)
    if is_current(asked.request, content.digest):
        return Reply(304, headers)
    return from_source(ranges.WHOLE, content, headers, NoSource(content.size))


async def _filled(asked: Asked) -> Reply:
    """GET of a blob that is not held; asked for again when the fill that was named ended before it could be
    followed, so that the client gets the blob, or the reason why it cannot be had."""
    for _ in range(TRIES):
        try:
            return await _asked_once(asked)
        except FillGone:
            continue
    raise KeeperAway("the blob's transfer failed again and again", code="BLOB_UNKNOWN", retry_after=5)


async def _asked_once(asked: Asked) -> Reply:
    """Served while it arrives, the asked range first. Raises FillGone."""
    spans = ranges.asked(asked.request, f'"{asked.digest}"')
    limit = asked.node.config.limits.ranges
    if len(spans) > limit:
        raise RangeRefused(f"over {limit} ranges of a blob that is not held here")
    told = await asked.node.port.blob(asked.scope.key, str(asked.digest), *_wanted(spans))
    if told.fill == 0:
        return await _arrived(asked, told.unlinked)
    choice = ranges.choose(spans, told.size, limit)
    if choice.form is Form.AMPLIFYING:
        raise RangeRefused("the ranges of a blob that is not held here are longer than the blob")
    content = _content(asked, told.size)
    headers = headers_of(content, asked.scope)
    if choice.form is Form.NONE:
        return from_source(choice, content, headers, NoSource(told.size))
    return from_source(choice, content, headers, await _follow(asked, told, choice))


async def _arrived(asked: Asked, unlinked: bool) -> Reply:
    """The keeper says that the blob is held, file and all. Chunks of it may be bad."""
    try:
        return await _mended(asked, unlinked)
    except (NotHeld, Damaged) as damage:
        unstored = await mend(asked.node, asked.scope, asked.digest, damage)
    return await _mended(asked, unlinked, unstored)


def _wanted(spans: Sequence[Span]) -> tuple[int, int, bool]:
    """What the keeper is asked to begin with, before the size is known: `KeeperPort.blob`'s arguments."""
    if not spans:
        return 0, -1, True
    first = spans[0]
    if first.first is None:
        return -(first.last or 0), -1, False
    if first.last is None:
        return first.first, -1, first.first == 0
    return first.first, first.last + 1, False


async def _follow(asked: Asked, told: BlobAnswer, choice: Choice) -> FillSource:
    """A follower a run, all attached before the answer starts, so that the fill knows what is wanted."""
    size = told.size
    runs = choice.runs or (Run(0, size, tail=True),)
    # an open range that starts later is a lazy or parallel puller that leaves early, or one that resumes
    whole = any(run.start == 0 and run.end == size for run in runs)
    followings: list[tuple[int, int, Following]] = []
    try:
        for run in runs:
            following = await asked.node.port.follow(told.fill, run.start, run.end, whole)
            followings.append((run.start, run.end, following))
    except BaseException:
        for _, _, following in followings:
            following.close()
        raise
    held_back = whole or any(run.tail for run in runs)
    holdback = min(asked.node.config.fills.holdback_bytes, size) if held_back else 0
    join = None if whole else partial(asked.node.port.follow, told.fill, 0, size, True)
    return FillSource(followings, size, holdback, join, partial(_stored, asked))


def _stored(asked: Asked) -> StoredSource | None:
    """The blob whose fill has just ended; None when it was not kept."""
    node = asked.node
    blob = node.store.blob_anywhere(asked.digest)
    if blob is None or not node.store.is_in_place(blob):
        return None
    return StoredSource(node.store.open_blob(blob), node.port, asked.scope.key, str(asked.digest))
