"""A raw-socket mutator: valid pushes and pulls with their framing, heads and bodies changed, cut anywhere.

What must hold is told by h11, which reads the same bytes as a server: the node answers what h11 reads, in that
order and nothing else, until it refuses to go on (references.md 4.1: I1 no 5xx, I7 in sync, I8 the codes). A body
holds whole requests, so that a byte that is miscounted becomes an answer that nobody asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h11
import pytest
import uvloop
from holdfast.config import Configuration, LimitsSection
from holdfast.endpoint import dispatch
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import CODES
from holdfast.wire.message import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.patience import PROGRAM_PATIENCE
from support.pushing import OCI_INDEX, index, pushing

MARKS = [index(annotations={"mark": str(number)}) for number in range(3)]
SMUGGLED = b"GET /v2/a/manifests/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = SMUGGLED * 3 + b"\r\n0\r\n\r\n" + SMUGGLED
SESSION = b"{session}"


def mark(number: int) -> bytes:
    """A question whose answer is known to the byte. No exchange that is mutated names this repository."""
    return b"GET /v2/marks/manifests/mark%d HTTP/1.1\r\nHost: a\r\n\r\n" % number


@dataclass(slots=True)
class Target:
    """A node that serves in a thread of its own. `dispatched` is every request that reached an endpoint."""

    address: tuple[str, int]
    dispatched: list[tuple[str, str]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def exchange(self, pieces: list[bytes]) -> bytes:
        """Everything that comes back for bytes sent in these segments, until the node closes."""
        with socket.create_connection(self.address, timeout=PROGRAM_PATIENCE) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for piece in pieces:
                    client.sendall(piece)
                client.shutdown(socket.SHUT_WR)
            except OSError:  # it has closed; what it said is still there
                pass
            return b"".join(iter(lambda: client.recv(1 << 16), b""))

    def session(self) -> bytes:
        """The location of a new upload session."""
        opened = b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        (answer,) = answers(self.exchange([opened]), ["POST"])
        assert answer.status == 202
        location = answer.headers["location"]
        return location.encode("ascii")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A root that lets strangers push, with short deadlines."""
    ready = threading.Event()
    started: list[Any] = []
    patch = pytest.MonkeyPatch()
    patch.setattr(dispatch, "answer", recorded(dispatch.answer, started))

    async def run(path: Path) -> None:
        limits = LimitsSection(stall_timeout=5.0, head_timeout=5.0)
        async with pushing(path, Configuration(anonymous="push", limits=limits)) as node:
            started.append(Target(node.address))
            for number, body in enumerate(MARKS):
                assert (await node.put("marks", f"mark{number}", body, OCI_INDEX)).status == 201
            smuggled = index(annotations={"smuggled": "yes"})
            assert (await node.put("a", "smuggled", smuggled, OCI_INDEX)).status == 201
            ending = asyncio.Event()
            started.append((asyncio.get_running_loop(), ending))
            ready.set()
            await ending.wait()
            started[0].failures.extend(event for event in node.logs if event["level"] == "error")

    thread = threading.Thread(target=lambda: uvloop.run(run(tmp_path_factory.mktemp("mutator"))))
    thread.start()
    assert ready.wait(PROGRAM_PATIENCE)
    made, (loop, ending) = started
    yield made
    loop.call_soon_threadsafe(ending.set)
    thread.join(PROGRAM_PATIENCE)
    patch.undo()
    assert made.failures == []


def recorded(
    real: Callable[[Node, Request], Answer], started: list[Any]
) -> Callable[[Node, Request], Answer]:
    def answer(node: Node, request: Request) -> Answer:
        started[0].dispatched.append((request.method, request.path))
        return real(node, request)

    return answer


# -- what came back --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    status: int
    headers: dict[str, str]
    body: bytes


