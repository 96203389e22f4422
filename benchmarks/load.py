"""The client's side: wrk for requests, and a reader that costs as little as a client can for bytes.

The reader takes bodies with MSG_TRUNC: the kernel drops the bytes instead of copying them out (tcp(7)).
Server and client share a machine here and do not in the field; a client that copied would take from the
server the processor that is being measured, and every fast server would look the same. Over TLS the bytes
are decrypted, which no client can leave out.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection

from holdfast.testing.sample import OCI_MANIFEST

BUFFER_BYTES = 1 << 20
#: docker-registry answers 404 to a client that does not say it knows the type.
ACCEPT = f"Accept: {OCI_MANIFEST}"
PATIENCE_SECONDS = 120


class LoadFailed(RuntimeError):
    """A server answered wrongly; its figure would mean nothing."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What wrk saw: requests a second, and the median and 99th percentile of the latency in ms."""

    requests: float
    p50: float
    p99: float


def wrk(
    url: str, connections: int, seconds: float, *headers: str, script: str | os.PathLike[str] = ""
) -> Rate:
    """Requests a second of one URL from one client thread, or of what a script in Lua asks for. Raises LoadFailed if
    any answer is no 200."""
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    command += [part for line in (ACCEPT, *headers) for part in ("-H", line)]
    command += ["-s", os.fspath(script)] if script else []
    done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise LoadFailed(done.stdout)
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None or not float(found[1]):
        raise LoadFailed(done.stdout + done.stderr)
    return Rate(float(found[1]), _latency(done.stdout, 50), _latency(done.stdout, 99))


def _latency(text: str, percent: int) -> float:
    found = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s|m)\b", text)
    assert found is not None, text
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[found[2]]


@dataclass(frozen=True, slots=True)
class Taken:
    """One body: seconds from asking to its first and its last byte, its size, and where it began."""

    first_byte: float
    seconds: float
    size: int


def split(url: str) -> tuple[str, int, bool]:
    """Host, port and whether it is https."""
    scheme, _, place = url.partition("://")
    host, _, port = place.rstrip("/").partition(":")
    return host, int(port), scheme == "https"


@dataclass(slots=True)
class Connection:
    """One kept connection, from the address `source`. `get` is one request and its whole body; `ask` and `take` are its
    two halves."""

    url: str
    source: str = ""
    cipher: str = ""
    _socket: socket.socket = field(init=False)
    _secure: bool = field(init=False)
    _left: int = field(init=False, default=-1)
    _head: bytes = field(init=False, default=b"")
    _asked: float = field(init=False, default=0.0)
    _first: float = field(init=False, default=0.0)
    _size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        host, port, self._secure = split(self.url)
        self._socket = socket.create_connection((host, port), source_address=(self.source, 0))
        # a time-out in the kernel: Python's own would cost a poll for every receive
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", PATIENCE_SECONDS, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._secure:
            secured = _tls().wrap_socket(self._socket, server_hostname="localhost")
            self.cipher = " ".join(str(part) for part in secured.cipher() or ())
            self._socket = secured

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def ask(self, target: str, byte_range: str = "") -> None:
        """Send one GET."""
        lines = [f"GET {target} HTTP/1.1", "Host: localhost", ACCEPT]
        lines += [f"Range: bytes={byte_range}"] if byte_range else []
        self._left, self._head, self._first = -1, b"", 0.0
        self._asked = time.perf_counter()
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def take(self, room: bytearray) -> Taken | None:
        """Receive once; the body when it is complete, else None. Raises LoadFailed."""
        if self._left < 0:
            self._take_head()
        else:
            flags = 0 if self._secure else socket.MSG_TRUNC
            count = min(self._left, len(room))
            got = self._socket.recv_into(room, count, flags)
            self._take_body(got)
        if self._left:
            return None
        return Taken(self._first - self._asked, time.perf_counter() - self._asked, self._size)

    def _take_head(self) -> None:
        got = self._socket.recv(4096)
        if not got:
            raise LoadFailed("the connection ended before an answer")
        head, blank, body = (self._head + got).partition(b"\r\n\r\n")
        self._head += got
        if blank:
            self._left = self._size = _length(head)
            if body:
                self._take_body(len(body))

    def _take_body(self, got: int) -> None:
        if not got:
            raise LoadFailed(f"{self._left} bytes are missing")
        self._first = self._first or time.perf_counter()
        self._left -= got

    def get(self, target: str, byte_range: str = "", room: bytearray | None = None) -> Taken:
        """One request, whole."""
        room = room or bytearray(BUFFER_BYTES)
        self.ask(target, byte_range)
        while (taken := self.take(room)) is None:
            pass
        return taken

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _length(head: bytes) -> int:
    status = head.split(b" ", 2)[1]
    found = re.search(rb"(?im)^content-length: *(\d+)\r?$", head)
    if status not in (b"200", b"206") or found is None:
        raise LoadFailed(head.decode("latin-1"))
    return int(found[1])


def fetch(url: str, target: str, byte_range: str = "") -> Taken:
    """One request on a connection of its own."""
    connection = Connection(url)
    try:
        return connection.get(target, byte_range)
    finally:
        connection.close()


def head_of(url: str, request: bytes) -> bytes:
    """The head of the answer to one request, to its empty line. Raises LoadFailed."""
    host, port, _ = split(url)
    with socket.create_connection((host, port), PATIENCE_SECONDS) as connection:
        connection.sendall(request)
        said = b""
        while b"\r\n\r\n" not in said:
            if not (got := connection.recv(65536)):
                raise LoadFailed(f"no answer to {request!r}: {said!r}")
            said += got
    return said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def new_request(url: str, target: str) -> float:
    """Seconds from a new connection to the whole answer."""
    started = time.perf_counter()
    fetch(url, target)
    return time.perf_counter() - started


def p99(values: list[float]) -> float:
    """The value that 99 of 100 are below."""
    return sorted(values)[int(len(values) * 0.99)]


def herd(url: str, target: str, clients: int) -> list[Taken]:
    """Clients that ask for the same at the same moment."""
    return at_once(url, [target] * clients)


def at_once(url: str, targets: Sequence[str]) -> list[Taken]:
    """Asks for all of these at the same moment, each on a connection of its own that is open beforehand; what was
    taken, in the order of the ends."""
    room, done = bytearray(BUFFER_BYTES), list[Taken]()
    with selectors.DefaultSelector() as ready:
        connections = [Connection(url) for _ in targets]
        for connection, target in zip(connections, targets, strict=True):
            ready.register(connection, selectors.EVENT_READ, connection)
            connection.ask(target)
        while len(done) < len(targets):
            events = ready.select(PATIENCE_SECONDS)
            if not events:
                raise LoadFailed("the herd stalled")
            for key, _ in events:
                if (taken := key.data.take(room)) is not None:
                    done.append(taken)
                    ready.unregister(key.data)
        for connection in connections:
            connection.close()
    return done


def refusal_seconds(url: str, target: str, *named: str) -> float:
    """Seconds from a new connection to the whole answer of a GET. Raises LoadFailed unless it is a 503 with headers of
    these names."""
    host, port, _ = split(url)
    connection = HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    started = time.perf_counter()
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        answer.read()
        taken = time.perf_counter() - started
    finally:
        connection.close()
    if answer.status != 503 or not all(answer.headers.get(name) for name in named):
        raise LoadFailed(
            f"{target}: {answer.status} {dict(answer.headers)}; wanted 503 with {', '.join(named)}"
        )
    return taken
