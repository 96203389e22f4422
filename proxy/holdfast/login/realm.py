"""The address of this node for a client, and the challenge that requests a login (references.md 2.12).

The address is the configured one, else the Host of the request. X-Forwarded-Host, -Proto and -For count only on a
connection from a configured proxy, and never identify a caller (security.md S8, S9).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from holdfast.config import LoginSection
from holdfast.errors import HostRefused
from holdfast.login.caller import Network
from holdfast.wire.message import Request

TOKEN_PATH = "/acr/oauth2/token"
_PORTS = {"http": ":80", "https": ":443"}
#: what the head gate lets a Host be: nothing that could leave a quoted string
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,261}")


class NodeAddress(NamedTuple):
    """The address of this node that a client used. `host` has the port when the client wrote one."""

    scheme: str
    host: str


class Realm:
    """The node's own address, seen from a request."""

    def __init__(self, config: LoginSection) -> None:
        self._server, self._scheme = config.server.lower(), config.scheme
        self._proxies = Network(config.trusted_proxies)

    @property
    def is_pinned(self) -> bool:
        """Whether only requests for the configured address are answered."""
        return bool(self._server)

    @property
    def has_proxies(self) -> bool:
        """Whether there are proxies whose headers count."""
        return bool(self._proxies)

    def place(self, request: Request) -> NodeAddress:
        """Scheme and host. Without a configured server they are what the client used."""
        scheme = self._scheme or self._forwarded(request, "proto").lower()
        if scheme not in _PORTS:
            scheme = "https" if request.secure else "http"
        return NodeAddress(scheme, self._server or self._asked(request))

    def service(self, request: Request) -> str:
        """The name of the service that tokens are for."""
        return self.place(request).host

    def address(self, request: Request) -> str:
        """Returns the address of a client: the last one on the way that is no trusted proxy's."""
        address = request.client
        if not self._proxies or address not in self._proxies:
            return address
        way = ",".join(request.header_lines("x-forwarded-for")).split(",")
        for hop in reversed([part.strip(" \t") for part in way if part.strip(" \t")]):
            address = hop
            if hop not in self._proxies:
                break
        return address

    def check_host(self, request: Request) -> None:
        """Raises `HostRefused` unless the request is for the configured address (ACR_REGISTRY_LOGIN_SERVER)."""
        if self._server and not self._same(self._asked(request), self.place(request).scheme):
            raise HostRefused(
                f"this node answers for {self._server} alone (login.server)",
                detail="use that name, or let the proxy in front hand it on and list it in login.trusted_proxies",
            )

    def challenge(self, request: Request, scopes: Iterable[str] = (), error: str = "") -> tuple[str, str]:
        """The header that asks for a token. Bearer alone: a client that sees Basic beside it takes that, or fails
        without credentials; Basic is taken from any client that sends it."""
        scheme, host = self.place(request)
        parameters = {"realm": f"{scheme}://{host}{TOKEN_PATH}", "service": host}
        if scope := " ".join(scopes):
            parameters["scope"] = scope
        if error:
            parameters["error"] = error
        return "WWW-Authenticate", "Bearer " + ",".join(
            f'{key}="{value}"' for key, value in parameters.items()
        )

    def _asked(self, request: Request) -> str:
        """The host that the client wrote, in lower case."""
        forwarded = self._forwarded(request, "host")
        host = forwarded if _HOST.fullmatch(forwarded) else request.header("host") or request.host
        return host.lower() if _HOST.fullmatch(host) else ""

    def _same(self, host: str, scheme: str) -> bool:
        port = _PORTS[scheme]
        return host.removesuffix(port) == self._server.removesuffix(port)

    def _forwarded(self, request: Request, what: str) -> str:
        """Returns the value of the nearest proxy: the last one in the header."""
        if not self._proxies or request.client not in self._proxies:
            return ""
        lines = request.header_lines(f"x-forwarded-{what}")
        return lines[-1].rpartition(",")[2].strip(" \t") if lines else ""
