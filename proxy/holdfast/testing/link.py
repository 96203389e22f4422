"""A link between two programs that counts what crosses it, writes request heads down, and can be cut.

It relays bytes between a client and a registry on this machine. Requests of a pull carry no body, so every
blank line from the client's side ends one head (RFC 9112 section 2.1).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

CHUNK_BYTES = 1 << 16


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


class Link:
    """Listens on a free port of 127.0.0.1 and relays to `host:port`. Threads; use it as a context.

    `down` and `up` count bytes from the far end and towards it; `heads` lists requests in the order they
    crossed, unless requests have `bodies`. `cut()` ends every open connection and every new one from then on.
    """

    def __init__(self, host: str, port: int, *, bodies: bool = False) -> None:
        self._far, self._bodies = (host, port), bodies
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
        """The link goes down."""
        self._whole = False
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

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
                with socket.create_connection(self._far) as far:
                    self._carry(near, far)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with self._lock:
            self._open |= {near, far}
        back = threading.Thread(target=relay, args=(far, near, self._seen_down), daemon=True)
        back.start()
        relay(near, far, self._seen_up())
        back.join()
        with self._lock:
            self._open -= {near, far}

    def _seen_down(self, data: bytes) -> None:
        with self._lock:
            self.down += len(data)

    def _seen_up(self) -> Callable[[bytes], None]:
        rest = b""

        def seen(data: bytes) -> None:
            nonlocal rest
            *texts, rest = [b""] if self._bodies else (rest + data).split(b"\r\n\r\n")
            with self._lock:
                self.up += len(data)
                self.heads += [Head.parse(text.decode("latin-1")) for text in texts]

        return seen


def relay(source: socket.socket, sink: socket.socket, seen: Callable[[bytes], None]) -> None:
    """Carry bytes one way until the source ends or either side breaks; `seen` learns of them first."""
    with suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            seen(data)
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
