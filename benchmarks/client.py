"""The client of every comparison (`native/client.c`), and how the programs in C are compiled."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.testing.sample import OCI_MANIFEST

from benchmarks.load import LoadFailed, split
from benchmarks.machine import ROOT

SOURCES = Path(__file__).parent / "native"
LIBRARIES = {"client": ("-lssl", "-lcrypto"), "ceiling": ()}


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and the bytes of body that its answer has on the wire."""

    target: str
    body: int
    method: str = "GET"
    headers: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The request line."""
        return f"{self.method} {self.target} HTTP/1.1"

    @property
    def text(self) -> bytes:
        """The request as it is sent. docker-registry answers 404 to a client that does not say it knows the type."""
        head = (self.line, "Host: localhost", f"Accept: {OCI_MANIFEST}", *self.headers, "", "")
        return "\r\n".join(head).encode()


@dataclass(frozen=True, slots=True)
class Run:
    """What the client saw. Times and its own processor time in seconds."""

    requests: int
    bytes: int
    seconds: float
    p50: float
    p99: float
    fastest: float
    slowest: float
    processor: float


def program(name: str) -> Path:
    """The program of a file in `native/`, compiled when it is not there. Raises LoadFailed."""
    source = SOURCES / f"{name}.c"
    made = ROOT / "build/bench" / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as place:
            new = Path(place) / name
            command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", new, source, *LIBRARIES[name]]
            _complete(command)
            new.rename(made)
    return made


def ask(
    url: str,
    questions: Sequence[Question],
    connections: int,
    seconds: float,
    *,
    depth: int = 1,
    body: Path | None = None,
) -> Run:
    """Ask in turn for so long, `depth` requests at once on each connection; with 0 seconds each connection once.
    Answers are compared with the file `body`. Raises LoadFailed unless every answer was a 200 or 206 of its length."""
    _, port, secure = split(url)
    with tempfile.NamedTemporaryFile(prefix="holdfast-questions-") as file:
        for question in questions:
            file.write(f"{question.body} {len(question.text)}\n".encode() + question.text)
        file.flush()
        words: list[object] = [port, "tls" if secure else "plain", connections, seconds, depth, file.name]
        words += [body] if body else []
        return Run(**json.loads(_complete([program("client"), *words])))


def _complete(command: Sequence[object]) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadFailed(f"{command[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout
