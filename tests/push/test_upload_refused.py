"""What an upload session refuses, and that a refusal leaves the session, its offset and the store as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pushing import chunked, code, request, running
from support.stores import some_bytes
from support.uploads import (
    BODY,
    DIGEST,
    HALF,
    SPAN,
    UPLOADS,
    Session,
    begin,
    digest_of,
    files,
    finishes,
    half,
    held,
    is_created,
    unchanged,
)

#: Content-Range of a request with 10 bytes, and its answer at offset 25,000
RANGES = {
    "bytes 25000-25009": (400, "BLOB_UPLOAD_INVALID"),
    "25000-25009/50000": (400, "BLOB_UPLOAD_INVALID"),
    "25000-": (400, "BLOB_UPLOAD_INVALID"),
    "-25009": (400, "BLOB_UPLOAD_INVALID"),
    "25009-25000": (400, "BLOB_UPLOAD_INVALID"),
    "25000 -25009": (400, "BLOB_UPLOAD_INVALID"),
    "25000-25008": (400, "SIZE_INVALID"),
    "25000-25010": (400, "SIZE_INVALID"),
    "0-9": (416, "BLOB_UPLOAD_INVALID"),
    "24990-24999": (416, "BLOB_UPLOAD_INVALID"),
    "24999-25008": (416, "BLOB_UPLOAD_INVALID"),
    "25001-25010": (416, "BLOB_UPLOAD_INVALID"),
    "9999999999999999990-9999999999999999999": (416, "BLOB_UPLOAD_INVALID"),
}


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_case_19_20_a_wrong_range_changes_nothing(tmp_path: Path, method: str) -> None:
    async with running(tmp_path) as node:
        session = await half(node)
        target = session.target(DIGEST) if method == "PUT" else session.location
        for span, expected in RANGES.items():
            for raw in (
                request(method, target, BODY[:10], Content_Range=span),
                chunked(method, target, [BODY[:4], BODY[4:10]], Content_Range=span),
            ):
                answer = await unchanged(node, session, raw)
                assert (answer.status, code(answer)) == expected, (span, answer)
                if answer.status == 416:
                    assert answer.headers["location"] == session.location
                    assert answer.headers["range"] == f"0-{HALF - 1}"
        await finishes(session)


async def test_case_19_two_ranges_and_one_that_comes_without_a_body(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await half(node)
        twice = f"25000-25009\r\nContent-Range: {SPAN}"
        for raw, expected in (
            (request("PATCH", session.location, BODY[:10], Content_Range=twice), "BLOB_UPLOAD_INVALID"),
            (request("PATCH", session.location, b"", Content_Range=SPAN), "SIZE_INVALID"),
            (request("PUT", session.target(DIGEST), Content_Range=SPAN), "SIZE_INVALID"),
            (chunked("PATCH", session.location, [], Content_Range=SPAN), "SIZE_INVALID"),
        ):
            answer = await unchanged(node, session, raw)
            assert (answer.status, code(answer)) == (400, expected)
        await finishes(session)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("count", [1, 24_999, 25_001, 200_000])
async def test_case_19_a_body_without_length_that_is_not_as_long_as_its_range(
    tmp_path: Path, method, count
) -> None:
    async with running(tmp_path) as node:
        session = await half(node)
        target = session.target(DIGEST) if method == "PUT" else session.location
        parts = [bytes(count)[at : at + 1000] for at in range(0, count, 1000)]
        answer = await unchanged(node, session, chunked(method, target, parts, Content_Range=SPAN))
        assert (answer.status, code(answer)) == (400, "SIZE_INVALID")
        await finishes(session)


async def test_case_20_the_dance_of_the_conformance_suite(tmp_path: Path) -> None:
    """Before each good chunk a wrong one, the last of them in a PUT, then a GET that keeps the digest."""
    body = some_bytes(3067)
    spans = [(0, 1024), (1024, 2048), (2048, 3067)]
    async with running(tmp_path) as node:
        session, digest = await begin(node), digest_of(body)
        for number, wrong in enumerate((1, 2, 0)):
            start, end = spans[wrong]
            span = f"{start}-{end - 1}"
            refused = (
                await session.put(digest, body[start:end], span)
                if end == len(body)
                else await session.patch(body[start:end], span)
            )
            assert (refused.status, refused.headers["location"]) == (416, session.location)
            so_far = f"0-{max(spans[number][0] - 1, 0)}"
            status = await node.ask("GET", session.target(digest))
            assert (status.status, status.headers["range"]) == (204, so_far)
            assert refused.headers["range"] == so_far
            start, end = spans[number]
            good = await session.patch(body[start:end], f"{start}-{end - 1}")
            assert (good.status, good.headers["range"]) == (202, f"0-{end - 1}")
        assert is_created(await session.put(digest, b""), digest)
        assert await held(node, body)


@pytest.mark.parametrize("rest", [BODY[HALF:], b""])
@pytest.mark.parametrize("whole", [False, True])
async def test_case_25_a_wrong_digest_leaves_the_session_as_it_was(
    tmp_path: Path, rest: bytes, whole: bool
) -> None:
    wrong = digest_of(b"oh no")
    async with running(tmp_path) as node:
        session = await begin(node) if whole else await half(node)
        body = BODY if whole and rest else rest
        for raw in (
            request("PUT", session.target(wrong), body),
            chunked("PUT", session.target(wrong), [body] if body else []),
        ):
            answer = await unchanged(node, session, raw)
            assert (answer.status, code(answer)) == (400, "DIGEST_INVALID")
        assert not await held(node, b"oh no")
        assert not await held(node, BODY)
        assert not await held(node, BODY[:HALF])
        if whole:
            assert is_created(await session.put(DIGEST, BODY), DIGEST)
        else:
            await finishes(session)


@pytest.mark.parametrize("body", [b"small", BODY])
async def test_case_25_31_33_a_single_post_with_a_wrong_digest_leaves_nothing(
    tmp_path: Path, body: bytes
) -> None:
    async with running(tmp_path) as node:
        before = node.dump()
        target = f"{UPLOADS}?digest={digest_of(b'oh no')}"
        for raw in (
            request("POST", target, body),
            chunked("POST", target, [body]),
            request("POST", target),
            request("POST", target, b""),
        ):
            answer = await Session(node, "").sent(raw)
            assert (answer.status, code(answer)) == (400, "DIGEST_INVALID")
            assert node.dump() == before
        session = await begin(node, f"?digest-algorithm=sha256&x={DIGEST}")
        assert is_created(await session.put(digest_of(body), body), digest_of(body))


#: `digest` parameters that are none this server takes
DIGESTS = {
    "": "DIGEST_INVALID",
    "digest": "DIGEST_INVALID",
    "digest=": "DIGEST_INVALID",
    "digest=sha256": "DIGEST_INVALID",
    "digest=sha256:": "DIGEST_INVALID",
    f"digest=sha256:{'a' * 63}": "DIGEST_INVALID",
    f"digest=SHA256:{'a' * 64}": "DIGEST_INVALID",
    f"digest=sha256:{'A' * 64}": "DIGEST_INVALID",
    f"digest=md5:{'a' * 32}": "DIGEST_INVALID",
    f"digest=sha384:{'a' * 96}": "DIGEST_INVALID",
    f"digest=blake3:{'a' * 64}": "DIGEST_INVALID",
    f"digest=sha256%2b:{'a' * 64}": "DIGEST_INVALID",
    f"digest={DIGEST}&digest={digest_of(b'')}": "DIGEST_INVALID",
    f"digest={DIGEST}%0a": "DIGEST_INVALID",
    f"digest={DIGEST.replace(':', '%253A')}": "DIGEST_INVALID",
}


async def test_case_12_26_a_put_without_a_digest_of_ours_can_be_repeated(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await half(node)
        for query, expected in DIGESTS.items():
            raw = request("PUT", f"{session.location}?{query}", BODY[HALF:], Content_Range=SPAN)
            answer = await unchanged(node, session, raw)
            assert (answer.status, code(answer)) == (400, expected), query
            if query:
                posted = await node.ask("POST", f"{UPLOADS}?{query}", BODY)
                assert (posted.status, code(posted)) == (400, expected), query
        for hint in ("md5", "SHA256", "sha256:", "%00"):
            posted = await node.ask("POST", f"{UPLOADS}?digest-algorithm={hint}", b"")
            assert (posted.status, code(posted)) == (400, "DIGEST_INVALID")
        mounted = await node.ask("POST", f"{UPLOADS}?mount=sha256:nonsense&from=other", b"")
        assert (mounted.status, code(mounted)) == (400, "DIGEST_INVALID")
        assert len(files(node)) == 1
        await finishes(session)


async def test_case_27_an_id_names_one_session_of_one_repository(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await half(node)
        id = session.location.rpartition("/")[2]
        flipped = id[:-1] + ("0" if id[-1] != "0" else "1")
        strangers = [
            f"/v2/a/c/blobs/uploads/{id}",
            f"/v2/a/b/c/blobs/uploads/{id}",
            *(f"{UPLOADS}{other}" for other in (flipped, id.upper(), id.replace("-", ""), f"{id}x", "x")),
            *(f"{UPLOADS}{other}" for other in (files(node)[0], "..%00", "%2e%2e", "lock", id + "%0a")),
        ]
        before = node.dump()
        for target in strangers:
            for method in ("GET", "PATCH", "PUT", "DELETE"):
                query = f"?digest={DIGEST}" if method == "PUT" else ""
                raw = request(method, target + query, None if method in ("GET", "DELETE") else b"x")
                answer = await session.sent(raw)
                assert answer.status == 404, (target, method)
                assert code(answer) in ("BLOB_UPLOAD_UNKNOWN", "UNSUPPORTED")
        assert node.dump() == before
        await finishes(session)


async def test_case_58_a_refusal_with_a_body_keeps_the_connection_in_step(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session, client = await half(node), await node.connect()
        client.send(request("PATCH", session.location, BODY[:10], Content_Range="0-9"))
        client.send(request("GET", session.location))
        client.send(request("PATCH", session.location, BODY[HALF:], Content_Range=SPAN))
        assert [(await client.answer()).status for _ in range(3)] == [416, 204, 202]
        assert is_created(await session.put(DIGEST), DIGEST)


async def test_case_59_a_refusal_of_a_long_body_reaches_the_client(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session, client = await half(node), await node.connect()
        head = request(
            "PATCH", session.location, Content_Range=f"0-{(1 << 30) - 1}", Content_Length=str(1 << 30)
        )
        client.send(head, bytes(4 << 20))
        answer = await client.answer()
        assert (answer.status, answer.headers["range"]) == (416, f"0-{HALF - 1}")
        await finishes(session)
