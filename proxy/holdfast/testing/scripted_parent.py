"""A parent registry in memory that counts, records, and misbehaves by script.

In a test: `async with ScriptedParent() as parent: …`. As a program, for benchmarks, fault tests and real
clients: `python -m holdfast.testing.scripted_parent --port 0 --sample demo --blob demo=1073741824`; its
first line of output is JSON with `url`, `port` and the digests; `GET /_control/stats`, and `POST`
`/_control/{script,reset,settings,blob,sample,expire}` steer it (see `ScriptedControl`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import quote

import msgspec

from holdfast.testing.fault import NO_FAULT, ScriptedFault
from holdfast.testing.random_content import GeneratedContent, HeldContent, ScriptedContent, digest_of
from holdfast.testing.sample import LAYER_BYTES, OCI_INDEX, Sample, build_sample
from holdfast.testing.scripted_token import Door
from holdfast.testing.scripted_wire import Recorded, ScriptedAnswer, ScriptedWire, Sent, WirePace

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
class ScriptedRepository:
    """One repository's links. A tag with several digests flips to the next at each request for it."""

    blobs: dict[str, ScriptedContent] = field(default_factory=dict)
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
        self.repositories: dict[str, ScriptedRepository] = {}
        self.door = Door()
        self.pace, self.latency, self.offline = WirePace(rate), 0.0, False
        self.ranges = self.referrers_api = self.catalogue = True
        self.etags: dict[str, str] = {}
        self.page_size, self.ratelimit = 0, ""
        self.faults: list[ScriptedFault] = []
        self.requests: Counter[tuple[str, str]] = Counter()
        self.log: list[Recorded] = []
        self.connections_made = 0
        self._sent = Sent()
        self._control = ScriptedControl(self)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    # ---- what it holds

    def repository(self, name: str) -> ScriptedRepository:
        """The repository of that name, made when missing."""
        return self.repositories.setdefault(name, ScriptedRepository())

    def add_blob(self, name: str, content: bytes | ScriptedContent) -> str:
        """Link content to a repository; returns its digest."""
        held = HeldContent(content) if isinstance(content, bytes) else content
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

    def script(self, *faults: ScriptedFault) -> ScriptedFault:
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
        wire = ScriptedWire(reader, writer)
        try:
            while (request := await wire.next_request()) is not None:
                if not await self._exchange(wire, request):
                    break
        except (ConnectionError, asyncio.CancelledError):
            wire.reset()
        finally:
            self._open.discard(task)
            await wire.close()

    async def _exchange(self, wire: ScriptedWire, request: Recorded) -> bool:
        if request.path.startswith("/_control/"):
            answer = self._control.serve(request)
            return await wire.send(request, answer, NO_FAULT, WirePace(), Sent())
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

    def _answer(self, request: Recorded, fault: ScriptedFault) -> tuple[ScriptedAnswer, ScriptedFault]:
        if fault.redirect:
            location = fault.redirect.format(path=request.path, query=request.query)
            return ScriptedAnswer(fault.status or 307, {"Location": location}), fault
        if fault.status:
            return ScriptedAnswer(fault.status, {}, HeldContent(fault.body.encode())), fault
        if request.path == "/token":
            return self.door.serve(request), fault
        route = ROUTE.fullmatch(request.path)
        scope = f"repository:{route['name']}:pull" if route else SCOPES.get(request.path, "")
        if not self.door.admits(request, scope):
            answer, lines = self.door.turn_away(request, scope, self.url)
            return answer, _with_lines(fault, lines)
        answer = self._route(request, fault, route)
        if self.ratelimit:
            answer.headers |= {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": self.ratelimit}
        return answer, fault

    def _route(self, request: Recorded, fault: ScriptedFault, route: re.Match[str] | None) -> ScriptedAnswer:
        if request.path in ("/v2/", "/v2"):
            return _json({})
        if request.path == "/v2/_catalog" and self.catalogue:
            names, link = self._page(sorted(self.repositories), request)
            answer = _json({"repositories": names})
            answer.headers |= link
            return answer
        repository = self.repositories.get(route["name"]) if route else None
        if route is None or repository is None:
            return _refusal("NAME_UNKNOWN")
        serve = {
            "manifests": self._manifest,
            "blobs": self._blob,
            "tags": self._tags,
            "referrers": self._referrers,
        }[route["kind"]]
        return serve(repository, route["reference"], request, fault)

    def _manifest(
        self, repository: ScriptedRepository, reference: str, request: Recorded, fault: ScriptedFault
    ) -> ScriptedAnswer:
        digest = repository.resolve(reference)
        if not digest:
            return _refusal("MANIFEST_UNKNOWN")
        held = repository.manifests[digest]
        headers = {"Content-Type": held.media_type, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}
        return ScriptedAnswer(200, headers, HeldContent(held.body), counted=digest)

    def _blob(
        self, repository: ScriptedRepository, digest: str, request: Recorded, fault: ScriptedFault
    ) -> ScriptedAnswer:
        content = repository.blobs.get(digest)
        if content is None:
            return _refusal("BLOB_UNKNOWN")
        etag = self.etags.get(digest, f'"{digest}"')
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest, "ETag": etag}
        answer = ScriptedAnswer(200, headers, content, counted=digest)
        byte_range = RANGE.fullmatch(request.header("range") or "")
        if (
            byte_range
            and self.ranges
            and not fault.ignore_range
            and request.header("if-range") in (None, etag)
        ):
            _narrow(answer, byte_range[1], byte_range[2], fault.shift)
        return answer

    def _tags(
        self, repository: ScriptedRepository, _: str, request: Recorded, fault: ScriptedFault
    ) -> ScriptedAnswer:
        name = request.path[len("/v2/") : -len("/tags/list")]
        names, link = self._page(sorted(repository.tags), request)
        answer = _json({"name": name, "tags": names})
        answer.headers |= link
        return answer

    def _referrers(
        self, repository: ScriptedRepository, subject: str, request: Recorded, fault: ScriptedFault
    ) -> ScriptedAnswer:
        if not self.referrers_api:
            return ScriptedAnswer(404, {"Content-Type": "text/plain"}, HeldContent(b"404 page not found\n"))
        named = {str(d["digest"]): d for d in _referrers_of(repository, subject)}
        page, link = self._page(sorted(named), request)
        descriptors = [named[digest] for digest in page]
        answer = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors})
        answer.headers |= {"Content-Type": OCI_INDEX, **link}
        return answer

    def _page(self, names: list[str], request: Recorded) -> tuple[list[str], dict[str, str]]:
        last, size = request.parameters().get("last", ""), self.page_size
        rest = [name for name in names if name > last]
        if not size or len(rest) <= size:
            return rest, {}
        link = f'<{request.path}?n={size}&last={quote(rest[size - 1])}>; rel="next"'
        return rest[:size], {"Link": link}


