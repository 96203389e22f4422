"""The chunk gate and the two framings: what they let by, and that h11 reads it alike however it was cut."""

from __future__ import annotations

import h11
import pytest
from holdfast.errors import BodyBroken
from holdfast.wire.chunks import ChunkReader
from holdfast.wire.framing import TAKE_BYTES, Chunked, Counted, Framing
from hypothesis import example, given
from hypothesis import strategies as st

HEAD = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
NEXT = b"GET / HTTP/1.1\r\n"


def read(framing: Framing, pieces: list[bytes]) -> tuple[bytes, str]:
    """What comes out of a body that arrives in pieces, and how it ended: whole, broken, or not yet."""
    content = b""
    try:
        for piece in pieces:
            framing.feed(piece)
            while data := framing.take():
                content += data
    except BodyBroken:
        with pytest.raises(BodyBroken):
            framing.take()
        return content, "broken"
    return content, "whole" if framing.ended else "not yet"


def h11_reads(data: bytes) -> tuple[bytes, str, bytes]:
    """The same by h11, and what it takes for the next request."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
    connection.receive_data(HEAD + data)
    content = b""
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return content, "not yet", b""
            if isinstance(event, h11.Data):
                content += bytes(event.data)
    except h11.RemoteProtocolError:
        return content, "broken", b""
    return content, "whole", connection.trailing_data[0]


WHOLE = [
    (LAST, b""),
    (b"5\r\nhello\r\n" + LAST, b"hello"),
    (b"A\r\n0123456789\r\na\r\n0123456789\r\n" + LAST, b"0123456789" * 2),
    (b"00005\r\nhello\r\n0000\r\n\r\n", b"hello"),
    (b"0000000000000005\r\nhello\r\n" + LAST, b"hello"),
    (b'5;a=b;c="d e"\r\nhello\r\n0;x\r\n\r\n', b"hello"),
    (b"5;" + b"x" * 1024 + b"\r\nhello\r\n" + LAST, b"hello"),
    (b"5\r\nhello\r\n0\r\nDigest: x\r\nX-Empty:\r\n\r\n", b"hello"),
    (b"5\r\nhello\r\n0\r\nAuthorization: Basic x\r\n\r\n", b"hello"),
    (b"0\r\nA: " + b"x" * 1016 + b"\r\n\r\n", b""),
    (b"9\r\nGET / HTT\r\n" + LAST, b"GET / HTT"),
]
BROKEN = [
    *(
        b"0x5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"\r\n",
    ),
    *(
        b"5\nhello\r\n",
        b"5\r\nhello\n",
        b"5\r\nhelloXX",
        b"5\rhello",
        b"5\r\rhello",
        b"g\r\n",
        b"5,\r\n",
        b"\n",
    ),
    *(b"1" * 17 + b"\r\n", b"0" * 17 + b"\r\n", b"10000000000000005\r\nhello\r\n"),
    *(
        b"5;a\nb\r\n",
        b"5;a\x00b\r\n",
        b"5;a\rb\r\n",
        b"5;a\x7f\r\n",
        b"5;" + b"x" * 1025,
        b"5;" + b"x" * 1_000_000,
    ),
    *(b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\ntransfer-ENCODING: chunked\r\n\r\n", b"0\r\n: x\r\n\r\n"),
    *(b"0\r\n a: b\r\n\r\n", b"0\r\nA: b\r\n c\r\n\r\n", b"0\r\nA b\r\n\r\n", b"0\r\nA: \x00\r\n\r\n"),
    *(
        b"0\r\nA: b\n\r\n",
        b"0\r\n\n",
        b"0\r\nA: b\r\n\rX",
        b"0\r\n" + b"A: b\r\n" * 300,
        b"0\r\nA : b\r\n\r\n",
    ),
]


@pytest.mark.parametrize(("data", "content"), WHOLE)
def test_case_53_well_formed_chunks(data: bytes, content: bytes) -> None:
    assert h11_reads(data + NEXT) == (content, "whole", NEXT)
    for pieces in ([data + NEXT], [(data + NEXT)[at : at + 1] for at in range(len(data + NEXT))]):
        framing = Chunked(b"")
        assert read(framing, pieces) == (content, "whole")
        assert framing.tail == NEXT
        assert framing.take() == b""


@pytest.mark.parametrize("data", BROKEN)
def test_case_53_malformed_chunks(data: bytes) -> None:
    stream = b"2\r\nhi\r\n" + data
    for pieces in ([stream], [stream[at : at + 1] for at in range(min(len(stream), 3000))]):
        content, ending = read(Chunked(b""), pieces)
        assert ending == "broken"
        assert content.startswith(b"hi")  # what came before is handed out first
        assert content in (b"hi", b"hihello")
    reader = ChunkReader()
    reader.read(data)
    assert reader.fault


BIT = st.sampled_from(
    [
        *(b"\r\n", b"\n", b"\r", b"0", b"5", b"a", b"F", b";", b";a=b", b" ", b"hello", b"0\r\n\r\n", b"\0"),
        *(b"A: b", b":", b"Content-Length: 5\r\n", b"5\r\nhello\r\n", b"10\r\n", b"\xff", b"\t", b"\x7f"),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A chunked body with a few bytes changed, added or taken away."""
    data = bytearray(draw(st.sampled_from([row[0] for row in WHOLE] + [b for b in BROKEN if len(b) < 200])))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.one_of(BIT, st.binary(max_size=2)))
    return bytes(data) + NEXT


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@given(
    st.one_of(mutated(), st.lists(BIT, max_size=20).map(b"".join)), st.lists(st.integers(1, 9), max_size=20)
)
@example(b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n" + NEXT, [])
def test_case_53_what_the_chunk_gate_takes_h11_reads_alike(data: bytes, sizes: list[int]) -> None:
    whole = Chunked(b"")
    content, ending = read(whole, [data])
    theirs = h11_reads(data)
    if ending == "whole":
        assert theirs == (content, "whole", whole.tail)
    elif ending == "not yet":
        assert theirs[:2] == (content, "not yet") or theirs[1] == "broken"
    again = Chunked(b"")
    assert read(again, cut(data, sizes)) == (content, ending)
    assert again.tail == whole.tail


@given(
    st.binary(max_size=200), st.binary(max_size=20), st.lists(st.integers(1, 40), max_size=12), st.booleans()
)
def test_any_cutting_of_a_body_gives_the_same_bytes(
    body: bytes, tail: bytes, sizes: list[int], chunked: bool
) -> None:
    if chunked:
        framing: Framing = Chunked(b"")
        data = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in cut(body, sizes[::-1]) if p) + LAST + tail
    else:
        framing, data = Counted(len(body) + 1, b""), body + b"x" + tail
    content, ending = read(framing, cut(data, sizes))
    assert (content, ending) == (body if chunked else body + b"x", "whole")
    assert framing.tail == tail
    assert framing.waiting == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_a_reader_that_comes_late_gets_no_more_than_it_can_hold(chunked: bool) -> None:
    part = bytes(200_000)
    framing: Framing = Chunked(b"%x\r\n" % 4_000_000) if chunked else Counted(4_000_000, b"")
    for _ in range(20):
        framing.feed(part)
    sizes = []
    while data := framing.take():
        sizes.append(len(data))
    assert sum(sizes) == 4_000_000
    assert max(sizes) <= TAKE_BYTES
    assert len(sizes) == 4  # and no less than fits
    framing = Chunked(b"") if chunked else Counted(2 * TAKE_BYTES, b"")
    framing.feed((b"%x\r\n" % (2 * TAKE_BYTES) if chunked else b"") + bytes(2 * TAKE_BYTES))
    assert len(framing.take() or b"") == 2 * TAKE_BYTES  # one part is not cut


def test_case_58_how_much_of_a_rest_is_dropped_does_not_depend_on_what_has_come() -> None:
    for size, passes in ((100, True), (101, False)):
        for come in (0, 50, size):
            framing: Framing = Counted(size, bytes(come))
            assert framing.skip(100) is passes
    body = b"5\r\nhello\r\n" * 9 + LAST
    for most in range(len(body) - 3, len(body) + 3):
        for come in (0, 40, len(body)):
            framing = Chunked(body[:come])
            passed = framing.skip(most)
            framing.feed(body[come:])
            assert (passed and framing.skip(most) and framing.ended) is (len(body) <= most)


@pytest.mark.parametrize("framing", [Counted(9, b"abc"), Chunked(b"9\r\nabc")])
def test_a_body_that_was_given_up_stays_so(framing: Framing) -> None:
    assert framing.take() == b"abc"
    assert framing.take() is None
    framing.break_off()
    assert not framing.skip(1 << 20)
    with pytest.raises(BodyBroken):
        framing.take()
