"""Bodies of requests, byte by byte: what is joined, when one has ended, and what is left of it."""

from __future__ import annotations

import pytest
from holdfast.errors import BodyBroken
from holdfast.wire.framing import Chunked, Counted

MIB = 1 << 20


@pytest.mark.parametrize("sizes", [(MIB - 1, 1), (10, 1, MIB - 11), (MIB,)])
def test_parts_of_a_mebibyte_are_handed_out_at_once(sizes: tuple[int, ...]) -> None:
    body = Counted(MIB + 5, b"")
    for size in sizes:
        body.feed(bytes(size))
    body.feed(b"after")
    assert body.waiting == MIB + 5
    assert body.take() == bytes(MIB)
    assert (body.waiting, body.ended) == (5, False)
    assert body.take() == b"after"
    assert (body.waiting, body.ended) == (0, True)


def test_chunks_that_came_in_a_mebibyte_are_handed_out_at_once() -> None:
    """Ten bytes, and what came after them: all of the second part with its framing fills the mebibyte."""
    body, size = Chunked(b"a\r\n" + bytes(10) + b"\r\n"), MIB - 10 - len(b"fffed\r\n\r\n")
    body.feed(b"%x\r\n" % size + bytes(size) + b"\r\n")
    body.feed(b"a\r\n0123456789\r\n")
    assert body.take() == bytes(10 + size)
    assert body.take() == b"0123456789"


def test_a_counted_body_has_ended_with_its_last_byte() -> None:
    body = Counted(5, b"abc")
    assert body.take() == b"abc"
    assert body.take() is None
    assert not body.ended
    body.feed(b"deGET /")
    assert body.take() == b"de"
    assert body.ended
    assert body.take() == b""
    assert body.tail == b"GET /"


def test_what_was_skipped_of_a_counted_body_is_gone() -> None:
    body = Counted(5, b"abc")
    assert body.skip(5)
    assert (body.waiting, body.ended) == (0, False)
    body.feed(b"deGET /")
    assert body.take() == b"de"
    assert (body.ended, body.tail) == (True, b"GET /")
    assert not Counted(5, b"abc").skip(4)


def test_what_follows_a_chunked_body_is_not_of_it() -> None:
    body = Chunked(b"3\r\nabc\r\n0\r\n\r\nGET ")
    body.feed(b"/v2/")
    assert body.waiting == 21
    assert body.take() == b"abc"
    assert (body.waiting, body.ended, body.tail) == (0, True, b"GET /v2/")
    assert body.take() == b""
    body.feed(b" HTTP")
    assert (body.waiting, body.tail) == (0, b"GET /v2/ HTTP")


def test_a_chunked_body_is_skipped_within_its_bound_or_not_at_all() -> None:
    for most, passes in ((14, False), (15, False), (19, False), (20, True)):
        body = Chunked(b"a\r\n0123456789\r\n")
        body.feed(b"0\r\n\r\n")
        assert body.skip(most) is passes, most


def test_a_malformed_chunked_body_keeps_nothing() -> None:
    body = Chunked(b"3\r\nabcd\r\n")
    body.feed(b"3\r\nabc\r\n")
    assert body.take() == b"abc"
    for _ in range(2):
        with pytest.raises(BodyBroken, match="malformed"):
            body.take()
        assert (body.waiting, body.ended, body.tail) == (0, False, b"")