def answers(stream: bytes, methods: list[str]) -> list[Said]:
    """The final answers in a stream, which must be whole ones and nothing else. `methods` are those of the
    requests: the answer to a HEAD has no body, and past them nobody knows whether it was one."""
    found: list[Said] = []
    while stream:
        head, separator, stream = stream.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        assert separator
        assert first.startswith("HTTP/1.1 ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status = int(first[9:12])
        if status == 100:
            assert not lines
            continue
        bare = status in (204, 304)
        assert ("content-length" in headers) is not bare
        heading = stream == b"" if len(found) >= len(methods) else methods[len(found)] == "HEAD"
        size = 0 if bare or heading else int(headers["content-length"])
        assert len(stream) >= size
        found.append(Said(status, headers, stream[:size]))
        stream = stream[size:]
    return found


# -- what h11 makes of it --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """One request as h11 reads it; `whole` when its body ended."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    whole: bool


def reads(stream: bytes) -> list[Read]:
    """The requests in a stream, until one is malformed or not whole."""
    found: list[Read] = []
    while stream:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
        connection.receive_data(stream)
        read, stream = _read_one(connection)
        if read is None:
            break
        found.append(read)
        if not read.whole:
            break
    return found


def _read_one(connection: h11.Connection) -> tuple[Read | None, bytes]:
    request, body, whole = None, b"", False
    try:
        while not whole and (event := connection.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            whole = isinstance(event, h11.EndOfMessage)
    except h11.RemoteProtocolError:
        whole = False
    if request is None:
        return None, b""
    method, target = request.method.decode(), request.target.decode("ascii")
    return Read(method, target, tuple(request.headers), body, whole), connection.trailing_data[0]


def check(target: Target, pieces: list[bytes]) -> list[Said]:
    """Send, and hold what comes back against what h11 reads."""
    stream = b"".join(pieces)
    expected = reads(stream)
    del target.dispatched[:]
    raw = target.exchange(pieces)
    said = answers(raw, [read.method for read in expected])
    # no answer but to a request, and to the head that was refused, after which there is none
    assert len(said) <= len(expected) + 1
    for answer in said[:-1]:
        assert "connection" not in answer.headers
    for read, answer in zip(expected, said, strict=False):
        check_answer(read, answer)
    if len(said) > len(expected):
        assert said[-1].headers["connection"] == "close"
        assert 400 <= said[-1].status < 500 or said[-1].status == 505
    if all(read.whole for read in expected) and "connection" not in (said[-1].headers if said else {}):
        assert len(said) == len(expected)
    asked = iter([(read.method, unquote(read.target.partition("?")[0])) for read in expected])
    for dispatched in target.dispatched:  # in order, none twice, none that h11 does not see
        assert dispatched in asked
    return said


def check_answer(read: Read, answer: Said) -> None:
    """I1, I2, I3, I8 and I7 of one answer."""
    assert answer.status < 500 or answer.status == 505
    closing = answer.headers.get("connection") == "close"
    if answer.status >= 400 and answer.body:
        (error,) = json.loads(answer.body)["errors"]
        assert error["code"] in CODES
    for number, body in enumerate(MARKS):
        if (read.method, read.target) == ("GET", f"/v2/marks/manifests/mark{number}") and len(
            read.headers
        ) == 1:
            assert answer.body == body or (closing and answer.status >= 400)
    if answer.status == 200 and (digest := answer.headers.get("docker-content-digest")) and answer.body:
        assert f"sha256:{hashlib.sha256(answer.body).hexdigest()}" == digest
    if answer.status == 201 and read.method in ("POST", "PUT") and "digest=" in read.target:
        assert answer.headers["docker-content-digest"] == f"sha256:{hashlib.sha256(read.body).hexdigest()}"


# -- exchanges and what is done to them ------------------------------------------------------------


def framed(line: bytes, *headers: bytes, body: bytes = BODY, chunk: int = 0) -> bytes:
    """A request with a body, by length, or in chunks of `chunk` bytes."""
    head = [line + b" HTTP/1.1", b"Host: a", *headers]
    if not chunk:
        return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])
    parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return b"\r\n".join([*head, b"Transfer-Encoding: chunked", b"", coded])


DIGEST = b"sha256:" + hashlib.sha256(BODY).hexdigest().encode()
MANIFEST = index()
TYPE = b"Content-Type: application/vnd.oci.image.index.v1+json"
RANGE = b"Content-Range: 0-%d" % (len(BODY) - 1)

PUSHES = [
    framed(b"POST /v2/a/blobs/uploads/?digest=" + DIGEST),
    framed(b"POST /v2/a/blobs/uploads/?digest=" + DIGEST, chunk=33),
    framed(b"PATCH " + SESSION, RANGE),
    framed(b"PATCH " + SESSION, chunk=7),
    framed(b"PATCH " + SESSION, b"Expect: 100-continue", chunk=1000),
    framed(b"PUT " + SESSION + b"?digest=" + DIGEST),
    framed(b"PUT " + SESSION + b"?digest=" + DIGEST, b"Expect: 100-continue", chunk=50),
    framed(b"PUT /v2/a/manifests/pushed", TYPE, body=MANIFEST, chunk=20),
    framed(b"PUT /v2/a/manifests/pushed", TYPE, body=MANIFEST),
    framed(b"DELETE " + SESSION, body=SMUGGLED),
    framed(b"DELETE /v2/a/manifests/pushed", body=SMUGGLED, chunk=9),
    framed(b"POST /v2/a/blobs/uploads/?mount=" + DIGEST + b"&from=b", body=b"", chunk=1),
]
PULLS = [
    SMUGGLED,
    SMUGGLED.replace(b"GET", b"HEAD"),
    b"GET /v2/a/blobs/" + DIGEST + b" HTTP/1.1\r\nHost: a\r\nRange: bytes=0-9,20-29\r\n\r\n",
    b"GET /v2/a/tags/list?n=2&last=a HTTP/1.1\r\nHost: a\r\nAccept: */*;q=0.1\r\n\r\n",
    b"GET /v2/a/referrers/" + DIGEST + b" HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\n\r\n",
    b"GET " + SESSION + b" HTTP/1.1\r\nHost: a\r\n\r\n",
]

