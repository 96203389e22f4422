"""The head gate: what it refuses, and that h11 agrees about everything it lets by."""

from __future__ import annotations

import h11
import pytest
from holdfast.errors import (
    ClientMistake,
    ExpectationFailed,
    HeadInvalid,
    HeadTooLarge,
    TargetTooLong,
    VersionUnsupported,
)
from holdfast.wire import head
from hypothesis import example, given
from hypothesis import strategies as st

LIMIT, TARGET, HEADERS = 32 * 1024, 8 * 1024, 100


def read(data: bytes) -> head.Head | None:
    end = head.find_end(data, 0, LIMIT)
    return head.parse(data, end, TARGET, HEADERS) if end >= 0 else None


def request(*lines: bytes, first: bytes = b"GET /v2/ HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    return b"\r\n".join([first, *([host] if host else []), *lines, b"", b""])


def test_a_plain_head() -> None:
    found = read(
        request(b"Accept: a", b"ACCEPT:\t b \t", b"X-Empty:", first=b"HEAD /v2/?n=1 HTTP/1.1") + b"rest"
    )
    assert found is not None
    assert (found.method, found.target, found.minor, found.host) == ("HEAD", "/v2/?n=1", 1, "a")
    assert found.headers == (("host", "a"), ("accept", "a"), ("accept", "b"), ("x-empty", ""))
    assert (found.length, found.chunked, found.expects, found.keep_alive) == (0, False, False, True)
    assert found.size == len(
        request(b"Accept: a", b"ACCEPT:\t b \t", b"X-Empty:", first=b"HEAD /v2/?n=1 HTTP/1.1")
    )


POST = b"POST /v2/ HTTP/1.1"
REFUSED: list[tuple[str, bytes, type[ClientMistake]]] = [
    (
        "50 length and coding",
        request(b"Content-Length: 4", b"Transfer-Encoding: chunked", first=POST),
        HeadInvalid,
    ),
    ("51 two lengths", request(b"Content-Length: 4", b"Content-Length: 5", first=POST), HeadInvalid),
    ("51 equal lengths", request(b"Content-Length: 5", b"Content-Length: 5", first=POST), HeadInvalid),
    *(
        (f"51 length {text!r}", request(b"Content-Length: " + text, first=POST), HeadInvalid)
        for text in (b"5, 5", b"+5", b"-1", b"0x5", b"5 5", b"", b"9" * 30, b"5;", b"\xb2")
    ),
    *(
        (f"52 coding {text!r}", request(b"Transfer-Encoding: " + text, first=POST), HeadInvalid)
        for text in (
            b"chunked, chunked",
            b"gzip, chunked",
            b"identity",
            b"chunked\x0b",
            b"xchunked",
            b"",
            b"chunked;",
        )
    ),
    ("52 two codings", request(*[b"Transfer-Encoding: chunked"] * 2, first=POST), HeadInvalid),
    ("52 coding on 1.0", request(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0"), HeadInvalid),
    ("54 blank before colon", request(b"Accept : a"), HeadInvalid),
    ("54 folded", request(b"Accept: a", b" b"), HeadInvalid),
    ("54 folded by tab", request(b"Accept: a", b"\tb"), HeadInvalid),
    ("54 folded first", request(host=b" Host: a"), HeadInvalid),
    ("54 NUL in value", request(b"Accept: a\0b"), HeadInvalid),
    ("54 CR in value", request(b"Accept: a\rb"), HeadInvalid),
    ("54 DEL in value", request(b"Accept: a\x7fb"), HeadInvalid),
    ("54 empty name", request(b": a"), HeadInvalid),
    ("54 no colon", request(b"Accept"), HeadInvalid),
    ("54 name outside token", request(b"Acc(ept: a"), HeadInvalid),
    ("54 non-ASCII name", request("Ä: a".encode()), HeadInvalid),
    ("54 two hosts", request(b"Host: a"), HeadInvalid),
    ("54 no host", request(host=b""), HeadInvalid),
    *(
        (f"54 host {text!r}", request(host=b"Host: " + text), HeadInvalid)
        for text in (b"a/b", b"a b", b"u@h", b"a,b", b"a#", b"a?b", "ä".encode())
    ),
    ("54 absolute-form", request(first=b"GET http://a/v2/ HTTP/1.1"), HeadInvalid),
    ("54 authority-form", request(first=b"CONNECT a:443 HTTP/1.1"), HeadInvalid),
    ("54 asterisk-form", request(first=b"OPTIONS * HTTP/1.1"), HeadInvalid),
    ("54 non-ASCII target", request(first="GET /ä HTTP/1.1".encode()), HeadInvalid),
    ("54 fragment", request(first=b"GET /a#b HTTP/1.1"), HeadInvalid),
    ("54 bare LF", request().replace(b"\r\n", b"\n"), HeadInvalid),
    ("54 one bare LF", request(b"Accept: a\nX: b"), HeadInvalid),
    (
        "trust 2 CR ends the request line",
        request(b"Content-Length: 53", first=POST).replace(b"\r\n", b"\r", 1),
        HeadInvalid,
    ),
    ("trust 2 CR for the last CRLF", request(b"A: b")[:-2] + b"\r\rX: y\r\n\r\n", HeadInvalid),
    ("54 leading empty line", b"\r\n" + request(), HeadInvalid),
    ("two spaces", request(first=b"GET  / HTTP/1.1"), HeadInvalid),
    ("tab for space", request(first=b"GET\t/ HTTP/1.1"), HeadInvalid),
    ("space at the end", request(first=b"GET / HTTP/1.1 "), HeadInvalid),
    ("no version", request(first=b"GET /"), HeadInvalid),
    ("lower-case version", request(first=b"GET / http/1.1"), HeadInvalid),
    ("short version", request(first=b"GET / HTTP/1"), HeadInvalid),
    ("no method", request(first=b" / HTTP/1.1"), HeadInvalid),
    ("2.0", request(first=b"GET / HTTP/2.0"), VersionUnsupported),
    ("1.2", request(first=b"GET / HTTP/1.2"), VersionUnsupported),
    ("0.9", request(first=b"GET / HTTP/0.9"), VersionUnsupported),
    ("preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VersionUnsupported),
    ("55 GET with a body", request(b"Content-Length: 1"), HeadInvalid),
    ("55 HEAD with a body", request(b"Content-Length: 1", first=b"HEAD / HTTP/1.1"), HeadInvalid),
    ("55 GET with a chunked body", request(b"Transfer-Encoding: chunked"), HeadInvalid),
    ("57 unknown expectation", request(b"Expect: 200-maybe", first=POST), ExpectationFailed),
    ("54 1000 headers", request(*[b"A: b"] * 1000), HeadTooLarge),
    ("54 101 headers", request(*[b"A: b"] * 100), HeadTooLarge),
    ("54 1 MB header", request(b"A: " + b"b" * (1 << 20)), HeadTooLarge),
    ("just over", request(b"A: " + b"b" * (LIMIT - 10)), HeadTooLarge),
    ("long target", request(first=b"GET /" + b"a" * TARGET + b" HTTP/1.1"), TargetTooLong),
    ("endless target", b"GET /" + b"a" * LIMIT, TargetTooLong),
    ("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01", HeadInvalid),
    ("noise", b"\x00", HeadInvalid),
]


@pytest.mark.parametrize(("data", "kind"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_case_50_51_52_54_55_57_refused(data: bytes, kind: type[ClientMistake]) -> None:
    with pytest.raises(kind):
        read(data)


TAKEN = [
    request(b"Content-Length: 0"),
    request(b"Content-Length: 00005", first=POST),
    request(b"Content-Length: 5 ", first=POST),
    request(b"Transfer-Encoding: Chunked", first=POST),
    request(b"Transfer-Encoding:  chunked", first=POST),
    request(b"Expect: 100-Continue", b"Content-Length: 5", first=POST),
    request(host=b"Host: [::1]:5000"),
    request(host=b"Host:"),
    request(host=b"", first=b"GET / HTTP/1.0"),
    request(*[b"A: b"] * 99),
    request(first=b"GET /" + b"a" * (TARGET - 1) + b" HTTP/1.1"),
    request("A: ä\t€".encode()),
    request(b"Connection: keep-alive, Close"),
    request(first=b"get / HTTP/1.1"),
    request(b"Content_Length: 7"),
    request(b"X" * 70 + b": a"),
]


def h11_head(data: bytes) -> tuple[str, str, list[tuple[str, str]], str, object]:
    """The same head as h11 reads it: method, target, headers, version, and the event after it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
    following = connection.next_event()
    return (event.method.decode(), event.target.decode(), headers, event.http_version.decode(), following)


def check_agreement(data: bytes) -> head.Head | None:
    try:
        found = read(data)
    except ClientMistake:
        return None
    if found is None:
        return None
    method, target, headers, version, following = h11_head(data[: found.size])
    assert (method, target, version) == (found.method, found.target, f"1.{found.minor}")
    # h11 writes the one coding it knows in lower case
    ours = [(n, v.lower() if n == "transfer-encoding" else v) for n, v in found.headers]
    assert headers == ours
    assert found.has_body == (following is h11.NEED_DATA)
    return found


@pytest.mark.parametrize("data", TAKEN)
def test_what_is_taken_h11_reads_alike(data: bytes) -> None:
    assert check_agreement(data) is not None


def test_host_without_port_and_close() -> None:
    found = read(request(b"connection: x, CLOSE", host=b"Host: Registry.Example:5000"))
    assert found is not None
    assert (found.host, found.keep_alive) == ("registry.example", False)
    ip = read(request(host=b"Host: [::1]:5000"))
    assert ip is not None
    assert ip.host == "[::1]"
    old = read(request(b"Connection: keep-alive", first=b"GET / HTTP/1.0"))
    assert old is not None
    assert (old.minor, old.keep_alive) == (0, False)


FRAGMENT = st.sampled_from(
    [
        *(
            b"GET",
            b"POST",
            b" ",
            b"/",
            b"a",
            b" HTTP/1.1",
            b" HTTP/1.0",
            b"\r\n",
            b"\n",
            b"\r",
            b":",
            b"\t",
            b"\0",
        ),
        b"Host: a\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length",
        b"Transfer-Encoding: chunked\r\n",
        b"chunked",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"\xff",
        b"5",
        b",",
        b"\x7f",
        b"X_Y: \x80\r\n",
        b"#",
    ]
)
HEADER = st.sampled_from([row[1] for row in REFUSED if len(row[1]) < 400] + TAKEN)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A known head with a few bytes changed, added or taken away."""
    data = bytearray(draw(HEADER))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.one_of(FRAGMENT, st.binary(max_size=2)))
    return bytes(data)


@given(st.one_of(mutated(), st.lists(FRAGMENT, max_size=20).map(b"".join), st.binary(max_size=200)))
@example(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
def test_what_the_gate_takes_h11_reads_alike(data: bytes) -> None:
    check_agreement(data)


@pytest.mark.parametrize("data", [data for data in TAKEN if len(data) < 400])
def test_case_trust_2_one_byte_lost_or_another_in_its_place(data: bytes) -> None:
    """At every place: whatever the gate takes then, h11 takes, too, and finds the same body."""
    for at in range(len(data)):
        for other in (b"", b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\r\n"):
            check_agreement(data[:at] + other + data[at + 1 :])


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    """What comes of bytes that arrive in pieces: the head's fields, the refusal's class, or nothing."""
    data, seen = b"", 0
    for piece in pieces:
        data += piece
        try:
            end = head.find_end(data, max(0, seen - 3), LIMIT)
            if end >= 0:
                found = head.parse(data, end, TARGET, HEADERS)
                return (found.method, found.target, found.headers, found.size)
        except ClientMistake as refusal:
            return (type(refusal),)
        seen = len(data)
    return ()


@given(mutated(), st.lists(st.integers(1, 40), max_size=12))
def test_any_cutting_gives_the_same_outcome(data: bytes, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    pieces.append(data[at:])
    whole = outcome([data])
    assert outcome(pieces) == whole
    assert outcome([data[i : i + 1] for i in range(len(data))]) == whole
