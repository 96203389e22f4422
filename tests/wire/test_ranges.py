"""Range arithmetic against slices, and every row of the table clients rely on (references.md 2.3)."""

from __future__ import annotations

import pytest
from holdfast.wire import ranges
from holdfast.wire.message import Request
from holdfast.wire.ranges import Choice, Form, ResolvedRange, Span
from hypothesis import given
from hypothesis import strategies as st

SIZE = 2048
ETAG = '"sha256:abc"'


def answer(text: str, size: int = SIZE, limit: int = 256) -> Choice:
    return ranges.choose(ranges.parse(text), size, limit)


ONE = [
    ("bytes=500-1499", 500, 1500),
    ("bytes=500-", 500, 2048),
    ("bytes=-500", 1548, 2048),
    ("bytes=2000-5000", 2000, 2048),
    ("bytes=0-", 0, 2048),
    ("bytes=0-0", 0, 1),
    ("bytes=-1", 2047, 2048),
    ("bytes=2047-2047", 2047, 2048),
    ("bytes=-9999", 0, 2048),
    ("Bytes=0-1", 0, 2),
    ("bytes=00000000000000000000000000-1", 0, 2),
    (f"bytes=1-{'9' * 400}", 1, 2048),
    (f"bytes=-{'9' * 400}", 0, 2048),
    ("bytes=,0-1,", 0, 2),
]


@pytest.mark.parametrize(("text", "start", "end"), ONE)
def test_case_13_14_one_range(text: str, start: int, end: int) -> None:
    choice = answer(text)
    assert choice.form is Form.SINGLE
    assert choice.runs[0][:2] == (start, end)
    assert ranges.content_range(choice.runs[0], SIZE) == f"bytes {start}-{end - 1}/2048"


NONE = [
    "bytes=500-0",
    "bytes=5000-10000",
    "bytes=-0",
    "bytes=2048-",
    f"bytes={'9' * 19}-",
    f"bytes={'9' * 400}-",
]


@pytest.mark.parametrize("text", [*NONE, "bytes=2048-,-0"])
def test_case_13_14_unsatisfiable(text: str) -> None:
    assert answer(text) == Choice(Form.NONE)


IGNORED = ["lines=0-1", "bytes=", "bytes", "", "bytes=1-2-3", "bytes=+1-2", "bytes=1_0-2_0", "bytes= 1-2"]
IGNORED += ["bytes = 0-1", "bytes=٣-٤", "bytes=a-b", "bytes=-", "bytes=0-1;2-3", "bytes=0x0-1", "bytes=0-1,x"]
IGNORED += ["bytes=--1", "0-1", "bytes=0 -1"]


@pytest.mark.parametrize("text", IGNORED)
def test_case_14_outside_the_grammar_is_ignored(text: str) -> None:
    assert answer(text) == ranges.WHOLE


def test_case_15_several_ranges_in_the_order_asked() -> None:
    choice = answer("bytes=100-199,0-9 , 20-29,-1,2040-")
    assert choice.form is Form.SEVERAL
    assert [run[:2] for run in choice.runs] == [(100, 200), (0, 10), (20, 30), (2047, 2048), (2040, 2048)]


def test_case_15_overlapping_ranges_are_not_merged() -> None:
    assert [run[:2] for run in answer("bytes=0-9,5-14,0-9").runs] == [(0, 10), (5, 15), (0, 10)]


def test_case_15_one_unsatisfiable_among_others_is_left_out() -> None:
    choice = answer("bytes=0-9,5000-6000")
    assert choice == Choice(Form.SEVERAL, (ResolvedRange(0, 10),))


@pytest.mark.parametrize("count", [257, 10_000])
def test_s46_case_15_too_many_ranges(count: int) -> None:
    assert answer("bytes=" + ",".join(["0-0"] * count)) == Choice(Form.AMPLIFYING)
    assert answer("bytes=" + ",".join(["0-0"] * 256)).form is Form.SEVERAL


