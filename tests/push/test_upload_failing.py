"""What this node cannot or may not do: a full disk, a keeper that fails, modes, rights and locks. The session survives
and nothing half-written stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.errors import KeeperAway, NodeFull
from holdfast_core.blob_files.upload_files import Staging
from holdfast_core.errors import Exhausted
from support.pushing import OPEN, chunked, code, request, running
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


class Disk:
    """A disk with room for so many more bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 62
        self.real = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, fd: int, data: memoryview, at: int) -> int:
        if "/uploads/" not in os.readlink(f"/proc/self/fd/{fd}"):  # the keeper's probe finds room
            return self.real(fd, data, at)
        if not self.room:
            raise OSError(errno.ENOSPC, "full")
        done = self.real(fd, data[: self.room], at)
        self.room -= done
        return done


@pytest.mark.parametrize("room", [0, 1, 10_000, 24_999])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_case_30_a_full_disk_is_said_and_the_session_survives(
    tmp_path, monkeypatch, method, room
) -> None:
    disk = Disk(monkeypatch)
    async with running(tmp_path) as node:
        session = await half(node)
        target = session.target(DIGEST) if method == "PUT" else session.location
        for raw in (
            request(method, target, BODY[HALF:], Content_Range=SPAN),
            chunked(method, target, [BODY[HALF:]]),
        ):
            disk.room = room
            answer = await unchanged(node, session, raw)
            assert (answer.status, code(answer)) == (507, "BLOB_UPLOAD_INVALID")
            assert int(answer.headers["retry-after"]) > 0
        disk.room = 1 << 62
        await finishes(session)


async def test_case_30_a_full_disk_leaves_nothing_of_a_single_post(tmp_path, monkeypatch) -> None:
    disk = Disk(monkeypatch)
    async with running(tmp_path) as node:
        before, disk.room = node.dump(), 30_000
        answer = await node.ask("POST", f"{UPLOADS}?digest={DIGEST}", BODY)
        assert (answer.status, code(answer)) == (507, "BLOB_UPLOAD_INVALID")
        assert node.dump() == before


async def test_case_30_a_body_for_which_there_is_no_room_is_not_read(tmp_path, monkeypatch) -> None:
    wanted = []

    def refuse(self: Staging, length: int) -> None:
        wanted.append(length)
        raise Exhausted("no room")

    monkeypatch.setattr(Staging, "reserve", refuse)
    async with running(tmp_path) as node:
        session = await half(node)
        head = request("PATCH", session.location, Content_Length=str(1 << 24), Expect="100-continue")
        answer = await unchanged(node, session, head)
        assert (answer.status, code(answer)) == (507, "BLOB_UPLOAD_INVALID")
        await finishes(session)
    assert wanted == [1 << 24]


@pytest.mark.parametrize("failure", [NodeFull("full"), KeeperAway("away"), RuntimeError("bug")])
@pytest.mark.parametrize("body", [BODY[:9000], BODY])
async def test_a_commit_that_fails_leaves_the_session(
    tmp_path: Path, failure: Exception, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as node:

        async def fail(*_: object) -> None:
            raise failure

        half = len(body) // 2
        session = await begin(node)
        assert (await session.patch(body[:half])).status == 202
        name = "put_blob" if len(body) < 16384 else "commit_upload"
        with monkeypatch.context() as patch:
            patch.setattr(node.keeper, name, fail)
            for rest in (body[half:], b""):
                answer = await unchanged(node, session, request("PUT", session.target(digest_of(body)), rest))
                refused = {NodeFull: 507, KeeperAway: 503, RuntimeError: 500}[type(failure)]
                assert answer.status == (refused if rest else 400)
        assert is_created(await session.put(digest_of(body), body[half:]), digest_of(body))


async def test_a_commit_whose_answer_was_lost_is_an_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        real = node.keeper.commit_upload

        async def lost(*arguments: Any) -> None:
            await real(*arguments)
            raise KeeperAway("the keeper went away")

        setattr(node.keeper, "commit_upload", lost)  # noqa: B010
        assert is_created(await (await begin(node)).put(DIGEST, BODY), DIGEST)
        assert files(node) == []
        assert await held(node, BODY)


async def test_a_file_that_the_keeper_took_and_kept_quiet_about_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit may still come: rolled back, the blob would be a torn one. The session goes on with a copy."""
    async with running(tmp_path) as node:
        taken = tmp_path / "taken"

        async def take(repository: str, name: str, *_: object) -> None:
            os.rename(node.data / "uploads" / name, taken)
            raise KeeperAway("the keeper went away")

        session = await half(node)
        with monkeypatch.context() as patch:
            patch.setattr(node.keeper, "commit_upload", take)
            answer = await session.put(DIGEST, BODY[HALF:], SPAN)
        assert (answer.status, code(answer)) == (503, "BLOB_UPLOAD_INVALID")
        assert await session.offset() == HALF
        await finishes(session)
        assert taken.read_bytes() == BODY
        assert files(node) == []


# -- modes and rights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"mode": "ReadOnly"}, 405), ({"anonymous": "pull"}, 401), ({"anonymous": "none"}, 401)],
)
async def test_uploads_where_pushes_are_not_taken(
    tmp_path: Path, changes: dict[str, str], status: int
) -> None:
    config = msgspec.structs.replace(OPEN, **changes)
    session = f"{UPLOADS}00000000-0000-0000-0000-000000000000"
    async with running(tmp_path, config) as node:
        before = node.dump()
        for raw in (
            request("POST", UPLOADS),
            request("POST", f"{UPLOADS}?digest={DIGEST}", BODY),
            request("POST", f"{UPLOADS}?mount={DIGEST}"),
            request("PATCH", session, BODY),
            request("PUT", f"{session}?digest={DIGEST}", BODY),
            request("DELETE", session),
        ):
            answer = await Session(node, "").sent(raw)
            assert answer.status == status, raw[:80]
        assert node.dump() == before


async def test_a_locked_repository_takes_no_new_upload_and_keeps_those_that_are_open(tmp_path: Path) -> None:
    """A client is told before it sends a layer."""
    async with running(tmp_path) as node:
        session, small = await half(node), await begin(node)
        await node.keeper.put_blob("a/b", digest_of(b"there"), b"there")
        await node.keeper.set_lock("a/b", "repository", "", (True, False, True, True))
        for raw in (
            request("PUT", session.target(DIGEST), BODY[HALF:], Content_Range=SPAN),
            request("PUT", small.target(digest_of(b"x")), b"x"),
            request("POST", UPLOADS),
            request("POST", f"{UPLOADS}?mount={digest_of(b'there')}"),
            request("POST", f"{UPLOADS}?digest={digest_of(b'x')}", b"x"),
            request(
                "POST", f"{UPLOADS}?digest={DIGEST}", None, Content_Length="50000", Expect="100-continue"
            ),
        ):
            answer = await unchanged(node, session, raw)
            assert (answer.status, code(answer)) == (405, "DENIED")
            assert "writeEnabled is false on the repository a/b" in answer.body.decode()
            assert answer.headers["allow"] is not None
        await node.keeper.set_lock("a/b", "repository", "", (True, True, True, True))
        await finishes(session)
