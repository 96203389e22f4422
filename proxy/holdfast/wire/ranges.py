"""Range and If-Range: the requested bytes of a body, and the form of the answer. Pure.

RFC 9110 14.1.2:
  ranges-specifier = range-unit "=" range-set
  range-set        = 1#range-spec
  int-range        = first-pos "-" [ last-pos ]
  suffix-range     = "-" suffix-length
Anything outside the grammar, another unit, or more than one Range line is ignored (14.2), which answers
200. A last position before the first is unsatisfiable (416): the conformance suite counts 400 as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from holdfast.wire.message import BodyPiece, Request

_SPEC = re.compile(r"(?:([0-9]+)-([0-9]*)|-([0-9]+))")
# A position with more digits than this lies behind the end of any blob; int() refuses 4,300 and more.
_DIGITS = 19
_FAR = 10**_DIGITS


class Span(NamedTuple):
    """One requested range. `first` None is a suffix of `last` bytes; `last` None is open to the end."""

    first: int | None
    last: int | None


class ResolvedRange(NamedTuple):
    """Bytes [start, end) of a body. `tail`: the client left the end open."""

    start: int
    end: int
    tail: bool = False


class Form(Enum):
    """What kind of answer a range request gets."""

    WHOLE = 200
    SINGLE = 206
    SEVERAL = 207
    NONE = 416
    AMPLIFYING = 400


class Choice(NamedTuple):
    """The answer's form and its runs: one for SINGLE, in the requested order for SEVERAL, else none."""

    form: Form
    runs: tuple[ResolvedRange, ...] = ()


WHOLE = Choice(Form.WHOLE)


def requested(request: Request, etag: str) -> tuple[Span, ...]:
    """The ranges of the request's Range lines, after If-Range; empty for the whole body.

    HEAD ignores Range (RFC 9110 14.2). If-Range holds for the strong `etag` only (13.1.5): a weak one or a
    date never matches, for this server sends neither.
    """
    lines = request.header_lines("range")
    if request.method != "GET" or len(lines) != 1:
        return ()
    conditions = request.header_lines("if-range")
    if conditions and conditions != [etag]:
        return ()
    return parse(lines[0])


def parse(text: str) -> tuple[Span, ...]:
    """The ranges in the value of one Range line; empty when it must be ignored."""
    unit, equals, specs = text.partition("=")
    if not equals or unit.lower() != "bytes" or specs[:1] in (" ", "\t"):
        return ()
    # RFC 9110 5.6.1.2: empty list elements are parsed and ignored
    parts = [part for part in (spec.strip(" \t") for spec in specs.split(",")) if part]
    spans = [_span(part) for part in parts]
    return () if None in spans else tuple(span for span in spans if span is not None)


def _span(part: str) -> Span | None:
    match = _SPEC.fullmatch(part)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return Span(None, _number(suffix))
    return Span(_number(first), _number(last) if last else None)


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS else _FAR


def resolve(span: Span, size: int) -> ResolvedRange | None:
    """The bytes a range means in a body of `size`; None when it is unsatisfiable.

    A suffix of an empty body is the empty body (references.md 2.3), returned as Run(0, 0).
    """
    if span.first is None:
        length = span.last or 0
        return ResolvedRange(max(0, size - length), size) if length else None
    if span.first >= size or (span.last is not None and span.last < span.first):
        return None
    if span.last is None:
        return ResolvedRange(span.first, size, tail=True)
    return ResolvedRange(span.first, min(span.last + 1, size))


def choose(spans: Sequence[Span], size: int, limit: int) -> Choice:
    """The answer to `spans` for a body of `size` bytes.

    Several ranges are answered one part each, in the requested order, never merged: containers/image counts
    the parts. More than `limit` ranges, or ranges that together are longer than the body, would make the
    answer larger than the body itself: AMPLIFYING.
    """
    if not spans or len(spans) > limit:
        return Choice(Form.AMPLIFYING) if spans else WHOLE
    runs = tuple(run for run in (resolve(span, size) for span in spans) if run is not None)
    if not runs or size == 0:
        return WHOLE if runs else Choice(Form.NONE)
    if len(spans) == 1:
        return Choice(Form.SINGLE, runs)
    if sum(run.end - run.start for run in runs) > size:
        return Choice(Form.AMPLIFYING)
    return Choice(Form.SEVERAL, runs)


def content_range(run: ResolvedRange, size: int) -> str:
    """The value of Content-Range for one run."""
    return f"bytes {run.start}-{run.end - 1}/{size}"


def multipart(runs: Sequence[ResolvedRange], size: int, media_type: str, boundary: str) -> list[BodyPiece]:
    """The pieces of a `multipart/byteranges` body (RFC 9110 14.6). `boundary` is plain token characters."""
    pieces: list[BodyPiece] = []
    opening = f"--{boundary}\r\n"
    for run in runs:
        head = f"{opening}Content-Type: {media_type}\r\nContent-Range: {content_range(run, size)}\r\n\r\n"
        pieces += [BodyPiece(literal=head.encode("latin-1")), BodyPiece(start=run.start, end=run.end)]
        opening = f"\r\n--{boundary}\r\n"
    return [*pieces, BodyPiece(literal=f"\r\n--{boundary}--\r\n".encode("ascii"))]
