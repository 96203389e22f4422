"""Checks the addresses to connect to. Names are resolved, checked, and then connected to as checked.

A parent chooses realms, redirects and links, so without this check it could have this node send requests inside
its own network (security.md S2). Hosts of the configuration (the parent's own, its mirrors, its
`redirects` and `realms`, the egress proxy) may be private; every other host must be public. Link-local
addresses and the clouds' metadata services are refused for everyone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from holdfast.errors import ParentBroken

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int, int], Awaitable[list[str]]]

_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}\.?", re.IGNORECASE)


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(network) for network in text.split())


#: refused for every host: link-local, multicast, and metadata services that live elsewhere
#: (AWS over IPv6, Alibaba, Oracle, Azure's wire server)
NEVER = _networks(
    "169.254.0.0/16 fe80::/10 224.0.0.0/4 ff00::/8 fd00:ec2::/32"
    " 100.100.100.200/32 192.0.0.192/32 168.63.129.16/32"
)
#: not public: IANA special-purpose registries (RFC 6890 and its updates), and tunnels that hide an address
PRIVATE = _networks(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24"
    " 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4"
    " ::/96 64:ff9b:1::/48 100::/64 2001::/32 2001:db8::/32 2002::/16 fc00::/7 fec0::/10"
)
#: addresses that carry an IPv4 address in their last four bytes: mapped (RFC 4291) and NAT64 (RFC 6052)
_CARRIERS = _networks("::ffff:0:0/96 64:ff9b::/96")


def bare(address: Address) -> Address:
    """The IPv4 address inside a mapped or NAT64 one; any other address as it is."""
    if isinstance(address, ipaddress.IPv6Address) and any(address in network for network in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def may_connect(address: Address, *, configured: bool) -> bool:
    """Whether an address may be connected to. `configured`: the operator named the host."""
    address = bare(address)
    if any(address in network for network in NEVER):
        return False
    return configured or not any(address in network for network in PRIVATE)


class AddressPolicy:
    """The configured hosts, as (host, port) or (host, None) for any port."""

    def __init__(self, configured: Iterable[tuple[str, int | None]]) -> None:
        self._configured = frozenset(configured)

    def is_configured(self, host: str, port: int | None) -> bool:
        """Whether the operator named this host."""
        host = host.lower()
        return (host, None) in self._configured or (host, port) in self._configured

    def check_literal(self, url: URL) -> None:
        """Check a URL whose host is an address already, and refuse every spelling of one that is not
        canonical: decimal, octal, hexadecimal, short. Raises ParentBroken."""
        host = url.host or ""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            if _NUMERIC.fullmatch(host):
                raise ParentBroken(f"the parent led to {host!r}, which is no canonical address") from None
            return
        if not may_connect(address, configured=self.is_configured(host, url.port)):
            raise ParentBroken(f"the parent led to {host}, an address this node does not connect to")

    def allowed(self, host: str, port: int, addresses: Iterable[str]) -> list[str]:
        """Those of the resolved addresses that may be connected to. Raises ParentBroken when none is."""
        configured = self.is_configured(host, port)
        resolved = list(addresses)
        good = [text for text in resolved if may_connect(_address(text), configured=configured)]
        if resolved and not good:
            raise ParentBroken(f"the parent led to {host}, which resolves to a private address")
        return good


class CheckingResolver(AbstractResolver):
    """aiohttp's resolver: what it returns is what is connected to, so a second answer cannot differ."""

    def __init__(self, policy: AddressPolicy, lookup: Lookup | None = None) -> None:
        self._policy, self._lookup = policy, lookup or system_lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses that passed the policy. Raises OSError (unknown host) or ParentBroken (refused)."""
        addresses = await self._lookup(host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=text,
                port=port,
                family=socket.AF_INET6 if ":" in text else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for text in self._policy.allowed(host, port, addresses)
        ]

    async def close(self) -> None:
        """Nothing to close."""


async def system_lookup(host: str, port: int, family: int) -> list[str]:
    """Addresses of a host by the system's resolver, in its order. Raises OSError."""
    entries = await asyncio.get_running_loop().getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def _address(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])
