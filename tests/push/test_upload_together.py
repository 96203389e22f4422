"""Several requests on one session, several sessions of one blob, and connections that break off. The order of events
is the test's: it waits for what it can see, never for time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.config import LimitsSection
from holdfast.endpoint import upload as endpoint
from holdfast.push.session_writer import SessionWriter
from holdfast_core.digest import Digest
from support.patience import until
from support.pushing import OPEN, Registry, chunked, code, descriptors, request, running
from support.serving import Answer, Client
from support.stores import some_bytes
from support.uploads import UPLOADS, Session, begin, blob_files, digest_of, files, held, is_created

BODY = some_bytes(60_000)
DIGEST = digest_of(BODY)
HALF = 30_000


class Turns:
    """Counts the turns that ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended, real = 0, SessionWriter.release

        def release(turn: SessionWriter) -> None:
            real(turn)
            self.ended += 1

        monkeypatch.setattr(SessionWriter, "release", release)

    async def reach(self, count: int) -> None:
        """Wait until so many ended."""
        await until(lambda: self.ended >= count)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    return Turns(monkeypatch)


async def halfway(node: Registry, raw: bytes, cut: int) -> Client:
    """A client that sent all of a request but the last `cut` bytes, which the node has in place."""
    client = await node.connect()
    client.send(raw[:-cut])
    await until(lambda: max((p.stat().st_size for p in (node.data / "uploads").iterdir()), default=0) == HALF)
    return client


def is_busy(answer: Answer, session: Session) -> bool:
    return (
        (answer.status, code(answer)) == (416, "BLOB_UPLOAD_INVALID")
        and answer.headers["location"] == session.location
        and answer.headers["range"] == f"0-{HALF - 1}"
    )


@pytest.mark.parametrize("span", [f"0-{len(BODY) - 1}", ""])
async def test_case_22_of_two_patches_at_once_one_wins(tmp_path: Path, span: str) -> None:
    async with running(tmp_path) as node:
        session, headers = await begin(node), {"Content_Range": span} if span else {}
        raw = request("PATCH", session.location, BODY, **headers)
        first = await halfway(node, raw, HALF)
        assert is_busy(await session.sent(raw), session)
        assert is_busy(await session.patch(b"x", f"{HALF}-{HALF}"), session)
        first.send(raw[-HALF:])
        answer = await first.answer()
        assert (answer.status, answer.headers["range"]) == (202, f"0-{len(BODY) - 1}")
        assert is_created(await session.put(DIGEST), DIGEST)
        assert await held(node, BODY)


