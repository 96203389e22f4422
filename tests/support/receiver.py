"""A receiver of webhooks: an HTTP server that records each post, and misbehaves as a test asks."""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

from support.programs import wait_until


class ReceivedPost(NamedTuple):
    """One request, as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """Its JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


Deed = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Remember it and do what the script says next; 204 without a word."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.posts.append(
            ReceivedPost(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        )
        deed = self.server.script.popleft() if self.server.script else self.server.otherwise
        deed(self)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def answer(status: int, **headers: str) -> Deed:
    """A plain answer; header names have `_` for `-`."""

    def deed(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return deed


def hang(handler: Handler) -> None:
    """Never answer."""
    handler.server.over.wait()


def drip(handler: Handler) -> None:
    """A status line that comes a byte a second."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":
        handler.wfile.write(bytes([byte]))
        if handler.server.over.wait(1.0):
            return


def endless(handler: Handler) -> None:
    """200, and an answer that never ends."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    try:
        while not handler.server.over.is_set():
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        return


def leave(handler: Handler) -> None:
    """Close without a word."""
    handler.close_connection = True


def half(handler: Handler) -> None:
    """Close in the middle of the head."""
    handler.wfile.write(b"HTTP/1.1 20")
    handler.close_connection = True


def nonsense(handler: Handler) -> None:
    """What is no HTTP."""
    handler.wfile.write(b"hello\r\n\r\n")
    handler.close_connection = True


class Receiver(ThreadingHTTPServer):
    """Listens on a free port until it is closed. `script`: what to do with the next requests."""

    daemon_threads = True

    def __init__(self, *script: Deed, otherwise: Deed | None = None, pair: Path | None = None) -> None:
        self.script, self.otherwise = deque(script), otherwise or answer(204)
        self.posts: list[ReceivedPost] = []
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        """The URL to post to."""
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/hook"

    @property
    def events(self) -> list[dict[str, Any]]:
        """The bodies, in the order in which they came."""
        return [post.event for post in list(self.posts)]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many came."""
        wait_until(lambda: len(self.posts) >= count, f"{count} events at the receiver")
        return self.events

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is what the test wants."""

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def __enter__(self) -> Self:
        return self
