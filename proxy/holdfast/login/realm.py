"""What this node calls itself to a client, and how it asks for a login: the challenge (oci-spec 4.1).

The address is the configured one, else the Host of the request. What a proxy in front says with X-Forwarded-Host,
-Proto and -For is believed when the connection comes from a configured proxy, and from nobody else; it never says who
somebody is (security.md S8, S9).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from holdfast.config import Login
from holdfast.errors import HostRefused
from holdfast.login.network import Network
from holdfast.wire.message import Request

TOKEN_PATH = "/acr/oauth2/token"
_PORTS = {"http": ":80", "https": ":443"}
#: what the head gate lets a Host be: nothing that could leave a quoted string
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,261}")


class Place(NamedTuple):
    """Where a client found this node. `host` has the port when the client wrote one."""

    scheme: str
    host: str


class Realm:
    """The node's own address, seen from a request."""

    def __init__(self, config: Login) -> None:
        self._server, self._scheme = config.server.lower(), config.scheme
        self._proxies = Network(config.trusted_proxies)

    @property
    def is_pinned(self) -> bool:
        """Whether only requests for the configured address are answered."""
        return bool(self._server)

    def place(self, request: Request) -> Place:
        """Scheme and host. Without a configured server they are what the client used."""
        scheme = self._scheme or self._forwarded(request, "proto").lower()
        if scheme not in _PORTS:
            scheme = "https" if request.secure else "http"
        return Place(scheme, self._server or self._asked(request))

    def service(self, request: Request) -> str:
        """The name of the service that tokens are for."""
        return self.place(request).host

    def address(self, request: Request) -> str:
        """Where a request comes from: the last address on the way that is no trusted proxy's."""
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
        without credentials; Basic is taken from whoever sends it."""
        scheme, host = self.place(request)
        said = {"realm": f"{scheme}://{host}{TOKEN_PATH}", "service": host}
        if scope := " ".join(scopes):
            said["scope"] = scope
        if error:
            said["error"] = error
        return "WWW-Authenticate", "Bearer " + ",".join(f'{key}="{value}"' for key, value in said.items())

    def _asked(self, request: Request) -> str:
        """The host that the client wrote, in lower case."""
        forwarded = self._forwarded(request, "host")
        said = forwarded if _HOST.fullmatch(forwarded) else request.header("host") or request.host
        return said.lower() if _HOST.fullmatch(said) else ""

    def _same(self, host: str, scheme: str) -> bool:
        port = _PORTS[scheme]
        return host.removesuffix(port) == self._server.removesuffix(port)

    def _forwarded(self, request: Request, what: str) -> str:
        """What the proxy next to us wrote: the last of the values."""
        if not self._proxies or request.client not in self._proxies:
            return ""
        lines = request.header_lines(f"x-forwarded-{what}")
        return lines[-1].rpartition(",")[2].strip(" \t") if lines else ""
