"""GET and HEAD of blobs, held or on their way in (distribution-spec end-2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast_core.blob_files.page_cache import in_memory
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import ChunkDamaged, Damaged, FileDamaged, NotHeld, RecordDamaged, StoreError
from holdfast_core.record import Blob

from holdfast.endpoint.content import (
    ServedContent,
    from_memory,
    from_source,
    headers_of,
    is_current,
    note_use,
)
from holdfast.endpoint.node import Answer, Node
from holdfast.endpoint.unavailable import (
    absent_to_pushers,
    check_asked,
    may_push,
    mend,
    require_sound,
    undeliverable,
)
from holdfast.errors import BlobUnknown, FillGone, KeeperAway, NodeFailed, RangeRefused, Refusal
from holdfast.fill.readers import BlobAnswer
from holdfast.fill.repair import UnstoredChunk
from holdfast.keeper.api import Following, KeeperApi
from holdfast.log import log
from holdfast.oci import names
from holdfast.routing import RoutedRepository
from holdfast.wire import ranges
from holdfast.wire.message import Reply, Request
from holdfast.wire.ranges import Choice, Form, ResolvedRange, Span

if TYPE_CHECKING:
    from holdfast_core.blob_files.blob_reader import BlobReader


MEDIA_TYPE = "application/octet-stream"
#: attempts to open a fill that ends before it can be followed
TRIES = 3
#: repairs of a chunk in one read before the body is given up
REPAIRS = 2

#: attaches one more follower, of the whole blob
Join = Callable[[], Awaitable[Following]]


class BlobRequest(NamedTuple):
    """A GET or HEAD of one blob."""

    node: Node
    request: Request
    scope: RoutedRepository
    digest: Digest


def answer(node: Node, request: Request) -> Answer:
    """The answer to a GET or HEAD; waits for the keeper where the blob is not held, or is damaged."""
    scope = node.router.scope(request)
    context = BlobRequest(node, request, scope, names.digest(request.route.reference))
    blob = node.blobs.get(scope.key, context.digest)
    if blob is not None:
        if request.method == "HEAD" and _is_ending(context):
            return _ending(context, blob)
        try:
            return _held(context, blob)
        except (NotHeld, Damaged) as damage:
            return _damaged(context, damage)
    return _missing(context)


def _missing(context: BlobRequest) -> Coroutine[Any, Any, Reply]:
    """The answer for a blob that is not held, or is not held any more."""
    request = context.request
    check_asked(context.node, context.scope, "blob", str(context.digest), BlobUnknown)
    # a client that names the digest has the bytes: 304 needs a HEAD of the parent and no transfer
    sized = request.method == "HEAD" or is_current(request, str(context.digest))
    return _sized(context) if sized else _filled(context)


def _is_ending(context: BlobRequest) -> bool:
    """Whether nothing has named the blob for so long that a collection may come before the manifest of a client that
    finds it and does not push it."""
    node = context.node
    if node.store.mode == "ReadOnly":
        return False
    since = node.store.space.loose_since(context.scope.key, context.digest)
    if since is None:
        return False
    context.request.note.end(since + node.found_for)
    return since + node.found_for <= node.clock.now()


async def _ending(context: BlobRequest, blob: Blob) -> Reply:
    """The answer to a HEAD of such a blob: 404 to who may push, so that it is pushed, and with that kept."""
    if await may_push(context.node, context.request):
        raise BlobUnknown("nothing names this blob and it will be removed soon; push it again")
    try:
        reply = _held(context, blob)
    except (NotHeld, Damaged) as damage:
        reply = _damaged(context, damage)
    return reply if isinstance(reply, Reply) else await reply


def _content(context: BlobRequest, size: int) -> ServedContent:
    return ServedContent(str(context.digest), MEDIA_TYPE, size, True)


def _held(context: BlobRequest, blob: Blob, unstored: UnstoredChunk | None = None) -> Answer:
    """The answer from the store. Raises `NotHeld` or `Damaged` when the file is not what the index says, or the
    requested range is known to be bad. With `unstored`, the first bad chunk, bad chunks are passed through from the
    parent."""
    node, request = context.node, context.request
    request.note.cache = request.note.cache or "hit"
    content = _content(context, blob.size)
    headers = headers_of(content, context.scope)
    if is_current(request, content.digest):
        return Reply(304, headers)
    note_use(node, request, context.scope.key, content.digest)
    if blob.inline is not None:
        return from_memory(request, content, headers, blob.inline, node.config.limits.ranges)
    if request.method == "HEAD":
        require_sound(node, blob, 0, blob.size)
        if not node.blobs.is_whole(blob):
            raise FileDamaged(f"{context.digest}: its file is gone, or not what it should be")
        return from_source(ranges.WHOLE, content, headers, NoSource(blob.size))
    choice = ranges.choose(ranges.requested(request, content.etag), blob.size, node.config.limits.ranges)
    if choice.form is Form.NONE:
        return from_source(choice, content, headers, NoSource(blob.size))
    runs = choice.runs or (ResolvedRange(0, blob.size),)
    reader = node.blobs.open(blob)
    source = StoredSource(reader, node.port, context.scope.key, content.digest)
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
    return _proven(context, choice, content, headers, source, runs[0].start)


async def _proven(
    context: BlobRequest,
    choice: Choice,
    content: ServedContent,
    headers: list[tuple[str, str]],
    source: StoredSource,
    first: int,
) -> Reply:
    """The answer after a check of its first chunk, so that a blob that cannot be had is refused before it is begun,
    and one that was evicted before its repair is a miss."""
    try:
        await source.read(first, 1)
    except BaseException as failure:
        source.close()
        if isinstance(failure, FillGone):
            return await _missing(context)
        if not isinstance(failure, (Refusal, StoreError)):
            raise
        raise await undeliverable(context.node, context.request, failure, BlobUnknown) from failure
    return from_source(choice, content, headers, source)


async def _damaged(context: BlobRequest, damage: StoreError) -> Reply:
    """The answer for a blob that is linked here and whose bytes are damaged or gone. A HEAD is that of the parent; for
    a GET the missing bytes are fetched from it. What was evicted meanwhile is a miss."""
    node, scope = context.node, context.scope
    try:
        lost = isinstance(damage, NotHeld | FileDamaged)
        if node.asks(scope) and (context.request.method == "HEAD" or lost):
            return await (_sized(context) if context.request.method == "HEAD" else _filled(context))
        while True:
            unstored = await mend(node, scope, context.digest, damage)
            try:
                return await _repaired(context, unstored=unstored)
            except ChunkDamaged as more:
                if not isinstance(damage, ChunkDamaged) or more.start <= damage.start:
                    raise
                damage = more
    except FillGone:
        return await _missing(context)
    except (Refusal, StoreError) as failure:
        raise await undeliverable(node, context.request, failure, BlobUnknown) from failure


async def _repaired(
    context: BlobRequest, unlinked: bool = False, unstored: UnstoredChunk | None = None
) -> Reply:
    """The answer for a blob that the keeper repaired or has. Raises `NotHeld` or `Damaged` when it has not, FillGone
    when it was evicted meanwhile."""
    try:
        reply = _held(context, _placed(context, unlinked), unstored)
    except NotHeld:
        _placed(context, unlinked)
        raise
    return reply if isinstance(reply, Reply) else await reply


def _placed(context: BlobRequest, unlinked: bool) -> Blob:
    """The blob's row. Raises FillGone."""
    blobs, digest = context.node.store.blobs, context.digest
    blob = blobs.anywhere(digest) if unlinked else blobs.get(context.scope.key, digest)
    if blob is None:
        raise FillGone("the blob is not where the keeper put it", code="BLOB_UNKNOWN")
    return blob