#: cases 50 to 54, 57, 61 and 62: lines that a head gets beside, or instead of, those that frame it
LINES = [
    *(b"Content-Length: " + value for value in (b"5", b"0", b"5, 5", b"+5", b"-1", b"0x5", b"5 ", b"00005")),
    b"Content-Length: " + b"9" * 30,
    b"Content-Length: 1073741824",
    *(
        b"Transfer-Encoding: " + value
        for value in (
            b"chunked",
            b"Chunked",
            b"chunked, chunked",
            b"gzip, chunked",
            b"identity",
            b"chunked\x0b",
        )
    ),
    *(b" Transfer-Encoding: chunked", b"Transfer-Encoding : chunked", b"Content_Length: 3", b"A: b\r\n c"),
    *(
        b"Host: b",
        b"Expect: 100-continue",
        b"Expect: tea",
        b"Connection: close",
        b"A: \0",
        b": b",
        b"A: b\nC: d",
    ),
    *(
        b"Content-Encoding: gzip",
        b"Accept-Encoding: gzip, zstd, br",
        b"Trailer: Content-Length",
        b"TE: trailers",
    ),
    *(b"Accept: a/b;q=0", b"Accept: */*;q=0.1\r\nAccept: c/d", b"Accept: " + b"a/b," * 2500),
    *(b"X-HTTP-Method-Override: DELETE", b"Range: bytes=0-0", b"Content-Range: 0-4", b"Upgrade: h2c"),
]
#: case 53: what stands where the size of a chunk stood
SIZES = [
    *(
        b"5",
        b"A",
        b"a",
        b"0005",
        b"0x5",
        b"-5",
        b"+5",
        b"1" * 17,
        b"f" * 16,
        b"",
        b" 5",
        b"5 ",
        b"5;a=b",
        b"5\n",
    ),
    *(b"5;" + b"x" * 40_000, b"0\r\nContent-Length: 5\r\nAuthorization: x", b"0", b"00", b"5\r", b"5;\x00"),
]
BITS = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b":",
    b"\0",
    b"%",
    b"/",
    b"..",
    b"0\r\n\r\n",
    b"\xff",
    SMUGGLED,
    b"5\r\n",
]
METHODS = [b"get", b"OPTIONS", b"TRACE", b"CONNECT", b"DELETE", b"HEAD", b"POST", b"X"]

Mutation = Callable[[bytes], bytes]


def _with_line(draw: st.DrawFn, data: bytes) -> bytes:
    head, end, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    at = draw(st.integers(1, len(lines)))
    lines[at : at + draw(st.integers(0, 1))] = [draw(st.sampled_from(LINES))]
    return b"\r\n".join(lines) + end + body


def _with_size(draw: st.DrawFn, data: bytes) -> bytes:
    head, end, body = data.partition(b"\r\n\r\n")
    lines = body.split(b"\r\n")
    lines[draw(st.integers(0, len(lines) - 1))] = draw(st.sampled_from(SIZES))
    return head + end + b"\r\n".join(lines)


def _with_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.sampled_from(BITS)) + data[at + draw(st.integers(0, 3)) :]


def _with_method(draw: st.DrawFn, data: bytes) -> bytes:
    return draw(st.sampled_from(METHODS)) + b" " + data.partition(b" ")[2]


def _cut_short(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


def _repeated(draw: st.DrawFn, data: bytes) -> bytes:
    at, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
    return data[:end] + data[at:end] + data[end:]


MUTATIONS = [_with_line, _with_line, _with_size, _with_size, _with_bytes, _with_method, _cut_short, _repeated]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A push or a pull, changed in up to three ways, between questions whose answers are known."""
    data = draw(st.sampled_from(PUSHES + PULLS))
    for _ in range(draw(st.integers(0, 3))):
        data = draw(st.sampled_from(MUTATIONS))(draw, data)
    return mark(0) + data + mark(1) + mark(2)


@st.composite
def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in segments: one, a few at any point, or one a byte around some point."""
    at = sorted(draw(st.lists(st.integers(0, len(data)), max_size=5)))
    if draw(st.booleans()):
        middle = draw(st.integers(0, len(data)))
        at = [*range(max(0, middle - 20), min(len(data), middle + 20))]
    ends = [*at, len(data)]
    return [data[start:end] for start, end in zip([0, *at], ends, strict=True) if start < end]


SLOW = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@SLOW
@given(st.data())
def test_case_50_51_52_53_54_55_56_57_58_61_62_63_mutations_stay_in_sync(
    target: Target, data: st.DataObject
) -> None:
    stream = data.draw(mutated())
    if SESSION in stream:
        stream = stream.replace(SESSION, target.session())
    check(target, data.draw(pieces(stream)))


@pytest.mark.parametrize("request_", PUSHES + PULLS)
def test_what_the_mutator_starts_from_is_valid(target: Target, request_: bytes) -> None:
    for size in (1 << 20, 1):
        stream = (mark(0) + request_ + mark(1)).replace(SESSION, target.session())
        said = check(target, [stream[at : at + size] for at in range(0, len(stream), size)])
        assert [said[0].body, said[2].body] == MARKS[:2]
        assert said[1].status < 300 or said[1].status in (404, 416)
