"""Ranges of addresses from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Range = IPv4Network | IPv6Network


def read(text: str) -> Range:
    """`10.0.0.0/8`, `10.1.2.3`, `fd00::/8`. Raises ValueError, also for a range with bits behind its mask."""
    return ip_network(text)


class Network:
    """Ranges, and whether an address lies in one. Empty it is false."""

    def __init__(self, ranges: Sequence[str]) -> None:
        self._ranges = [read(text) for text in ranges]
        self._known = lru_cache(1024)(self._holds)

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __contains__(self, address: str) -> bool:
        return bool(self._ranges) and self._known(address)

    def _holds(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in one for one in self._ranges)


def neighbourhood(text: str) -> str:
    """What counts as one place when failures are counted: an IPv4 address, the /64 of an IPv6 one."""
    if ":" not in text:
        return text
    address = _address(text)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return text if address is None else str(address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address; one of IPv4 that is written as IPv6 is IPv4, and a zone does not count."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