async def test_case_22_of_many_patches_at_once_one_wins(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        for start, end in pairwise(range(0, len(BODY) + 1, 10_000)):
            chunk = (BODY[start:end], f"{start}-{end - 1}")
            answers = await asyncio.gather(*(session.patch(*chunk) for _ in range(8)))
            assert sorted(answer.status for answer in answers) == [202] + [416] * 7
        assert is_created(await session.put(DIGEST), DIGEST)
        assert await held(node, BODY)


async def test_case_23_a_put_and_a_get_during_a_patch(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        raw = chunked("PATCH", session.location, [BODY[:HALF], BODY[HALF:]])
        first = await halfway(node, raw, HALF + len(b"0\r\n\r\n\r\n"))
        assert await session.offset() == HALF
        assert is_busy(await session.put(DIGEST), session)
        assert is_busy(await session.put(DIGEST, b"x"), session)
        first.send(raw[-HALF - len(b"0\r\n\r\n\r\n") :])
        assert (await first.answer()).status == 202
        assert is_created(await session.put(DIGEST), DIGEST)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_case_23_a_cancel_during_a_body(tmp_path: Path, method: str, turns: Turns) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        raw = request(method, session.target(DIGEST), BODY)
        first = await halfway(node, raw, HALF)
        assert (await node.ask("DELETE", session.location)).status == 204
        first.send(raw[-HALF:])
        answer = await first.answer()
        assert (answer.status, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert await session.offset() is None
        assert not await held(node, BODY)
        assert (files(node), blob_files(node), turns.ended) == ([], [], 1)


class Commits:
    """Holds back what a node asks of its keeper until the test lets it go."""

    def __init__(self, node: Registry, wanted: int = 1) -> None:
        self.asked = 0
        self._node, self._go = node, asyncio.Event()
        self._real = node.keeper.commit_upload
        setattr(node.keeper, "commit_upload", self._commit)  # noqa: B010

    async def _commit(self, *arguments: Any) -> None:
        self.asked += 1
        await self._go.wait()
        await self._real(*arguments)

    async def begun(self, count: int) -> None:
        """Wait until so many were asked for."""
        await until(lambda: self.asked == count)

    def go(self) -> None:
        """Let all go on."""
        self._go.set()


async def started(asked: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
    task = asyncio.create_task(asked)
    await asyncio.sleep(0)
    return task


Other = Callable[[Session], Coroutine[Any, Any, Answer]]
OTHERS: dict[str, Other] = {
    "patch": lambda session: session.patch(b"x"),
    "chunk": lambda session: session.patch(b"x", f"{len(BODY)}-{len(BODY)}"),
    "put": lambda session: session.put(DIGEST),
    "put with a body": lambda session: session.put(DIGEST, BODY),
}


@pytest.mark.parametrize("other", OTHERS)
async def test_case_23_nobody_writes_while_a_put_commits(tmp_path: Path, other: str) -> None:
    async with running(tmp_path) as node:
        session, commits = await begin(node), Commits(node)
        closing = await started(session.put(DIGEST, BODY))
        await commits.begun(1)
        answer = await OTHERS[other](session)
        assert (answer.status, answer.headers["range"]) == (416, f"0-{len(BODY) - 1}")
        assert await session.offset() == len(BODY)
        commits.go()
        assert is_created(await closing, DIGEST)
        assert await session.offset() is None
        assert (await OTHERS[other](session)).status == (201 if other == "put" else 404)  # it is done already
        assert await held(node, BODY)


async def test_case_23_a_cancel_before_the_commit_wins(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session, commits = await begin(node), Commits(node)
        closing = await started(session.put(DIGEST, BODY))
        await commits.begun(1)
        assert (await node.ask("DELETE", session.location)).status == 204
        assert await session.offset() is None
        commits.go()
        answer = await closing
        assert (answer.status, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert not await held(node, BODY)
        assert (files(node), blob_files(node)) == ([], [])


async def test_case_23_a_commit_before_the_cancel_wins(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        assert (await session.put(DIGEST, BODY)).status == 201
        assert (await node.ask("DELETE", session.location)).status == 404
        assert await held(node, BODY)


async def test_case_24_the_same_blob_by_many_sessions_is_stored_once(tmp_path: Path) -> None:
    count = 12
    async with running(tmp_path) as node:
        commits = Commits(node)
        names = [f"/v2/r{number % 3}/blobs/" for number in range(count)]
        sessions = [await begin(node, uploads=f"{name}uploads/") for name in names]
        closing = [await started(session.put(DIGEST, BODY)) for session in sessions]
        await commits.begun(count)
        assert len(files(node)) == count
        commits.go()
        for name, answer in zip(names, await asyncio.gather(*closing), strict=True):
            assert is_created(answer, DIGEST, name)
        assert (files(node), blob_files(node)) == ([], [DIGEST.partition(":")[2]])
        for name in sorted(set(names)):
            assert await held(node, BODY, blobs=name)
        assert not await held(node, BODY)


async def test_a_client_that_leaves_during_the_commit_has_pushed(tmp_path: Path, turns: Turns) -> None:
    async with running(tmp_path) as node:
        session, commits = await begin(node), Commits(node)
        client = await node.connect()
        client.send(request("PUT", session.target(DIGEST), BODY))
        await commits.begun(1)
        client.close()
        commits.go()
        await turns.reach(1)
        assert await held(node, BODY)
        assert files(node) == []


# -- connections that break off ------------------------------------------------------------------------

SHORT = some_bytes(40)


def decoded(raw: bytes) -> int:
    """Bytes of the body in the beginning of a chunked request."""
    rest, count = raw.partition(b"\r\n\r\n")[2], 0
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        count += min(int(size, 16), len(rest))
        rest = rest[int(size, 16) + 2 :]
    return count


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("framing", ["length", "chunked", "chunk with a range"])
async def test_case_29_a_connection_dropped_at_every_byte(
    tmp_path: Path, turns: Turns, method, framing
) -> None:
    """The session has exactly what arrived, says so, and goes on from there."""
    async with running(tmp_path, msgspec.structs.replace(OPEN, inline_bytes=0)) as node:
        digest = digest_of(SHORT)
        sample = await begin(node)
        target = sample.target(digest) if method == "PUT" else sample.location

        def raw(session: Session) -> bytes:
            to = target.replace(sample.location, session.location)
            if framing == "length":
                return request(method, to, SHORT)
            headers = {"Content_Range": f"0-{len(SHORT) - 1}"} if "range" in framing else {}
            return chunked(method, to, [SHORT[:7], SHORT[7:8], SHORT[8:]], **headers)

        whole = raw(sample)
        head = whole.index(b"\r\n\r\n") + 4
        for number, cut in enumerate(range(head, len(whole))):
            session = await begin(node)
            client, sent = await node.connect(), raw(session)[:cut]
            client.send(sent)
            await client.writer.drain()
            client.close()
            await turns.reach(2 * number + 1)
            there = cut - head if framing == "length" else decoded(sent)
            assert node.store.uploads.size(name_of(session)) == there
            assert await session.offset() == (there if there > 1 else 0)
            span = f"{there}-{len(SHORT) - 1}" if there < len(SHORT) else ""
            answer = await session.put(digest, SHORT[there:], span)
            assert is_created(answer, digest), (cut, answer)
        assert await held(node, SHORT)
        assert files(node) == [name_of(sample)]


def name_of(session: Session) -> str:
    return session.node.store.uploads.name(session.location.rpartition("/")[2], "a/b")


async def test_case_29_a_connection_dropped_in_a_single_post_leaves_nothing(
    tmp_path: Path, turns: Turns
) -> None:
    async with running(tmp_path) as node:
        before, target = node.dump(), f"{UPLOADS}?digest={DIGEST}"
        counted = request("POST", target, BODY), HALF
        unknown = chunked("POST", target, [BODY[:HALF], BODY[HALF:]]), HALF + len(b"0\r\n\r\n\r\n")
        for number, (raw, cut) in enumerate((counted, unknown)):
            (await halfway(node, raw, cut)).close()
            await turns.reach(number + 1)
            assert node.dump() == before


async def test_malformed_chunks_are_refused_and_rolled_back(tmp_path: Path, turns: Turns) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        assert (await session.patch(BODY[:HALF])).status == 202
        raw = chunked("PATCH", session.location, [BODY[HALF:-10]])[: -len(b"0\r\n\r\n")] + b"nonsense\r\n"
        answer = await session.sent(raw)
        assert (answer.status, code(answer)) == (400, "SIZE_INVALID")
        assert await session.offset() == HALF
        assert is_created(await session.put(DIGEST, BODY[HALF:]), DIGEST)
        assert turns.ended == 3


async def test_nothing_stays_open(tmp_path: Path, turns: Turns) -> None:
    """Descriptors, tasks and hash states after every way in which a turn can end."""
    async with running(tmp_path) as node:

        async def all_ways() -> None:
            ended = turns.ended
            session = await begin(node)
            raw = request("PATCH", session.location, BODY)
            (await halfway(node, raw, HALF)).close()
            await turns.reach(ended + 1)
            await session.patch(b"x", "0-0")
            await session.put(digest_of(b"wrong"))
            await session.put(DIGEST, BODY[HALF:])
            cancelled = await begin(node)
            await cancelled.patch(BODY)
            await node.ask("DELETE", cancelled.location)

        await all_ways()
        for client in node.clients:
            client.close()
        before, tasks = descriptors(), len(asyncio.all_tasks())
        for _ in range(5):
            await all_ways()
        await until(lambda: (descriptors(), len(asyncio.all_tasks())) == (before, tasks))
        assert len(node.node.push.hashes) == 0
        assert files(node) == []


async def test_a_turn_outlives_an_endpoint_that_is_given_up(tmp_path: Path, turns: Turns) -> None:
    """When the answer takes too long the client is told so; what was begun is finished all the same."""
    async with running(tmp_path) as node:
        session, commits = await begin(node), Commits(node)
        asked = request("PUT", session.target(DIGEST), BODY)
        client = await node.connect()
        client.send(asked)
        await commits.begun(1)
        (task,) = (t for t in asyncio.all_tasks() if "_answer_later" in repr(t.get_coro()))
        task.cancel()
        await asyncio.sleep(0)
        commits.go()
        await turns.reach(1)
        assert node.store.blobs.get("a/b", Digest.parse(DIGEST)) is not None


def test_every_endpoint_of_a_session_is_dispatched() -> None:
    from holdfast.endpoint import dispatch
    from holdfast.wire.routes import METHODS, Noun

    for noun in (Noun.UPLOAD, Noun.UPLOADS):
        for method in METHODS[noun]:
            assert dispatch.ENDPOINTS[noun, method] is endpoint.ENDPOINTS[noun, method]


async def test_case_60_a_client_that_stalls_is_told_and_what_it_sent_stays(tmp_path: Path) -> None:
    config = msgspec.structs.replace(OPEN, limits=LimitsSection(stall_timeout=3600.0))
    async with running(tmp_path, config) as node:
        session = await begin(node)
        client = await halfway(node, request("PATCH", session.location, BODY), HALF)
        answer = asyncio.ensure_future(client.answer())
        # the node looks at its connections now and then; here an hour later than the client's last byte
        while not answer.done():
            for connection in [*node.server._connections]:
                connection.check(asyncio.get_running_loop().time() + 3601)
            await asyncio.sleep(0.01)
        assert (await answer).status == 408
        assert await session.offset() == HALF
        assert is_created(await session.put(DIGEST, BODY[HALF:], f"{HALF}-{len(BODY) - 1}"), DIGEST)
