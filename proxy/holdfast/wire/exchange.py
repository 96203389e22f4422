"""One connection's HTTP/1.1 without its socket: bytes in, `Request` out; `Reply` in, bytes out.

A request without a body is read by the head gate alone. One with a body is handed, head and all, to h11,
which owns the framing of bodies: a fresh h11 connection a message, so that no state outlives it. Answers
are written here, always with an exact length and never with a coding.

One request is in hand at a time. Bytes that arrive meanwhile wait; the server stops reading.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

import h11

from holdfast.config import Limits
from holdfast.errors import HeadInvalid, NodeFailed
from holdfast.wire import head as gate
from holdfast.wire import routes
from holdfast.wire.message import Body, Reply, Request

#: a refused body up to this long is read and dropped to keep the connection; a longer one ends it
DISCARD_BYTES = 64 * 1024


class Phase(StrEnum):
    """HEAD: a request head is awaited. ANSWER: a request is in hand. DISCARD: it was answered, the rest of
    its body is being dropped. OVER: nothing more will be read as a request."""

    HEAD = "head"
    ANSWER = "answer"
    DISCARD = "discard"
    OVER = "over"


#: What may follow what; anything else is a bug of this file.
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.HEAD: frozenset({Phase.ANSWER, Phase.OVER}),
    Phase.ANSWER: frozenset({Phase.HEAD, Phase.DISCARD, Phase.OVER}),
    Phase.DISCARD: frozenset({Phase.HEAD, Phase.OVER}),
    Phase.OVER: frozenset(),
}


class Answer(NamedTuple):
    """Bytes of the head, the body that follows (empty for HEAD), and whether the connection goes on."""

    head: bytes
    body: bytes | Body
    keep: bool


class Exchange:
    """The state of one connection. `client` is the peer's address, `sni` the TLS server name or ""."""

    __slots__ = ("_data", "_head", "_limits", "_message", "_seen", "client", "phase", "secure", "sni")

    def __init__(self, limits: Limits, *, client: str = "", secure: bool = False, sni: str = "") -> None:
        self._limits = limits
        self.client, self.secure, self.sni = client, secure, sni
        self.phase = Phase.HEAD
        self._data = b""
        self._seen = 0
        self._head: gate.Head | None = None
        self._message: h11.Connection | None = None

    @property
    def waiting(self) -> int:
        """Bytes received and not yet read as anything."""
        return len(self._data)

    @property
    def begun(self) -> bool:
        """Whether part of a head, or of a body being dropped, has come and the rest is awaited."""
        return self.phase is Phase.DISCARD or (self.phase is Phase.HEAD and bool(self._data))

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        if self.phase is not Phase.OVER:
            self._data = self._data + data if self._data else data

    def next_request(self) -> Request | None:
        """The next request, or None until more bytes come.

        Raises a `ClientMistake`: answer it like a request. After one about the head the connection is over.
        """
        if self.phase is Phase.DISCARD:
            self._discard()
        if self.phase is not Phase.HEAD or not self._data:
            return None
        head = self._read_head()
        if head is None:
            return None
        self._head = head
        self._go(Phase.ANSWER)
        if head.has_body:
            self._begin_message(head)
        else:
            self._data = self._data[head.size :]
        target = routes.read(head.target)
        return Request(
            head.method,
            target.path,
            target.query,
            head.headers,
            head.host,
            self.sni,
            self.client,
            self.secure,
            target.route,
        )

    def answer(self, reply: Reply, date: str, *, last: bool = False) -> Answer:
        """The bytes of `reply` to the request in hand, or to the head that was refused.

        `date` is the value of the Date header (RFC 9110 6.6.1). `last` ends the connection after it.
        """
        head = self._head
        keep = not (last or reply.close) and head is not None and head.keep_alive and self._body_passes(head)
        bare = (head is not None and head.method == "HEAD") or reply.status in (204, 304)
        encoded = encode_head(reply, date, keep)
        self._finish(keep)
        return Answer(encoded, b"" if bare else reply.body, keep)

    def _read_head(self) -> gate.Head | None:
        limits = self._limits
        try:
            end = gate.find_end(self._data, max(0, self._seen - 3), limits.head_bytes)
            if end < 0:
                self._seen = len(self._data)
                return None
            self._seen = 0
            return gate.parse(self._data, end, limits.target_bytes, limits.headers)
        except Exception:
            self._head = None
            self._go(Phase.OVER)
            raise

    def _begin_message(self, head: gate.Head) -> None:
        """Hand the message to h11; it reads the same head again and must find the same request."""
        self._message = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)
        data, self._data = self._data, b""
        self._message.receive_data(data)
        try:
            event = self._message.next_event()
        except h11.RemoteProtocolError as error:
            raise HeadInvalid("the request head is malformed") from error
        if not isinstance(event, h11.Request) or event.target != head.target.encode("ascii"):
            raise HeadInvalid("the request head is malformed")

    def _body_passes(self, head: gate.Head) -> bool:
        """Whether what is left of the request's body is little enough to read past."""
        if self._message is None:
            return True
        if head.expects:  # nobody knows whether the client sends the body after a final answer
            return False
        return self._drop_body() or (not head.chunked and head.length <= DISCARD_BYTES)

    def _finish(self, keep: bool) -> None:
        self._head = None
        if not keep:
            self._go(Phase.OVER)
            self._data = b""
            self._message = None
        else:
            self._go(Phase.HEAD if self._message is None else Phase.DISCARD)

    def _discard(self) -> None:
        data, self._data = self._data, b""
        if self._message is not None and data:
            self._message.receive_data(data)
            self._drop_body()
        if self._message is None:
            self._go(Phase.HEAD)

    def _drop_body(self) -> bool:
        """Read past what is here of the body; whether its end was reached. Broken framing never ends."""
        message = self._message
        assert message is not None
        if self._data:
            message.receive_data(self._data)
            self._data = b""
        try:
            while isinstance(event := message.next_event(), h11.Data):
                pass
        except h11.RemoteProtocolError:
            return False
        if not isinstance(event, h11.EndOfMessage):
            return False
        self._data = message.trailing_data[0]
        self._message = None
        return True

    def _go(self, phase: Phase) -> None:
        if phase is self.phase is Phase.OVER:
            return
        assert phase in TRANSITIONS[self.phase], (self.phase, phase)
        self.phase = phase


def encode_head(reply: Reply, date: str, keep: bool) -> bytes:
    """Status line and headers. Raises `NodeFailed` when a value could split the answer."""
    block = "\r\n".join([f"{name}: {value}" for name, value in reply.headers])
    lines = len(reply.headers)
    if lines:
        if (
            not block.isascii()
            or block.count("\n") != lines - 1
            or not block.replace("\r\n", "").isprintable()
        ):
            raise NodeFailed("a header value of the answer is not printable ASCII")
        block += "\r\n"
    body = reply.body
    # RFC 9110 8.6, 15.4.5: no length where there is no body by definition
    if reply.status not in (204, 304):
        block += f"Content-Length: {len(body) if isinstance(body, bytes) else body.length}\r\n"
    if not keep:
        block += "Connection: close\r\n"
    return f"{_opening(reply.status, date)}{block}\r\n".encode("ascii")


@lru_cache(64)
def _opening(status: int, date: str) -> str:
    """The status line and the headers that every answer carries (oci-spec 4.7)."""
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {date}\r\n"
        "Docker-Distribution-Api-Version: registry/2.0\r\n"
    )
