"""One connection's HTTP/1.1 without its socket: bytes in, `Request` out; `Reply` in, bytes out.

A head is read by the head gate, and by h11 too when a body is announced. The body belongs to `wire.framing`, from
which the server takes it while the request is in hand. Answers are written here, always with an exact length and
never with a coding.

One request is in hand at a time. Bytes that arrive meanwhile wait; the server stops reading.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from holdfast.config import LimitsSection
from holdfast.errors import NodeFailed, TlsSpoken
from holdfast.wire import head as gate
from holdfast.wire import routes
from holdfast.wire.framing import Chunked, Counted, Framing
from holdfast.wire.message import Reply, ReplyBody, Request
from holdfast.wire.second_reader import require_agreement

#: what a reply left of a body is dropped up to this long, to keep the connection; a longer rest ends it
DISCARD_BYTES = 64 * 1024
#: how a TLS connection begins: a record of type "handshake", and the first byte of its version (RFC 8446 5.1)
TLS_HELLO = b"\x16\x03"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Phase(StrEnum):
    """HEAD: a request head is awaited. ANSWER: a request is in hand, its body may be on its way. DISCARD: it
    was answered, the rest of its body is being dropped. OVER: nothing more will be read as a request."""

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


class EncodedReply(NamedTuple):
    """Bytes of the head, the body that follows (empty for HEAD), and whether the connection stays open."""

    head: bytes
    body: bytes | ReplyBody
    keep: bool


class Exchange:
    """The state of one connection. `client` is the peer's address, `sni` the TLS server name or "", `certified` whether
    the peer proved a certificate.

    `body` is that of the request in hand, or what is being dropped of it; None when it has none. `raw_head` is the head
    of the request in hand as it was received, `unread` what was received and not read yet, but for a body.
    """

    __slots__ = (
        *("_head", "_invited", "_limits", "_seen"),
        *("body", "certified", "client", "phase", "raw_head", "secure", "sni", "unread"),
    )

    def __init__(
        self, limits: LimitsSection, *, client: str = "", secure: bool = False, sni: str = ""
    ) -> None:
        self._limits = limits
        self.client, self.secure, self.sni = client, secure, sni
        self.certified = False
        self.phase = Phase.HEAD
        self.body: Framing | None = None
        self.unread = self.raw_head = b""
        self._seen = 0
        self._invited = False
        self._head: gate.Head | None = None

    @property
    def waiting(self) -> int:
        """Bytes received and not yet read as anything."""
        body = self.body
        return len(self.unread) if body is None else body.waiting + len(body.tail)

    @property
    def begun(self) -> bool:
        """Whether part of a head, or of a dropped body, has arrived and the rest is awaited."""
        return self.phase is Phase.DISCARD or (self.phase is Phase.HEAD and bool(self.unread))

    def skip(self, size: int) -> None:
        """The first `size` bytes of `unread` were a whole request without a body, and its answer is sent."""
        self.unread = self.unread[size:]
        self._seen = 0

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        if self.phase is Phase.OVER:
            return
        if self.body is not None:
            self.body.feed(data)
        else:
            self.unread = self.unread + data if self.unread else data

    def next_request(self) -> Request | None:
        """The next request, or None until more bytes arrive.

        Raises a `ClientMistake`: answer it like a request. After one about the head the connection is over.
        """
        if self.phase is Phase.DISCARD:
            self._discard()
        if self.phase is not Phase.HEAD or not self.unread:
            return None
        head = self._read_head()
        if head is None:
            return None
        self._head = head
        self._go(Phase.ANSWER)
        self.raw_head = self.unread[: head.size]
        rest = self.unread[head.size :]
        self.body = self._framing(head, rest) if head.has_body else None
        self.unread = rest if self.body is None else b""
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
            self.certified,
            target.route,
        )

    def invite(self) -> bytes:
        """What to send before the body of the request in hand is waited for: 100 Continue, once, when the
        client waits for it (RFC 9110 10.1.1)."""
        head, body = self._head, self.body
        if head is None or body is None or not head.expects or self._invited or body.begun:
            return b""
        self._invited = True
        return CONTINUE

    def answer(self, reply: Reply, date: str, *, last: bool = False) -> EncodedReply:
        """The bytes of `reply` to the request in hand, or to the head that was refused.

        `date` is the value of the Date header (RFC 9110 6.6.1). `last` ends the connection after it.
        """
        head = self._head
        keep = not (last or reply.close) and head is not None and head.keep_alive and self._body_passes(head)
        # the refused head is still in the buffer: RFC 9110 9.3.2 applies to a malformed HEAD, too
        heading = head.method == "HEAD" if head is not None else self.unread.startswith(b"HEAD ")
        bare = heading or reply.status in (204, 304)
        encoded = encode_head(reply, date, keep)
        self._finish(keep)
        return EncodedReply(encoded, b"" if bare else reply.body, keep)

    def _read_head(self) -> gate.Head | None:
        limits = self._limits
        try:
            end = gate.find_end(self.unread, max(0, self._seen - 3), limits.head_bytes)
            if end < 0:
                self._seen = len(self.unread)
                return None
            self._seen = 0
            head = gate.parse(self.unread, end, limits.target_bytes, limits.headers)
            if not head.reads:
                require_agreement(head, self.unread[: head.size], limits.head_bytes)
            return head
        except Exception as error:
            self._go(Phase.OVER)
            if self.unread.startswith(TLS_HELLO):
                raise TlsSpoken("TLS on a port that speaks plain HTTP; ask http://") from error
            raise

    def _framing(self, head: gate.Head, rest: bytes) -> Framing:
        self._invited = False
        return Chunked(rest) if head.chunked else Counted(head.length, rest)

    def _body_passes(self, head: gate.Head) -> bool:
        """Whether what is left of the request's body is little enough to read past."""
        body = self.body
        if body is None or body.ended:
            return True
        if head.expects and not self._invited:
            return False  # the client may or may not send the body after a final answer
        return body.skip(DISCARD_BYTES)

    def _finish(self, keep: bool) -> None:
        self._head = None
        if not keep:
            self._go(Phase.OVER)
            self.unread = b""
            self.body = None
        elif self.body is None or self.body.ended:
            self._go(Phase.HEAD)
            self._leave_body()
        else:
            self._go(Phase.DISCARD)

    def _discard(self) -> None:
        assert self.body is not None
        if not self.body.skip(DISCARD_BYTES):
            self._finish(keep=False)
        elif self.body.ended:
            self._finish(keep=True)

    def _leave_body(self) -> None:
        if self.body is not None:
            self.unread, self.body = self.body.tail, None

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
    """The status line and the headers that every answer carries (references.md 2.15)."""
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {date}\r\n"
        "Docker-Distribution-Api-Version: registry/2.0\r\n"
    )
