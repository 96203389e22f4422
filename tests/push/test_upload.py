"""Blobs pushed over a real socket: every form of the spec, and what is stored is what was sent."""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections import Counter
from itertools import product
from pathlib import Path

import msgspec
import pytest
from holdfast.config import PushSection
from holdfast_core.blob_files.upload_files import Uploads
from support.pushing import OPEN, Registry, chunked, code, request, running
from support.stores import some_bytes
from support.uploads import (
    BLOBS,
    UPLOADS,
    Session,
    begin,
    blob_files,
    digest_of,
    files,
    held,
    is_created,
    pieces,
)

SMALL, LARGE = some_bytes(600), some_bytes((3 << 20) + 77)
BODIES = {"none": b"", "one": b"x", "small": SMALL, "inline": some_bytes(16384), "file": some_bytes(16385)}
BODIES["large"] = LARGE


async def monolithic(node: Registry, body: bytes, digest: str) -> object:
    return await node.ask("POST", f"{UPLOADS}?digest={digest}", body)


async def post_put(node: Registry, body: bytes, digest: str) -> object:
    return await (await begin(node)).put(digest, body)


async def one_chunk(node: Registry, body: bytes, digest: str) -> object:
    session = await begin(node)
    answer = await session.patch(body, f"0-{len(body) - 1}" if body else "")
    assert (answer.status, answer.headers["range"]) == (202, f"0-{max(len(body) - 1, 0)}")
    return await session.put(digest, b"")


async def streamed(node: Registry, body: bytes, digest: str) -> object:
    session = await begin(node)
    answer = await session.stream(*(part for _, part in pieces(body, 70_000)))
    assert (answer.status, answer.headers["range"]) == (202, f"0-{max(len(body) - 1, 0)}")
    return await session.put(digest)


