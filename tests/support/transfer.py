"""Plain HTTP for tests: one request, the whole answer, headers as they came."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

#: Longest wait for an answer (s).
LIMIT = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (name in lower case; the last of repeated lines) and body."""

    status: int
    headers: dict[str, str]
    body: bytes


def fetch(
    base: str,
    target: str,
    method: str = "GET",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """One request on a connection of its own. Raises http.client.IncompleteRead for a body cut short."""
    connection = connect(base)
    try:
        connection.request(method, target, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def connect(base: str) -> http.client.HTTPConnection:
    """A connection to `http://host:port`."""
    parts = urlsplit(base)
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=LIMIT)


def target_of(location: str) -> str:
    """Path and query of a URL or of a path."""
    parts = urlsplit(location)
    return parts.path + (f"?{parts.query}" if parts.query else "")
