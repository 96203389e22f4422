"""A node beside its model (`support.model`): what must be so after a step, whatever it was."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import uvloop
from holdfast.config import Configuration
from holdfast.errors import CODES
from holdfast_core import Uploads, fsck, rebuild
from support.model import (
    DENIED,
    INDEX,
    INLINE_BYTES,
    MANIFEST_UNKNOWN,
    NAME_UNKNOWN,
    OCI_INDEX,
    REPOSITORIES,
    REPOSITORY,
    TAGS,
    Lockable,
    Model,
    Verdict,
    digest_of,
)
from support.pushing import UNCOUNTED, Registry, code, pushing, request
from support.serving import Answer, Client

T = TypeVar("T")
CONFIGURATION = Configuration(anonymous="push", inline_bytes=INLINE_BYTES, catalog=True)
#: everything everywhere is looked at after so many steps, and at the end
WHOLE_EVERY = 8
OK: Verdict = (200, "")


class Question(NamedTuple):
    """A GET, what it must be answered with, and what else is to be seen in an answer that is no refusal."""

    target: str
    verdict: Verdict
    check: Callable[[Answer], None]


class Compared:
    """One node, its data directory, and the model of it."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="model-http", dir="/dev/shm"))
        self.data = self.place / "data"
        self.loop = uvloop.new_event_loop()
        self.model = Model()
        #: (step, status) that were seen; 0 for each step that was taken
        self.seen: set[tuple[str, int]] = set()
        self.step = ""
        #: repositories that are to be looked at, and steps that were taken
        self.touched, self.taken = set(REPOSITORIES), 0
        self.start()

    def start(self) -> None:
        """The node begins, with what is in the directory."""
        self.stack = AsyncExitStack()
        self.node: Registry = self.do(self.stack.enter_async_context(pushing(self.data, CONFIGURATION)))
        self.line: Client = self.do(self.node.connect())

    def stop(self) -> None:
        """The node ends. May be called twice."""
        self.line.close()
        self.do(self.stack.aclose())

    def is_sound(self) -> bool:
        """Whether fsck, which reads every byte, finds nothing. Not while the node runs."""
        return fsck(self.data, (1, 1)).problems == []

    def discard(self) -> None:
        """Leave nothing behind."""
        self.stop()
        self.loop.close()
        shutil.rmtree(self.place)

    def take(self, name: str, given: dict[str, Any]) -> None:
        """One step, and everything that has to be so after it."""
        self.step = name
        self.seen.add((name, 0))
        getattr(self, name)(**given)
        self.taken += 1
        self.nothing_is_left_over()
        if self.taken % WHOLE_EVERY == 0:
            self.look_everywhere()
        self.everything_is_the_models()

    def look_everywhere(self) -> None:
        """All that can be asked for."""
        self.touched |= {*REPOSITORIES}
        self.everything_is_the_models()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """On the node's loop, which stands still in between."""
        return self.loop.run_until_complete(work)

    # --- asking ------------------------------------------------------------------------------------------

    def ask(self, method: str, raw: bytes) -> Answer:
        """One request on the connection that is kept."""
        return self.do(self._ask(method, raw))

    async def _ask(self, method: str, raw: bytes) -> Answer:
        self.line.send(raw)
        answer = await self.line.answer(method)
        if answer.headers.get("connection") == "close":
            assert await self.line.ended() == b""
            self.line = await self.node.connect()
        return answer

    def ask_together(self, asked: list[tuple[str, bytes]]) -> list[Answer]:
        """Many in one segment."""

        async def work() -> list[Answer]:
            self.line.send(*(raw for _, raw in asked))
            return [await self.line.answer(method) for method, _ in asked]

        return self.do(work())

    def sent(self, verdict: Verdict, method: str, raw: bytes) -> Answer:
        """A request that may change something; when it is refused nothing has changed (I4)."""
        before = self.state()
        answer = self.ask(method, raw)
        judge(answer, verdict)
        self.seen.add((self.step, answer.status))
        after = self.state()
        if answer.status >= 400:
            assert after == before
        elif after != before:
            target = raw.split(b" ", 2)[1].decode()
            self.touched |= {
                name for name in REPOSITORIES if target.startswith((f"/v2/{name}/", f"/acr/v1/{name}"))
            }
        return answer

    def state(self) -> dict[Any, Any]:
        """Every record but access times, and the files that there may be. (`sweep` looks for others.)"""
        found: dict[Any, Any] = {
            key: bytes(value)
            for key, value in self.node.store._index.scan(b"")
            if not key.startswith(UNCOUNTED)
        }
        files = {
            f"{d[:6]}/{d[7:9]}/{d[7:]}" for d, body in self.model.bodies.items() if len(body) > INLINE_BYTES
        }
        return found | self.upload_files() | {name: (self.data / "blobs" / name).exists() for name in files}

    def upload_files(self) -> dict[str, int]:
        """Staging files and their lengths."""
        with os.scandir(self.data / "uploads") as entries:
            return {entry.name: entry.stat().st_size for entry in entries}

    def sweep(self, expire: bool) -> None:
        """Bytes that nobody links go, and with `expire` every session."""
        self.do(self.node.keeper.parts.upkeep.sweep(0.0 if expire else 1e10, 0.0))
        if expire:
            self.model.sessions.clear()
        linked = {digest for _, digest in (*self.model.blobs, *self.model.manifests)}
        assert self.blob_files() == {d for d in linked if len(self.model.bodies[d]) > INLINE_BYTES}
        self.touched |= {*REPOSITORIES}

    def blob_files(self) -> set[str]:
        """Digests that have a file."""
        found = set()
        for algorithm in ("sha256", "sha512"):
            for folder in os.scandir(self.data / "blobs" / algorithm):
                found |= {f"{algorithm}:{name}" for name in os.listdir(folder)}
        return found

    def restart(self, anew: bool) -> None:
        """The node ends and begins again, perhaps with an index that had to be made anew."""
        self.stop()
        if anew:
            shutil.rmtree(self.data / "index")
            assert rebuild(self.data).problems == []
            self.model.sessions.clear()  # nobody knows any more whether the machine was restarted meanwhile
        self.start()
        self.touched |= {*REPOSITORIES}

    # --- what is there ---------------------------------------------------------------------------------------

    def nothing_is_left_over(self) -> None:
        """Every file of an upload is that of an open session (I9), of the length that it was said to have (I6)."""
        sessions = self.model.sessions.items()
        assert self.upload_files() == {
            Uploads.name(id, session.repository): len(session.data) for id, session in sessions
        }
        assert os.listdir(self.data / "fills") == []
        assert [event for event in self.node.logs if event["level"] in ("error", "critical")] == []

    def everything_is_the_models(self) -> None:
        """All that can be asked for in the repositories that a step was about, and now and then in all."""
        if not self.touched:
            return
        questions = list(self.questions(sorted(self.touched)))
        self.touched.clear()
        answers = self.ask_together([("GET", request("GET", question.target)) for question in questions])
        for question, answer in zip(questions, answers, strict=True):
            judge(answer, question.verdict, about=question.target)
            if answer.status < 400:
                question.check(answer)

    def questions(self, repositories: list[str]) -> Iterator[Question]:
        model = self.model
        yield Question("/v2/_catalog", OK, is_json({"repositories": model.repositories()}))
        for repository in repositories:
            rows = {"name": repository, "tags": model.listed_tags(repository)}
            yield Question(f"/v2/{repository}/tags/list", model.read_lists(repository), is_json(rows))
            for digest, body in model.bodies.items():
                at, verdict = f"/v2/{repository}/blobs/{digest}", model.read_blob(repository, digest)
                yield Question(at, verdict, is_content(digest, body, "application/octet-stream"))
            yield from self.manifest_questions(repository)
            yield from self.note_questions(repository)

    def manifest_questions(self, repository: str) -> Iterator[Question]:
        model = self.model
        for reference in (*model.bodies, *TAGS):
            verdict, digest = model.read_manifest(repository, reference)
            kind, body = model.manifests.get((repository, digest), ""), model.bodies.get(digest, b"")
            yield Question(f"/v2/{repository}/manifests/{reference}", verdict, is_content(digest, body, kind))

    def note_questions(self, repository: str) -> Iterator[Question]:
        """Referrers, attributes, history."""
        model, subject = self.model, digest_of(INDEX.body)
        for artifact_type in ("", "application/x"):
            query = f"?artifactType={artifact_type}" if artifact_type else ""
            rows = model.referrers(repository, subject, artifact_type)
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}
            verdict = DENIED if model.forbids("read", repository) else OK
            yield Question(f"/v2/{repository}/referrers/{subject}{query}", verdict, is_json(index))
        for target in (REPOSITORY, *(("tag", tag) for tag in TAGS), ("manifest", subject)):
            there, unknown = model.is_there(repository, target), MANIFEST_UNKNOWN
            verdict = OK if there else NAME_UNKNOWN if target == REPOSITORY else unknown
            yield Question(attributes(repository, target), verdict, self.attributes_are(repository, target))
        for tag in TAGS:
            moves = model.moves.get((repository, tag), [])
            at = f"/v2/{repository}/_holdfast/tag-history/{tag}"
            yield Question(at, model.read_history(repository, tag), is_history(moves))

    def attributes_are(self, repository: str, target: Lockable) -> Callable[[Answer], None]:
        wanted = self.model.lock(repository, target)

        def check(answer: Answer) -> None:
            found = json.loads(answer.body)
            found = found if target == REPOSITORY else found[target[0]]
            assert found["changeableAttributes"] == wanted

        return check


