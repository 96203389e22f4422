"""The command line in this process, and a small admin API that records every request and answers what it was told."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from click.testing import CliRunner
from holdfast.cli.commands import holdfast

USERNAME, PASSWORD = "operator", "a-password-of-the-tests"
#: How often a server that was told to stop looks (s).
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class RecordedAdmin:
    """`answers` is (method, path) → what is given, one after another, the last for ever."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: dict[tuple[str, str], list[tuple[int, Any]]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def on(self, method: str, path: str, document: Any = None, status: int = 200) -> None:
        """Answer a request below /api/v1/ with a document, bytes, or nothing; asked again, with the next given."""
        self.answers.setdefault((method, f"/api/v1/{path}"), []).append((status, document))

    @property
    def last(self) -> Asked:
        """The last request."""
        return self.asked[-1]

    def answer(self, asked: Asked) -> tuple[int, Any]:
        """What to say to a request."""
        self.asked.append(asked)
        given = self.answers.get((asked.method, asked.path))
        if not given:
            return 418, {"errors": [{"code": "TEST", "message": f"not told: {asked.method} {asked.path}"}]}
        return given.pop(0) if len(given) > 1 else given[0]


@contextmanager
def recorded_admin() -> Iterator[RecordedAdmin]:
    """One that serves on a free port."""
    admin = RecordedAdmin()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            asked = Asked(self.command, parts.path, query, json.loads(raw) if raw else None, headers)
            status, document = admin.answer(asked)
            body = document if isinstance(document, bytes) else b""
            if not isinstance(document, bytes) and document is not None:
                body = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **admin.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_PATCH = do_POST = do_DELETE = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the test has the requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    admin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True)
    thread.start()
    try:
        yield admin
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its stdout as JSON."""
        return json.loads(self.out)


def command(*arguments: str, env: Mapping[str, str] | None = None, stdin: str = "") -> Said:
    """Run `holdfast …` in this process, with these HOLDFAST_ variables and no others. Nobody is at a terminal."""
    unset = {name: None for name in os.environ if name.startswith(("HOLDFAST_", "XDG_", "ACR_"))}
    runner = CliRunner(env={**unset, "HOME": "/nowhere", **(env or {})})
    done = runner.invoke(holdfast, list(arguments), input=stdin, prog_name="holdfast")
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Said(done.exit_code, done.stdout, done.stderr)


def logged_in(admin: RecordedAdmin) -> dict[str, str]:
    """An environment that says where and who."""
    return {
        "HOLDFAST_REGISTRY": admin.url,
        "HOLDFAST_USERNAME": USERNAME,
        "HOLDFAST_PASSWORD": PASSWORD,
    }
