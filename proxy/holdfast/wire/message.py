"""A request as endpoints see it, and the reply they give. No sockets, no event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from holdfast.wire.routes import Noun, Route


class RequestBody(Protocol):
    """The body of the request in hand, as its endpoint reads it. Not reading stops the client: past about
    1 MiB that nobody took, its socket is left alone.

    `length` is the Content-Length, None when the body is chunked. `received` counts the bytes handed out.

    An endpoint that reads a body is a coroutine. It has the answer timeout between two reads, and again from
    the end of the body to its answer, or what it asks for by `Request.allow`. When the client leaves, it learns
    so from `read`, and only there: a request that changes something is not cancelled because its client is
    gone, so that what was begun is finished or undone; its answer is thrown away. GET and HEAD are cancelled.
    Every coroutine is cancelled when the answer timeout or the drain timeout has passed.

    An answer given before the end is sent at once. A rest of up to 64 KiB is dropped and the connection goes
    on; with a longer one the connection ends, in such a way that the client can read the answer.
    """

    @property
    def length(self) -> int | None: ...
    @property
    def received(self) -> int: ...
    async def read(self) -> bytes:
        """The next bytes, at most about 1 MiB, as soon as there are any; b"" at the end, then always.

        The first call tells a client that waits for it to go on (`Expect: 100-continue`). Raises
        `BodyBroken` (malformed chunks), `ClientGone` (after the last byte that came) or `RequestTimeout`
        (nothing, or under 1 KiB/s, for the stall timeout).
        """


def _nothing(seconds: float) -> None:
    """Nobody counts."""


class Request(msgspec.Struct, frozen=True):
    """One parsed request head. `path` is decoded once; `query` holds every pair in order, decoded once.

    `headers` are (lower-case name, value) pairs in the order sent, repeated lines kept.
    `route` is where the path leads. `host` is the Host header without its port, lower case; `sni` the TLS
    server name or "". `certified` says that the client proved a certificate of `login.client_ca`. `body` is None when
    there is none: neither Content-Length above 0 nor chunks. `caller` is a `holdfast.login.caller.Caller` where the
    endpoint wants to know whose request it is, else None.
    An endpoint at work that takes long, and can tell, says so by `allow`: the answer has as many seconds from
    now. A GET or HEAD has the answer timeout and no more.
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


class Source(Protocol):
    """Bytes of one blob, held or still arriving. Owned by the reply; the server closes it.

    `read_nowait` answers at once from memory or returns None; `read` may wait (for a disk or for the
    link). Both return 1..length bytes from `offset`, never beyond what was verified or, for a fill, what
    its hold-back rule lets go. `read` raises `holdfast.errors.Refusal` or `holdfast_core.errors.StoreError`
    when the bytes cannot be had; the server then ends the body short of its Content-Length, by FIN.
    `lend` names a descriptor and how many bytes (1..length) from `offset` may go out of it as they are, by
    the rules of `read_nowait`, or None. `distant` says that a read may wait for the link, not just for a disk;
    then `arrived` waits for it without reading, and raises as `read`.
    """

    size: int
    distant: bool

    def lend(self, offset: int, length: int) -> tuple[int, int] | None: ...
    def read_nowait(self, offset: int, length: int) -> bytes | None: ...
    async def arrived(self, offset: int) -> None: ...
    async def read(self, offset: int, length: int) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of a multipart body: literal bytes, or a range [start, end) of the source."""

    literal: bytes = b""
    start: int = 0
    end: int = 0

    def __len__(self) -> int:
        return len(self.literal) if self.literal else self.end - self.start


@dataclass(slots=True)
class Body:
    """A body made of pieces of one source. `length` is the exact Content-Length."""

    source: Source
    pieces: Sequence[Piece]
    length: int


@dataclass(slots=True)
class Reply:
    """Status, headers and body of an answer. Content-Length is added by the exchange from the body.

    `close` asks for the connection to end after it. For HEAD the body gives the length and is not sent.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | Body = b""
    close: bool = False

    def drop(self) -> None:
        """Let go of a body that is not sent."""
        if isinstance(self.body, Body):
            self.body.source.close()