def attributes(repository: str, target: Lockable) -> str:
    kind, name = target
    return f"/acr/v1/{repository}" + (f"/_{kind}s/{name}" if name else "")


# --- answers -------------------------------------------------------------------------------------------------


def judge(answer: Answer, verdict: Verdict, method: str = "GET", about: str = "") -> None:
    """The status and the code that the model says, of the codes that there are."""
    assert answer.status < 500, (about, answer)
    said = code(answer) if answer.status >= 400 and method != "HEAD" else ""
    assert (answer.status, said or verdict[1]) == verdict, (method, about, answer)
    assert said in {*CODES, ""}


def is_blob(answer: Answer, repository: str, digest: str) -> None:
    assert answer.headers["docker-content-digest"] == digest
    assert urlsplit(answer.headers["location"]).path == f"/v2/{repository}/blobs/{digest}"


def is_content(digest: str, body: bytes, kind: str) -> Callable[[Answer], None]:
    def check(answer: Answer) -> None:
        assert answer.headers["docker-content-digest"] == digest
        assert answer.headers["content-type"] == kind
        assert answer.body == body
        assert digest_of(answer.body, digest.partition(":")[0]) == digest

    return check


def is_json(document: object) -> Callable[[Answer], None]:
    def check(answer: Answer) -> None:
        assert json.loads(answer.body) == document

    return check


def is_history(moves: list[str | None]) -> Callable[[Answer], None]:
    def check(answer: Answer) -> None:
        rows = json.loads(answer.body)
        assert [(row["digest"], row["origin"]) for row in rows] == [(digest, "local") for digest in moves]

    return check
