"""Mounts: a blob of another repository without its bytes, or an ordinary session; never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pushing import running
from support.stores import some_bytes
from support.uploads import BLOBS, UPLOADS, Session, begin, digest_of, held, is_created

SMALL, LARGE = some_bytes(600), some_bytes((3 << 20) + 77)


@pytest.mark.parametrize("body", [SMALL, LARGE])
async def test_case_31_mounts(tmp_path: Path, body: bytes) -> None:
    digest = digest_of(body)
    missing = digest_of(b"missing")
    async with running(tmp_path) as node:
        first = await begin(node, uploads="/v2/other/blobs/uploads/")
        assert is_created(await first.put(digest, body), digest, "/v2/other/blobs/")
        assert not await held(node, body)
        for query in (
            f"mount={missing}&from=other",
            f"mount={missing}",
            f"mount={digest}&from=nothing/here",
            f"mount={digest}&from=NOT..A-NAME",
            f"mount={digest}&from=a/b",
            f"mount={digest}&from=%2e%2e%2fother",
        ):
            answer = await node.ask("POST", f"{UPLOADS}?{query}", b"")
            assert answer.status == 202, (query, answer)
            session = Session(node, answer.headers["location"])
            assert await session.offset() == 0
            assert not await held(node, body)
        assert is_created(await session.put(missing, b"missing"), missing)
        for query in (f"mount={digest}&from=other", f"mount={digest}&from=a/b", f"mount={digest}"):
            answer = await node.ask("POST", f"{UPLOADS}?{query}", b"")
            assert is_created(answer, digest)
            assert answer.headers["location"] == BLOBS + digest
            assert await held(node, body)
        assert is_created(
            await node.ask("POST", f"/v2/c/blobs/uploads/?mount={digest}&from="), digest, "/v2/c/blobs/"
        )


async def test_case_31_a_mount_with_a_digest_falls_back_to_the_body(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        digest = digest_of(LARGE)
        target = f"{UPLOADS}?mount={digest}&from=other&digest={digest}"
        assert is_created(await node.ask("POST", target, LARGE), digest)
        assert await held(node, LARGE)
        assert is_created(await node.ask("POST", target.replace("from=other", "from=a/b"), b""), digest)


async def test_case_31_an_upload_that_is_not_closed_cannot_be_mounted(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await begin(node, uploads="/v2/other/blobs/uploads/")
        assert (await session.stream(LARGE)).status == 202
        answer = await node.ask("POST", f"{UPLOADS}?mount={digest_of(LARGE)}&from=other")
        assert answer.status == 202