async def _sized(context: BlobRequest) -> Reply:
    """The answer to a HEAD of a blob that is not held, or to a condition on it: the size is from a HEAD of the
    parent."""
    context.request.note.cache = "miss"
    with absent_to_pushers(context.node, context.request, BlobUnknown):
        size = await context.node.port.blob_size(context.scope.key, str(context.digest))
    content = _content(context, size)
    headers = headers_of(content, context.scope)
    if is_current(context.request, content.digest):
        return Reply(304, headers)
    return from_source(ranges.WHOLE, content, headers, NoSource(content.size))


async def _filled(context: BlobRequest) -> Reply:
    """The answer to a GET of a blob that is not held. A fill that ended before it could be followed is opened again, so
    that the client gets the blob, or the reason why it cannot be had."""
    context.request.note.cache = "miss"
    for _ in range(TRIES):
        try:
            return await _from_fill(context)
        except FillGone:
            continue
    raise KeeperAway("the blob's transfer failed again and again", code="BLOB_UNKNOWN", retry_after=5)


async def _from_fill(context: BlobRequest) -> Reply:
    """The answer from a fill, sent while its bytes arrive, the requested range first. Raises FillGone."""
    spans = ranges.requested(context.request, f'"{context.digest}"')
    limit = context.node.config.limits.ranges
    if len(spans) > limit:
        raise RangeRefused(f"over {limit} ranges of a blob that is not held here")
    opened = await context.node.port.blob(context.scope.key, str(context.digest), *_first_range(spans))
    if opened.fill == 0:
        return await _held_meanwhile(context, opened.unlinked)
    choice = ranges.choose(spans, opened.size, limit)
    if choice.form is Form.AMPLIFYING:
        raise RangeRefused("the ranges of a blob that is not held here are longer than the blob")
    content = _content(context, opened.size)
    headers = headers_of(content, context.scope)
    if choice.form is Form.NONE:
        return from_source(choice, content, headers, NoSource(opened.size))
    return from_source(choice, content, headers, await _follow(context, opened, choice))


