"""The body of a blob from the parent, and the checks of its headers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from holdfast_core.digest import Digest

from holdfast.bandwidth.lane import Lane
from holdfast.errors import ParentBroken, ParentUnreachable
from holdfast.http.body import BodyPace
from holdfast.http.transport import HttpAnswer

#: No blob is larger (8 TiB); ext4 ends a file at 16 TiB.
LARGEST_BLOB = 1 << 43

#: of no bytes
EMPTY = frozenset(str(Digest.of(b"", algorithm)) for algorithm in ("sha256", "sha512"))

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.IGNORECASE | re.ASCII)
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,512}"')


def checked_size(size: int) -> int:
    """The size of a blob by its parent. Raises ParentBroken for one that no blob has."""
    if not 0 <= size <= LARGEST_BLOB:
        raise ParentBroken(f"the parent says that the blob has {size} bytes; allowed: up to {LARGEST_BLOB}")
    return size


def is_falsely_empty(digest: str, size: int) -> bool:
    """Whether a parent says that a blob has no bytes whose digest says otherwise. Its client would have all of it with
    the head of the answer, before a digest could be compared."""
    return size == 0 and digest not in EMPTY


@dataclass(frozen=True, slots=True)
class Placement:
    """The place of an answer's bytes: [start, end) of a blob of `size` bytes."""

    start: int
    end: int
    size: int
    partial: bool


def placement(
    status: int, length: int | None, content_range: str | None, start: int, end: int | None
) -> Placement:
    """The bytes that an answer to a request for [start, end) brings (`end` None: to the blob's end). Pure.

    A 200 is the whole blob whatever was requested: Range was ignored, or If-Range did not match because the
    parent's copy changed. A 206 must bring exactly the requested bytes, so that no bytes are ever spliced on trust
    (reliability.md P4). Raises ParentBroken.
    """
    if status == 200:
        if length is None:
            raise ParentBroken("the parent does not say how long the blob is")
        return Placement(0, checked_size(length), length, False)
    match = _CONTENT_RANGE.fullmatch((content_range or "").strip())
    if match is None:
        raise ParentBroken("the parent answered 206 without a usable Content-Range")
    first, last, size = (int(group) for group in match.groups())
    checked_size(size)
    expected = size if end is None else min(end, size)
    if first != start or last + 1 != expected or last < first:
        raise ParentBroken(
            f"this node requested {start}-{'' if end is None else end - 1}"
            f" and the parent sent {first}-{last} of {size}"
        )
    if length is not None and length != last + 1 - first:
        raise ParentBroken(f"the parent's Content-Range holds {last + 1 - first} bytes, not {length}")
    return Placement(first, last + 1, size, True)


def strong_etag(value: str | None) -> str:
    """An ETag that If-Range may carry, or "": a weak one may not (RFC 9110, 13.1.5)."""
    text = (value or "").strip()
    return text if _STRONG_ETAG.fullmatch(text) else ""


class BlobStream:
    """One body. `start` is the offset of its first byte, `size` that of the whole blob, `partial` whether the
    parent honoured the range; without it `start` is 0 whatever was requested. `etag` is "" or strong: when it
    is not the one of an earlier stream, or `size` changed, bytes stored before must not be joined to these.

    Iterating yields bytes up to `end` and never more, as fast as the lane allows (waiting for it is no stall); it ends
    early only by raising: ParentUnreachable (cut, stalled, too slow: the caller may resume), ParentBroken (more than
    announced).
    """

    def __init__(self, answer: HttpAnswer, place: Placement, counters: dict[str, int], lane: Lane) -> None:
        self.start, self.end, self.size = place.start, place.end, place.size
        self.partial = place.partial
        self.etag = strong_etag(answer.header("ETag"))
        self._answer, self._counters, self._lane = answer, counters, lane
        lane.set_window(answer.narrow)

    async def __aiter__(self) -> AsyncIterator[bytes | memoryview]:
        position, pace, lane = self.start, self._answer.pace(), self._lane
        while position < self.end:
            if lane.is_metered:
                await lane.ready()
            piece = await self._next(position, pace)
            position += len(piece)
            if lane.is_metered:
                lane.count(len(piece))
            yield piece

    async def _next(self, position: int, pace: BodyPace) -> bytes | memoryview:
        try:
            piece = await self._answer.next_bytes(pace)
        except ParentUnreachable:
            self._counters["interrupted"] += 1
            raise
        self._counters["bytes"] += len(piece)
        if not piece:
            self._counters["interrupted"] += 1
            raise ParentUnreachable(f"the parent's answer ended {self.end - position} bytes early")
        if position + len(piece) > self.end:
            raise ParentBroken("the parent sent more than it announced")
        return piece
