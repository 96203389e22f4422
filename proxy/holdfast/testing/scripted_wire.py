"""The scripted parent's connection: reads heads, writes answers, and breaks them at the scripted points.

It speaks raw HTTP/1.1 on purpose: no server library would send what the script asks for.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import parse_qsl, unquote, urlsplit

from holdfast.testing.fault import NO_FAULT, ScriptedFault
from holdfast.testing.random_content import HeldContent, ScriptedContent

SLICE = 256 * 1024
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
REASONS = {
    200: "OK",
    206: "Partial Content",
    307: "Temporary Redirect",
    401: "Unauthorized",
    404: "Not Found",
}


@dataclass(slots=True)
class Recorded:
    """One request as it arrived. `headers` are (lower-case name, value) pairs."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first value of a header (lower-case name), or None."""
        return next((value for key, value in self.headers if key == name), None)

    def parameters(self) -> dict[str, str]:
        """The query, decoded; the last of a repeated name."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    def form(self) -> dict[str, str]:
        """A form body, decoded."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


@dataclass(slots=True)
class ScriptedAnswer:
    """The parent's answer without a fault. The body is [start, end) of `content`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: ScriptedContent = field(default_factory=lambda: HeldContent(b""))
    start: int = 0
    end: int = -1
    counted: str = ""

    def __post_init__(self) -> None:
        if self.end < 0:
            self.end = self.content.size


#: how far a line that fell behind may catch up (seconds): sleeps end late, and a rate is kept on average
CATCH_UP_SECONDS = 0.02


class WirePace:
    """A bandwidth over all connections: each sender takes a slot of time on one line."""

    def __init__(self, bytes_per_second: float = 0.0) -> None:
        self.rate = bytes_per_second
        self._free = 0.0

    def slice(self) -> int:
        """How many bytes to send at a time, so that senders alternate several times a second."""
        return SLICE if not self.rate else int(min(SLICE, max(1024, self.rate / 20)))

    async def take(self, size: int) -> None:
        """Wait until `size` bytes have passed the line."""
        if not self.rate:
            return
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now - CATCH_UP_SECONDS) + size / self.rate
        await asyncio.sleep(max(0.0, self._free - now))


class ScriptedWire:
    """One accepted connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._secure = writer.get_extra_info("ssl_object") is not None

    async def next_request(self) -> Recorded | None:
        """The next request with its body, or None when the client closed."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        pairs = [line.split(":", 1) for line in lines[1:] if line]
        headers = [(name.strip().lower(), value.strip()) for name, value in pairs]
        parts = urlsplit(target)
        request = Recorded(method, unquote(parts.path), parts.query, headers)
        request.body = await self.reader.readexactly(int(request.header("content-length") or 0))
        return request

    def reset(self) -> None:
        """End the connection by RST; bytes that were not sent yet are lost."""
        raw = self.writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self, *, reset: bool = False) -> None:
        """End the connection by FIN after what was written, or by RST."""
        if reset:
            self.reset()
        else:
            self.writer.close()

    async def send(
        self, request: Recorded, answer: ScriptedAnswer, fault: ScriptedFault, pace: WirePace, sent: _Sent
    ) -> bool:
        """Write an answer with the fault; False when the connection must not be used again."""
        self.writer.write(INTERIM * fault.interim)
        while fault.interim < 0:
            self.writer.write(INTERIM * 1000)
            await self.writer.drain()
        if fault.endless in ("headers", "line"):
            return await self._endless_head(answer, fault)
        if fault.gzip:
            _compress(answer)
        self._head(answer, fault)
        await self.writer.drain()
        if request.method == "HEAD":
            return True
        if fault.endless == "body":
            return await self._endless_body()
        return await self._body(answer, fault, pace, sent)

    def _head(self, answer: ScriptedAnswer, fault: ScriptedFault) -> None:
        headers = {"Content-Length": str(answer.end - answer.start), **answer.headers}
        if fault.endless == "body":
            headers = {**answer.headers, "Transfer-Encoding": "chunked"}
        for name, value in fault.headers:
            headers.pop(next((key for key in headers if key.lower() == name.lower()), ""), None)
            if value:
                headers[name] = value
        lines = [f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in [*headers.items(), *fault.repeat]]
        self.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def _body(self, answer: ScriptedAnswer, fault: ScriptedFault, pace: WirePace, sent: _Sent) -> bool:
        position, limit = answer.start, answer.end
        for stop in (fault.cut_after, fault.stall_after):
            if stop >= 0:
                limit = min(limit, answer.start + stop)
        while position < limit:
            step = min(pace.slice(), limit - position)
            if fault.drip:
                step = min(step, fault.drip_after - (position - answer.start))
                if step <= 0:
                    step = 1
                    await asyncio.sleep(1 / fault.drip)
            piece = _flipped(answer.content, position, step, fault.flip_at)
            await pace.take(len(piece))
            self.writer.write(piece)
            await self.writer.drain()
            position += len(piece)
            sent.add(answer.counted, len(piece))
        return await self._end(fault, limit < answer.end)

    async def _end(self, fault: ScriptedFault, short: bool) -> bool:
        if fault.surplus:
            self.writer.write(b"X" * fault.surplus)
            await self.writer.drain()
        if short and fault.stall_after >= 0:
            await self.reader.read()  # until the client gives up
            return False
        if short or fault.cut_after >= 0:
            if fault.reset:
                await self._flushed()
            await self.close(reset=fault.reset)
            return False
        return True

    async def _flushed(self) -> None:
        """Wait until the kernel has what was written, so that a reset cuts at the scripted byte."""
        # asyncio's TLS takes an empty buffer for one that is full when the mark is 0, and waits for ever
        self.writer.transport.set_write_buffer_limits(high=1 if self._secure else 0, low=0)
        await self.writer.drain()

    async def _endless_head(self, answer: ScriptedAnswer, fault: ScriptedFault) -> bool:
        self.writer.write(f"HTTP/1.1 {answer.status} OK\r\n".encode())
        for number in count():
            name = f"X-Line-{number}: " if fault.endless == "headers" else ("X-Line: " if not number else "")
            end = "\r\n" if fault.endless == "headers" else ""
            self.writer.write(f"{name}{'a' * 200}{end}".encode())
            await self.writer.drain()
        return False

    async def _endless_body(self) -> bool:
        piece = b"10000\r\n" + b"e" * 65536 + b"\r\n"
        while True:
            self.writer.write(piece)
            await self.writer.drain()


class _Sent:
    """Bytes of bodies handed to the kernel, by digest."""

    def __init__(self) -> None:
        self.by_digest: dict[str, int] = {}

    def add(self, digest: str, size: int) -> None:
        if digest:
            self.by_digest[digest] = self.by_digest.get(digest, 0) + size


def _compress(answer: ScriptedAnswer) -> None:
    packed = gzip.compress(answer.content.read(answer.start, answer.end - answer.start))
    answer.content, answer.start, answer.end = HeldContent(packed), 0, len(packed)
    answer.headers["Content-Encoding"] = "gzip"


def _flipped(content: ScriptedContent, position: int, length: int, flip_at: int | None) -> bytes:
    piece = content.read(position, length)
    if flip_at is None:
        return piece
    index = (flip_at if flip_at >= 0 else content.size + flip_at) - position
    if not 0 <= index < len(piece):
        return piece
    return piece[:index] + bytes([piece[index] ^ 0xFF]) + piece[index + 1 :]


Sent = _Sent
__all__ = ["NO_FAULT", "Recorded", "ScriptedAnswer", "ScriptedWire", "Sent", "WirePace"]
