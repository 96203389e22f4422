"""Decides where a redirect may lead, and which headers are sent there. Pure; `endpoint` acts on it.

The rules (security.md S3): at most five hops, https never to http, no user information in a Location,
and once the origin (scheme, host, port) changes, only headers from an allow-list are sent, for the rest of
the chain, even if it comes back. Deny-lists are how clients leaked (aiohttp PYSEC-2026-2100, curl
CVE-2026-11856).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from yarl import URL

from holdfast.errors import ParentBroken

HOPS = 5
STATUSES = frozenset({301, 302, 303, 307, 308})
#: the only headers that a foreign origin gets
SENT_ANYWHERE = frozenset({"accept", "accept-encoding", "range", "if-range", "user-agent"})

_PLAIN = re.compile(r"[\x21-\x7e]{1,8192}")


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a chain. `home` is true while the chain never left the first origin."""

    url: URL
    home: bool = True
    number: int = 0


def origin(url: URL) -> str:
    """`scheme://host:port`, the port always spelled out: credentials belong to it."""
    return f"{url.scheme}://{(url.raw_host or '').lower()}:{url.port}"


def next_hop(hop: Hop, location: str | None) -> Hop:
    """The hop that a Location leads to. Raises ParentBroken when the chain must end here."""
    if hop.number >= HOPS:
        raise ParentBroken(f"the parent redirected more than {HOPS} times")
    url = target(hop.url, location)
    if hop.url.scheme == "https" and url.scheme != "https":
        raise ParentBroken("the parent redirected from https to http")
    return Hop(url, hop.home and origin(url) == origin(hop.url), hop.number + 1)


def target(base: URL, reference: str | None) -> URL:
    """A URL reference as the parent wrote it, resolved and never re-encoded: a presigned URL is signed
    over its exact spelling. Raises ParentBroken for anything but plain http or https to a host."""
    if reference is None or not _PLAIN.fullmatch(reference):
        raise ParentBroken("the parent redirected without a usable Location")
    try:
        url = base.join(URL(reference, encoded=True)).with_fragment(None)
        port = url.port
    except ValueError:
        raise ParentBroken("the parent redirected to something that is no URL") from None
    if url.scheme not in ("http", "https") or not url.raw_host or not port:
        raise ParentBroken("the parent redirected to something that is not http or https")
    if url.raw_user is not None or url.raw_password is not None:
        raise ParentBroken("the parent redirected to a URL with user information")
    return url


def headers_for(hop: Hop, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that may go to this hop."""
    if hop.home:
        return dict(headers)
    return {name: value for name, value in headers.items() if name.lower() in SENT_ANYWHERE}
