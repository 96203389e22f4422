"""The exchange: requests out of bytes however they were cut, answers that h11 reads back, and its phases."""

from __future__ import annotations

import contextlib

import h11
import msgspec
import pytest
from holdfast import errors
from holdfast.config import LimitsSection
from holdfast.errors import ClientMistake, HeadInvalid, NodeFailed, PathUnknown
from holdfast.wire.exchange import DISCARD_BYTES, TRANSITIONS, EncodedReply, Exchange, Phase, encode_head
from holdfast.wire.message import Reply, Request
from holdfast.wire.refusal import reply_to
from holdfast.wire.routes import Noun
from holdfast_core import errors as store_errors
from hypothesis import given, settings
from hypothesis import strategies as st

DATE = "Fri, 15 Jan 2027 08:00:00 GMT"
LIMITS = LimitsSection()


def exchange(data: bytes = b"") -> Exchange:
    made = Exchange(LIMITS)
    made.receive(data)
    return made


def run(made: Exchange, pieces: list[bytes]) -> list[str]:
    """What a server sees that answers each request with 200 as it comes."""
    seen: list[str] = []
    for piece in pieces:
        made.receive(piece)
        while made.phase is not Phase.OVER:
            try:
                request = made.next_request()
                if request is None:
                    break
                seen.append(f"{request.method} {request.path} {request.query}")
                reply = Reply(200)
            except ClientMistake as refusal:
                seen.append(type(refusal).__name__)
                reply = reply_to(refusal)
            seen.append(f"keep {made.answer(reply, DATE).keep}")
    return seen


GET = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"
PUT = b"PUT /v2/a/manifests/b HTTP/1.1\r\nHost: a\r\n"
STREAMS = [
    GET,
    GET + GET.replace(b"/v2/", b"/v2/?a=%20") + GET,
    PUT + b"Content-Length: 5\r\n\r\nhello" + GET,
    PUT + b"Content-Length: 0\r\n\r\n" + GET,
    PUT + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n" + GET,
    PUT + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET,
    PUT + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    GET.replace(b"/v2/", b"/nowhere") + GET,
    GET.replace(b"/v2/", b"/v2/%zz") + GET,
    GET.replace(b"Host", b"Host ") + GET,
    GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET,
    GET.replace(b"1.1", b"1.0") + GET,
    GET[:-2],
]


@pytest.mark.parametrize("stream", STREAMS)
@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 30), max_size=12))
def test_case_58_any_cutting_gives_the_same_requests(stream: bytes, sizes: list[int]) -> None:
    whole = run(exchange(), [stream])
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    assert run(exchange(), [*pieces, stream[at:]]) == whole
    assert run(exchange(), [stream[i : i + 1] for i in range(len(stream))]) == whole


def test_case_55_58_a_small_body_is_read_past_and_a_large_one_ends_the_connection() -> None:
    keep = run(exchange(), [PUT + b"Content-Length: %d\r\n\r\n" % DISCARD_BYTES, b"x" * DISCARD_BYTES + GET])
    assert keep == ["PUT /v2/a/manifests/b ()", "keep True", "GET /v2/ ()", "keep True"]
    large = run(exchange(), [PUT + b"Content-Length: %d\r\n\r\n" % (DISCARD_BYTES + 1), GET])
    assert large == ["PUT /v2/a/manifests/b ()", "keep False"]


def test_case_53_a_chunked_body_that_is_here_is_read_past() -> None:
    whole = PUT + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n" + GET
    assert run(exchange(), [whole]) == ["PUT /v2/a/manifests/b ()", "keep True", "GET /v2/ ()", "keep True"]


BAD_CHUNKS = [
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\n",
    b"1" * 21 + b"\r\n",
    b"5\nhello\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
]


@pytest.mark.parametrize("body", [*BAD_CHUNKS, b"5\r\nhel"])
def test_case_53_a_chunked_body_that_is_broken_or_missing_ends_the_connection(body: bytes) -> None:
    data = PUT + b"Transfer-Encoding: chunked\r\n\r\n" + body + GET
    assert run(exchange(), [data]) == ["PUT /v2/a/manifests/b ()", "keep False"]


def test_a_refused_target_keeps_the_connection_and_a_refused_head_ends_it() -> None:
    made = exchange(GET.replace(b"/v2/", b"/nowhere"))
    with pytest.raises(PathUnknown):
        made.next_request()
    assert made.answer(reply_to(PathUnknown("no")), DATE).keep
    made = exchange(GET.replace(b"\r\n", b"\n"))
    with pytest.raises(HeadInvalid):
        made.next_request()
    assert not made.answer(reply_to(HeadInvalid("no")), DATE).keep
    assert made.phase is Phase.OVER
    made.receive(GET)
    assert made.next_request() is None