def _narrow(answer: ScriptedAnswer, first: str, last: str, shift: int) -> None:
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


def _referrers_of(repository: ScriptedRepository, subject: str) -> Iterable[dict[str, object]]:
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


def _with_lines(fault: ScriptedFault, lines: list[tuple[str, str]]) -> ScriptedFault:
    return ScriptedFault(times=0, repeat=[*fault.repeat, *lines], headers=fault.headers)


def _json(document: object) -> ScriptedAnswer:
    return ScriptedAnswer(
        200, {"Content-Type": "application/json"}, HeldContent(json.dumps(document).encode())
    )


def _refusal(code: str) -> ScriptedAnswer:
    body = json.dumps({"errors": [{"code": code, "message": code.lower(), "detail": ""}]}).encode()
    return ScriptedAnswer(404, {"Content-Type": "application/json"}, HeldContent(body))


SETTINGS = ("latency", "offline", "ranges", "referrers_api", "page_size", "ratelimit", "etags")


class ScriptedControl:
    """GET stats · POST script (a Fault, or a list) · reset · expire · settings · blob · sample.

    `stats`     {"requests": {"GET /v2/…": n}, "bytes": {digest: n}, "connections": n, "taken": [n a fault]}
    `settings`  any of SETTINGS, `rate` (bytes a second), and `door` ({"scheme": "bearer", …})
    `blob`      {"name", "size", "seed"} → {"digest"}
    `sample`    {"name", "tags", "layer_bytes"} → {"index", "images", "layers", "artifact"}
    `reset`     counts and script; `expire` every token given out
    """

    def __init__(self, parent: ScriptedParent) -> None:
        self._parent = parent

    def serve(self, request: Recorded) -> ScriptedAnswer:
        """Answer a control request; 400 with the reason when it cannot be understood."""
        verb = request.path.removeprefix("/_control/")
        calls: dict[str, Callable[[Any], object]] = {
            "stats": lambda _: self.stats(),
            "script": self._script,
            "reset": self._reset,
            "expire": lambda _: self._parent.door.expire(),
            "settings": self._settings,
            "blob": self._blob,
            "sample": self._sample,
        }
        try:
            result = calls[verb](json.loads(request.body or b"{}"))
        except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
            return ScriptedAnswer(400, {}, HeldContent(json.dumps({"error": repr(error)}).encode()))
        return ScriptedAnswer(
            200, {"Content-Type": "application/json"}, HeldContent(json.dumps(result or {}).encode())
        )

    def stats(self) -> dict[str, object]:
        """Everything counted so far."""
        parent = self._parent
        return {
            "requests": {f"{method} {path}": times for (method, path), times in parent.requests.items()},
            "bytes": dict(parent.bytes_sent),
            "connections": parent.connections_made,
            "taken": [fault.taken for fault in parent.faults],
        }

    def _script(self, order: Any) -> None:
        faults = msgspec.convert(order if isinstance(order, list) else [order], list[ScriptedFault])
        self._parent.faults.extend(faults)

    def _reset(self, _: Any) -> None:
        self._parent.reset_counts()
        self._parent.faults.clear()

    def _settings(self, order: dict[str, Any]) -> None:
        for name, value in order.items():
            if name == "rate":
                self._parent.pace.rate = float(value)
            elif name == "door":
                for key, setting in value.items():
                    setattr(self._parent.door, key, setting)
            elif name in SETTINGS:
                setattr(self._parent, name, value)
            else:
                raise ValueError(f"no setting {name}; there are {', '.join(SETTINGS)}, rate and door")

    def _blob(self, order: dict[str, Any]) -> dict[str, str]:
        content = GeneratedContent(int(order["size"]), str(order.get("seed", "holdfast")))
        return {"digest": self._parent.add_blob(order["name"], content)}

    def _sample(self, order: dict[str, Any]) -> dict[str, object]:
        small, large = order.get("layer_bytes", LAYER_BYTES)
        sample = build_sample(order["name"], layer_bytes=(small, large))
        first, *others = order.get("tags", ["latest"])
        for tag in others:
            self._parent.add_sample(order["name"], tag, sample)
        return describe(self._parent, order["name"], first, sample)


