"""Which way out: through an egress proxy, or directly. What the environment says of it (HTTPS_PROXY, HTTP_PROXY,
NO_PROXY) becomes a setting of each parent and webhook that names no proxy itself, when the configuration is read."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from msgspec.structs import replace

from holdfast.config import ParentSection, WebhookSection

T = TypeVar("T", ParentSection, WebhookSection)

#: a `proxy` of the configuration that overrides the environment with no proxy
NONE = "none"
#: a proxy of the environment is never used for this machine
HERE = ("localhost", "127.0.0.0/8", "::1")
_ROW = re.compile(r"(?P<host>[^:/\s]+|\[[^]]*\])(?::(?P<port>[0-9]{1,5}))?")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class EgressInvalid(ValueError):
    """A proxy of the environment that cannot be used; the text names the variable."""


def proxied(peer: T, environ: Mapping[str, str]) -> T:
    """The parent or webhook with the environment's proxy where it names none. Raises EgressInvalid."""
    if peer.proxy == NONE:
        return replace(peer, proxy="")
    variable = "HTTPS_PROXY" if peer.url.startswith("https:") else "HTTP_PROXY"
    text = _said(environ, variable)
    if peer.proxy or not text:
        return peer
    proxy = text if "://" in text else f"http://{text}"
    scheme = proxy.partition("://")[0].lower()
    if scheme not in ("http", "https") or not _is_authority(proxy):  # whose text may hold a password
        found = "no address" if scheme in ("http", "https") else f"a proxy of {scheme}"
        raise EgressInvalid(
            f"{variable}: found {found}; allowed: http://host:port, or `proxy` of the parent or webhook, which goes"
            " before it"
        )
    return replace(peer, proxy=proxy, direct=peer.direct + _left_out(environ) + HERE)


def _is_authority(url: str) -> bool:
    """Whether a URL has a host, perhaps a port, and nothing behind them. A password with `#`, `/` or `?` in it, which
    is to be percent-encoded, would make another host of it."""
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text holds what the URL holds
        return False
    return (
        has_place and parts.path in ("", "/") and not (parts.query or parts.fragment or re.search(r"\s", url))
    )


def _left_out(environ: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(filter(None, re.split(r"[\s,]+", _said(environ, "NO_PROXY"))))


def _said(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.lower()) or "").strip()


class NoProxyRow(NamedTuple):
    """One row of `direct`: a network, or a name, with a dot in front for those below it alone."""

    network: Network | None
    name: str
    port: int | None


class NoProxy:
    """The rows of `direct`, read once. An invalid row covers no host."""

    def __init__(self, rows: Iterable[str]) -> None:
        self._rows = [row for text in rows if (row := no_proxy_row(text)) is not None]

    def covers(self, host: str, port: int | None) -> bool:
        """Whether a host is reached without the proxy."""
        host = host.lower().rstrip(".")
        try:
            address: Address | None = ipaddress.ip_address(host)
        except ValueError:
            address = None
        return any(_is_at(row, host, address, port) for row in self._rows)


def no_proxy_row(text: str) -> NoProxyRow | None:
    """A parsed row; None for an invalid one."""
    text = text.strip().lower()
    if (network := _network(text)) is not None:
        return NoProxyRow(network, "", None)
    if (match := _ROW.fullmatch(text)) is None:
        return None
    host, port = match["host"], int(match["port"]) if match["port"] else None
    if (network := _network(host)) is not None:
        return NoProxyRow(network, "", port)
    return NoProxyRow(None, host if host == "*" else host.removeprefix("*").rstrip("."), port)


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def _is_at(row: NoProxyRow, host: str, address: Address | None, port: int | None) -> bool:
    if row.port not in (None, port):
        return False
    if row.network is not None:
        return address is not None and address in row.network
    if row.name in ("*", host):
        return True
    return host.endswith(row.name if row.name.startswith(".") else f".{row.name}")