def test_s46_case_15_ranges_longer_than_the_body() -> None:
    assert answer("bytes=0-,0-0") == Choice(Form.AMPLIFYING)
    assert answer("bytes=0-1023,1024-").form is Form.SEVERAL


def test_case_16_an_empty_body() -> None:
    assert answer("bytes=0-0", 0) == Choice(Form.NONE)
    assert answer("bytes=-5", 0) == ranges.WHOLE


def ask(method: str = "GET", *headers: tuple[str, str]) -> tuple[Span, ...]:
    return ranges.requested(Request(method, "/", headers=headers), ETAG)


def test_case_16_when_a_range_counts() -> None:
    line = ("range", "bytes=0-1")
    assert ask("GET", line) == (Span(0, 1),)
    assert ask("HEAD", line) == ()
    assert ask("GET", line, line) == ()
    assert ask("GET", line, ("if-range", ETAG)) == (Span(0, 1),)
    assert ask("GET", line, ("if-range", f"W/{ETAG}")) == ()
    assert ask("GET", line, ("if-range", ETAG.strip('"'))) == ()
    assert ask("GET", line, ("if-range", "Sat, 29 Oct 1994 19:43:31 GMT")) == ()
    assert ask("GET", line, ("if-range", ETAG), ("if-range", ETAG)) == ()


POSITION = st.one_of(st.integers(0, 40), st.integers(0, 10**25))
SPAN = st.one_of(st.tuples(POSITION, st.one_of(st.none(), POSITION)), st.tuples(st.none(), POSITION))


def written(span: tuple[int | None, int | None]) -> str:
    first, last = span
    return f"{'' if first is None else first}-{'' if last is None else last}"


def model(span: tuple[int | None, int | None], data: bytes) -> bytes | None:
    """RFC 9110 14.1.2 by slices; None when unsatisfiable."""
    first, last = span
    if first is None:
        return (data[-last:] if last < len(data) else data) if last else None
    if first >= len(data) or (last is not None and last < first):
        return None
    return data[first:] if last is None else data[first : last + 1]


@given(st.lists(SPAN, min_size=1, max_size=6), st.integers(0, 40))
def test_ranges_are_slices(spans: list[tuple[int | None, int | None]], size: int) -> None:
    data = bytes(range(size))
    expected = [part for part in (model(span, data) for span in spans) if part is not None]
    choice = ranges.choose(ranges.parse("bytes=" + ",".join(map(written, spans))), size, 256)
    got = [data[run.start : run.end] for run in choice.runs]
    if choice.form in (Form.SINGLE, Form.SEVERAL):
        assert got == expected
        assert (choice.form is Form.SINGLE) == (len(spans) == 1)
        assert sum(map(len, got)) <= size
    elif choice.form is Form.NONE:
        assert expected == []
    elif choice.form is Form.AMPLIFYING:
        assert sum(map(len, expected)) > size
    else:
        assert expected == [b""] * len(expected)


@given(st.text(st.sampled_from("bytes=0123456789-, \t+x"), max_size=30), st.integers(0, 100))
def test_s46_any_text_has_an_answer_within_the_body(text: str, size: int) -> None:
    for run in answer(text, size).runs:
        assert 0 <= run.start < run.end <= size


def test_a_multipart_body_is_as_long_as_it_says() -> None:
    runs = (ResolvedRange(10, 20), ResolvedRange(0, 5))
    pieces = ranges.multipart(runs, 100, "application/octet-stream", "edge")
    data = bytes(range(100))
    body = b"".join(piece.literal or data[piece.start : piece.end] for piece in pieces)
    assert len(body) == sum(map(len, pieces))
    parts = body.split(b"--edge")
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    assert parts[1].endswith(b"\r\n\r\n" + data[10:20] + b"\r\n")
    assert b"Content-Range: bytes 0-4/100\r\n" in parts[2]
