"""The part of an answer that manifests and blobs share: headers, conditions, ranges.

HEAD and GET come through here alike, so their headers are the same by construction.
"""

from __future__ import annotations

from typing import NamedTuple

from holdfast.errors import RangeUnsatisfiable
from holdfast.routing import Scope
from holdfast.wire import ranges
from holdfast.wire.message import Body, Piece, Reply, Request, Source
from holdfast.wire.ranges import Choice, Form

#: What a digest names never changes (oci-spec 4.7): one year, as distribution says it.
FOREVER = "max-age=31536000"


class Content(NamedTuple):
    """What is being served. `forever` says that the URL names it by digest."""

    digest: str
    media_type: str
    size: int
    forever: bool

    @property
    def etag(self) -> str:
        """The strong entity tag (RFC 9110 8.8.3)."""
        return f'"{self.digest}"'


def headers_of(content: Content, scope: Scope) -> list[tuple[str, str]]:
    """Headers of 200, 206 and 304 alike, but for the type and the length."""
    headers = [
        ("Docker-Content-Digest", content.digest),
        ("ETag", content.etag),
        ("Accept-Ranges", "bytes"),
    ]
    if content.forever:
        headers.append(("Cache-Control", FOREVER))
    if scope.namespace:
        headers.append(("OCI-Namespace", scope.namespace))
    return headers


def is_current(request: Request, digest: str) -> bool:
    """Whether If-None-Match names `digest`: quoted, weak, bare (distribution's clients) or `*`."""
    lines = request.header_lines("if-none-match")
    if not lines:
        return False
    tags = {tag.strip(" \t").removeprefix("W/").strip('"') for tag in ",".join(lines).split(",")}
    return digest in tags or "*" in tags


def from_memory(
    request: Request, content: Content, headers: list[tuple[str, str]], data: bytes, limit: int
) -> Reply:
    """The answer for a body that is in memory. `limit` is the most ranges answered one by one."""
    spans = ranges.asked(request, content.etag)
    if not spans:
        return Reply(200, [("Content-Type", content.media_type), *headers], data)
    status, head, pieces = shape(ranges.choose(spans, content.size, limit), content)
    body = b"".join(piece.literal or data[piece.start : piece.end] for piece in pieces)
    return Reply(status, [*head, *headers], body)


def from_source(choice: Choice, content: Content, headers: list[tuple[str, str]], source: Source) -> Reply:
    """The answer for a body read from `source`, which the reply owns from here on."""
    status, head, pieces = shape(choice, content)
    return Reply(status, [*head, *headers], Body(source, pieces, sum(map(len, pieces))))


def shape(choice: Choice, content: Content) -> tuple[int, list[tuple[str, str]], list[Piece]]:
    """Status, the headers that ranges decide, and the body's pieces. Raises `RangeUnsatisfiable`."""
    if choice.form is Form.NONE:
        raise RangeUnsatisfiable(
            "the range lies outside the content", headers=(("Content-Range", f"bytes */{content.size}"),)
        )
    if choice.form is Form.SINGLE:
        (run,) = choice.runs
        head = [
            ("Content-Type", content.media_type),
            ("Content-Range", ranges.content_range(run, content.size)),
        ]
        return 206, head, [Piece(start=run.start, end=run.end)]
    if choice.form is Form.SEVERAL:
        boundary = _boundary(content.digest)
        pieces = ranges.multipart(choice.runs, content.size, content.media_type, boundary)
        return 206, [("Content-Type", f"multipart/byteranges; boundary={boundary}")], pieces
    return 200, [("Content-Type", content.media_type)], [Piece(start=0, end=content.size)]


def _boundary(digest: str) -> str:
    """Plain token characters. No content can hold it: that would be a fixed point of the hash."""
    return f"holdfast{digest.rpartition(':')[2][:48]}"