async def last_in_put(node: Registry, body: bytes, digest: str) -> object:
    session, step = await begin(node), max(1, len(body) // 3)
    *first, last = list(pieces(body, step)) or [("", b"")]
    for span, piece in first:
        assert (await session.patch(piece, span)).status == 202
    return await session.put(digest, last[1], last[0])


async def put_chunked(node: Registry, body: bytes, digest: str) -> object:
    return await (await begin(node)).put_stream(digest, *(p for _, p in pieces(body, 70_000)))


async def post_chunked(node: Registry, body: bytes, digest: str) -> object:
    parts = (p for _, p in pieces(body, 70_000))
    return await Session(node, "").sent(chunked("POST", f"{UPLOADS}?digest={digest}", parts))


async def mixed(node: Registry, body: bytes, digest: str) -> object:
    session, third = await begin(node), len(body) // 3
    assert (await session.stream(body[:third])).status == 202
    span = f"{third}-{2 * third - 1}" if third else ""
    assert (await session.patch(body[third : 2 * third], span)).status == 202
    return await session.put_stream(digest, body[2 * third :])


FORMS = [monolithic, post_put, one_chunk, streamed, last_in_put, put_chunked, post_chunked, mixed]


@pytest.mark.parametrize(("form", "kind"), list(product(FORMS, BODIES)))
async def test_case_32_every_form_and_size(tmp_path: Path, form, kind) -> None:
    body = BODIES[kind]
    async with running(tmp_path) as node:
        assert not await held(node, body)
        for algorithm in ("sha256", "sha512"):
            digest = digest_of(body, algorithm)
            assert is_created(await form(node, body, digest), digest)
            assert await held(node, body, digest)
        assert files(node) == []
        assert len(blob_files(node)) == (2 if len(body) > OPEN.inline_bytes else 0)


async def test_case_32_an_empty_blob_without_any_body(tmp_path: Path) -> None:
    empty = digest_of(b"")
    async with running(tmp_path) as node:
        target = f"{UPLOADS}?digest={empty}"
        session = await begin(node)
        raw = [request("POST", target), request("PUT", session.target(empty))]
        raw.append(chunked("PUT", (await begin(node)).target(empty), []))
        for bare in raw:
            assert is_created(await session.sent(bare), empty)
        assert files(node) == []


async def test_case_27_a_location_is_relative_and_its_id_random(tmp_path: Path) -> None:
    grammar = re.compile(re.escape(UPLOADS) + r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    async with running(tmp_path) as node:
        seen = {(await begin(node)).location for _ in range(30)}
        assert len(seen) == 30
        assert all(map(grammar.fullmatch, seen))
        ids = [int(location.rpartition("/")[2].replace("-", ""), 16) for location in seen]
        for bit in range(128):  # each bit is somewhere 0 and somewhere 1: none is fixed by a version
            assert len({number >> bit & 1 for number in ids}) == 2, bit
        assert not any(location.rpartition("/")[2] in name for name in files(node) for location in seen)


async def test_what_opening_says(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        for raw in (request("POST", UPLOADS), request("POST", UPLOADS, b""), request("POST", UPLOADS[:-1])):
            answer = await Session(node, "").sent(raw)
            assert (answer.status, answer.headers["range"]) == (202, "0-0")
            assert answer.headers["docker-upload-uuid"] == answer.headers["location"].rpartition("/")[2]


async def test_the_way_to_the_repository_stays_in_the_location(tmp_path: Path) -> None:
    """A client that came by `ns` comes back to the same repository by the locations it was given."""
    config = msgspec.structs.replace(OPEN, mode="ReadWrite")
    async with running(tmp_path, config, under_parent=True) as node:
        (parent,) = (name for name in node.node.router._namespaces)
        session = await begin(node, f"?ns={parent}")
        assert session.location.endswith(f"?ns={parent.replace(':', '%3A')}")
        answer = await session.patch(LARGE)
        assert answer.headers["location"] == session.location
        created = await session.put(digest_of(LARGE))
        assert created.headers["location"] == f"{BLOBS}{digest_of(LARGE)}?ns={parent.replace(':', '%3A')}"
        found = await node.ask("GET", created.headers["location"])
        assert (found.status, found.body) == (200, LARGE)


async def test_case_21_chunks_of_one_byte_and_empty_ones(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session, body = await begin(node), some_bytes(300)
        client = await node.connect()
        for at, byte in enumerate(body):
            client.send(request("PATCH", session.location, bytes([byte]), Content_Range=f"{at}-{at}"))
            answer = await client.answer()
            assert (answer.status, answer.headers["range"]) == (202, f"0-{at}")
            if at % 50 == 0:
                for empty in (await session.patch(b""), await session.stream(), await session.patch(None)):
                    assert (empty.status, empty.headers["range"]) == (202, f"0-{at}")
        assert is_created(await session.put(digest_of(body)), digest_of(body))


async def test_case_26_the_algorithm_is_a_hint(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        for hint, algorithm in product(("sha256", "sha512"), repeat=2):
            body = hint.encode() + algorithm.encode() + LARGE
            session = await begin(node, f"?digest-algorithm={hint}")
            assert f"digest-algorithm={hint}" in session.location
            for _, piece in pieces(body, 1 << 20):
                assert (await session.stream(piece)).status == 202
            digest = digest_of(body, algorithm)
            assert is_created(await session.put(digest), digest)
            assert await held(node, body, digest)


async def test_case_26_the_hint_saves_reading_the_bytes_again(tmp_path: Path, monkeypatch) -> None:
    again = []
    real = __import__("holdfast.push.session_writer", fromlist=["catch_up"]).catch_up

    async def counted(hasher, staging, *rest):
        again.append(staging.size - hasher.size)
        await real(hasher, staging, *rest)

    monkeypatch.setattr("holdfast.push.session_writer.catch_up", counted)
    async with running(tmp_path) as node:
        for query, algorithm in (("", "sha256"), ("?digest-algorithm=sha512", "sha512"), ("", "sha512")):
            session = await begin(node, query)
            for span, piece in pieces(LARGE, 1 << 20):
                assert (await session.patch(piece, span)).status == 202
            assert (await session.put(digest_of(LARGE, algorithm))).status == 201
        assert (await (await begin(node)).put(digest_of(LARGE, "sha512"), LARGE)).status == 201
    assert again == [0, 0, len(LARGE), 0]


async def test_a_session_goes_on_where_no_state_is_left(tmp_path: Path) -> None:
    """Another worker, or this one after a restart, has the file and nothing else."""
    async with running(tmp_path) as node:
        session = await begin(node)
        assert (await session.patch(LARGE[:1_500_000], "0-1499999")).status == 202
        (tmp_path / "location").write_text(session.location)
    async with running(tmp_path) as node:
        session = Session(node, (tmp_path / "location").read_text())
        assert await session.offset() == 1_500_000
        assert (await session.patch(LARGE[1_500_000:2_000_000], "1500000-1999999")).status == 202
        node.node.push.hashes.forget(files(node)[0])
        answer = await session.put(digest_of(LARGE), LARGE[2_000_000:], f"2000000-{len(LARGE) - 1}")
        assert is_created(answer, digest_of(LARGE))
        assert await held(node, LARGE)


async def test_any_content_type_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        for kind in ("application/octet-stream", "application/json", "text/plain; charset=x", ""):
            body = kind.encode()
            session = await begin(node)
            answer = await session.node.ask("PATCH", session.location, body, Content_Type=kind)
            assert answer.status == 202
            assert (await session.put(digest_of(body))).status == 201


async def test_case_61_a_coding_is_part_of_the_bytes(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        body = b"\x1f\x8b not really gzip"
        session = await begin(node)
        answer = await node.ask("PUT", session.target(digest_of(body)), body, Content_Encoding="gzip")
        assert is_created(answer, digest_of(body))
        assert await held(node, body)


async def test_case_57_expect_is_answered_before_the_body_and_not_when_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        client = await node.connect()
        head = f"PATCH {session.location} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        client.send(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        client.send(b"12345")
        assert (await client.answer()).status == 202
        client.send(head.encode() + b"Content-Range: 0-4\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.answer()).status == 416
        assert await session.offset() == 5


# -- the end of sessions -------------------------------------------------------------------------------


async def test_case_28_a_cancelled_session_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        assert (await session.stream(LARGE)).status == 202
        answer = await node.ask("DELETE", session.location + "?digest=whatever")
        assert (answer.status, answer.body) == (204, b"")
        assert files(node) == []
        for answer in (
            await node.ask("DELETE", session.location),
            await node.ask("GET", session.location),
            await session.patch(b"x"),
            await session.patch(b"x", "7-7"),
            await session.put(digest_of(LARGE)),
        ):
            assert (answer.status, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert not await held(node, LARGE)


@pytest.mark.parametrize("body", [SMALL, LARGE])
async def test_case_28_a_closed_session_is_gone(tmp_path: Path, body: bytes) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        assert (await session.put(digest_of(body), body)).status == 201
        for answer in (
            await session.put(digest_of(body), body),
            await session.patch(b"x"),
            await node.ask("DELETE", session.location),
            await node.ask("GET", session.location),
        ):
            assert (answer.status, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert await held(node, body)


async def test_case_28_an_expired_session_is_gone(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session, other = await begin(node), await begin(node)
        await session.stream(b"abc")
        await other.stream(b"abc")
        written = max(path.stat().st_mtime for path in (node.data / "uploads").iterdir())
        assert node.store.uploads.expire(before=written + 1) == 2
        for answer in (await node.ask("GET", session.location), await session.patch(b"x", "3-3")):
            assert (answer.status, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_s47_case_trust_23_one_client_does_not_take_all_sessions(tmp_path: Path) -> None:
    config = msgspec.structs.replace(OPEN, push=PushSection(sessions=100, sessions_by_client=3))
    async with running(tmp_path, config=config) as node:
        for _ in range(3):
            await begin(node)
            setattr(node.store.uploads, "_counted", (-1, Counter()))  # noqa: B010
        answer = await node.ask("POST", UPLOADS)
        assert (answer.status, code(answer), answer.headers["retry-after"]) == (429, "TOOMANYREQUESTS", "10")
        uploads = node.store.uploads
        # another client still pushes to the same repository: a limit by repository would shut it out
        assert uploads.has_room(100, uploads.client("token", "somebody"), 3)


async def test_case_trust_23_a_session_that_is_not_there_lists_nothing_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on, real = list[threading.Thread](), os.listdir

    def listed(directory: int) -> list[str]:
        on.append(threading.current_thread())
        return real(directory)

    monkeypatch.setattr(os, "listdir", listed)
    async with running(tmp_path) as node:
        session = await begin(node)
        gone = session.location.replace(session.location.rpartition("/")[2], str(uuid.uuid4()))
        on.clear()
        for method in ("GET", "PATCH", "DELETE", "PUT"):
            query = f"?digest={digest_of(b'x')}" if method == "PUT" else ""
            answer = await node.ask(method, gone + query, b"x" if method[0] == "P" else b"")
            assert (answer.status, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert len(on) >= 4
        assert threading.main_thread() not in on


async def test_case_trust_23_a_session_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        await session.stream(b"abc")
        uploads = node.data / "uploads"
        (now,) = uploads.iterdir()
        now.rename(uploads / Uploads.former_name(session.location.rpartition("/")[2], "a/b"))
        answer = await session.patch(b"def", "3-5")
        assert (answer.status, answer.headers["range"]) == (202, "0-5")


async def test_case_34_sessions_are_limited_and_the_limit_says_when_to_come_back(tmp_path: Path) -> None:
    config = msgspec.structs.replace(OPEN, push=PushSection(sessions=3))
    async with running(tmp_path, config) as node:
        # counted anew each time: the clock of the file system is too coarse here
        count = lambda: Counter(name[:8] for name in files(node))  # noqa: E731
        setattr(node.store.uploads, "_by_client", count)  # noqa: B010
        sessions = [await begin(node) for _ in range(3)]
        for target in (
            UPLOADS,
            f"{UPLOADS}?digest={digest_of(LARGE)}",
            f"{UPLOADS}?mount={digest_of(LARGE)}",
        ):
            answer = await node.ask("POST", target, LARGE if "?digest" in target else b"")
            assert (answer.status, code(answer)) == (429, "TOOMANYREQUESTS")
            assert int(answer.headers["retry-after"]) > 0
        small = await node.ask("POST", f"{UPLOADS}?digest={digest_of(SMALL)}", SMALL)
        assert small.status == 201  # needs no session
        assert (await sessions[0].put(digest_of(LARGE), LARGE)).status == 201
        await begin(node)


async def test_case_30_offsets_beyond_32_bits(tmp_path: Path) -> None:
    """A session of 4 GiB less 5 bytes, as a sparse file, goes on over the edge."""
    size = 2**32 - 5
    async with running(tmp_path) as node:
        session = await begin(node)
        os.truncate(node.data / "uploads" / files(node)[0], size)
        assert await session.offset() == size
        for start in range(size, size + 30, 3):
            answer = await session.patch(b"abc", f"{start}-{start + 2}")
            assert (answer.status, answer.headers["range"]) == (202, f"0-{start + 2}")
            low = start & 0xFFFFFFFF
            if low != start:
                assert (await session.patch(b"abc", f"{low}-{low + 2}")).status == 416
        assert await session.offset() == size + 30
        with (node.data / "uploads" / files(node)[0]).open("rb") as file:
            file.seek(size)
            assert file.read() == b"abc" * 10
        assert (await node.ask("DELETE", session.location)).status == 204
