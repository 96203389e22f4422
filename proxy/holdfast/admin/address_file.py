"""The URL of the admin API, kept in the data directory for the command line: `admin.json`, mode 0600."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path

import msgspec

from holdfast.admin.auth import write_private
from holdfast.config import Configuration

FILE = "admin.json"
#: a wildcard address cannot be connected to
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class AddressFile(msgspec.Struct):
    """The file."""

    url: str


def url_of(address: tuple[str, int], config: Configuration) -> str:
    """The URL of the admin API that listens on `address`."""
    host, port = WILDCARDS.get(address[0], address[0]), address[1]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if is_secure(address[0], config) else 'http'}://{shown}:{port}"


def is_secure(host: str, config: Configuration) -> bool:
    """Whether the admin listener on a host speaks TLS: where it leaves the machine, with the node's certificate."""
    return bool(config.tls.cert) and not is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def write(data: Path, url: str) -> None:
    """Write the URL of the admin API. Raises OSError."""
    write_private(data / FILE, msgspec.json.encode(AddressFile(url)))


def read(data: Path) -> str:
    """The URL of the admin API of a data directory. Raises FileNotFoundError when none serves, OSError or
    msgspec.DecodeError when the file cannot be read."""
    return msgspec.json.decode((data / FILE).read_bytes(), type=AddressFile).url


def remove(data: Path) -> None:
    """Remove the file when the node stops serving."""
    with contextlib.suppress(OSError):  # a disk that takes no writes keeps it
        (data / FILE).unlink(missing_ok=True)
