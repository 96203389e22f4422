"""HTTP/1.1 over a real socket: framing, methods, pipelining, ends, and what reaches the log."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from pathlib import Path

import pytest
from holdfast import errors
from holdfast.config import Configuration, ParentSection
from holdfast.errors import CODES
from holdfast.testing.port import ScriptedFill
from holdfast.wire.routes import METHODS, READS, Noun, Route, build
from holdfast_core import errors as store_errors
from holdfast_core.digest import Digest
from support.patience import PATIENCE, patience
from support.serving import serving

BODY = b'{"schemaVersion":2}'
DIGEST = str(Digest.of(BODY))
PARENT = Configuration(parent=(ParentSection(url="http://parent.test"),))
GET = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED = [
    (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
    (GET.replace(b"\r\n", b"\n"), 400),
    (GET.replace(b"Host: a", b"Host: a\r\n b"), 400),
    (GET.replace(b"Host: a\r\n", b""), 400),
    (GET.replace(b"Host: a", b"Host: a\r\nHost: a"), 400),
    (GET.replace(b"/v2/", b"http://a/v2/"), 400),
    (GET.replace(b"/v2/", b"*"), 400),
    (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nbody"), 400),
    (GET.replace(b"1.1", b"2.0"), 505),
    (GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nExpect: tea\r\n\r\n"), 417),
    (GET.replace(b"/v2/", b"/" + b"a" * 9000), 414),
    (GET.replace(b"\r\n\r\n", b"\r\n" + b"A: b\r\n" * 100 + b"\r\n"), 431),
    (GET.replace(b"\r\n\r\n", b"\r\nA: " + b"b" * (1 << 20) + b"\r\n\r\n"), 431),
    (b"\x16\x03\x01\x02\x00", 400),
]


async def test_case_50_54_55_57_refusals_are_json_and_close(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for data, status in REFUSED:
            client = await node.connect()
            client.send(data, GET * 3)
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
            assert json.loads(answer.body)["errors"][0]["code"] in CODES
            assert await client.ended() == b""


#: the store's own sentences are for its operator, but for these two
TOLD = (errors.Refusal, store_errors.StoreReadOnly, store_errors.ContentLocked)


async def test_every_row_of_the_table_over_the_wire(tmp_path: Path) -> None:

    assert store_errors.StoreError in errors.TABLE
    async with serving(tmp_path, PARENT) as node:
        client = await node.connect()
        for kind, (status, code) in errors.TABLE.items():
            node.port.failure = kind("told" if issubclass(kind, TOLD) else "secret path")
            answer = await client.ask(f"/v2/a/manifests/{DIGEST}")
            assert answer.status == status
            (error,) = json.loads(answer.body)["errors"]
            assert (list(error), error["code"]) == (["code", "message", "detail"], code)
            assert answer.headers["content-length"] == str(len(answer.body))
            assert b"secret" not in answer.body
        node.port.failure = ValueError("secret")
        answer = await client.ask(f"/v2/a/manifests/{DIGEST}")
        assert (answer.status, b"secret" in answer.body) == (500, False)
        assert any("ValueError: secret" in str(event.get("exception")) for event in node.logs)


ROUTES = [
    Route(Noun.BASE),
    Route(Noun.MANIFEST, "a", "latest"),
    Route(Noun.BLOB, "a", DIGEST),
    Route(Noun.UPLOADS, "a"),
    Route(Noun.UPLOAD, "a", "session"),
    Route(Noun.TAGS, "a"),
    Route(Noun.REFERRERS, "a", DIGEST),
    Route(Noun.CATALOG),
    Route(Noun.TAG_HISTORY, "a", "latest"),
    Route(Noun.ATTRIBUTES, "a"),
    Route(Noun.ATTRIBUTES, "a", "latest"),
    Route(Noun.ATTRIBUTES, "a", DIGEST),
    Route(Noun.TOKEN),
    Route(Noun.GATEWAY, "plant", "config"),
    Route(Noun.API, "tokens"),
    Route(Noun.HEALTH),
    Route(Noun.READINESS),
]
VERBS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "PROPFIND"]


async def test_case_63_s15_every_method_on_every_route(tmp_path: Path) -> None:

    assert {route.noun for route in ROUTES} == set(Noun)
    async with serving(tmp_path) as node:
        node.put_manifest("a", BODY, "latest")
        client = await node.connect()
        for route in ROUTES:
            for method in VERBS:
                answer = await client.ask(build(route), method, X_HTTP_Method_Override="DELETE")
                if route.noun is Noun.API:  # the operator's, on a listener of its own
                    assert answer.status == 404
                    continue
                if route.noun is Noun.TOKEN and method == "POST":
                    assert answer.status == 400  # no form
                    continue
                if method in METHODS[route.noun]:
                    # a stranger may read and not write
                    assert answer.status in ((200, 401, 404) if method in READS else (401, 404))
                    continue
                assert answer.status == 405
                assert answer.headers["allow"] == ", ".join(METHODS[route.noun])
                if method != "HEAD":
                    assert json.loads(answer.body)["errors"][0]["code"] == "UNSUPPORTED"
        assert (await client.ask("/v2/a/manifests/latest")).body == BODY


async def test_case_58_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        bodies = [b"%d" % number for number in range(50)]
        targets = [node.put_manifest("a", body) for body in bodies]
        stream = b"".join(f"GET /v2/a/manifests/{t} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for t in targets)
        whole, cut = await node.connect(), await node.connect()
        whole.send(stream)
        for body in bodies:
            assert (await whole.answer()).body == body
        for at in range(0, len(stream), 17):
            cut.send(stream[at : at + 17])
            await asyncio.sleep(0)
        for body in bodies:
            assert (await cut.answer()).body == body


async def test_case_58_bodies_of_refused_requests_do_not_become_requests(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        client = await node.connect()
        inner = b"GET /v2/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        head = b"PUT /v2/a/manifests/b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(inner)
        chunked = b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.send(head + inner + chunked + b"%x\r\n" % len(inner) + inner + b"\r\n0\r\n\r\n" + GET)
        assert [(await client.answer()).status // 100 for _ in range(3)] == [4, 4, 2]


def upload_and_read(address: tuple[str, int], head: bytes, size: int) -> bytes:
    """A client that writes its whole body before it reads, as simple ones do."""
    with socket.create_connection(address) as sock:
        sock.settimeout(PATIENCE)
        sock.sendall(head)
        sent = 0
        while sent < size:
            try:
                sent += sock.send(b"x" * min(1 << 16, size - sent))
            except (BrokenPipeError, ConnectionResetError):
                break
        data = b""
        while chunk := sock.recv(65536):
            data += chunk
        return data


@pytest.mark.parametrize("framing", [b"Content-Length: 30000000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_case_59_a_client_with_a_large_body_gets_the_answer(tmp_path: Path, framing: bytes) -> None:
    async with serving(tmp_path) as node:
        head = b"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n"
        got = await asyncio.to_thread(upload_and_read, node.address, head, 30_000_000)
        assert got.startswith(b"HTTP/1.1 4")
        assert got.count(b"HTTP/1.1") == 1


async def test_case_57_expect_is_answered_without_reading(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        client = await node.connect()
        client.send(
            b"PUT /v2/a/manifests/b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
        )
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert await client.ended() == b""


async def test_http_1_0_and_close_end_the_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for data in (b"GET /v2/ HTTP/1.0\r\n\r\n", GET.replace(b"Host: a", b"Host: a\r\nConnection: close")):
            client = await node.connect()
            client.send(data)
            assert (await client.answer()).headers["connection"] == "close"
            assert await client.ended() == b""


async def test_case_61_62_any_accept_gets_the_stored_bytes(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        node.put_manifest("a", BODY, "latest")
        client = await node.connect()
        lines = [b"", b"Accept: a/b\r\nAccept: c/d\r\n", b"Accept: */*;q=0.1\r\n", b"Accept: a/b;q=0\r\n"]
        lines += [b"Accept: " + b"a/b," * 2500 + b"\r\n", b"Accept-Encoding: gzip\r\n"]
        for line in lines:
            client.send(b"GET /v2/a/manifests/latest HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n")
            answer = await client.answer()
            assert (answer.status, answer.body, "content-encoding" in answer.headers) == (200, BODY, False)


HOSTILE = [
    "/v2/a%2Fb/tags/list",
    "/v2/%2e%2e/tags/list",
    "/v2/a%00/tags/list",
    "//v2/",
    "/v2//a/tags/list",
    "/v2/%ff/x",
]
HOSTILE += [
    "/v2/../../etc/passwd",
    "/v2/a/blobs/sha256:../../x",
    "/v2/a%0a/tags/list",
    "/v2/a/tags/list?n=%zz",
    "/v2/x\\y/",
]


async def test_s20_s37_hostile_paths_are_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        client = await node.connect()
        for target in HOSTILE:
            answer = await client.ask(target)
            assert answer.status in (400, 404)
            assert (await client.ask("/v2/")).status == 200


async def test_s35_secrets_never_reach_the_log(tmp_path: Path) -> None:
    canary = "canary-4f1c"
    async with serving(tmp_path, PARENT) as node:
        node.put_manifest("a", BODY, "latest")
        client = await node.connect()
        headers = {"Authorization": f"Bearer {canary}", "Cookie": canary, "X-Token": canary}
        for target in (
            "manifests/latest",
            f"manifests/{DIGEST}",
            "tags/list",
            "referrers/sha256:x",
            "manifests/none",
        ):
            await client.ask(f"/v2/a/{target}?token={canary}&ns=&last={canary}", **headers)
        node.port.failure = ValueError("unplanned")
        await client.ask(f"/v2/b/manifests/latest?token={canary}", **headers)
        client.send(f"GET /v2/?{canary} HTTP/1.1\r\nAuthorization: {canary}\nX: {canary}\r\n\r\n".encode())
        await client.answer()
        node.server.flush_access()
        paths = [event["path"] for event in node.logs if event["event"] == "request answered"]
        assert paths[:3] == ["/v2/a/manifests/latest", f"/v2/a/manifests/{DIGEST}", "/v2/a/tags/list"]
        assert canary not in repr(node.logs)


async def test_a_client_that_closes_its_half_gets_its_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        digest = node.put_blob("a", b"x" * 5_000_000)
        client = await node.connect()
        client.send(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        client.writer.write_eof()
        assert len(await client.ended()) == 5_000_000


async def test_a_client_that_closes_its_half_gets_every_answer(tmp_path: Path) -> None:
    put = b"PUT /v2/a/manifests/b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    async with serving(tmp_path) as node:
        for last, status in ((GET, 200), (GET[:-2], None), (put + b"abc", 401), (put + b"abcd", 401)):
            client = await node.connect()
            client.send(GET * 40 + put + b"body" + GET + last)
            client.writer.write_eof()
            found = statuses(await client.ended())
            assert found == [200] * 40 + [401, 200] + ([status] if status else [])


async def test_case_17_many_clients_that_leave_early_leave_nothing_open(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        held = node.put_blob("a", b"x" * 5_000_000)
        coming = str(Digest.of(b"y" * 200_000))
        node.port.fills[coming] = ScriptedFill(b"y" * 200_000, landed=1000)
        for number in range(100):
            client = await node.connect(family=socket.AF_INET)
            digest = coming if number % 2 else held
            client.send(
                f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\nRange: bytes={number}-\r\n\r\n".encode()
            )
            await client.reader.read(number + 1)
            client.writer.transport.abort()
        async with patience():
            while node.server.statistics().connections or node.store.statistics().open_readers:
                await asyncio.sleep(0.01)
        assert node.port.fills[coming].closed == 50


async def test_case_58_small_and_large_answers_keep_their_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        large = bytes(3_000_000)
        small, blob = node.put_manifest("a", BODY), node.put_blob("a", large)
        middle = node.put_manifest("a", b" " * 20_000)
        targets = [
            f"manifests/{small}",
            f"blobs/{blob}",
            f"manifests/{small}",
            f"manifests/{middle}",
            f"blobs/{blob}",
        ]
        client = await node.connect()
        for _ in range(3):
            client.send(*(f"GET /v2/a/{target} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for target in targets))
        for _ in range(3):
            sizes = [len((await client.answer()).body) for _ in targets]
            assert sizes == [len(BODY), len(large), len(BODY), 20_000, len(large)]


SEEDS = [
    GET,
    GET.replace(b"GET", b"HEAD"),
    b"PUT /v2/a/manifests/b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /v2/a/manifests/latest?ns=x&a=%20 HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1,2-3\r\nIf-None-Match: *\r\n\r\n",
]
BITS = [
    b"\r\n",
    b"\n",
    b" ",
    b":",
    b"\0",
    b"Content-Length: 7\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"%",
    b"/",
    b"..",
]


def mutations(count: int) -> list[bytes]:
    """Requests with a few bytes changed, the same ones each time."""
    chance = random.Random(7)
    found = []
    for _ in range(count):
        data = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 2)] = chance.choice([*BITS, chance.randbytes(1)])
        found.append(bytes(data))
    return found


def statuses(stream: bytes) -> list[int]:
    """The status of every answer in a stream, which must be whole answers and nothing else."""
    found = []
    while stream:
        head, _, stream = stream.partition(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        found.append(int(head[9:12]))
        stream = stream[int(lines.get(b"content-length", 0)) :] if found[-1] != 304 else stream
    return found


async def test_case_58_mutated_requests_get_whole_answers_and_no_5xx(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        node.put_manifest("a", BODY, "latest")
        answered = 0
        for data in mutations(300):
            client = await node.connect()
            client.send(data.replace(b"HEAD", b"GET"))
            client.writer.write_eof()
            found = statuses(await client.ended())
            assert all(status < 500 or status == 505 for status in found), (data, found)
            answered += len(found)
            client.close()
        assert answered > 200
        assert not [event for event in node.logs if event["level"] == "error"]
