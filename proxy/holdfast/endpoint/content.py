"""Shared by the endpoints of manifests and blobs: headers, ranges, warnings, conditions. HEAD and GET both use it, so
that their headers are equal.
"""

from __future__ import annotations

from typing import NamedTuple

from holdfast.endpoint.node import Node
from holdfast.errors import RangeUnsatisfiable
from holdfast.keeper.api import NO_CONDITION, Condition, require
from holdfast.keeper.pushes import present
from holdfast.oci import names
from holdfast.routing import RoutedRepository
from holdfast.wire import ranges
from holdfast.wire.message import BodyPiece, BodySource, Reply, ReplyBody, Request
from holdfast.wire.ranges import Choice, Form

#: The content of a digest never changes (references.md 2.15): one year, as in distribution.
FOREVER = "max-age=31536000"
#: characters of a warning (distribution-spec, "Warnings": 299, agent "-", a quoted string, no date, 4096 bytes in all)
_TEXT_LENGTH = 1000


class ServedContent(NamedTuple):
    """The content of an answer. `forever` says that the URL names it by digest."""

    digest: str
    media_type: str
    size: int
    forever: bool

    @property
    def etag(self) -> str:
        """The strong entity tag (RFC 9110 8.8.3)."""
        return f'"{self.digest}"'


def headers_of(content: ServedContent, scope: RoutedRepository) -> list[tuple[str, str]]:
    """The headers of 200, 206 and 304, without type and length."""
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


def note_use(node: Node, request: Request, repository: str, digest: str) -> None:
    """Tell the keeper that content is used: it evicts what is not."""
    node.port.seen(repository, digest)
    request.note.use = repository, digest


def from_memory(
    request: Request, content: ServedContent, headers: list[tuple[str, str]], data: bytes, limit: int
) -> Reply:
    """The answer for a body that is in memory. With more than `limit` ranges it is the whole body."""
    spans = ranges.requested(request, content.etag)
    if not spans:
        return Reply(200, [("Content-Type", content.media_type), *headers], data)
    status, head, pieces = shape(ranges.choose(spans, content.size, limit), content)
    body = b"".join(piece.literal or data[piece.start : piece.end] for piece in pieces)
    return Reply(status, [*head, *headers], body)


def from_source(
    choice: Choice, content: ServedContent, headers: list[tuple[str, str]], source: BodySource
) -> Reply:
    """The answer for a body that is read from `source`, which the reply closes."""
    status, head, pieces = shape(choice, content)
    return Reply(status, [*head, *headers], ReplyBody(source, pieces, sum(map(len, pieces))))


def shape(choice: Choice, content: ServedContent) -> tuple[int, list[tuple[str, str]], list[BodyPiece]]:
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
        return 206, head, [BodyPiece(start=run.start, end=run.end)]
    if choice.form is Form.SEVERAL:
        boundary = _boundary(content.digest)
        pieces = ranges.multipart(choice.runs, content.size, content.media_type, boundary)
        return 206, [("Content-Type", f"multipart/byteranges; boundary={boundary}")], pieces
    return 200, [("Content-Type", content.media_type)], [BodyPiece(start=0, end=content.size)]


def _boundary(digest: str) -> str:
    """A boundary of token characters. The content cannot contain it: its digest would depend on itself."""
    return f"holdfast{digest.rpartition(':')[2][:48]}"


def unconfirmed(why: str, age: int | None) -> list[tuple[str, str]]:
    """Age and Warning of an answer that no parent confirmed. `why` is the reason, `age` that of the last confirmation
    (seconds; None: never)."""
    if age is None:
        return [("Warning", warning(f"served from this node, never confirmed by a parent: {why}"))]
    return [
        ("Age", str(age)),
        ("Warning", warning(f"served from this node, last confirmed {age} s ago: {why}")),
    ]


def warning(text: str) -> str:
    """The value of a Warning header: `299 - "…"`."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in text[:_TEXT_LENGTH])
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{escaped}"'


def checked(node: Node, scope: RoutedRepository, request: Request) -> Condition:
    """The condition of a PUT or DELETE of a manifest: `If-Match` names what must be there, `If-None-Match: *` says that
    nothing may be. Raises `PreconditionFailed` when it does not hold now. Only what is held here counts, not what the
    parent has. The keeper checks it again, where no other writer changes the repository before the commit."""
    match, none_match = _value(request, "if-match"), _value(request, "if-none-match")
    reference = request.route.reference
    if match is None and none_match is None:
        return NO_CONDITION
    known = ":" in reference or names.is_tag(reference)
    require((reference, match, none_match), present(node.store, scope.key, reference) if known else "")
    return reference, match, none_match


def _value(request: Request, header: str) -> str | None:
    lines = request.header_lines(header)
    return ",".join(lines) if lines else None
