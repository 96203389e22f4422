"""Sends changes to a parent: blobs, manifests, tags, deletes. One request a call, never retried.

Only the parent itself gets them, never a mirror. Every method raises a `holdfast.errors.ParentFailed`; those that send
bytes of a blob also StoreError when these cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from urllib.parse import quote

from holdfast_core.blob_files.blob_reader import BlobReader
from holdfast_core.errors import StoreError
from yarl import URL

from holdfast.bandwidth.caps import Caps
from holdfast.bandwidth.lane import Lane
from holdfast.clock import Clock
from holdfast.errors import (
    LinkClosed,
    ParentBroken,
    ParentDenied,
    ParentErred,
    ParentFailed,
    ParentNotFound,
    TagMoved,
)
from holdfast.http.endpoint import Endpoint, ParentRequest
from holdfast.http.retry import Deadline
from holdfast.http.transport import HttpAnswer
from holdfast.oci.manifest import MEDIA_TYPES

#: actions of the token for a push, and of that for a delete
PUSH, DELETE = "pull,push", "pull,delete"
#: a longer blob is sent in pieces of this size (bytes), or of the parent's minimum: at most so much is sent again when
#: the link breaks and the parent keeps no part of a piece
PIECE_BYTES = 4 << 20
#: a blob up to this is sent in one request: two more round trips cost more than sending it again after a break
SINGLE_BYTES = 128 << 10
READ_BYTES = 64 * 1024
#: budgets of a short request, waits included, and of a piece, which continues as long as bytes are sent (seconds)
ASK_SECONDS, PIECE_SECONDS = 60.0, 6 * 3600.0
_RANGE = re.compile(r"0-([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class ParentUpload:
    """An open upload. `least` is the smallest piece that the parent takes (OCI-Chunk-Min-Length)."""

    url: URL
    least: int = 0


@dataclass(frozen=True, slots=True)
class RemoteTag:
    """The digest that a tag names at the parent, "" for none; `etag` makes it a condition of a change, "" if it
    cannot."""

    digest: str
    etag: str


def contradicts(answered: str, digest: str) -> bool:
    """Whether a parent answers with another digest than that of the content it was sent (reliability.md P19). One of
    another algorithm is none: some parents name all content by sha256."""
    return answered.partition(":")[0] == digest.partition(":")[0] and answered != digest


def in_step(answer: HttpAnswer) -> HttpAnswer:
    """The answer to a piece. Raises ParentErred for 416: the parent still reads an earlier request, as after a cut of
    the link in silence. The offset of the upload is requested again before more is sent."""
    if answer.status == 416:
        raise ParentErred("the parent takes no bytes at this place of the upload now (416)")
    return answer


class BlobSlice:
    """Bytes [start, end) of a blob held here. `lane` is given when they are sent."""

    lane: Lane

    def __init__(self, reader: BlobReader, start: int, end: int) -> None:
        self._reader, self._start, self._end = reader, start, end
        #: why it could not be read; aiohttp only reports that the request was cut
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
        self.lane.count(size)


class PushClient:
    """Pushes to one parent. `qualified` gives its name of a repository; `enter` a lane for a body."""

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

    async def authorize(self, name: str) -> None:
        """Get the connection and the login that a push to a repository needs, ahead of it."""
        deadline = Deadline.after(self._clock, ASK_SECONDS)
        await self._endpoint.authorize(self._qualified(name), PUSH, deadline)

    async def has(self, name: str, tail: str) -> bool:
        """Whether a repository at the parent has `blobs/<digest>` or `manifests/<digest>`."""
        accept = {"Accept": ", ".join(MEDIA_TYPES)}
        request = ParentRequest("HEAD", self._qualified(name), tail, accept, want=PUSH)
        try:
            await self._send(request)
        except ParentNotFound:
            return False
        return True

    async def tag(self, name: str, tag: str, *, ahead: bool = False) -> RemoteTag:
        """The digest that a tag names at the parent now. `ahead`: without waiting for a connection behind bodies."""
        accept = {"Accept": ", ".join(MEDIA_TYPES)}
        request = ParentRequest("HEAD", self._qualified(name), f"manifests/{tag}", accept, want=PUSH)
        try:
            answer = await self._send(request, ahead=ahead)
        except ParentNotFound:
            return RemoteTag("", "")
        digest = answer.header("Docker-Content-Digest") or ""
        if not digest:
            raise ParentBroken("the parent does not say what the tag names (no Docker-Content-Digest)")
        etag = answer.header("ETag") or ""
        return RemoteTag(digest, etag if etag == f'"{digest}"' else "")

    async def begin(self, name: str, digest: str, source: str = "") -> ParentUpload | None:
        """Begin an upload; None when the parent mounted the blob from `source` instead."""
        qualified = self._qualified(name)
        mount = f"?mount={quote(digest)}&from={quote(self._qualified(source))}" if source else ""
        want = f"{PUSH} {self._qualified(source)}" if source else PUSH
        length = {"Content-Length": "0"}
        request = ParentRequest(
            "POST", qualified, f"blobs/uploads/{mount}", length, want=want, accept=frozenset({201, 202})
        )
        answer = await self._send(request)
        return None if answer.status == 201 else self._session(answer)

    async def single(self, name: str, digest: str, reader: BlobReader) -> ParentUpload | None:
        """Send a whole blob in one request (distribution-spec end-4b). Returns None or, where the parent takes no such
        request, an upload to begin with. Raises ParentBroken as `finish`."""
        headers = {"Content-Length": str(reader.size), "Content-Type": "application/octet-stream"}
        body = BlobSlice(reader, 0, reader.size) if reader.size else None
        tail = f"blobs/uploads/?digest={quote(digest)}"
        request = ParentRequest(
            "POST", self._qualified(name), tail, headers, True, PUSH, body, frozenset({201, 202})
        )
        answer = await self._send_bytes(request, None)
        if answer.status == 202:
            return self._session(answer)
        _require(answer, digest)
        return None

    async def offset(self, name: str, session: ParentUpload) -> tuple[ParentUpload, int]:
        """The upload and the number of bytes that the parent has of it. Raises ParentNotFound when it has ended."""
        request = ParentRequest("GET", self._qualified(name), "", want=PUSH, accept=frozenset({200, 204}))
        answer = await self._send(request, page=session.url)
        match = _RANGE.fullmatch((answer.header("Range") or "").strip())
        following = self._session(answer) if answer.header("Location") else session
        return following, int(match[1]) + 1 if match and match[1] != "0" else 0

    async def piece(
        self, name: str, session: ParentUpload, reader: BlobReader, start: int, end: int
    ) -> ParentUpload:
        """Send bytes [start, end); returns the upload with its next URL."""
        headers = {
            "Content-Length": str(end - start),
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{start}-{end - 1}",
        }
        body = BlobSlice(reader, start, end)
        request = ParentRequest(
            "PATCH", self._qualified(name), "", headers, True, PUSH, body, frozenset({202, 416})
        )
        return self._session(in_step(await self._send_bytes(request, session.url)))

    async def finish(
        self, name: str, session: ParentUpload, digest: str, reader: BlobReader | None, start: int = 0
    ) -> None:
        """Close the upload, with the bytes from `start` on if there is a reader. Raises ParentBroken when the parent
        answers with another digest."""
        size = reader.size - start if reader is not None else 0
        headers = {"Content-Length": str(size)}
        if size:
            headers["Content-Type"] = "application/octet-stream"
        if size and start:
            headers["Content-Range"] = f"{start}-{start + size - 1}"
        body = BlobSlice(reader, start, reader.size) if reader is not None and size else None
        url = URL(
            f"{session.url}{'&' if session.url.raw_query_string else '?'}digest={quote(digest)}", encoded=True
        )
        request = ParentRequest(
            "PUT", self._qualified(name), "", headers, True, PUSH, body, frozenset({201, 204, 416})
        )
        _require(in_step(await self._send_bytes(request, url)), digest)

    async def manifest(
        self, name: str, reference: str, media_type: str, body: bytes, expected: RemoteTag | None = None
    ) -> str:
        """Put a manifest; returns the digest that the parent answers, "" where it names none. `expected`: only while
        the tag names that. Raises ParentFailed, and `TagMoved` when the tag moved meanwhile."""
        headers = {"Content-Type": media_type, "Content-Length": str(len(body)), **_condition(expected)}
        tail = f"manifests/{reference}"
        request = ParentRequest(
            "PUT", self._qualified(name), tail, headers, True, PUSH, body, frozenset({200, 201, 412})
        )
        answer = await self._send(request)
        if answer.status == 412:
            raise TagMoved("the tag moved at the parent while it was sent (412)")
        return answer.header("Docker-Content-Digest") or ""

    async def delete(self, name: str, reference: str, expected: RemoteTag | None = None) -> None:
        """Delete a tag or a manifest; an absent one counts as deleted. `expected`: only while the tag names that.
        Raises ParentDenied where the parent takes no deletes, and `TagMoved`."""
        accept, headers = frozenset({200, 202, 204, 404, 405, 412}), _condition(expected)
        tail = f"manifests/{reference}"
        request = ParentRequest("DELETE", self._qualified(name), tail, headers, want=DELETE, accept=accept)
        answer = await self._send(request)
        if answer.status == 412:
            raise TagMoved("the tag moved at the parent before it was deleted there (412)")
        if answer.status == 405:
            raise ParentDenied("the parent takes no such delete (405)")

    def session_at(self, url: str) -> ParentUpload:
        """The upload at a URL that was stored. Raises ParentBroken."""
        return ParentUpload(self._endpoint.session_url(self._endpoint.base, url))

    def _session(self, answer: HttpAnswer) -> ParentUpload:
        least = answer.header("OCI-Chunk-Min-Length") or ""
        url = self._endpoint.session_url(answer.url, answer.header("Location"))
        return ParentUpload(url, int(least) if least.isascii() and least.isdigit() and len(least) < 12 else 0)

    async def _send(
        self, request: ParentRequest, page: URL | None = None, *, ahead: bool = False
    ) -> HttpAnswer:
        """Send a request without a blob's bytes; returns status and headers. `ahead`: over a connection for short
        requests."""
        async with nullcontext() if ahead else self._caps().push():
            deadline = Deadline.after(self._clock, ASK_SECONDS)
            answer = await self._endpoint.request(replace(request, transfer=not ahead), deadline, page=page)
            await answer.discard()
            return answer

    async def _send_bytes(self, request: ParentRequest, url: URL | None) -> HttpAnswer:
        """Send a request with bytes of a blob. Raises StoreError when those cannot be read here, and LinkClosed."""
        async with self._caps().push():
            with self._enter() as lane:
                if lane.is_closed:
                    raise LinkClosed("a cap of 0 on what goes up holds at this hour")
                if isinstance(request.body, BlobSlice):
                    request.body.lane = lane
                return await self._send_in_lane(request, url)

    async def _send_in_lane(self, request: ParentRequest, url: URL | None) -> HttpAnswer:
        try:
            deadline = Deadline.after(self._clock, PIECE_SECONDS)
            answer = await self._endpoint.request(request, deadline, page=url)
        except ParentFailed:
            if isinstance(request.body, BlobSlice) and request.body.failure is not None:
                raise request.body.failure from None
            raise
        await answer.discard()
        return answer


def _condition(expected: RemoteTag | None) -> dict[str, str]:
    """The headers that make a change conditional on what the tag names."""
    if expected is None:
        return {}
    if expected.etag:
        return {"If-Match": expected.etag}
    return {} if expected.digest else {"If-None-Match": "*"}


def _require(answer: HttpAnswer, digest: str) -> None:
    """Raises ParentBroken for an answer that names another blob than the one that was sent."""
    if contradicts(answered := answer.header("Docker-Content-Digest") or "", digest):
        raise ParentBroken(f"the parent stored {answered[:80]} where {digest} was sent")
