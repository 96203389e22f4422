"""Blobs over a real socket: the range table, several ranges, misses while they arrive, and damage."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from email.parser import BytesParser
from pathlib import Path

import msgspec
import pytest
from holdfast import errors
from holdfast.config import Configuration, FillsSection, ParentSection
from holdfast.fill.repair import UnstoredChunk
from holdfast.testing.port import ScriptedFill
from holdfast_core.digest import Digest
from support.patience import patience
from support.serving import Answer, Client, serving

PARENT = Configuration(
    parent=(ParentSection(url="http://parent.test"),), fills=FillsSection(holdback_bytes=64)
)
DATA = bytes(range(256)) * 8
LARGE = b"".join(i.to_bytes(4, "big") for i in range(700_000))


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


RANGES = [
    ("bytes=500-1499", 206, 500, 1500),
    ("bytes=500-", 206, 500, 2048),
    ("bytes=-500", 206, 1548, 2048),
    ("bytes=2000-5000", 206, 2000, 2048),
    ("bytes=500-0", 416, 0, 0),
    ("bytes=5000-10000", 416, 0, 0),
    ("bytes=-0", 416, 0, 0),
    ("bytes=2048-", 416, 0, 0),
    ("lines=0-1", 200, 0, 2048),
    ("bytes=1-2-3", 200, 0, 2048),
    ("bytes=0-0", 206, 0, 1),
    ("bytes=0-2047", 206, 0, 2048),
    ("bytes=-9999", 206, 0, 2048),
]


def check_range(answer: Answer, status: int, start: int, end: int) -> None:
    assert answer.status == status
    if status == 416:
        assert answer.headers["content-range"] == "bytes */2048"
        return
    assert answer.body == DATA[start:end]
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["accept-ranges"] == "bytes"
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/2048"
    else:
        assert "content-range" not in answer.headers


@pytest.mark.parametrize("inline", [0, 16384])
async def test_case_13_14_ranges_of_a_held_blob(tmp_path: Path, inline: int) -> None:
    async with serving(tmp_path, Configuration(inline_bytes=inline)) as node:
        digest = node.put_blob("a", DATA)
        client = await node.connect()
        for text, status, start, end in RANGES:
            check_range(await client.ask(f"/v2/a/blobs/{digest}", Range=text), status, start, end)


async def test_case_13_ranges_of_a_blob_on_its_way_in(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = digest_of(DATA)
        fill = node.port.fills[digest] = ScriptedFill(DATA)
        fill.verify()
        client = await node.connect()
        for text, status, start, end in RANGES:
            check_range(await client.ask(f"/v2/a/blobs/{digest}", Range=text), status, start, end)
        assert fill.closed == len(fill.readers) >= len([row for row in RANGES if row[1] != 416])


def parts_of(answer: Answer) -> list[tuple[str, str, bytes]]:
    message = BytesParser().parsebytes(
        f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode() + answer.body
    )
    assert message.is_multipart()
    payloads: list[tuple[str, str, bytes]] = []
    boundary = b"--" + str(message.get_boundary()).encode()
    for raw in answer.body.split(boundary)[1:-1]:
        head, _, body = raw.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        lines = dict(line.split(": ") for line in head.decode().split("\r\n"))
        payloads.append((lines["Content-Type"], lines["Content-Range"], body.removesuffix(b"\r\n")))
    return payloads


@pytest.mark.parametrize(("data", "inline"), [(DATA, 16384), (DATA, 0), (LARGE, 0)])
async def test_case_15_several_ranges_of_a_held_blob(tmp_path: Path, data: bytes, inline: int) -> None:
    async with serving(tmp_path, Configuration(inline_bytes=inline)) as node:
        digest, size = node.put_blob("a", data), len(data)
        answer = await node.ask(f"/v2/a/blobs/{digest}", Range=f"bytes=1000-1999,0-9,5-14,-3,{size - 5}-")
        runs = [(1000, 2000), (0, 10), (5, 15), (size - 3, size), (size - 5, size)]
        assert answer.status == 206
        assert "content-range" not in answer.headers
        assert parts_of(answer) == [
            ("application/octet-stream", f"bytes {a}-{b - 1}/{size}", data[a:b]) for a, b in runs
        ]


async def test_case_15_hundred_ranges_and_too_many(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = node.put_blob("a", DATA)
        client = await node.connect()
        hundred = ",".join(f"{i * 10}-{i * 10}" for i in range(100))
        assert len(parts_of(await client.ask(f"/v2/a/blobs/{digest}", Range=f"bytes={hundred}"))) == 100
        for text in (",".join(["0-0"] * 257), "0-,0-", "0-2000,1-2000"):
            answer = await client.ask(f"/v2/a/blobs/{digest}", Range=f"bytes={text}")
            assert (answer.status, answer.body) == (200, DATA)
        missing = digest_of(DATA + b"x")
        node.port.fills[missing] = ScriptedFill(DATA + b"x")
        for text in (",".join(["0-0"] * 257), "0-,0-"):
            answer = await client.ask(f"/v2/a/blobs/{missing}", Range=f"bytes={text}")
            assert answer.status == 400
            assert b'"UNSUPPORTED"' in answer.body


async def test_case_15_several_ranges_of_a_blob_on_its_way_in(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = digest_of(DATA)
        fill = node.port.fills[digest] = ScriptedFill(DATA, landed=1600)
        answer = await node.ask(f"/v2/a/blobs/{digest}", Range="bytes=1500-1599,0-9")
        assert [part[2] for part in parts_of(answer)] == [DATA[1500:1600], DATA[:10]]
        assert fill.readers == [(1500, 1600, False), (0, 10, False)]
        assert node.port.ranges == [(1500, 1600, False)]


async def test_case_16_if_range_empty_blob_and_two_lines(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        digest, empty = node.put_blob("a", DATA), node.put_blob("a", b"")
        client = await node.connect()
        for tag, status in (
            (f'"{digest}"', 206),
            (f'W/"{digest}"', 200),
            ('"x"', 200),
            ("Sat, 1 Jan 2000", 200),
        ):
            answer = await client.ask(f"/v2/a/blobs/{digest}", Range="bytes=0-9", If_Range=tag)
            assert answer.status == status
        assert (await client.ask(f"/v2/a/blobs/{empty}", Range="bytes=0-0")).status == 416
        suffix = await client.ask(f"/v2/a/blobs/{empty}", Range="bytes=-5")
        assert (suffix.status, suffix.body, suffix.headers["content-length"]) == (200, b"", "0")
        client.send(
            f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n".encode(), b"Range: bytes=0-1\r\n" * 2, b"\r\n"
        )
        assert (await client.answer()).status == 200


async def test_a_large_blob_cold_and_warm(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        digest = node.put_blob("a", LARGE)
        client = await node.connect()
        for _ in range(2):
            answer = await client.ask(f"/v2/a/blobs/{digest}")
            assert (answer.status, answer.body == LARGE) == (200, True)
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["cache-control"] == "max-age=31536000"
        assert node.store.statistics().open_readers == 0


def tells_what_is_in_memory(place: Path) -> bool:
    """Whether reads there can be asked not to wait (RWF_NOWAIT). tmpfs cannot: bodies are read on a thread."""
    (place / "probe").write_bytes(b"x")
    fd = os.open(place / "probe", os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP  # noqa: PT017
        return False
    finally:
        os.close(fd)


@pytest.mark.disk
async def test_verified_bytes_go_by_sendfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    sendfile = os.sendfile

    def counted(to: int, file: int, offset: int, length: int) -> int:
        sent.append(sendfile(to, file, offset, length))
        return sent[-1]

    monkeypatch.setattr("os.sendfile", counted)
    async with serving(tmp_path) as node:
        digest = node.put_blob("a", LARGE)
        client = await node.connect()
        assert (await client.ask(f"/v2/a/blobs/{digest}")).body == LARGE
        sent.clear()
        assert (await client.ask(f"/v2/a/blobs/{digest}")).body == LARGE
        # the first 64 KiB go out with the head; a busy socket may take some more by a write
        most = len(LARGE) - 65536 if tells_what_is_in_memory(tmp_path) else 0
        assert most // 2 <= sum(sent) <= most
        runs = [(100, 1_200_000), (0, 10), (2_000_000, 2_500_000)]
        text = ",".join(f"{start}-{end - 1}" for start, end in runs)
        several = parts_of(await client.ask(f"/v2/a/blobs/{digest}", Range=f"bytes={text}"))
        assert [part[2] for part in several] == [LARGE[start:end] for start, end in runs]


# -- misses ----------------------------------------------------------------------------------------


async def test_head_of_a_miss_asks_for_the_size_only(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = digest_of(DATA)
        node.port.fills[digest] = ScriptedFill(DATA)
        answer = await node.ask(f"/v2/a/blobs/{digest}", "HEAD")
        assert (answer.status, answer.headers["content-length"]) == (200, "2048")
        assert answer.headers["docker-content-digest"] == digest
        assert node.port.calls == {"blob_size": 1}


@pytest.mark.parametrize("condition", ['"{}"', 'W/"{}"', "{}", "*"])
async def test_a_condition_that_holds_on_a_miss_opens_no_fill(tmp_path: Path, condition: str) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = digest_of(DATA)
        node.port.fills[digest] = ScriptedFill(DATA)
        named = condition.format(digest)
        answer = await node.ask(f"/v2/a/blobs/{digest}", If_None_Match=named, Range="bytes=5-9")
        assert (answer.status, answer.body) == (304, b"")
        assert (answer.headers["etag"], node.port.calls) == (f'"{digest}"', {"blob_size": 1})
        unknown = await node.ask(
            f"/v2/a/blobs/{digest_of(b'x')}", If_None_Match=condition.format(digest_of(b"x"))
        )
        assert unknown.status == 404


async def test_a_condition_that_fails_on_a_miss_gets_the_blob(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = digest_of(DATA)
        node.port.fills[digest] = ScriptedFill(DATA)
        node.port.fills[digest].verify()
        answer = await node.ask(f"/v2/a/blobs/{digest}", If_None_Match=f'"{digest_of(b"x")}"')
        assert (answer.status, answer.body) == (200, DATA)


async def body_so_far(client: Client, size: int) -> bytes:
    async with patience():
        return await client.reader.readexactly(size)


async def test_s38_the_tail_of_a_whole_body_waits_for_the_digest(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = digest_of(DATA)
        for line in (b"", b"Range: bytes=0-\r\n", b"Range: bytes=0-2047\r\n", b"Range: bytes=100-\r\n"):
            fill = node.port.fills[digest] = ScriptedFill(DATA)
            client = await node.connect()
            client.send(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n".encode(), line, b"\r\n")
            head = await client.reader.readuntil(b"\r\n\r\n")
            start = 100 if b"100-" in line else 0
            assert f"Content-Length: {2048 - start}\r\n".encode() in head
            fill.grow(1000)
            assert await body_so_far(client, 1000 - start) == DATA[start:1000]
            fill.grow(2048)
            assert await body_so_far(client, 984) == DATA[1000:1984]
            assert fill.readers[0][2] is (start == 0)
            assert fill.readers[-1] == (0, 2048, True)
            assert len(fill.readers) == (1 if start == 0 else 2)
            assert client.reader._buffer == b""  # type: ignore[attr-defined]
            fill.verify()
            assert await body_so_far(client, 64) == DATA[1984:]


async def test_closed_and_suffix_ranges_do_not_wait_for_the_digest(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = digest_of(DATA)
        for line in ("bytes=10-99", "bytes=-2000", "bytes=1000-2047"):
            fill = node.port.fills[digest] = ScriptedFill(DATA, landed=2048)
            answer = await node.ask(f"/v2/a/blobs/{digest}", Range=line)
            assert (answer.status, answer.complete) == (206, True)
            assert fill.readers[0][2] is False


async def test_a_failed_fill_ends_the_body_short_and_by_fin(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = digest_of(DATA)
        fill = node.port.fills[digest] = ScriptedFill(DATA, landed=2048)
        client = await node.connect()
        request = f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        # a pipelined request that nobody will read: unread bytes are what makes Linux send RST
        client.send(request, request * 500)
        await client.reader.readuntil(b"\r\n\r\n")
        assert await body_so_far(client, 1984) == DATA[:1984]
        fill.fail(errors.ParentBroken("the digest does not match"))
        assert await client.ended() == b""
        assert fill.closed == 1


BLOB_FAILURES: list[tuple[Exception, int, bytes]] = [
    (errors.BlobUnknown("x"), 404, b"BLOB_UNKNOWN"),
    (errors.ParentDenied("x"), 404, b"BLOB_UNKNOWN"),
    (errors.ParentUnreachable("x"), 503, b"BLOB_UNKNOWN"),
    (errors.ParentBroken("x"), 502, b"BLOB_UNKNOWN"),
    (errors.ParentThrottled("x"), 429, b"TOOMANYREQUESTS"),
    (errors.KeeperAway("x"), 503, b"BLOB_UNKNOWN"),
]


async def test_a_blob_that_cannot_be_had(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        client = await node.connect()
        for failure, status, code in BLOB_FAILURES:
            node.port.failure = failure
            answer = await client.ask(f"/v2/a/blobs/{digest_of(DATA)}")
            assert answer.status == status
            assert b'"code":"%s"' % code in answer.body
            head = await client.ask(f"/v2/a/blobs/{digest_of(DATA)}", "HEAD")
            assert (head.status, head.lines) == (status, answer.lines)


async def test_a_client_that_leaves_is_told_to_the_keeper(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = digest_of(DATA)
        fill = node.port.fills[digest] = ScriptedFill(DATA, landed=100)
        clients = [await node.connect() for _ in range(20)]
        for client in clients:
            client.send(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\nRange: bytes=0-\r\n\r\n".encode())
            await client.reader.readuntil(b"\r\n\r\n")
            client.close()
        async with patience():
            while fill.closed < 20:
                await asyncio.sleep(0.01)
        assert node.server.statistics().connections == 0


# -- damage ----------------------------------------------------------------------------------------


def flip(path: Path, offset: int, old: bytes) -> None:
    """Change a byte of the one blob file below `path`."""
    (file,) = [f for f in (path / "store" / "blobs").glob("*/*/*") if f.is_file()]
    file.chmod(0o600)
    with file.open("r+b") as handle:
        handle.seek(offset)
        handle.write(bytes([old[offset] ^ 255]))


async def test_case_72_a_damaged_chunk_is_repaired_and_never_leaves(tmp_path: Path) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = node.put_blob("a", LARGE)
        flip(tmp_path, 1_500_000, LARGE)
        repairs: list[tuple[int, int]] = []

        async def repair(repository: str, text: str, start: int, end: int) -> None:
            assert (repository, text) == ("a", digest)
            repairs.append((start, end))
            with (file_of(tmp_path)).open("r+b") as handle:
                handle.seek(start)
                handle.write(LARGE[start:end])

        node.port.repair = repair  # type: ignore[method-assign,assignment]
        answer = await node.ask(f"/v2/a/blobs/{digest}")
        assert (answer.status, answer.complete, answer.body == LARGE) == (200, True, True)
        assert repairs == [(1 << 20, 2 << 20)]


@pytest.mark.parametrize("by_tag", [False, True])
@pytest.mark.parametrize("offline", [False, True])
async def test_case_72_a_damaged_manifest_is_repaired_and_never_leaves(
    tmp_path: Path, by_tag: bool, offline: bool
) -> None:
    async with serving(tmp_path, msgspec.structs.replace(PARENT, inline_bytes=0)) as node:
        body = b'{"schemaVersion":2}' + b" " * 5000
        digest = node.put_manifest("a", body, "latest")
        flip(tmp_path, 100, body)

        async def repair(repository: str, text: str, start: int, end: int) -> None:
            assert (repository, text, start, end) == ("a", digest, 0, len(body))
            if offline:
                raise errors.ParentUnreachable("offline")
            node.store.blobs.repair_chunk(Digest.parse(text), start, body).result()

        node.port.repair = repair  # type: ignore[method-assign,assignment]
        answer = await node.ask(f"/v2/a/manifests/{'latest' if by_tag else digest}")
        assert (answer.status, answer.body == body) == ((503, False) if offline else (200, True))


async def test_case_fault_9_a_damaged_manifest_passes_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    """Each of its chunks that is bad comes from the parent, through memory."""
    async with serving(tmp_path, msgspec.structs.replace(PARENT, inline_bytes=0)) as node:
        body = b'{"schemaVersion":2}' + b" " * (3 << 20)
        digest, asked = node.put_manifest("a", body, "latest"), []
        flip(tmp_path, 100, body)
        flip(tmp_path, (2 << 20) + 100, body)

        async def repair(repository: str, text: str, start: int, end: int) -> UnstoredChunk:
            asked.append(start)
            return UnstoredChunk(start, body[start:end])

        node.port.repair = repair  # type: ignore[method-assign,assignment]
        answer = await node.ask(f"/v2/a/manifests/{digest}")
        assert (answer.status, answer.body == body, asked) == (200, True, [0, 2 << 20])


def file_of(path: Path) -> Path:
    (file,) = [f for f in (path / "store" / "blobs").glob("*/*/*") if f.is_file()]
    return file


@pytest.mark.parametrize("failure", [errors.ParentUnreachable("offline"), None], ids=["refused", "useless"])
async def test_case_72_a_chunk_that_cannot_be_repaired_ends_the_body_short(
    tmp_path: Path, failure: Exception | None
) -> None:
    async with serving(tmp_path, PARENT) as node:
        digest = node.put_blob("a", LARGE)
        flip(tmp_path, 1_500_000, LARGE)
        node.port.failure = failure
        answer = await node.ask(f"/v2/a/blobs/{digest}")
        assert (answer.status, answer.complete) == (200, False)
        assert answer.body == LARGE[: 1 << 20]
        assert len(node.port.repairs) >= 1
        assert node.store.statistics().open_readers == 0


async def test_a_missing_file_is_a_miss(tmp_path: Path) -> None:
    async with serving(tmp_path / "online", PARENT) as node:
        digest = node.put_blob("a", LARGE)
        file_of(tmp_path / "online").unlink()
        answer = await node.ask(f"/v2/a/blobs/{digest}")
        assert (answer.status, b"BLOB_UNKNOWN" in answer.body) == (500, True)
        assert node.port.calls == {"blob": 1, "repair": 1}
    strict = msgspec.structs.replace(PARENT, on_miss="strict")
    async with serving(tmp_path / "strict", strict) as node:
        digest = node.put_blob("a", LARGE)
        file_of(tmp_path / "strict").unlink()
        answer = await node.ask(f"/v2/a/blobs/{digest}")
        assert (answer.status, b"BLOB_UNKNOWN" in answer.body) == (500, True)
