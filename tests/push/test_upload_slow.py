"""A closing PUT that takes long, its answer that is lost, and a cancel that comes meanwhile: what a client is told is
what happened."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from holdfast.errors import KeeperAway
from holdfast.push.session_writer import STEP_SECONDS
from holdfast.server.request_body import AnswerTimer
from holdfast_core.digest import Digest
from holdfast_core.errors import UploadBusy
from support.patience import until
from support.pushing import Registry, code, request, running
from support.stores import push_file, put_file
from support.uploads import (
    BODY,
    DIGEST,
    HALF,
    SPAN,
    Session,
    begin,
    digest_of,
    files,
    half,
    held,
    is_created,
)

SMALL = b"small" * 20
SMALL_DIGEST = digest_of(SMALL)


class Timers:
    """What the answers of a node were allowed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allowed: list[float | None] = []
        self.last: AnswerTimer | None = None
        timers = self

        class Recorded(AnswerTimer):
            def allow(self, seconds: float | None) -> None:
                timers.allowed.append(seconds)
                timers.last = self
                super().allow(seconds)

        monkeypatch.setattr("holdfast.server.connection.AnswerTimer", Recorded)

    def left(self) -> float:
        """Seconds that the answer still has."""
        assert self.last is not None
        assert self.last.timeout is not None
        deadline = self.last.timeout.when()
        assert deadline is not None
        return deadline - asyncio.get_running_loop().time()


class Held:
    """One of the keeper's calls, held back until the test lets it go, perhaps to fail."""

    def __init__(self, node: Registry, method: str, failure: Exception | None = None) -> None:
        self.asked, self._go = 0, asyncio.Event()
        self._real, self._failure = getattr(node.keeper, method), failure
        setattr(node.keeper, method, self._call)

    async def _call(self, *arguments: Any) -> None:
        self.asked += 1
        await self._go.wait()
        if self._failure is not None:
            raise self._failure
        await self._real(*arguments)

    async def begun(self) -> None:
        """Wait until it was asked for."""
        await until(lambda: self.asked == 1)

    def go(self) -> None:
        """Let it go on."""
        self._go.set()


def name_of(session: Session) -> str:
    return session.node.store.uploads.name(session.location.rpartition("/")[2], "a/b")


async def with_body(node: Registry, body: bytes) -> Session:
    """A session that has all of it."""
    session = await begin(node)
    assert (await session.patch(body)).status == 202
    return session


