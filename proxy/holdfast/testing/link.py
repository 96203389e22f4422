"""A link between two programs that counts what crosses it, writes request heads down, and can be cut.

It relays bytes between a client and a registry on this machine. A body of the client's side is as long as its head
says (Content-Length); none is chunked.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from holdfast.clock import Clock, SystemClock

CHUNK_BYTES = 1 << 16
#: what a slow way holds of one connection before it takes no more, in pieces
HELD_PIECES = 16


@dataclass(frozen=True, slots=True)
class Head:
    """One request as it crossed the link. `headers` are (lower-case name, value) pairs in the order sent."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """The first value of a header, or None. `name` in lower case."""
        return next((value for key, value in self.headers if key == name), None)

    @classmethod
    def parse(cls, text: str) -> Head:
        """A head without its blank line."""
        first, *lines = text.split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        return cls(method, target, tuple((name.lower(), value.strip()) for name, _, value in pairs))


class RelayLink:
    """Listens on a free port of 127.0.0.1 and relays to `host:port`. Threads; use it as a context.

    `down` and `up` count bytes from the far end and towards it; `heads` lists requests in the order they
    crossed. `cut()` ends every open connection and every new one from then on, until `mend()`. A link is as
    fast as this machine, unless it has a `round_trip` (seconds; a new connection costs one) or a `rate` (bytes a second
    each way, all connections together).
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        round_trip: float = 0.0,
        rate: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self._far, self._round_trip = (host, port), round_trip
        self._ways = [LinkDirection(round_trip / 2, rate, clock or SystemClock()) for _ in range(2)]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heads: list[Head] = []
        self.down = self.up = 0
        self._whole = True
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the near end connects to."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Interrupt the link."""
        self._whole = False
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """The link is up again."""
        self._whole = True

    def close(self) -> None:
        """Cut, and stop listening."""
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with near, suppress(OSError):
            if self._whole:
                threading.Event().wait(self._round_trip)
                with socket.create_connection(self._far) as far:
                    self._carry(near, far)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with self._lock:
            self._open |= {near, far}
        up, down = self._ways
        back = threading.Thread(target=down.carry, args=(far, near, self._seen_down), daemon=True)
        back.start()
        up.carry(near, far, self._seen_up())
        back.join()
        with self._lock:
            self._open -= {near, far}

    def _seen_down(self, data: bytes) -> None:
        with self._lock:
            self.down += len(data)

    def _seen_up(self) -> Callable[[bytes], None]:
        rest, body = b"", 0

        def seen(data: bytes) -> None:
            nonlocal rest, body
            heads = []
            rest += data
            while rest:
                rest, body = rest[body:], max(0, body - len(rest))
                text, blank, after = rest.partition(b"\r\n\r\n")
                if body or not blank:
                    break
                head, rest = Head.parse(text.decode("latin-1")), after
                body = int(head.header("content-length") or 0)
                heads.append(head)
            with self._lock:
                self.up += len(data)
                self.heads += heads

        return seen


class LinkDirection:
    """One direction of a link: what enters is over after `delay`, and all of it at `rate`; 0 for neither."""

    def __init__(self, delay: float, rate: float, clock: Clock) -> None:
        self._delay, self._rate, self._clock = delay, rate, clock
        self._free = 0.0
        self._lock = threading.Lock()

    def carry(self, source: socket.socket, sink: socket.socket, seen: Callable[[bytes], None]) -> None:
        """Like `relay`, at this way's pace."""
        if not self._delay and not self._rate:
            relay(source, sink, seen)
            return
        held: queue.Queue[tuple[float, bytes]] = queue.Queue(HELD_PIECES)
        sender = threading.Thread(target=deliver, args=(held, sink, self._clock), daemon=True)
        sender.start()
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES // 4):
                seen(data)
                held.put((self._over(len(data)), data))
        held.put((self._over(0), b""))
        sender.join()

    def _over(self, size: int) -> float:
        """When bytes that enter now are at the other end."""
        with self._lock:
            now = self._clock.monotonic()
            self._free = max(now, self._free) + (size / self._rate if self._rate else 0.0)
            return self._free + self._delay


def deliver(held: queue.Queue[tuple[float, bytes]], sink: socket.socket, clock: Clock) -> None:
    """Hand on each piece when it is due; b"" is the end."""
    broken = False
    while True:
        due, data = held.get()
        threading.Event().wait(max(0.0, due - clock.monotonic()))
        try:
            if not data or broken:
                sink.shutdown(socket.SHUT_WR)
            else:
                sink.sendall(data)
        except OSError:
            broken = True
        if not data:
            return


def relay(source: socket.socket, sink: socket.socket, seen: Callable[[bytes], None]) -> None:
    """Carry bytes one way until the source ends or either side breaks; `seen` learns of them first."""
    with suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            seen(data)
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
