"""An egress proxy: it connects to this machine whatever name it is given, which resolves nowhere else."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from contextlib import suppress
from typing import Any, Self

_HEAD = re.compile(rb"(?:CONNECT |[A-Z]+ http://)([^/ ]+)")
REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class EgressProxy:
    """Takes CONNECT and requests for an absolute http URL. `asked` has the host:port of each connection."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuses = False
        self._open: set[socket.socket] = set()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    proxy._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.refuse()
        self._server.shutdown()
        self._server.server_close()

    def refuse(self) -> None:
        """From now on 403; what is connected ends."""
        self.refuses = True
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _serve(self, near: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            more = near.recv(65536)
            if not more:
                return
            head += more
        found = _HEAD.match(head)
        assert found is not None, head
        self.asked.append(place := found[1].decode())
        if self.refuses:
            near.sendall(REFUSED)
            return
        with socket.create_connection(("127.0.0.1", int(place.rpartition(":")[2]))) as far:
            if head.startswith(b"CONNECT "):
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                far.sendall(_as_origin(head))
            self._open |= {near, far}
            back = threading.Thread(target=_carry, args=(far, near), daemon=True)
            back.start()
            _carry(near, far)
            back.join()
            self._open -= {near, far}


def _as_origin(head: bytes) -> bytes:
    """The request as an origin takes it (RFC 9112 3.2.1), the only one of its connection."""
    line, rest = head.split(b"\r\n", 1)
    return re.sub(rb" http://[^/ ]+", b" ", line, count=1) + b"\r\nConnection: close\r\n" + rest


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Bytes one way until its end."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