def describe(
    parent: ScriptedParent, name: str, tag: str = "latest", sample: Sample | None = None
) -> dict[str, object]:
    """Put a sample image (built when not given) into a repository and return its digests."""
    sample = parent.add_sample(name, tag, sample)
    return {
        "index": sample.index,
        "images": sample.images,
        "layers": sample.layers,
        "artifact": sample.artifact,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripted_parent", description=ScriptedControl.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--sample", action="append", default=[], metavar="NAME[:TAG]")
    parser.add_argument("--blob", action="append", default=[], metavar="NAME=SIZE[:SEED]")
    parser.add_argument(
        "--held", action="store_true", help="compute blobs beforehand and keep them in memory"
    )
    parser.add_argument("--rate", type=float, default=0.0, help="bytes a second over all connections")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--tls-cert", default="")
    parser.add_argument("--tls-key", default="")
    parser.add_argument("--script", default="", help="faults, JSON")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    tls = None
    if options.tls_cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.tls_cert, options.tls_key or None)
    parent = ScriptedParent(host=options.host, port=options.port, tls=tls, rate=options.rate)
    parent.latency = options.latency
    if options.script:
        parent.faults.extend(msgspec.json.decode(options.script, type=list[ScriptedFault]))
    hello = _fill(parent, options)
    await parent.start()
    print(json.dumps({"url": parent.url, "port": parent.port, **hello}), flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await parent.stop()


def _fill(parent: ScriptedParent, options: argparse.Namespace) -> dict[str, object]:
    samples, blobs = {}, {}
    for image in options.sample:
        name, _, tag = image.partition(":")
        samples[image] = describe(parent, name, tag or "latest")
    for definition in options.blob:
        name, _, rest = definition.partition("=")
        size, _, seed = rest.partition(":")
        content = GeneratedContent(int(size), seed or "holdfast")
        blobs[definition] = parent.add_blob(name, content.read(0, content.size) if options.held else content)
    return {"samples": samples, "blobs": blobs}


def main() -> None:
    """Run until SIGTERM or SIGINT. The first line on standard output is JSON."""
    asyncio.run(_run(_arguments()))


__all__ = ["GeneratedContent", "ScriptedFault", "ScriptedParent", "ScriptedRepository"]


if __name__ == "__main__":
    main()
