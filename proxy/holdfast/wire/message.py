"""A request as endpoints see it, and the reply they give. No sockets, no event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from holdfast.wire.routes import Noun, Route


class RequestBody(Protocol):
    """The body of the present request, as its endpoint reads it. An endpoint that does not read slows the client: with
    about 1 MiB unread its socket is not read.

    `length` is the Content-Length, None when the body is chunked. `received` counts the bytes handed out.

    An endpoint that reads a body is a coroutine. It has the answer timeout between two reads, and again from the end of
    the body to its answer, or the time that it sets by `Request.allow`. When the client disconnects, `read` raises: a
    request that changes content is not cancelled then, so that its change is completed or undone; its answer is
    dropped. GET and HEAD are cancelled. Every coroutine is cancelled after the answer timeout or the drain timeout.

    An answer before the end of the body is sent at once. Up to 64 KiB of the rest are read and dropped, and the
    connection stays open; with a longer rest it is closed so that the client can still read the answer.
    """

    @property
    def length(self) -> int | None: ...
    @property
    def received(self) -> int: ...
    async def read(self) -> bytes:
        """The next bytes, at most about 1 MiB, as soon as there are any; b"" at the end, then always.

        The first call sends 100 to a client that expects it (`Expect: 100-continue`). Raises `BodyBroken` (malformed
        chunks), `ClientGone` (after the last byte that arrived) or `RequestTimeout` (nothing, or under 1 KiB/s, for the
        stall timeout).
        """


def _nothing(seconds: float) -> None:
    """The `allow` of a request without a timer."""


class RequestNote(msgspec.Struct):
    """Facts on a request that are known only while it is answered. For the access log: the caller's token, and "hit" or
    "miss" of content ("" for other requests). For the hit lane: `use`, the repository and digest that the keeper was
    told of, and until when the answer stays right while the store has the same rows (wall seconds)."""

    user: str = ""
    cache: str = ""
    use: tuple[str, str] | None = None
    until: float = float("inf")

    def end(self, at: float) -> None:
        """The answer may be another one from then on."""
        self.until = min(self.until, at)


class Request(msgspec.Struct, frozen=True):
    """One parsed request head. `path` is decoded once; `query` holds every pair in order, decoded once.

    `headers` are (lower-case name, value) pairs in the order sent, repeated lines kept. `route` is the route of the
    path. `host` is the Host header without its port, lower case; `sni` the TLS server name or "". `certified`: the
    client has a certificate of `login.client_ca`. `body` is None without a body: neither Content-Length above 0 nor
    chunks. `caller` is a `holdfast.login.caller.Caller` where the endpoint needs the caller's identity, else None. An
    endpoint calls `allow` to give its answer so many seconds from now; a GET or HEAD always has the answer timeout.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    host: str = ""
    sni: str = ""
    client: str = ""
    secure: bool = False
    certified: bool = False
    route: Route = Route(Noun.BASE)
    body: RequestBody | None = None
    allow: Callable[[float], None] = _nothing
    caller: Any = None
    mended: int = 0
    note: RequestNote = msgspec.field(default_factory=RequestNote)

    def header(self, name: str) -> str | None:
        """The first value of a header, or None. `name` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def header_lines(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key == name]

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter, or None."""
        for key, value in self.query:
            if key == name:
                return value
        return None


class BodySource(Protocol):
    """Bytes of one blob, held or still arriving. Owned by the reply; the server closes it.

    `read_nowait` returns bytes from memory, or None; `read` may wait for a disk or for the link. Both return 1..length
    bytes from `offset`, never beyond the verified ones or, of a fill, beyond its hold-back. `read` raises
    `holdfast.errors.Refusal` or `holdfast_core.errors.StoreError` when the bytes are not available; the server then
    ends the body short of its Content-Length, by FIN. `lend` returns a descriptor and the number of bytes (1..length)
    from `offset` that may be sent from it, by the rules of `read_nowait`, or None. `distant`: a read may wait for the
    link; `arrived` then waits without reading, and raises as `read`.
    """

    size: int
    distant: bool

    def lend(self, offset: int, length: int) -> tuple[int, int] | None: ...
    def read_nowait(self, offset: int, length: int) -> bytes | None: ...
    async def arrived(self, offset: int) -> None: ...
    async def read(self, offset: int, length: int) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class BodyPiece:
    """A run of a multipart body: literal bytes, or a range [start, end) of the source."""

    literal: bytes = b""
    start: int = 0
    end: int = 0

    def __len__(self) -> int:
        return len(self.literal) if self.literal else self.end - self.start


@dataclass(slots=True)
class ReplyBody:
    """A body made of pieces of one source. `length` is the exact Content-Length."""

    source: BodySource
    pieces: Sequence[BodyPiece]
    length: int


@dataclass(slots=True)
class Reply:
    """Status, headers and body of an answer. Content-Length is added by the exchange from the body.

    `close`: end the connection after it. For HEAD only the length of the body is used.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | ReplyBody = b""
    close: bool = False

    def drop(self) -> None:
        """Close the source of a body that is not sent."""
        if isinstance(self.body, ReplyBody):
            self.body.source.close()
