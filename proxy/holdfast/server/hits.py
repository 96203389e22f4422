"""Hits that are learned: what the hit lane (`wire.hit_lane`) is taught of the answers that endpoints give at once.

An answer is learned when the same head comes for the second time, for which it is given the ordinary way once more
while the store notes what is read. Only GET and HEAD of manifests and blobs are learned, and no answer to a password.

A small body of a file is learned with its bytes, which were verified when they were read. Whether its file is still
there, and is what it should be, no row says: so the ordinary way looks again after `FILE_SECONDS`.

What else an answer depends on must be part of `facts`, of the state, or end it (`RequestNote.end`). The configuration
never changes within a process, and every answer includes the row of the control plane's revision, so that whatever ends
a right or a login ends the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast_core.errors import StoreError
from holdfast_core.facets.repeated_reads import StoreState
from holdfast_core.index.row_snapshot import RowSnapshot

from holdfast.endpoint.node import Answer, Node
from holdfast.log import AccessLine
from holdfast.server.response_body import LEAST_FILE_BYTES
from holdfast.wire.exchange import EncodedReply, Exchange
from holdfast.wire.hit_lane import HitLane, RepeatedAnswer
from holdfast.wire.message import BodySource, ReplyBody, Request
from holdfast.wire.routes import READS, Noun

if TYPE_CHECKING:
    from holdfast.server.server import Dispatch

#: what `HitLane` calls epoch, state and time
Moment = tuple[int, StoreState, float]
#: of one process; a larger answer than a sixteenth is not kept
MEMORY_BYTES = 16 << 20
LONGEST_HEAD, LARGEST_ANSWER = 8 * 1024, MEMORY_BYTES // 16
#: a longer body of a file goes by sendfile (bytes); how long a shorter one is known (s)
FILE_BYTES, FILE_SECONDS = LEAST_FILE_BYTES, 2.0
#: heads that were seen once
SEEN_ONCE = 8192
TAUGHT = frozenset((Noun.MANIFEST, Noun.BLOB))
STATUSES = frozenset((200, 206, 304))


class Hits:
    """What a server knows of its hits. `date` gives the Date of a time. With `at_once` the first answer is learned, not
    the second."""

    def __init__(self, node: Node, date: Callable[[float], str], *, at_once: bool = False) -> None:
        self._node, self._at_once = node, at_once
        self._reads, self._router, self._clock = node.store.repeated_reads, node.router, node.clock
        self._seen_once: set[int] = set()
        self.lane = HitLane(self.moment, self._reads.is_same, date, MEMORY_BYTES)

    def moment(self) -> Moment:
        """What answers depend on now. Raises StoreError."""
        return self._router.adoptions, self._reads.state(), self._clock.now()

    def facts(self, exchange: Exchange) -> bytes:
        """What answers depend on beside the head, of one connection. It ends with a byte that no head has."""
        client = exchange.client if self._node.access.knows_addresses else ""
        text = f"{exchange.secure:d}{exchange.certified:d} {exchange.sni} {client}\0"
        return text.encode("utf-8", "surrogatepass")

    def lesson(self, facts: bytes, head: bytes, request: Request) -> Lesson | None:
        """For a request whose answer is to be learned."""
        if request.method not in READS or request.route.noun not in TAUGHT or len(head) > LONGEST_HEAD:
            return None
        seen = hash(facts + head)
        if not self._at_once and seen not in self._seen_once:
            if len(self._seen_once) >= SEEN_ONCE:
                self._seen_once.clear()
            self._seen_once.add(seen)
            return None
        return Lesson(self, self._node, facts, head)

    def tell_uses(self) -> None:
        """Tell the keeper what was used since the last call: a hit of the lane costs no message."""
        for repository, digest in self.lane.take_uses():
            self._node.port.seen(repository, digest)


class Lesson:
    """One answer while it is made."""

    def __init__(self, hits: Hits, node: Node, facts: bytes, head: bytes) -> None:
        self._hits, self._node, self._facts, self._head = hits, node, facts, head
        self._snapshot: RowSnapshot | None = None
        self._moment: Moment | None = None

    def answer(self, dispatch: Dispatch, request: Request) -> Answer:
        """The answer of the ordinary way. Raises what that raises."""
        try:
            self._moment = self._hits.moment()
        except StoreError:
            return dispatch(self._node, request)
        with self._node.store.repeated_reads.noted() as self._snapshot:
            try:
                self._node.access.refresh()  # reads are checked by a revision that may not have been read for this one
            except StoreError:
                self._snapshot.note_other()
            return dispatch(self._node, request)

    def learn(self, request: Request, encoded: EncodedReply, status: int, line: AccessLine) -> None:
        """Keep the answer, if it may be given again."""
        snapshot, moment, note, body = self._snapshot, self._moment, request.note, _bytes_of(encoded.body)
        if snapshot is None or snapshot.is_partial or status not in STATUSES or note.cache != "hit":
            return
        if moment is None or body is None or not encoded.keep or note.until <= moment[2]:
            return
        if snapshot.has_file:
            note.end(moment[2] + FILE_SECONDS)
        answer = RepeatedAnswer(
            self._facts,
            self._head,
            encoded.head + body,
            snapshot=snapshot,
            moment=moment,
            until=note.until,
            use=note.use,
            line=line,
        )
        if answer.size <= LARGEST_ANSWER:
            self._hits.lane.learn(answer)


def _bytes_of(body: bytes | ReplyBody) -> bytes | None:
    """A whole body; None for one that is long, or not verified and in memory."""
    if isinstance(body, bytes):
        return body
    if body.length > FILE_BYTES:
        return None
    parts = bytearray()
    for piece in body.pieces:
        parts += piece.literal
        at = piece.start
        while at < piece.end and not piece.literal:
            read = _verified(body.source, at, piece.end - at)
            if not read:
                return None
            parts += read
            at += len(read)
    return bytes(parts)


def _verified(source: BodySource, at: int, length: int) -> bytes | None:
    try:
        return source.read_nowait(at, length)
    except Exception:  # noqa: BLE001 - the ordinary way meets the same fault, and reports it
        return None
