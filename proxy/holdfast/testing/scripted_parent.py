"""A parent registry in memory that counts, records, and misbehaves by script.

In a test: `async with ScriptedParent() as parent: …`. As a program, for benchmarks, fault tests and real
clients: `python -m holdfast.testing.scripted_parent --port 0 --sample demo --blob demo=1073741824`; its
first line of output is JSON with `url`, `port` and the digests; `GET /_control/stats`, and `POST`
`/_control/{script,reset,settings,blob,sample,expire}` steer it (see `ScriptedControl`).
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import quote

from holdfast.testing.content import Content, Generated, Held, digest_of
from holdfast.testing.fault import NO_FAULT, Fault
from holdfast.testing.sample import OCI_INDEX, Sample, build_sample
from holdfast.testing.scripted_control import ScriptedControl
from holdfast.testing.scripted_token import Door
from holdfast.testing.scripted_wire import Answer, Pace, Recorded, Sent, Wire

ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<reference>[^/]+)")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
SCOPES = {"/v2/_catalog": "registry:catalog:*"}
HEAD_LIMIT = 64 * 1024


@dataclass(slots=True)
class StoredManifest:
    """A manifest: its type and bytes."""

    media_type: str
    body: bytes


@dataclass(slots=True)
class Repository:
    """One repository's links. A tag with several digests flips to the next at each request for it."""

    blobs: dict[str, Content] = field(default_factory=dict)
    manifests: dict[str, StoredManifest] = field(default_factory=dict)
    tags: dict[str, list[str]] = field(default_factory=dict)

    def resolve(self, reference: str) -> str:
        """A digest for a tag or digest; "" when there is none."""
        if ":" in reference:
            return reference if reference in self.manifests else ""
        digests = self.tags.get(reference, [])
        if len(digests) > 1:
            digests.append(digests.pop(0))
            return digests[-1]
        return digests[0] if digests else ""


