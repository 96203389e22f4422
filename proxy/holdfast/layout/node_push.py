"""A push to a node over HTTP, as clients do it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import json
import ssl
from collections.abc import Mapping
from typing import IO, NamedTuple
from urllib.parse import quote, urlsplit

from holdfast.printable import printable

#: a commit may take as long as hashing and syncing what came (operate.md, "Push, delete, lock") (s)
PATIENCE_SECONDS = 600.0
BLOCK_BYTES = 1 << 20


class PushRefused(Exception):
    """The node refuses, with its own words. `is_final`: the same push will be refused again (a status below 500)."""

    def __init__(self, text: str, *, is_final: bool) -> None:
        super().__init__(text)
        self.is_final = is_final


class NodeUnreachable(Exception):
    """There is no answer, or none that can be read. The text is for a person."""


class PushAnswer(NamedTuple):
    """Status, headers in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NodePush:
    """Pushes into one repository of the node at `url`. Every method raises PushRefused and NodeUnreachable."""

    def __init__(self, url: str, repository: str, login: tuple[str, str] | None) -> None:
        """Raises PushRefused for what is no URL, and for a password that would cross a network in clear."""
        _check(url, login is not None)
        self._url, parts = url, urlsplit(url)
        host, port = parts.hostname or "", parts.port
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=PATIENCE_SECONDS, context=context, blocksize=BLOCK_BYTES
            )
        else:
            self._connection = http.client.HTTPConnection(
                host, port, timeout=PATIENCE_SECONDS, blocksize=BLOCK_BYTES
            )
        self._base = f"/v2/{quote(repository)}"
        self._headers = {}
        if login is not None:
            credentials = base64.b64encode(":".join(login).encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def has_blob(self, digest: str) -> bool:
        """Whether the repository has a blob."""
        return self._ask("HEAD", f"{self._base}/blobs/{digest}", allowed=(200, 404)).status == 200

    def put_blob(self, digest: str, body: IO[bytes], size: int) -> None:
        """Send a blob; the node verifies it."""
        begun = self._ask("POST", f"{self._base}/blobs/uploads/", {"Content-Length": "0"}, allowed=(202,))
        place = urlsplit(begun.headers["location"])
        query = f"{place.query}&" if place.query else ""
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        self._ask("PUT", f"{place.path}?{query}digest={quote(digest)}", headers, body, allowed=(201,))

    def put_manifest(self, reference: str, media_type: str, body: bytes) -> None:
        """Store a manifest under a tag or its digest."""
        self._ask(
            "PUT", f"{self._base}/manifests/{reference}", {"Content-Type": media_type}, body, allowed=(201,)
        )

    def _ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: IO[bytes] | bytes | None = None,
        *,
        allowed: tuple[int, ...],
    ) -> PushAnswer:
        try:
            # a node that refuses a body answers before it ends
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._connection.request(method, target, body, {**self._headers, **(headers or {})})
            found = self._answer()
        except (OSError, http.client.HTTPException) as error:
            raise NodeUnreachable(
                f"{self._url} cannot be reached: {error or type(error).__name__}"
            ) from error
        if found.status not in allowed:
            raise PushRefused(f"{method} {target}: {_words(found)}", is_final=found.status < 500)
        return found

    def _answer(self) -> PushAnswer:
        with self._connection.getresponse() as answer:
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return PushAnswer(answer.status, headers, answer.read())


def _check(url: str, has_login: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise PushRefused(f"--node: found {url!r}; allowed: http[s]://HOST[:PORT]", is_final=True)
    if has_login and parts.scheme == "http" and not _is_here(parts.hostname):
        text = f"--node: found {url!r}; a password goes over http to this machine only: use https"
        raise PushRefused(text, is_final=True)


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _words(answer: PushAnswer) -> str:
    """What a node says of a refusal."""
    if answer.status == 401:
        return "401: the node wants a login; say --username and --password-stdin, with a token that may push"
    try:
        errors = json.loads(answer.body)["errors"]
        text = "; ".join(str(one.get("message") or one["code"]) for one in errors)
    except (ValueError, LookupError, TypeError, AttributeError):
        text = http.client.responses.get(answer.status, "")
    return printable(f"{answer.status}: {text}")