@pytest.mark.parametrize(
    "data", [b"HEAD / HTTP/1.1\r\n\r\n", b"HEAD /\0", b"HEAD / HTTP/1.1\r\nHost: a\r\nA"]
)
def test_case_56_a_refused_head_of_a_head_has_no_body_in_its_answer(data: bytes) -> None:
    made = exchange(data)
    with contextlib.suppress(ClientMistake):
        assert made.next_request() is None
    answer = made.answer(reply_to(HeadInvalid("no")), DATE)
    assert b"Content-Length: " in answer.head
    assert (answer.body, answer.keep) == (b"", False)


def test_one_request_is_in_hand_at_a_time() -> None:
    made = exchange(GET + GET)
    assert isinstance(made.next_request(), Request)
    assert made.next_request() is None
    assert made.waiting == len(GET)
    made.answer(Reply(200), DATE)
    assert isinstance(made.next_request(), Request)


def test_the_phases_are_closed() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert TRANSITIONS[Phase.OVER] == frozenset()


HEADER = st.tuples(
    st.from_regex(r"[A-Za-z][A-Za-z-]{0,10}", fullmatch=True).filter(
        lambda n: n.lower() not in ("content-length", "transfer-encoding", "connection", "date")
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
)


def client_reads(request: bytes, answer: EncodedReply) -> tuple[h11.Response, bytes]:
    """What h11 as a client makes of an answer to `request`."""
    client = h11.Connection(h11.CLIENT)
    method = request.split(b" ")[0].decode()
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer.head)
    if isinstance(answer.body, bytes) and answer.body:
        client.receive_data(answer.body)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return response, body


@given(
    st.sampled_from([200, 206, 304, 400, 404, 405, 416, 429, 503]),
    st.lists(HEADER, max_size=4),
    st.binary(max_size=20),
    st.sampled_from([b"GET", b"HEAD"]),
)
def test_case_56_h11_reads_back_what_is_written(
    status: int, headers: list[tuple[str, str]], body: bytes, method: bytes
) -> None:
    request = GET.replace(b"GET", method)
    made = exchange(request)
    made.next_request()
    answer = made.answer(Reply(status, headers, b"" if status == 304 else body), DATE)
    response, got = client_reads(request, answer)
    assert response.status_code == status
    lines = [(name.decode(), value.decode()) for name, value in response.headers]
    assert [(name.lower(), value) for name, value in headers] == lines[2 : 2 + len(headers)]
    lengths = [value for name, value in lines if name == "content-length"]
    assert lengths == ([] if status == 304 else [str(len(body))])
    assert got == (b"" if method == b"HEAD" or status == 304 else body)


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b", "ä", "a\x7fb"])
def test_a_value_that_could_split_the_answer_is_refused(value: str) -> None:
    for headers in ([("X", value)], [("A", "b"), ("X", value), ("C", "d")]):
        with pytest.raises(NodeFailed):
            encode_head(Reply(200, headers), DATE, True)


@pytest.mark.parametrize("kind", list(errors.TABLE), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("noun", list(Noun))
def test_every_error_has_an_answer_with_one_of_the_codes(kind: type[Exception], noun: Noun) -> None:
    error = kind("told", detail="d") if issubclass(kind, errors.Refusal) else kind("a private path")
    reply = reply_to(error, noun)
    assert isinstance(reply.body, bytes)
    decoded = msgspec.json.decode(reply.body)
    assert reply.status == errors.TABLE[kind][0]
    assert list(decoded) == ["errors"]
    assert list(decoded["errors"][0]) == ["code", "message", "detail"]
    assert decoded["errors"][0]["code"] in errors.CODES
    assert ("Retry-After" in dict(reply.headers)) == (reply.status in (429, 503))
    assert "private" not in reply.body.decode()


def test_a_refusal_says_the_noun_and_when_to_come_back() -> None:
    away = errors.ParentUnreachable("offline", retry_after=17)
    codes = [
        msgspec.json.decode(reply_to(away, noun).body)["errors"][0]["code"]  # type: ignore[arg-type]
        for noun in (Noun.BLOB, Noun.MANIFEST, Noun.TAGS, Noun.API, Noun.GATEWAY)
    ]
    assert codes == ["BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "NAME_UNKNOWN", "DENIED", "DENIED"]
    assert ("Retry-After", "17") in reply_to(away).headers
    assert reply_to(store_errors.RecordDamaged("x"), Noun.BLOB).status == 500
    assert reply_to(ValueError("x")).status == 500
