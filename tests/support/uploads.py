"""Upload sessions as a client has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from support.pushing import Registry, chunked
from support.serving import Answer
from support.stores import some_bytes

UPLOADS = "/v2/a/b/blobs/uploads/"
BLOBS = "/v2/a/b/blobs/"


def digest_of(body: bytes, algorithm: str = "sha256") -> str:
    """As clients write it."""
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


@dataclass
class Session:
    """One session at a node, by its location."""

    node: Registry
    location: str

    def target(self, digest: str = "") -> str:
        """The location, with `digest` if there is one, escaped as Go clients do."""
        glue = "&" if "?" in self.location else "?"
        return f"{self.location}{glue}digest={quote(digest, safe='')}" if digest else self.location

    async def patch(self, body: bytes | None, span: str = "") -> Answer:
        """A chunk with a length."""
        headers = {"Content_Range": span} if span else {}
        return await self.node.ask("PATCH", self.location, body, **headers)

    async def stream(self, *parts: bytes, span: str = "") -> Answer:
        """A chunk without one."""
        return await self.sent(chunked("PATCH", self.location, parts, **_span(span)))

    async def put(self, digest: str, body: bytes | None = None, span: str = "") -> Answer:
        """Close it."""
        return await self.node.ask("PUT", self.target(digest), body, **_span(span))

    async def put_stream(self, digest: str, *parts: bytes, span: str = "") -> Answer:
        """Close it with a body that has no length."""
        return await self.sent(chunked("PUT", self.target(digest), parts, **_span(span)))

    async def sent(self, raw: bytes) -> Answer:
        """A request of the test's own bytes."""
        client = await self.node.connect()
        client.send(raw)
        return await client.answer()

    async def offset(self) -> int | None:
        """How far it has come by its own word; None when it is not there. 0 also stands for 1."""
        answer = await self.node.ask("GET", self.location)
        if answer.status == 404:
            return None
        assert answer.status == 204
        assert answer.headers["location"] == self.location
        assert answer.headers["docker-upload-uuid"] in self.location
        last = int(answer.headers["range"].removeprefix("0-"))
        return last + 1 if last else 0


def _span(span: str) -> dict[str, str]:
    return {"Content_Range": span} if span else {}


async def begin(node: Registry, query: str = "", uploads: str = UPLOADS) -> Session:
    """POST."""
    answer = await node.ask("POST", uploads + query, b"")
    assert answer.status == 202, answer
    return Session(node, answer.headers["location"])


async def held(node: Registry, body: bytes, digest: str = "", blobs: str = BLOBS) -> bool:
    """Whether the blob is there; its bytes and headers are compared."""
    digest = digest or digest_of(body)
    head = await node.ask("HEAD", blobs + digest)
    answer = await node.ask("GET", blobs + digest)
    assert head.status == answer.status
    if answer.status == 404:
        return False
    assert answer.status == 200, answer
    assert answer.headers["docker-content-digest"] == digest
    assert (head.headers["content-length"], answer.body) == (str(len(body)), body)
    return True


def is_created(answer: Answer, digest: str, blobs: str = BLOBS) -> bool:
    """Whether it is the one answer to a blob that came in."""
    return (
        answer.status == 201
        and urlsplit(answer.headers["location"]).path == blobs + digest
        and answer.headers["docker-content-digest"] == digest
    )


def files(node: Registry) -> list[str]:
    """Staging files that are there."""
    return sorted(path.name for path in (node.data / "uploads").iterdir())


def blob_files(node: Registry) -> list[str]:
    """Blobs that lie in files of their own."""
    return sorted(path.name for path in (node.data / "blobs").glob("*/*/*"))


def pieces(body: bytes, step: int) -> Iterable[tuple[str, bytes]]:
    """(Content-Range, bytes) of each chunk."""
    for start in range(0, len(body), step):
        piece = body[start : start + step]
        yield f"{start}-{start + len(piece) - 1}", piece


#: what `half` has half of
BODY = some_bytes(50_000)
DIGEST = digest_of(BODY)
HALF = 25_000
SPAN = f"{HALF}-{len(BODY) - 1}"


async def half(node: Registry, query: str = "") -> Session:
    """A session that has the first half of BODY."""
    session = await begin(node, query)
    assert (await session.patch(BODY[:HALF], f"0-{HALF - 1}")).status == 202
    return session


async def unchanged(node: Registry, session: Session, raw: bytes) -> Answer:
    """The answer to a request after which everything is as before, seen on the disk and by GET."""
    before, offset = node.dump(), await session.offset()
    answer = await session.sent(raw)
    assert node.dump() == before
    assert await session.offset() == offset
    return answer


async def finishes(session: Session) -> None:
    """The session takes the other half, and the blob is whole."""
    assert is_created(await session.put(DIGEST, BODY[HALF:], SPAN), DIGEST)
    assert await held(session.node, BODY)
