"""The client of a node's admin API: one request at a time, refusals as sentences.

urllib is enough here: few requests, small bodies. Redirects are never followed, because the operator's password goes
with every request; for the same reason a proxy is never used to reach this machine itself, and plain http only goes to
this machine.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from holdfast.printable import printable

#: time-out of a request (s); every write is one short transaction of the keeper
_PATIENCE_SECONDS = 60.0
#: code of a 404 for a path that is not served (`holdfast.errors.PathUnknown`); what is absent has another one
PATH_UNKNOWN = "UNSUPPORTED"
_API = "/api/v1/"


class AdminRefused(Exception):
    """The node, or the client before the request, refuses: the request is wrong or not allowed. Nothing was changed."""


class AdminUnknown(AdminRefused):
    """What the request names does not exist."""


class AdminFailed(Exception):
    """There is no answer, or none that can be read. Whether a change was made is not known."""


@dataclass(frozen=True, slots=True)
class AdminEndpoint:
    """Address of an admin API, and the operator's name and password. `source` describes their origin."""

    url: str
    username: str
    password: str = field(repr=False)
    source: str


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message[str, str], newurl: str
    ) -> None:
        """None: the redirect is an answer like any other."""


def normal_url(text: str) -> str:
    """`http://host:port` of what was typed; a missing scheme is http on this machine, https elsewhere.

    Raises AdminRefused for anything else, and for http to another machine."""
    if "://" not in text:
        text = f"{'http' if _local(urlsplit(f'//{text}').hostname) else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        right = False
    if not right or parts.query or parts.fragment or parts.path.strip("/"):
        raise AdminRefused(f"registry: found {_shown(text)!r}; allowed: http[s]://HOST[:PORT]")
    if "@" in parts.netloc:
        raise AdminRefused(
            "registry: found a password in the address; allowed: http[s]://HOST[:PORT]. Use holdfast login"
        )
    if parts.scheme == "http" and not _local(parts.hostname):
        raise AdminRefused(
            f"registry: found {text!r}; the operator's password goes over http to this machine only: use https, or a"
            " tunnel (ssh -L)"
        )
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _shown(url: str) -> str:
    before, at, after = url.rpartition("@")
    return f"{before.partition('://')[0]}://…@{after}" if at else url


def _local(host: str | None) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class AdminClient:
    """Asks one node. Every method raises AdminRefused for a 4xx and AdminFailed for everything else that is no
    success; the message is for the terminal."""

    def __init__(self, endpoint: AdminEndpoint, patience: float = _PATIENCE_SECONDS) -> None:
        self.endpoint, self._patience = endpoint, patience
        basic = f"{endpoint.username}:{endpoint.password}".encode()
        self._authorization = "Basic " + base64.b64encode(basic).decode()
        self._opener = _opener(endpoint.url)

    def get(self, *segments: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """One document."""
        return self.ask("GET", segments, query=query)

    def listed(self, *segments: str, query: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """Every entry of a list, page by page."""
        page = self.get(*segments, query=query)
        while True:
            yield from page.get("value", ())
            if not (following := page.get("nextLink")):
                return
            # its path and query only: the password stays with the node it belongs to
            parts = urlsplit(following)
            page = self._send("GET", f"{parts.path}?{parts.query}", None)

    def ask(
        self,
        method: str,
        path: Sequence[str],
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        only_new: bool = False,
    ) -> dict[str, Any]:
        """The answer to one request; {} for one without a body. `path` has the segments below /api/v1/. `only_new`:
        refused when the resource exists."""
        target = (
            _API
            + "/".join(quote(segment, safe="") for segment in path)
            + (f"?{urlencode(query)}" if query else "")
        )
        return self._send(method, target, body, {"If-None-Match": "*"} if only_new else {})

    def _send(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None,
        conditions: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        headers = {"Authorization": self._authorization, "Accept": "application/json", **(conditions or {})}
        data = None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        request = Request(self.endpoint.url + target, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=self._patience) as answer:
                return self._document(answer.read())
        except HTTPError as error:
            with error:
                raise self._refusal(error, target) from None
        except (OSError, HTTPException) as error:
            raise AdminFailed(self._unreachable(error)) from error

    def _document(self, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body) if body else {}
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise AdminFailed(f"{self.endpoint.url} does not answer as an admin API does (no JSON object)")
        return document

    def _refusal(self, error: HTTPError, target: str) -> Exception:
        sentences = _sentences(body := error.read())
        if error.code == 401:
            return AdminRefused(
                f"{self.endpoint.url} does not accept the name and password from {self.endpoint.source}"
            )
        if not sentences:
            return AdminFailed(
                f"{self.endpoint.url} answered {error.code} {error.reason}, not as an admin API does. Its address is"
                " the second one that holdfast serve prints"
            )
        if error.code == 404:
            if _first_code(body) == PATH_UNKNOWN:
                path = target.partition("?")[0]
                sentences = [
                    f"{self.endpoint.url} has no admin API, or that of an older version, without {path}; the admin API"
                    " is the second address that serve prints"
                ]
            return AdminUnknown("\n".join(sentences))
        return (AdminRefused if error.code < 500 else AdminFailed)("\n".join(sentences))

    def _unreachable(self, error: Exception) -> str:
        reason = error.reason if isinstance(error, URLError) else error
        hint = ""
        if isinstance(reason, ssl.SSLCertVerificationError):
            hint = ". For an authority of your own set SSL_CERT_FILE to its certificate"
        elif isinstance(reason, ConnectionRefusedError):
            hint = f" (address from {self.endpoint.source}). Does the node run?"
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        return f"{self.endpoint.url} cannot be reached: {text}{hint}"


def _opener(url: str) -> OpenerDirector:
    handlers: list[Any] = [_NoRedirect()]
    parts = urlsplit(url)
    if parts.scheme == "https":
        handlers.append(HTTPSHandler(context=ssl.create_default_context()))
    if _local(parts.hostname):
        handlers.append(ProxyHandler({}))
    return build_opener(*handlers)


def _first_code(body: bytes) -> str:
    return str(json.loads(body)["errors"][0]["code"])


def _sentences(body: bytes) -> list[str]:
    """The messages of `{"errors": [{"code", "message", "detail"}]}`; empty when it is not that."""
    try:
        errors = json.loads(body)["errors"]
        return [printable(str(error.get("message") or error["code"])) for error in errors]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