# -- the answer timeout --------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [BODY, SMALL], ids=["file", "small"])
async def test_every_step_of_closing_has_its_own_time(tmp_path: Path, monkeypatch, body: bytes) -> None:
    """Each job of hashing, and then the commit: an upload of any length is answered by what becomes of it."""
    monkeypatch.setattr("holdfast.push.session_writer.JOB_BYTES", 10_000)
    timers = Timers(monkeypatch)
    async with running(tmp_path) as node:
        session = await with_body(node, body)
        node.node.push.hashes.forget(name_of(session))  # another worker had it, or this one before a restart
        timers.allowed.clear()
        assert is_created(await session.put(digest_of(body)), digest_of(body))
    jobs = -(-len(body) // 10_000)
    assert timers.allowed == [STEP_SECONDS] * (jobs + 1)


@pytest.mark.parametrize(
    ("body", "method"), [(BODY, "commit_upload"), (SMALL, "put_blob")], ids=["file", "small"]
)
@pytest.mark.parametrize("rest", [0, 10])
async def test_a_commit_is_not_cut_short_by_the_answer_timeout(
    tmp_path: Path, monkeypatch, body: bytes, method: str, rest: int
) -> None:
    timers = Timers(monkeypatch)
    async with running(tmp_path) as node:
        session, commit = await with_body(node, body[: len(body) - rest]), Held(node, method)
        closing = asyncio.create_task(session.put(digest_of(body), body[len(body) - rest :]))
        await commit.begun()
        assert timers.left() > 10 * node.node.config.limits.answer_timeout
        commit.go()
        assert is_created(await closing, digest_of(body))
        assert timers.last is not None
        timers.last.allow(1.0)  # too late for anything, and no error
        assert timers.last.timeout is None


# -- an answer that did not come -----------------------------------------------------------------------


async def test_a_put_that_was_done_is_done_again(tmp_path: Path) -> None:
    """Its answer was lost, or was a 503 while the commit went on."""
    async with running(tmp_path) as node:
        real, kept = node.keeper.commit_upload, []

        async def quiet(*arguments: Any) -> None:
            kept.append(arguments)
            (node.data / "uploads" / arguments[1]).rename(tmp_path / "taken")
            raise KeeperAway("no word")

        setattr(node.keeper, "commit_upload", quiet)  # noqa: B010
        session = await half(node)
        assert (await session.patch(BODY[HALF:], SPAN)).status == 202
        assert (await session.put(DIGEST)).status == 503
        (tmp_path / "taken").rename(node.data / "uploads" / kept[0][1])
        await real(*kept[0])
        setattr(node.keeper, "commit_upload", real)  # noqa: B010
        assert await session.offset() == len(BODY), "nobody could know that it would be done"
        for _ in range(2):
            assert is_created(await session.put(DIGEST), DIGEST)
            assert await session.offset() is None
        assert await held(node, BODY)


@pytest.mark.parametrize("earlier", ["none", "cached", "damaged"])
async def test_case_trust_1_a_keeper_that_was_killed_between_rename_and_commit_acknowledged_nothing(
    tmp_path: Path, earlier: str
) -> None:
    """The row that is there is of an earlier blob: one that may be dropped, or whose bytes are bad."""
    async with running(tmp_path) as node:
        if earlier == "cached":
            put_file(node.store, "a/b", BODY)
        elif earlier == "damaged":
            node.store.blobs.quarantine(push_file(node.store, "a/b", BODY).digest, 0, len(BODY)).result()
        real = node.keeper.commit_upload
        hex = DIGEST.removeprefix("sha256:")

        async def killed(repository: str, sealed: str, *rest: Any) -> None:
            (node.data / "uploads" / sealed).rename(node.data / "blobs" / "sha256" / hex[:2] / hex)
            raise KeeperAway("no word")

        setattr(node.keeper, "commit_upload", killed)  # noqa: B010
        session = await half(node)
        assert (await session.put(DIGEST, BODY[HALF:], SPAN)).status == 503
        assert await session.offset() == HALF
        setattr(node.keeper, "commit_upload", real)  # noqa: B010
        assert is_created(await session.put(DIGEST, BODY[HALF:], SPAN), DIGEST)
        blob = node.store.blobs.get("a/b", Digest.parse(DIGEST))
        assert blob is not None
        assert (blob.owned, node.store.blobs.is_whole(blob)) == (True, True)


async def test_a_put_of_no_session_is_done_only_where_the_blob_is_this_repositorys_own(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        assert is_created(await session.put(DIGEST, BODY), DIGEST)
        node.store.blobs.put_inline("a/b", Digest.of(b"cached"), b"cached", owned=False, now=1.0).result()
        elsewhere = Session(node, session.location.replace("/a/b/", "/other/"))
        no_id = Session(node, session.location[:-1])
        for raw in (
            request("PUT", session.target(DIGEST), BODY),
            request("PUT", session.target(digest_of(b"not here"))),
            request("PUT", session.target(digest_of(b"cached"))),
            request("PUT", elsewhere.target(DIGEST)),
            request("PUT", no_id.target(DIGEST)),
        ):
            answer = await session.sent(raw)
            assert (answer.status, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN"), raw[:200]


# -- a cancel during the PUT of a small blob -----------------------------------------------------------

WAYS = {"at once": (b"", SMALL), "after a patch": (SMALL, b""), "in two": (SMALL[:9], SMALL[9:])}


@pytest.mark.parametrize("way", WAYS)
async def test_case_23_a_cancel_after_a_small_commit_began_finds_no_session(tmp_path: Path, way: str) -> None:
    first, rest = WAYS[way]
    async with running(tmp_path) as node:
        session, commit = await begin(node), Held(node, "put_blob")
        if first:
            assert (await session.patch(first)).status == 202
        closing = asyncio.create_task(session.put(SMALL_DIGEST, rest))
        await commit.begun()
        assert (await node.ask("DELETE", session.location)).status == 404
        commit.go()
        assert is_created(await closing, SMALL_DIGEST)
        assert await held(node, SMALL)
        assert files(node) == []


def is_taken(node: Registry, session: Session) -> Callable[[], bool]:
    def taken() -> bool:
        try:
            node.store.uploads.open(name_of(session)).close()
        except UploadBusy:
            return True
        return False

    return taken


async def test_case_23_a_cancel_before_a_small_commit_wins(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session, client = await begin(node), await node.connect()
        raw = request("PUT", session.target(SMALL_DIGEST), SMALL)
        client.send(raw[:-9])
        await until(is_taken(node, session))
        assert (await node.ask("DELETE", session.location)).status == 204
        client.send(raw[-9:])
        answer = await client.answer()
        assert (answer.status, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert not await held(node, SMALL)
        assert files(node) == []


# -- a turn that nobody waits for ----------------------------------------------------------------------


async def test_a_turn_that_fails_after_its_request_was_given_up_is_told_to_the_log(tmp_path: Path) -> None:
    unretrieved: list[dict[str, Any]] = []
    async with running(tmp_path) as node:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unretrieved.append(context))
        session, commit = await begin(node), Held(node, "commit_upload", KeeperAway("went away"))
        client = await node.connect()
        client.send(request("PUT", session.target(DIGEST), BODY))
        await commit.begun()
        (task,) = (t for t in asyncio.all_tasks() if "_answer_later" in repr(t.get_coro()))
        task.cancel()
        await until(task.done)
        del task
        commit.go()
        await until(lambda: any(line["event"] == "push failed unseen" for line in node.logs))
        await until(lambda: not node.node.push._under_way)
        gc.collect()
        assert await session.offset() == 0
    assert unretrieved == []