class ScriptedParent:
    """See the module. Every attribute may be changed while it runs.

    Counters: `requests[(method, path)]`, `bytes_sent[digest]`, `log` (every request, token ones too),
    `connections_made`. `script` adds a fault; faults are tried in the order added.
    `rate` (bytes a second over all connections, 0 = no limit) and `latency` (seconds before each answer)
    make a link. `offline` resets every connection; `stop` and `start` refuse them.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None, rate: float = 0.0
    ) -> None:
        self.host, self.port, self._tls = host, port, tls
        self.repositories: dict[str, Repository] = {}
        self.door = Door()
        self.pace, self.latency, self.offline = Pace(rate), 0.0, False
        self.ranges = self.referrers_api = self.catalogue = True
        self.etags: dict[str, str] = {}
        self.page_size, self.ratelimit = 0, ""
        self.faults: list[Fault] = []
        self.requests: Counter[tuple[str, str]] = Counter()
        self.log: list[Recorded] = []
        self.connections_made = 0
        self._sent = Sent()
        self._control = ScriptedControl(self)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    # ---- what it holds

    def repository(self, name: str) -> Repository:
        """The repository of that name, made when missing."""
        return self.repositories.setdefault(name, Repository())

    def add_blob(self, name: str, content: bytes | Content) -> str:
        """Link content to a repository; returns its digest."""
        held = Held(content) if isinstance(content, bytes) else content
        self.repository(name).blobs[held.digest] = held
        return held.digest

    def add_manifest(
        self, name: str, body: bytes, media_type: str, *tags: str, algorithm: str = "sha256"
    ) -> str:
        """Store a manifest and point tags at it; returns its digest. Nothing is checked."""
        digest = digest_of(body, algorithm)
        self.repository(name).manifests[digest] = StoredManifest(media_type, body)
        for tag in tags:
            self.repository(name).tags[tag] = [digest]
        return digest

    def add_sample(self, name: str, tag: str = "latest", sample: Sample | None = None) -> Sample:
        """Put a sample image (built when not given) into a repository; the tag points at its index."""
        sample = sample or build_sample(name)
        for body in sample.blobs.values():
            self.add_blob(name, body)
        for _, media_type, body in sample.manifests:
            self.add_manifest(name, body, media_type)
        self.repository(name).tags[tag] = [sample.index]
        return sample

    def script(self, *faults: Fault) -> Fault:
        """Add faults; returns the first."""
        self.faults.extend(faults)
        return faults[0]

    # ---- what it saw

    @property
    def bytes_sent(self) -> dict[str, int]:
        """Bytes of blob and manifest bodies handed to the kernel, by digest."""
        return self._sent.by_digest

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests matched: `method` "" is any, `path` a regular expression that is searched."""
        return sum(
            times
            for (seen, where), times in self.requests.items()
            if (not method or method == seen) and re.search(path, where)
        )

    def reset_counts(self) -> None:
        """Forget what was seen; keep what is held and the script."""
        self.requests.clear()
        self.log.clear()
        self._sent.by_digest.clear()

    # ---- life

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen; on the port it had before, if it was stopped."""
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, limit=HEAD_LIMIT, ssl=self._tls, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections and cut those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def __aenter__(self) -> ScriptedParent:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ---- serving

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections_made += 1
        wire = Wire(reader, writer)
        try:
            while (request := await wire.next_request()) is not None:
                if not await self._exchange(wire, request):
                    break
        except (ConnectionError, asyncio.CancelledError):
            wire.reset()
        finally:
            self._open.discard(task)
            await wire.close()

    async def _exchange(self, wire: Wire, request: Recorded) -> bool:
        if request.path.startswith("/_control/"):
            answer = self._control.serve(request)
            return await wire.send(request, answer, NO_FAULT, Pace(), Sent())
        if self.offline:
            wire.reset()
            return False
        self.requests[request.method, request.path] += 1
        self.log.append(request)
        fault = next((f for f in self.faults if f.takes(request.method, request.path)), NO_FAULT)
        if fault.gate is not None:
            await fault.gate.pass_through()
        if fault.delay or self.latency:
            await asyncio.sleep(fault.delay + self.latency)
        if fault.drop:
            await wire.close(reset=fault.reset)
            return False
        answer, fault = self._answer(request, fault)
        if fault.expire:
            self.door.expire()
        return await wire.send(request, answer, fault, self.pace, self._sent)

    def _answer(self, request: Recorded, fault: Fault) -> tuple[Answer, Fault]:
        if fault.redirect:
            place = fault.redirect.format(path=request.path, query=request.query)
            return Answer(fault.status or 307, {"Location": place}), fault
        if fault.status:
            return Answer(fault.status, {}, Held(fault.body.encode())), fault
        if request.path == "/token":
            return self.door.serve(request), fault
        found = ROUTE.fullmatch(request.path)
        scope = f"repository:{found['name']}:pull" if found else SCOPES.get(request.path, "")
        if not self.door.admits(request, scope):
            answer, lines = self.door.turn_away(request, scope, self.url)
            return answer, _with_lines(fault, lines)
        answer = self._route(request, fault, found)
        if self.ratelimit:
            answer.headers |= {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": self.ratelimit}
        return answer, fault

    def _route(self, request: Recorded, fault: Fault, found: re.Match[str] | None) -> Answer:
        if request.path in ("/v2/", "/v2"):
            return _json({})
        if request.path == "/v2/_catalog" and self.catalogue:
            names, link = self._page(sorted(self.repositories), request)
            answer = _json({"repositories": names})
            answer.headers |= link
            return answer
        repository = self.repositories.get(found["name"]) if found else None
        if found is None or repository is None:
            return _refusal("NAME_UNKNOWN")
        serve = {
            "manifests": self._manifest,
            "blobs": self._blob,
            "tags": self._tags,
            "referrers": self._referrers,
        }[found["kind"]]
        return serve(repository, found["reference"], request, fault)

    def _manifest(self, repository: Repository, reference: str, request: Recorded, fault: Fault) -> Answer:
        digest = repository.resolve(reference)
        if not digest:
            return _refusal("MANIFEST_UNKNOWN")
        held = repository.manifests[digest]
        headers = {"Content-Type": held.media_type, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
        return Answer(200, headers, Held(held.body), counted=digest)

    def _blob(self, repository: Repository, digest: str, request: Recorded, fault: Fault) -> Answer:
        content = repository.blobs.get(digest)
        if content is None:
            return _refusal("BLOB_UNKNOWN")
        etag = self.etags.get(digest, f'"{digest}"')
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest, "ETag": etag}
        answer = Answer(200, headers, content, counted=digest)
        asked = RANGE.fullmatch(request.header("range") or "")
        if asked and self.ranges and not fault.ignore_range and request.header("if-range") in (None, etag):
            _narrow(answer, asked[1], asked[2], fault.shift)
        return answer

    def _tags(self, repository: Repository, _: str, request: Recorded, fault: Fault) -> Answer:
        name = request.path[len("/v2/") : -len("/tags/list")]
        names, link = self._page(sorted(repository.tags), request)
        answer = _json({"name": name, "tags": names})
        answer.headers |= link
        return answer

    def _referrers(self, repository: Repository, subject: str, request: Recorded, fault: Fault) -> Answer:
        if not self.referrers_api:
            return Answer(404, {"Content-Type": "text/plain"}, Held(b"404 page not found\n"))
        named = {str(d["digest"]): d for d in _referrers_of(repository, subject)}
        page, link = self._page(sorted(named), request)
        found = [named[digest] for digest in page]
        answer = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found})
        answer.headers |= {"Content-Type": OCI_INDEX, **link}
        return answer

    def _page(self, names: list[str], request: Recorded) -> tuple[list[str], dict[str, str]]:
        last, size = request.parameters().get("last", ""), self.page_size
        rest = [name for name in names if name > last]
        if not size or len(rest) <= size:
            return rest, {}
        link = f'<{request.path}?n={size}&last={quote(rest[size - 1])}>; rel="next"'
        return rest[:size], {"Link": link}


def _narrow(answer: Answer, first: str, last: str, shift: int) -> None:
    size = answer.content.size
    start = int(first) if first else max(0, size - int(last or 0))
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        answer.status, answer.start, answer.end = 416, 0, 0
        answer.headers["Content-Range"] = f"bytes */{size}"
        return
    start += shift
    answer.status, answer.start, answer.end = 206, start, max(start, end)
    answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"


def _referrers_of(repository: Repository, subject: str) -> Iterable[dict[str, object]]:
    for digest, held in repository.manifests.items():
        try:
            document = json.loads(held.body)
        except ValueError:
            continue
        if isinstance(document, dict) and (document.get("subject") or {}).get("digest") == subject:
            yield {
                "mediaType": held.media_type,
                "digest": digest,
                "size": len(held.body),
                "artifactType": document.get("artifactType")
                or document.get("config", {}).get("mediaType", ""),
                "annotations": document.get("annotations", {}),
            }


def _with_lines(fault: Fault, lines: list[tuple[str, str]]) -> Fault:
    return Fault(times=0, repeat=[*fault.repeat, *lines], headers=fault.headers)


def _json(document: object) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, Held(json.dumps(document).encode()))


def _refusal(code: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": code.lower(), "detail": ""}]}).encode()
    return Answer(404, {"Content-Type": "application/json"}, Held(body))


__all__ = ["Fault", "Generated", "Repository", "ScriptedParent"]


if __name__ == "__main__":
    from holdfast.testing.scripted_control import main

    main()
