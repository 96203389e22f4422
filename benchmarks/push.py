"""The pushing side: blobs sent by POST and PUT from files in the page cache, as containerd sends them."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.content import NAME, Blob
from benchmarks.load import PATIENCE_SECONDS, LoadFailed, split

HEAD_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Said:
    """The head of one answer."""

    status: int
    location: str


class Pusher:
    """One kept connection that pushes blobs. Raises LoadFailed when an answer is not what a push needs."""

    def __init__(self, url: str) -> None:
        host, port, _ = split(url)
        self._socket = socket.create_connection((host, port), timeout=PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def push(self, blob: Blob) -> None:
        """An upload of the whole blob; returns when it was acknowledged with 201."""
        opened = self._ask("POST", f"/v2/{NAME}/blobs/uploads/", None)
        if opened.status != 202:
            raise LoadFailed(f"POST was answered {opened.status}")
        where = urlsplit(opened.location)
        query = f"{where.query}&" if where.query else ""
        closed = self._ask("PUT", f"{where.path}?{query}digest={blob.digest}", blob)
        if closed.status != 201:
            raise LoadFailed(f"PUT was answered {closed.status}")

    def _ask(self, method: str, target: str, body: Blob | None) -> Said:
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
        lines += [f"Content-Length: {body.size if body else 0}", "Content-Type: application/octet-stream"]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        if body is not None:
            with body.path.open("rb") as file:
                self._socket.sendfile(file, count=body.size)
        return self._said()

    def _said(self) -> Said:
        head = b""
        while b"\r\n\r\n" not in head:
            got = self._socket.recv(HEAD_BYTES)
            if not got:
                raise LoadFailed("the connection ended before an answer")
            head += got
        length = re.search(rb"(?im)^content-length: *(\d+)\r?$", head)
        left = int(length[1]) - len(head.partition(b"\r\n\r\n")[2]) if length else 0
        while left > 0:
            left -= len(self._socket.recv(left))
        found = re.search(rb"(?im)^location: *(\S+)\r?$", head)
        return Said(int(head.split(b" ", 2)[1]), found[1].decode() if found else "")

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def push_all(url: str, blobs: Sequence[Blob]) -> float:
    """Push the blobs at the same moment, each on a connection of its own that is open beforehand; seconds until
    the last was acknowledged. Raises LoadFailed."""
    pushers, failed = [Pusher(url) for _ in blobs], list[Exception]()
    gate = threading.Barrier(len(blobs) + 1)

    def run(pusher: Pusher, blob: Blob) -> None:
        gate.wait()
        try:
            pusher.push(blob)
        except (LoadFailed, OSError) as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(pushers, blobs, strict=True)]
    for thread in threads:
        thread.start()
    gate.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    for pusher in pushers:
        pusher.close()
    if failed:
        raise LoadFailed(str(failed[0]))
    return took


def settle() -> None:
    """Write back what others left dirty, so that no server pays for the one before it."""
    os.sync()
