"""The environment names of the original (connected-registry 3.3), and the node that a connection string makes.

The names are aliases of configuration keys: laid over the file, under the flags.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from holdfast.config import Configuration, Credentials, Gateway, Parent
from holdfast.gateway.connection_string import ConnectionString, ConnectionStringInvalid, emit, parse

CONNECTION_STRING = "ACR_REGISTRY_CONNECTION_STRING"
LOGIN_SERVER = "ACR_REGISTRY_LOGIN_SERVER"
CERTIFICATES = "ACR_REGISTRY_CERTIFICATE_VOLUME"
DATA = "ACR_REGISTRY_DATA_VOLUME"
PARENT_ENDPOINT = "ACR_PARENT_GATEWAY_ENDPOINT"

#: what a mounted secret of Kubernetes calls its two files (kubernetes.io/tls)
CERTIFICATE_FILE, KEY_FILE = "tls.crt", "tls.key"


class EnvironmentInvalid(ValueError):
    """A value of the environment that cannot be used; the text names the variable."""


def overlaid(table: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """A configuration table with what the environment says laid over it. Raises EnvironmentInvalid.

    The connection string replaces both forms that the file may have of it. The certificate volume switches HTTPS on
    when it is there, as in the original; one that is absent or empty changes nothing, because the block that
    `get-settings` prints names it always.
    """
    found: dict[str, Any] = dict(table)
    if text := environ.get(CONNECTION_STRING):
        _lay(found, "gateway", {"connection_string": text, "connection_string_file": ""})
    if server := environ.get(LOGIN_SERVER):
        _lay(found, "login", {"server": server.strip()})
    if data := environ.get(DATA):
        found["data"] = data
    if files := _certificate(environ.get(CERTIFICATES, "")):
        _lay(found, "tls", files)
    return found


def _lay(table: dict[str, Any], section: str, values: Mapping[str, str]) -> None:
    under = table.get(section, {})
    table[section] = {**under, **values} if isinstance(under, dict) else dict(values)


def _certificate(volume: str) -> dict[str, str]:
    """The pair in a certificate volume, {} when there is none. Raises EnvironmentInvalid for half a pair."""
    if not volume:
        return {}
    files = {"cert": Path(volume, CERTIFICATE_FILE), "key": Path(volume, KEY_FILE)}
    missing = [file.name for file in files.values() if not file.is_file()]
    if len(missing) == len(files):
        return {}
    if missing:
        raise EnvironmentInvalid(
            f"{CERTIFICATES}: {volume!r} has no {missing[0]}; allowed: {CERTIFICATE_FILE} and {KEY_FILE}, or neither"
        )
    return {key: str(file) for key, file in files.items()}


def joined(config: Configuration, environ: Mapping[str, str]) -> Configuration:
    """The configuration with the parent that its connection string names in front of every other; itself when it has
    no string. Afterwards `gateway.connection_string` is plain: no file, no reference. Raises ConnectionStringInvalid.
    """
    text = _string(config.gateway)
    if not text:
        return config
    said = parse(text, environ, environ.get(PARENT_ENDPOINT, ""))
    gateway = replace(config.gateway, connection_string=emit(said), connection_string_file="")
    return replace(config, gateway=gateway, parent=(_parent(said, config.gateway), *config.parent))


def _string(gateway: Gateway) -> str:
    if not gateway.connection_string_file:
        return gateway.connection_string
    try:
        return Path(gateway.connection_string_file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConnectionStringInvalid(f"{gateway.connection_string_file}: cannot be read: {why}") from None


def _parent(said: ConnectionString, gateway: Gateway) -> Parent:
    """The default parent: its repositories have the same names here as there."""
    return Parent(
        url=said.url,
        default=True,
        insecure=gateway.insecure or said.protocol == "http",
        ca=gateway.ca,
        namespaces=gateway.namespaces,
        credentials=Credentials(username=said.token, password=said.password),
    )


def crosses_network_in_clear(config: Configuration) -> bool:
    """Whether the sync password of a joined configuration leaves this machine without TLS."""
    if not config.gateway.connection_string:
        return False
    return config.parent[0].url.startswith("http:") and not is_here(config.parent[0].url)


def is_here(url: str) -> bool:
    """Whether a URL leads to this machine, as it is written."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
