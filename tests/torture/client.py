"""A connection to a node, and content that is made from a seed: nothing needs to be kept to compare it."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

from holdfast.testing.random_content import GeneratedContent
from support.transfer import Answer, connect, target_of

#: What a client sees of a node that dies.
GONE = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Content:
    """`size` bytes from a seed."""

    size: int
    seed: str

    @property
    def digest(self) -> str:
        """sha256, as text."""
        return GeneratedContent(self.size, self.seed).digest

    def bytes(self, start: int = 0, end: int | None = None) -> bytes:
        """Bytes from `start` to `end`."""
        return GeneratedContent(self.size, self.seed).read(start, (self.size if end is None else end) - start)


class Unexpected(Exception):
    """An answer that no client should get."""


class Connection:
    """Keeps alive; one request at a time. `ask` raises what is in GONE when the node dies under it."""

    def __init__(self, url: str) -> None:
        self._http = connect(url)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> Answer:
        """One request; `chunked`: the body without its length."""
        sent = iter([body]) if chunked and body else body
        self._http.request(method, target, body=sent, headers=dict(headers or {}), encode_chunked=chunked)
        answer = self._http.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def expect(self, status: int, method: str, target: str, *args: object, **kwargs: object) -> Answer:
        """Like `ask`. Raises Unexpected for another status."""
        answer = self.ask(method, target, *args, **kwargs)  # type: ignore[arg-type]
        if answer.status != status:
            said = answer.body[:300].decode(errors="replace")
            raise Unexpected(f"{method} {target}: {answer.status}, not {status}: {said}")
        return answer

    def close(self) -> None:
        """Hang up."""
        self._http.close()


@dataclass
class Upload:
    """A session that was opened. `offset` is acknowledged, `sent` is the furthest byte that left."""

    repository: str
    target: str
    content: Content
    offset: int = 0
    sent: int = 0


class Uploads:
    """The sessions that are open as far as clients know. Thread-safe."""

    def __init__(self) -> None:
        self._open: list[Upload] = []
        self._lock = Lock()

    def begin(self, http: Connection, repository: str, content: Content) -> Upload:
        """POST."""
        begun = http.expect(202, "POST", f"/v2/{repository}/blobs/uploads/", b"")
        upload = Upload(repository, target_of(begun.headers["location"]), content)
        with self._lock:
            self._open.append(upload)
        return upload

    def append(self, http: Connection, upload: Upload, end: int, *, streamed: bool = False) -> None:
        """PATCH up to `end`."""
        start, upload.sent = upload.offset, max(upload.sent, end)
        span = {} if streamed else {"Content-Range": f"{start}-{end - 1}"}
        headers = {"Content-Type": "application/octet-stream", **span}
        body = upload.content.bytes(start, end)
        answer = http.expect(202, "PATCH", upload.target, body, headers, chunked=streamed)
        if answer.headers.get("range") != f"0-{end - 1}":
            raise Unexpected(f"PATCH to {end}: Range {answer.headers.get('range')!r}")
        upload.target, upload.offset = target_of(answer.headers["location"]), end

    def finish(self, http: Connection, upload: Upload) -> None:
        """PUT, with the bytes that are missing."""
        body = upload.content.bytes(upload.offset)
        upload.sent = upload.content.size
        joint = "&" if "?" in upload.target else "?"
        http.expect(201, "PUT", f"{upload.target}{joint}digest={upload.content.digest}", body)
        self.forget(upload)

    def forget(self, upload: Upload) -> None:
        """It is over."""
        with self._lock, suppress(ValueError):
            self._open.remove(upload)

    def open(self) -> list[Upload]:
        """All of them."""
        with self._lock:
            return list(self._open)


def fetched(answer: Answer, digest: str) -> bool:
    """Whether an answer's body is what the digest says."""
    return f"sha256:{hashlib.sha256(answer.body).hexdigest()}" == digest
