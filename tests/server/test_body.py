"""Bodies of requests over real sockets: how an endpoint reads them, who waits for whom, and every way to end."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from holdfast.config import Configuration, LimitsSection, TlsSection
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import Refusal, RequestTimeout
from holdfast.server.connection import ClientConnection
from holdfast.server.request_body import WAITING_BYTES
from holdfast.server.tls import ServerCertificate
from holdfast.wire.message import Reply, Request
from support.certificates import make_pair
from support.patience import until
from support.serving import Client, Serving, serving

PATCH = b"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Endpoint = Callable[[Request], Awaitable[Reply]]


def length(size: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % size


def chunks(body: bytes, size: int) -> bytes:
    """A body in chunks of `size` bytes, ended."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class Scene:
    """What endpoints of a test saw: `events` in order, and a door that a test opens."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.bodies: list[bytes] = []
        self.door = asyncio.Event()

    async def digest(self, request: Request) -> Reply:
        """Reads all of it and says its digest."""
        hasher = hashlib.sha256()
        if request.body is not None:
            while data := await request.body.read():
                hasher.update(data)
            assert await request.body.read() == b""
        return Reply(202, [("Digest", hasher.hexdigest())])

    async def keep(self, request: Request) -> Reply:
        """Keeps what comes, tells how it ended, and has something to do after that."""
        assert request.body is not None
        self.bodies.append(b"")
        try:
            while data := await request.body.read():
                self.bodies[-1] += data
        except Refusal as error:
            self.events.append(type(error).__name__)
            await asyncio.sleep(0)
            self.events.append("cleaned up")
            raise
        self.events.append("whole")
        return Reply(202)

    async def wait(self, request: Request) -> Reply:
        """Does not read before the door is open; a cancel is told."""
        self.events.append("begun")
        try:
            await self.door.wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        self.events.append("finished")
        return await self.digest(request)

    async def refuse(self, _request: Request) -> Reply:
        """Answers at once."""
        return Reply(404)


def scene(node: Serving, name: str) -> Scene:
    """Every route but /v2/ leads to the named endpoint of a scene from now on."""
    made, real = Scene(), node.server.dispatch

    def answer(served: Node, request: Request) -> Answer:
        return real(served, request) if request.path == "/v2/" else getattr(made, name)(request)

    node.server.dispatch = answer
    return made


def limited(**limits: float) -> Configuration:
    return Configuration(limits=LimitsSection(**limits))  # type: ignore[arg-type]


def reset(client: Client) -> None:
    """Hang up so that the server sees a reset (no lingering), not the end of one half."""
    client.writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    client.writer.transport.abort()


def only(node: Serving) -> ClientConnection:
    (connection,) = node.server._connections
    return connection


BODY = random.Random(3).randbytes(5_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


async def check_digest(client: Client, *data: bytes, body: bytes = BODY) -> None:
    client.send(*data)
    answer = await client.answer()
    assert (answer.status, answer.headers["digest"]) == (202, hashlib.sha256(body).hexdigest())


def over_tls(folder: Path) -> tuple[ServerCertificate, dict[str, Any]]:
    """A certificate, and how a client connects that trusts it."""
    pair = make_pair(folder / "pair", "first")
    trust = ssl.create_default_context(cafile=str(pair / "cert.pem"))
    tls = TlsSection(cert=str(pair / "cert.pem"), key=str(pair / "key.pem"))
    return ServerCertificate(tls), {"ssl": trust, "server_hostname": "node.test"}


FRAMED = [
    (length(len(BODY)), BODY),
    (CHUNKED, chunks(BODY, 32768)),
    (CHUNKED, chunks(BODY, 100_001)),
    (CHUNKED, chunks(BODY, 1_000)),
    (CHUNKED, chunks(BODY, len(BODY))),
]


@pytest.mark.parametrize("secure", [False, True])
async def test_bodies_arrive_whole_and_the_connection_goes_on(tmp_path: Path, secure: bool) -> None:
    tls, options = over_tls(tmp_path) if secure else (None, {})
    async with serving(tmp_path, tls=tls) as node:
        scene(node, "digest")
        client = await node.connect(**options)
        for framing, body in FRAMED:
            await check_digest(client, PATCH + framing, body)
        assert (await client.ask("/v2/")).status == 200


@pytest.mark.parametrize("framing", [CHUNKED + b"0\r\n\r\n", length(0), b"\r\n"])
@pytest.mark.parametrize("method", [b"PUT", b"POST", b"PATCH", b"DELETE"])
async def test_case_32_empty_bodies(tmp_path: Path, method: bytes, framing: bytes) -> None:
    async with serving(tmp_path) as node:
        scene(node, "digest")
        head = PATCH.replace(b"PATCH", method)
        whole, cut = await node.connect(), await node.connect()
        await check_digest(whole, head + framing, GET, body=b"")
        assert (await whole.answer()).status == 200
        data = head + framing
        for at in range(len(data) - 1):
            cut.send(data[at : at + 1])
            await asyncio.sleep(0)
        await check_digest(cut, data[-1:], body=b"")


async def test_a_request_without_a_body_says_so(tmp_path: Path) -> None:
    seen: list[tuple[bool, int | None]] = []

    def answer(_node: Node, request: Request) -> Answer:
        seen.append((request.body is None, request.body.length if request.body else -1))
        return Reply(200)

    async with serving(tmp_path) as node:
        node.server.dispatch = answer
        client = await node.connect()
        client.send(GET, PATCH, b"\r\n", PATCH, length(0), PATCH, length(3), b"abc")
        client.send(PATCH, CHUNKED, chunks(b"abc", 1))
        for _ in range(5):
            assert (await client.answer()).status == 200
    assert seen == [(True, -1), (True, -1), (True, -1), (False, 3), (False, None)]


# -- who waits for whom ----------------------------------------------------------------------------


@pytest.mark.parametrize(("framing", "secure"), [(0, False), (1, False), (0, True), (1, True)])
async def test_a_body_that_nobody_reads_waits_at_the_client(
    tmp_path: Path, framing: int, secure: bool
) -> None:
    tls, options = over_tls(tmp_path) if secure else (None, {})
    body = BODY * 6
    framed = [length(len(body)) + body, CHUNKED + chunks(body, 32768)][framing]
    async with serving(tmp_path, tls=tls) as node:
        seen = scene(node, "wait")
        client, other = await node.connect(**options), await node.connect(**options)
        client.send(PATCH + framed)
        await until(lambda: any(c._read_paused for c in node.server._connections))
        (paused,) = [c for c in node.server._connections if c._read_paused]
        assert (await other.ask("/v2/")).status == 200
        assert WAITING_BYTES < paused._exchange.waiting < 2 * WAITING_BYTES
        seen.door.set()
        assert (await client.answer()).headers["digest"] == hashlib.sha256(body).hexdigest()


async def test_case_57_go_on_is_said_once_and_only_to_who_waits(tmp_path: Path) -> None:
    expecting = PATCH + b"Expect: 100-continue\r\n"
    async with serving(tmp_path) as node:
        seen = scene(node, "wait")
        client = await node.connect()
        client.send(expecting + length(4))
        await until(lambda: seen.events == ["begun"])
        assert only(node)._written == 0  # nothing before the endpoint wants to read
        seen.door.set()
        assert await client.reader.readexactly(len(CONTINUE)) == CONTINUE
        client.send(b"ab")
        await asyncio.sleep(0)
        await check_digest(client, b"cd", body=b"abcd")
        # who sends at once is not told, nor who speaks HTTP/1.0
        await check_digest(client, expecting + length(4) + b"efgh", body=b"efgh")
        await check_digest(client, expecting + CHUNKED + chunks(b"i" * 9, 2), body=b"i" * 9)
        old = expecting.replace(b"1.1", b"1.0") + length(2)
        client.send(old)
        await check_digest(client, b"kl", body=b"kl")
        assert await client.ended() == b""


@pytest.mark.parametrize("body", [b"", b"x" * 9])
async def test_case_57_a_final_answer_without_reading_ends_the_connection(
    tmp_path: Path, body: bytes
) -> None:
    async with serving(tmp_path) as node:
        scene(node, "refuse")
        client = await node.connect()
        client.send(PATCH + b"Expect: 100-continue\r\n" + length(9) + body)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        assert await client.ended() == b""


# -- early answers ---------------------------------------------------------------------------------

RESTS = [
    (length(9) + b"x" * 9, True),
    (length(1 << 16) + b"x" * (1 << 16), True),
    (length((1 << 16) + 1) + b"x" * (1 << 16) + b"x", False),
    (CHUNKED + chunks(b"x" * 60_000, 30_000), True),
    (CHUNKED + chunks(b"x" * 200_000, 30_000), False),
    (CHUNKED + chunks(b"x" * 9, 2), True),
    (CHUNKED + b"0\r\n\r\n", True),
    (CHUNKED + b"zz\r\n", False),
]


@pytest.mark.parametrize(("rest", "goes_on"), RESTS)
@pytest.mark.parametrize("cut", [False, True])
async def test_case_55_58_a_short_rest_is_dropped_and_a_long_one_ends_the_connection(
    tmp_path: Path, rest: bytes, goes_on: bool, cut: bool
) -> None:
    async with serving(tmp_path) as node:
        scene(node, "refuse")
        client = await node.connect()
        if cut:
            head = rest.index(b"\r\n\r\n") + 4
            client.send(PATCH + rest[:head])
            assert (await client.answer()).status == 404
            client.send(rest[head:] + GET)
        else:
            client.send(PATCH + rest + GET)
            assert (await client.answer()).status == 404
        if goes_on:
            assert (await client.answer()).status == 200
            client.writer.write_eof()
        assert await client.ended() == b""


async def test_case_58_a_request_behind_an_unread_gigabyte_is_never_read(tmp_path: Path) -> None:
    smuggled = b"GET /v2/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serving(tmp_path) as node:
        for framing in (length(1 << 30), CHUNKED + b"%x\r\n" % (1 << 30)):
            scene(node, "refuse")
            client = await node.connect()
            client.send(PATCH + framing + smuggled * 4000, GET)
            assert (await client.answer()).status == 404
            assert await client.ended() == b""
        node.server.flush_access()
        paths = {event["path"] for event in node.logs if event["event"] == "request answered"}
        assert paths == {"/v2/a/blobs/uploads/x"}


async def test_case_60_a_rest_that_does_not_come_ends_without_a_second_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, limited(head_timeout=0.2)) as node:
        scene(node, "refuse")
        client = await node.connect()
        client.send(PATCH + length(9) + b"x")
        assert (await client.answer()).status == 404
        assert await client.ended() == b""


# -- ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", [length(9), CHUNKED])
@pytest.mark.parametrize("abrupt", [False, True])
async def test_case_29_a_client_that_breaks_off_is_told_to_the_endpoint(
    tmp_path: Path, framing: bytes, abrupt: bool
) -> None:
    async with serving(tmp_path) as node:
        seen = scene(node, "keep")
        client = await node.connect()
        client.send(PATCH + framing + (b"abcd" if framing != CHUNKED else b"9\r\nabcd"))
        await until(lambda: seen.bodies == [b"abcd"])
        if abrupt:
            reset(client)
        else:
            client.writer.write_eof()
            answer = await client.answer()
            assert (answer.status, b"SIZE_INVALID" in answer.body) == (400, True)
            assert await client.ended() == b""
        await until(lambda: node.server.statistics().connections == 0)
        assert seen.events == ["ClientGone", "cleaned up"]
        node.server.flush_access()
        (line,) = [event for event in node.logs if event["event"] == "request answered"]
        assert (line["received"], line["complete"], line["method"]) == (4, not abrupt, "PATCH")


async def test_case_29_what_came_is_handed_out_before_the_end_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        seen = scene(node, "wait")
        seen.digest = seen.keep  # type: ignore[method-assign]
        client = await node.connect()
        client.send(PATCH + length(9) + b"abcd")
        await until(lambda: seen.events == ["begun"])
        await until(lambda: only(node)._exchange.waiting == 4)
        reset(client)
        await until(lambda: only(node).is_lost)
        assert seen.events == ["begun"]  # it is not reading: it learns of it when it does
        seen.door.set()
        await until(lambda: node.server.statistics().connections == 0)
        assert seen.events == ["begun", "finished", "ClientGone", "cleaned up"]
        assert seen.bodies == [b"abcd"]


@pytest.mark.parametrize(
    ("method", "events"),
    [(b"PUT", ["begun", "finished"]), (b"DELETE", ["begun", "finished"]), (b"GET", ["begun", "cancelled"])],
)
@pytest.mark.parametrize("secure", [False, True])
async def test_what_changes_something_is_finished_without_its_client(
    tmp_path: Path, method: bytes, events: list[str], secure: bool
) -> None:
    tls, options = over_tls(tmp_path) if secure else (None, {})
    async with serving(tmp_path, tls=tls) as node:
        seen = scene(node, "wait")
        client = await node.connect(**options)
        client.send(PATCH.replace(b"PATCH", method) + b"\r\n")
        await until(lambda: seen.events == ["begun"])
        reset(client)
        await until(lambda: not node.server._connections or only(node).is_lost)
        seen.door.set()
        await until(lambda: node.server.statistics().connections == 0)
        assert seen.events == events


BROKEN = [b"zz\r\n", b"-1\r\n", b"4\r\nabcdXX", b"4\nabcd\r\n", b"1" * 17 + b"\r\n", b"4;" + b"x" * 1_000_000]


@pytest.mark.parametrize("broken", BROKEN)
async def test_case_53_a_malformed_chunk_is_400_and_ends_the_connection(
    tmp_path: Path, broken: bytes
) -> None:
    async with serving(tmp_path) as node:
        seen = scene(node, "keep")
        client = await node.connect()
        client.send(PATCH + CHUNKED + b"2\r\nhi\r\n" + broken + GET)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert await client.ended() == b""
        assert seen.bodies[0].startswith(b"hi")
        assert seen.events == ["BodyBroken", "cleaned up"]


@pytest.mark.parametrize("framing", [length(9), CHUNKED])
async def test_case_60_a_body_that_stops_is_408(tmp_path: Path, framing: bytes) -> None:
    async with serving(tmp_path, limited(stall_timeout=0.2)) as node:
        seen = scene(node, "keep")
        client = await node.connect()
        client.send(PATCH + framing + b"1\r\na")
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await client.ended() == b""
        assert seen.events == [RequestTimeout.__name__, "cleaned up"]


async def test_case_60_a_body_that_drips_is_408(tmp_path: Path) -> None:
    async with serving(tmp_path, limited(stall_timeout=0.3)) as node:
        scene(node, "keep")
        client = await node.connect()
        client.send(PATCH + length(100_000))
        answer = asyncio.ensure_future(client.answer())
        while not answer.done():
            client.send(b"x")
            await asyncio.sleep(0.01)
        assert (await answer).status == 408


async def test_time_that_an_endpoint_takes_is_not_the_clients(tmp_path: Path) -> None:
    async with serving(tmp_path, limited(stall_timeout=5.0)) as node:
        seen = scene(node, "wait")
        client = await node.connect()
        client.send(PATCH + length(4) + b"ab")
        await until(lambda: seen.events == ["begun"])
        for later in (10, 20, 30):
            only(node).check(node.server.loop.time() + later)
        seen.door.set()
        await check_digest(client, b"cd", body=b"abcd")


async def test_the_answer_timeout_counts_from_the_end_of_the_body(tmp_path: Path) -> None:
    async with serving(tmp_path, limited(answer_timeout=0.3)) as node:
        scene(node, "digest")
        client = await node.connect()
        client.send(PATCH + length(4) + b"a")
        await until(lambda: bool(node.server._connections) and only(node)._task is not None)
        timer = only(node)._incoming.timer  # type: ignore[union-attr]
        assert timer is not None
        # the client's turn: nothing runs out
        await until(lambda: timer.timeout is not None and timer.timeout.when() is None)
        client.send(b"bcd")
        assert (await client.answer()).status == 202
        hung = scene(node, "wait")
        client.send(PATCH + length(4) + b"abcd")
        assert (await client.answer()).status == 503
        assert hung.events == ["begun", "cancelled"]
        assert (await client.ask("/v2/")).status == 200


async def test_an_answer_that_is_cancelled_before_it_begins_frees_its_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        begun: list[str] = []

        async def endpoint() -> Reply:
            begun.append("begun")
            return Reply(200)

        def answer(_: Node, __: Request) -> Answer:
            node.server.loop.call_soon(only(node).abort)  # before the first step of the task
            return endpoint()

        node.server.dispatch = answer
        client = await node.connect()
        client.send(GET)
        await client.ended()
        await until(lambda: not node.server._connections)
        assert begun == []
        assert node.server.statistics().connections == 0


# -- draining --------------------------------------------------------------------------------------


async def test_an_upload_under_way_may_finish_while_draining(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        seen = scene(node, "keep")
        client = await node.connect()
        client.send(PATCH + length(4) + b"ab")
        await until(lambda: seen.bodies == [b"ab"])
        node.server.begin_drain()
        drained = asyncio.ensure_future(node.server.wait_drained())
        client.send(b"cd")
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (202, "close")
        assert seen.bodies == [b"abcd"]
        client.close()
        await drained


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_drain_that_takes_too_long_cancels_and_waits_for_the_clean_up(
    tmp_path: Path, leaves: bool
) -> None:
    async with serving(tmp_path, limited(drain_timeout=0.1)) as node:
        seen = scene(node, "wait")
        client = await node.connect()
        client.send(PATCH + length(4))
        await until(lambda: seen.events == ["begun"])
        if leaves:
            reset(client)
            await until(lambda: only(node).is_lost)
        node.server.begin_drain()
        await node.server.wait_drained()
        assert seen.events == ["begun", "cancelled"]
        await until(lambda: node.server.statistics().connections == 0)


# -- order -----------------------------------------------------------------------------------------


async def test_case_58_bodies_and_requests_in_one_segment_and_byte_by_byte(tmp_path: Path) -> None:
    stream = b"".join(
        [
            PATCH.replace(b"PATCH", b"POST") + CHUNKED + chunks(GET, 7),
            GET,
            PATCH.replace(b"PATCH", b"PUT") + length(len(GET)) + GET,
            PATCH + CHUNKED + chunks(b"", 1),
            GET,
        ]
    )
    digest, empty = hashlib.sha256(GET).hexdigest(), hashlib.sha256().hexdigest()
    expected = [(202, digest), (200, None), (202, digest), (202, empty), (200, None)]

    async def answers(client: Client) -> list[tuple[int, str | None]]:
        found = [await client.answer() for _ in expected]
        return [(answer.status, answer.headers.get("digest")) for answer in found]

    async with serving(tmp_path) as node:
        scene(node, "digest")
        whole, cut = await node.connect(), await node.connect()
        whole.send(stream * 20)
        for _ in range(20):
            assert await answers(whole) == expected
        for at in range(len(stream)):
            cut.send(stream[at : at + 1])
            await asyncio.sleep(0)
        assert await answers(cut) == expected