async def _held_meanwhile(context: BlobRequest, unlinked: bool) -> Reply:
    """The answer for a blob that the keeper says is held. Chunks of it may be bad."""
    try:
        return await _repaired(context, unlinked)
    except (NotHeld, Damaged) as damage:
        unstored = await mend(context.node, context.scope, context.digest, damage)
    return await _repaired(context, unlinked, unstored)


def _first_range(spans: Sequence[Span]) -> tuple[int, int, bool]:
    """The range that a fill is to begin with, before the size is known: the last arguments of `KeeperApi.blob`."""
    if not spans:
        return 0, -1, True
    first = spans[0]
    if first.first is None:
        return -(first.last or 0), -1, False
    if first.last is None:
        return first.first, -1, first.first == 0
    return first.first, first.last + 1, False


async def _follow(context: BlobRequest, opened: BlobAnswer, choice: Choice) -> FillSource:
    """A follower for each run, all attached before the answer starts, so that the fill knows all requested ranges."""
    size = opened.size
    runs = choice.runs or (ResolvedRange(0, size, tail=True),)
    # an open range that starts later is a lazy or parallel puller that leaves early, or one that resumes
    whole = any(run.start == 0 and run.end == size for run in runs)
    followings: list[tuple[int, int, Following]] = []
    try:
        for run in runs:
            following = await context.node.port.follow(opened.fill, run.start, run.end, whole)
            followings.append((run.start, run.end, following))
    except BaseException:
        for _, _, following in followings:
            following.close()
        raise
    held_back = whole or any(run.tail for run in runs)
    holdback = min(context.node.config.fills.holdback_bytes, size) if held_back else 0
    join = None if whole else partial(context.node.port.follow, opened.fill, 0, size, True)
    return FillSource(followings, size, holdback, join, partial(_stored, context))


def _stored(context: BlobRequest) -> StoredSource | None:
    """The blob whose fill has just ended; None when it was not kept."""
    node = context.node
    blob = node.blobs.anywhere(context.digest)
    if blob is None or not node.blobs.is_in_place(blob):
        return None
    return StoredSource(node.blobs.open(blob), node.port, context.scope.key, str(context.digest))


# -- where the bytes of a body come from: a stored blob, or a fill that is under way --------------------


class NoSource:
    """The source of a HEAD answer: it has a size and is never read."""

    distant = False

    def __init__(self, size: int) -> None:
        self.size = size

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """Not for reading."""
        return None

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """Not for reading."""
        raise NodeFailed("a HEAD answer has no body")

    async def arrived(self, offset: int) -> None:
        """Returns at once: no bytes follow."""

    async def read(self, offset: int, length: int) -> bytes:
        """Not for reading."""
        raise NodeFailed("a HEAD answer has no body")

    def close(self) -> None:
        """Nothing is held."""


class StoredSource:
    """A held blob. What is in memory and verified is read on the loop; the rest on a thread.

    A damaged chunk is repaired from the parent within the read; damaged bytes are never sent. A repaired chunk that the
    disk does not take is sent from memory.
    """

    distant = False

    def __init__(self, reader: BlobReader, port: KeeperApi, repository: str, digest: str) -> None:
        self.size = reader.size
        self._reader, self._port = reader, port
        self._repository, self._digest = repository, digest
        self._reading: asyncio.Future[bytes] | None = None
        self.read_nowait = reader.read_nowait

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """The file, when the run is verified. Then all of it is in memory, and the loop waits for no disk."""
        reader = self._reader
        return (reader.fd, length) if reader.fd >= 0 and reader.verified(offset, length) else None

    async def arrived(self, offset: int) -> None:
        """Returns at once: all bytes are here."""

    async def read(self, offset: int, length: int) -> bytes:
        """At least one byte from `offset`. Raises when a damaged chunk cannot be repaired."""
        for _ in range(REPAIRS):
            try:
                return await self._read(offset, length)
            except ChunkDamaged as damage:
                log.warning("chunk found damaged", digest=damage.digest, start=damage.start, end=damage.end)
                unstored = await self._port.repair(self._repository, self._digest, damage.start, damage.end)
                if unstored is None:
                    self._reader.mended(damage.start)
                else:
                    self.take(unstored)
            except RecordDamaged as damage:
                await self._port.mend(damage.key)
        return await self._read(offset, length)

    def take(self, unstored: UnstoredChunk) -> None:
        """Serve a chunk that came from the parent and could not be put in place. Raises ChunkDamaged when it is not
        the chunk."""
        self._reader.take(unstored.start, unstored.body)

    async def check(self, offset: int) -> None:
        """Raises ChunkDamaged when the chunk at `offset` is bad now; repairs nothing."""
        await self._read(offset, 1)

    async def _read(self, offset: int, length: int) -> bytes:
        loop = asyncio.get_running_loop()
        self._reading = loop.run_in_executor(None, self._reader.read, offset, length)
        # shielded: when the client leaves, the thread goes on, and `close` must know that it does
        return await asyncio.shield(self._reading)

    def close(self) -> None:
        """Close the file, after the read in hand if there is one: a thread may still be using it."""
        if self._reading is None or self._reading.done():
            self._reader.close()
        else:
            self._reading.add_done_callback(self._close_after)

    def _close_after(self, reading: asyncio.Future[bytes]) -> None:
        reading.exception()  # retrieved, so that asyncio does not log it
        self._reader.close()


