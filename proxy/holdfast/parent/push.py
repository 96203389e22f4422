"""What goes up to a parent: blobs, manifests, tags, deletes. One request a call; nothing here tries twice.

Only the parent itself is asked, never a mirror. Every method raises a `holdfast.errors.ParentFailed`; those that send
bytes of a blob also StoreError when these cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from urllib.parse import quote

from holdfast_core.errors import StoreError
from holdfast_core.reading import BlobReader
from yarl import URL

from holdfast.clock import Clock
from holdfast.errors import LinkClosed, ParentBroken, ParentDenied, ParentFailed, ParentNotFound, TagMoved
from holdfast.manifest import MEDIA_TYPES
from holdfast.parent.caps import Caps
from holdfast.parent.endpoint import Ask, Endpoint
from holdfast.parent.lane import Lane
from holdfast.parent.retry import Deadline
from holdfast.parent.transport import Answer

#: actions of the token that pushes, and of the one that deletes
PUSH, DELETE = "pull,push", "pull,delete"
#: a longer blob goes up in pieces of this size (bytes), or of what the parent says is the least: so much at most is
#: sent again when a link breaks off and the parent keeps no part of a piece
PIECE_BYTES = 4 << 20
#: a blob up to this goes up in one request: what a link that breaks off takes with it is less than two more round trips
SINGLE_BYTES = 128 << 10
READ_BYTES = 128 * 1024
#: a short ask may take so long, waits included (seconds); a piece goes on as long as bytes move, up to the second
ASK_SECONDS, PIECE_SECONDS = 60.0, 6 * 3600.0
_RANGE = re.compile(r"0-([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class Session:
    """An upload that was begun. `least` is what the parent takes in one piece at least (OCI-Chunk-Min-Length)."""

    url: URL
    least: int = 0


@dataclass(frozen=True, slots=True)
class TagThere:
    """What a tag names at the parent, "" nothing; `etag` when that can be made a condition of a change, "" not."""

    digest: str
    etag: str


def contradicts(said: str, digest: str) -> bool:
    """Whether a parent names another digest than that of what it was sent (reliability.md P19). By another algorithm it
    may: some name by sha256 whatever they store."""
    return said.partition(":")[0] == digest.partition(":")[0] and said != digest


class Part:
    """Bytes [start, end) of a blob held here. `lane` is given when they are sent."""

    lane: Lane

    def __init__(self, reader: BlobReader, start: int, end: int) -> None:
        self._reader, self._start, self._end = reader, start, end
        #: why it could not be read; whoever sends it learns no more than that the request broke off
        self.failure: StoreError | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        """See `Outgoing`."""
        at = self._start
        while at < self._end:
            try:
                piece = self._reader.read(at, min(READ_BYTES, self._end - at))
            except StoreError as failure:
                self.failure = failure
                raise
            at += len(piece)
            yield piece

    async def ready(self, size: int) -> None:
        """See `Outgoing`."""
        await self.lane.ready()
        self.lane.took(size)


class Pushing:
    """The way up to one parent. `qualified` is its name of a repository; `enter` gives a lane for what is sent."""

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        caps: Callable[[], Caps],
        qualified: Callable[[str], str],
        enter: Callable[[], Lane],
    ) -> None:
        self._endpoint, self._clock, self._caps = endpoint, clock, caps
        self._qualified, self._enter = qualified, enter

    async def introduce(self, name: str) -> None:
        """Have what a push to a repository needs beside its bytes: a connection and a login."""
        deadline = Deadline.after(self._clock, ASK_SECONDS)
        await self._endpoint.introduce(self._qualified(name), PUSH, deadline)

    async def has(self, name: str, tail: str) -> bool:
        """Whether a repository there has `blobs/<digest>` or `manifests/<digest>`."""
        accept = {"Accept": ", ".join(MEDIA_TYPES)}
        ask = Ask("HEAD", self._qualified(name), tail, accept, want=PUSH)
        try:
            await self._asked(ask)
        except ParentNotFound:
            return False
        return True

    async def tag(self, name: str, tag: str, *, ahead: bool = False) -> TagThere:
        """What a tag names there now. `ahead` of the bodies that wait for a connection: later it may name another."""
        accept = {"Accept": ", ".join(MEDIA_TYPES)}
        ask = Ask("HEAD", self._qualified(name), f"manifests/{tag}", accept, want=PUSH)
        try:
            answer = await self._asked(ask, ahead=ahead)
        except ParentNotFound:
            return TagThere("", "")
        digest = answer.header("Docker-Content-Digest") or ""
        if not digest:
            raise ParentBroken("the parent does not say what the tag names (no Docker-Content-Digest)")
        etag = answer.header("ETag") or ""
        return TagThere(digest, etag if etag == f'"{digest}"' else "")

    async def begin(self, name: str, digest: str, source: str = "") -> Session | None:
        """Begin an upload; None when the parent mounted the blob from `source` instead."""
        qualified = self._qualified(name)
        mount = f"?mount={quote(digest)}&from={quote(self._qualified(source))}" if source else ""
        want = f"{PUSH} {self._qualified(source)}" if source else PUSH
        length = {"Content-Length": "0"}
        ask = Ask(
            "POST", qualified, f"blobs/uploads/{mount}", length, want=want, accept=frozenset({201, 202})
        )
        answer = await self._asked(ask)
        return None if answer.status == 201 else self._session(answer)

    async def single(self, name: str, digest: str, reader: BlobReader) -> Session | None:
        """Send a whole blob in one request (distribution-spec end-4b). An upload to go on with from its beginning,
        where the parent takes no such request; else None. Raises ParentBroken as `finish`."""
        headers = {"Content-Length": str(reader.size), "Content-Type": "application/octet-stream"}
        body = Part(reader, 0, reader.size) if reader.size else None
        tail = f"blobs/uploads/?digest={quote(digest)}"
        ask = Ask("POST", self._qualified(name), tail, headers, True, PUSH, body, frozenset({201, 202}))
        answer = await self._sent(ask, None)
        if answer.status == 202:
            return self._session(answer)
        _require(answer, digest)
        return None

    async def offset(self, name: str, session: Session) -> tuple[Session, int]:
        """The upload and the bytes that the parent has of it. Raises ParentNotFound when it has ended."""
        ask = Ask("GET", self._qualified(name), "", want=PUSH, accept=frozenset({200, 204}))
        answer = await self._asked(ask, page=session.url)
        found = _RANGE.fullmatch((answer.header("Range") or "").strip())
        following = self._session(answer) if answer.header("Location") else session
        return following, int(found[1]) + 1 if found and found[1] != "0" else 0

    async def piece(self, name: str, session: Session, reader: BlobReader, start: int, end: int) -> Session:
        """Send bytes [start, end); the upload as it goes on."""
        headers = {
            "Content-Length": str(end - start),
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{start}-{end - 1}",
        }
        body = Part(reader, start, end)
        ask = Ask("PATCH", self._qualified(name), "", headers, True, PUSH, body, frozenset({202}))
        return self._session(await self._sent(ask, session.url))

    async def finish(
        self, name: str, session: Session, digest: str, reader: BlobReader | None, start: int = 0
    ) -> None:
        """Close the upload, with the bytes from `start` on if there is a reader. Raises ParentBroken when the parent
        says that it has something else now."""
        size = reader.size - start if reader is not None else 0
        headers = {"Content-Length": str(size)}
        if size:
            headers["Content-Type"] = "application/octet-stream"
        if size and start:
            headers["Content-Range"] = f"{start}-{start + size - 1}"
        body = Part(reader, start, reader.size) if reader is not None and size else None
        url = URL(
            f"{session.url}{'&' if session.url.raw_query_string else '?'}digest={quote(digest)}", encoded=True
        )
        ask = Ask("PUT", self._qualified(name), "", headers, True, PUSH, body, frozenset({201, 204}))
        _require(await self._sent(ask, url), digest)

    async def manifest(
        self, name: str, reference: str, media_type: str, body: bytes, there: TagThere | None = None
    ) -> str:
        """Put a manifest, its bytes as they are; the digest that the parent says it stored, "" where it says none.
        `there`: only while the tag names that. Raises ParentFailed, and `TagMoved` when it moved meanwhile."""
        headers = {"Content-Type": media_type, "Content-Length": str(len(body)), **_condition(there)}
        tail = f"manifests/{reference}"
        ask = Ask("PUT", self._qualified(name), tail, headers, True, PUSH, body, frozenset({200, 201, 412}))
        answer = await self._asked(ask)
        if answer.status == 412:
            raise TagMoved("the tag moved at the parent while it was sent (412)")
        return answer.header("Docker-Content-Digest") or ""

    async def delete(self, name: str, reference: str, there: TagThere | None = None) -> None:
        """Delete a tag or a manifest; what is not there is deleted. `there`: only while the tag names that. Raises
        ParentDenied where the parent takes no deletes, and `TagMoved`."""
        accept, headers = frozenset({200, 202, 204, 404, 405, 412}), _condition(there)
        tail = f"manifests/{reference}"
        ask = Ask("DELETE", self._qualified(name), tail, headers, want=DELETE, accept=accept)
        answer = await self._asked(ask)
        if answer.status == 412:
            raise TagMoved("the tag moved at the parent before it was deleted there (412)")
        if answer.status == 405:
            raise ParentDenied("the parent takes no such delete (405)")

    def session_at(self, url: str) -> Session:
        """A session that was remembered. Raises ParentBroken."""
        return Session(self._endpoint.session_url(self._endpoint.base, url))

    def _session(self, answer: Answer) -> Session:
        least = answer.header("OCI-Chunk-Min-Length") or ""
        url = self._endpoint.session_url(answer.url, answer.header("Location"))
        return Session(url, int(least) if least.isascii() and least.isdigit() and len(least) < 12 else 0)

    async def _asked(self, ask: Ask, page: URL | None = None, *, ahead: bool = False) -> Answer:
        """An answer of which only status and headers are wanted. `ahead`: over a connection for short asks."""
        async with nullcontext() if ahead else self._caps().push():
            deadline = Deadline.after(self._clock, ASK_SECONDS)
            answer = await self._endpoint.ask(replace(ask, transfer=not ahead), deadline, page=page)
            await answer.discard()
            return answer

    async def _sent(self, ask: Ask, url: URL | None) -> Answer:
        """Like `_asked`, for a request with bytes of a blob. Raises StoreError when those cannot be read here, and
        LinkClosed."""
        async with self._caps().push():
            with self._enter() as lane:
                if lane.is_closed:
                    raise LinkClosed("a cap of 0 on what goes up holds at this hour")
                if isinstance(ask.body, Part):
                    ask.body.lane = lane
                return await self._handed_on(ask, url)

    async def _handed_on(self, ask: Ask, url: URL | None) -> Answer:
        try:
            deadline = Deadline.after(self._clock, PIECE_SECONDS)
            answer = await self._endpoint.ask(ask, deadline, page=url)
        except ParentFailed:
            if isinstance(ask.body, Part) and ask.body.failure is not None:
                raise ask.body.failure from None
            raise
        await answer.discard()
        return answer


def _condition(there: TagThere | None) -> dict[str, str]:
    """The headers with which a change is made only while the tag names that."""
    if there is None:
        return {}
    if there.etag:
        return {"If-Match": there.etag}
    return {} if there.digest else {"If-None-Match": "*"}


def _require(answer: Answer, digest: str) -> None:
    """Raise ParentBroken for an answer that names another blob than the one that was sent."""
    if contradicts(said := answer.header("Docker-Content-Digest") or "", digest):
        raise ParentBroken(f"the parent stored {said[:80]} where {digest} was sent")
