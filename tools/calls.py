#!/usr/bin/env python3
"""Prints how many Python calls of our own, in how many files, one request costs: a blob that is not held, and one
that is. `tools/calls.py`, from the checkout whose `holdfast` is measured.

A root and a node below it are started, each on a free port of 127.0.0.1, with their stores in a temporary directory.
The node is one process (`--workers 0`) whose calls are counted by `sys.setprofile`, on all of its threads. "Moves" are
calls and returns that lead from one file into another: how often a reader of the code has to turn a page."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BLOB_BYTES = 3 << 20
#: calls of requests that went before are over by then, and the node's own rounds have not begun
SETTLE_SECONDS = 0.5


class Count:
    """Counts while it is on; `files` are those of core/ and proxy/."""

    def __init__(self) -> None:
        self.calls, self.moves, self.files, self.is_on = 0, 0, Counter[str](), False
        self._last: dict[int, str] = {}

    def event(self, frame: FrameType, kind: str, _: object) -> None:
        """See `sys.setprofile`."""
        if not self.is_on or kind not in ("call", "return"):
            return
        name = frame.f_code.co_filename
        if "/holdfast/" not in name and "/holdfast_core/" not in name:
            return
        thread = threading.get_ident()
        if kind == "call":
            self.calls += 1
            self.files[name] += 1
        self.moves += self._last.get(thread, name) != name
        self._last[thread] = name

    def obey(self) -> None:
        """Begin at each line "begin" on stdin; at "end" print what was counted."""
        for line in sys.stdin:
            if line.strip() == "begin":
                self.calls, self.moves, self.files, self.is_on = 0, 0, Counter(), True
                print("begun", flush=True)
            else:
                self.is_on = False
                found = {"calls": self.calls, "files": len(self.files), "moves": self.moves}
                print(json.dumps(found), flush=True)


def counted_node(arguments: list[str]) -> None:
    """`holdfast serve` in this process, counted."""
    count = Count()
    threading.Thread(target=count.obey, daemon=True).start()
    threading.setprofile(count.event)
    sys.setprofile(count.event)
    from holdfast.cli import main

    sys.argv = ["holdfast", *arguments]
    main()


class Node(NamedTuple):
    """A running node."""

    process: subprocess.Popen[str]
    port: int

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        """The body of an answer. Raises SystemExit when it is none of 2xx."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            if answer.status >= 300:
                raise SystemExit(f"{method} {path}: {answer.status} {answer.read().decode()}")
            return answer.read()
        finally:
            connection.close()

    def measured(self, path: str) -> dict[str, int]:
        """What one GET costs."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("begin", file=self.process.stdin, flush=True)
        while self.process.stdout.readline() != "begun\n":
            pass
        self.request("GET", path)
        threading.Event().wait(SETTLE_SECONDS)
        print("end", file=self.process.stdin, flush=True)
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def running(command: list[str], data: Path, *arguments: str) -> Iterator[Node]:
    """A node until the block ends."""
    every = ("--listen", "127.0.0.1:0", "--data", str(data), "--workers", "0", *arguments)
    process = subprocess.Popen(
        [*command, "serve", *every],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Node(process, _port(process))
    finally:
        process.terminate()
        process.wait()


def _port(process: subprocess.Popen[str]) -> int:
    """Of the line that says where it serves."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise SystemExit("the node did not start")


def main() -> None:
    """Measure, and print a line for each request."""
    body = bytes(range(256)) * (BLOB_BYTES // 256)
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    path = f"/v2/a/blobs/{digest}"
    python = sys.executable
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-") as place,
        running([python, "-m", "holdfast"], Path(place, "root"), "--anonymous", "push") as root,
    ):
        root.request("POST", f"/v2/a/blobs/uploads/?digest={digest}", body)
        parent = ("--parent", f"http://127.0.0.1:{root.port}", "--parent-insecure")
        with running([python, __file__, "node"], Path(place, "node"), *parent) as node:
            node.request("GET", "/v2/")
            threading.Event().wait(SETTLE_SECONDS)
            found = {"cold miss": node.measured(path)}
            node.request("GET", path)
            found["hit"] = node.measured(path)
    for what, one in found.items():
        print(f"{what}, {BLOB_BYTES >> 20} MiB blob: {', '.join(f'{n} {name}' for name, n in one.items())}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["node"]:
        counted_node(sys.argv[2:])
    else:
        main()