class FillSource:
    """A blob that a fill fetches, read through one follower a run.

    `holdback` bytes at the end wait until the whole blob matched its digest, so that no client completes a wrong body;
    with 0 all bytes are sent as they come. A reader of an open range requests no more than it reads, until it reaches
    the held-back bytes: then `join` makes it a reader of the whole, so that the digest is checked. None says that it is
    one already.

    The digest is that of the bytes as they came. Some may have left memory before this reader sent them, and were read
    from the disk again: their chunks are hashed in the stored blob, which `stored` opens, before the last bytes are
    sent, and these are read from there.
    """

    distant = True

    def __init__(
        self,
        followings: list[tuple[int, int, Following]],
        size: int,
        holdback: int,
        join: Join | None,
        stored: Callable[[], StoredSource | None] = lambda: None,
    ) -> None:
        self.size = size
        self._followings = followings
        self._free_end = size - holdback
        self._verified = holdback == 0
        self._join = join
        self._open = stored
        self._stored: StoredSource | None = None
        #: chunks of which bytes were sent that were read from the disk again
        self._unproven: set[int] = set()

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """The growing file, as far as its bytes may be sent."""
        if self._stored is not None:
            return self._stored.lend(offset, length)
        following = self._following(offset)
        ready = min(following.available(offset), offset + length, self._end())
        loan = following.lend(offset, ready - offset) if ready > offset else None
        if loan is not None:
            self._note(loan[0], offset, loan[1])
        return loan

    def _note(self, file: int, offset: int, length: int) -> None:
        """Note the chunks of a run that is about to be sent and is no longer in memory."""
        if not self._verified and not in_memory(file, offset, length):
            self._unproven.update(range(offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES + 1))

    async def arrived(self, offset: int) -> None:
        """Wait until the byte at `offset` is here and may be sent. Raises as the follower, and ChunkDamaged when bytes
        that were sent before are not those that came."""
        following = self._following(offset)
        if offset >= self._end():
            await self._verdict(following)
        if self._stored is None:
            await following.wait_for(offset)

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """Bytes that are on disk and may be sent, or None."""
        if self._stored is not None:
            return self._stored.read_nowait(offset, length)
        following = self._following(offset)
        ready = min(following.available(offset), offset + length, self._end())
        return self._taken(following, offset, ready - offset) if ready > offset else None

    async def read(self, offset: int, length: int) -> bytes:
        """At least one byte from `offset`, as soon as it is here and may be sent. Raises as the follower."""
        await self.arrived(offset)
        if self._stored is not None:
            return await self._stored.read(offset, length)
        following = self._following(offset)
        ready = min(following.available(offset), offset + length, self._end())
        return self._taken(following, offset, ready - offset)

    def _taken(self, following: Following, offset: int, length: int) -> bytes:
        loan = following.lend(offset, length)
        if loan is not None:
            self._note(loan[0], offset, loan[1])
        return following.read(offset, length)

    def close(self) -> None:
        """Tell the keeper that this reader left."""
        for _, _, following in self._followings:
            following.close()
        if self._stored is not None:
            self._stored.close()

    async def _verdict(self, following: Following) -> None:
        if self._join is not None:
            following = await self._join()
            self._followings.append((0, self.size, following))
        await following.wait_verified()
        self._stored = self._open()
        if self._stored is not None:
            for chunk in sorted(self._unproven):
                await self._stored.check(chunk * CHUNK_BYTES)
        elif self._unproven:
            raise NodeFailed("bytes came back from the disk, and the blob was not kept to check them by")
        self._verified = True

    def _end(self) -> int:
        return self.size if self._verified else self._free_end

    def _following(self, offset: int) -> Following:
        for start, end, following in self._followings:
            if start <= offset < end:
                return following
        raise NodeFailed("a byte outside the requested ranges was read")
