"""Lays the original's environment variables (references.md 1.12) over the configuration file, below the flags, and adds
the parent that the connection string names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from holdfast.config import Configuration, CredentialsSection, GatewaySection, ParentSection, ParentSettings
from holdfast.gateway.connection_string import ConnectionString, ConnectionStringInvalid, emit, parse
from holdfast.http.egress import proxied

CONNECTION_STRING = "ACR_REGISTRY_CONNECTION_STRING"
LOGIN_SERVER = "ACR_REGISTRY_LOGIN_SERVER"
CERTIFICATES = "ACR_REGISTRY_CERTIFICATE_VOLUME"
DATA = "ACR_REGISTRY_DATA_VOLUME"
PARENT_ENDPOINT = "ACR_PARENT_GATEWAY_ENDPOINT"

#: a byte order mark, blanks and line ends, which files that were written on Windows have
_AROUND = "\ufeff \t\r\n"
#: the two files of a mounted Kubernetes secret of type kubernetes.io/tls
CERTIFICATE_FILE, KEY_FILE = "tls.crt", "tls.key"


class EnvironmentInvalid(ValueError):
    """A value of the environment that cannot be used; the text names the variable."""


def overlaid(table: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The configuration table with the values of the environment laid over it. Raises EnvironmentInvalid.

    The connection string replaces both forms of it in the file. A certificate volume that exists switches HTTPS on, as
    in the original; one that is absent or empty changes nothing, because the output of `get-settings` always names it.
    """
    merged: dict[str, Any] = dict(table)
    if text := _value(environ, CONNECTION_STRING):
        _lay(merged, "gateway", {"connection_string": text, "connection_string_file": ""})
    if server := _value(environ, LOGIN_SERVER):
        _lay(merged, "login", {"server": server})
    if data := _value(environ, DATA):
        merged["data"] = data
    if files := _certificate(_value(environ, CERTIFICATES)):
        _lay(merged, "tls", files)
    return merged


def _value(environ: Mapping[str, str], name: str) -> str:
    """The value of a variable, "" when it is not set. Quotes around it are removed: `get-settings` quotes values for a
    shell, and docker's --env-file and kubectl's secrets from the same file pass the quotes on."""
    text = environ.get(name, "").strip(_AROUND)
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


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
    """The configuration with the parent of its connection string, if it has one, before all other parents, and with the
    egress proxies of the environment. In the result `gateway.connection_string` is the text itself, without file and
    without references. Raises ConnectionStringInvalid and EgressInvalid."""
    if text := _string(config.gateway):
        connection = parse(text, environ, _value(environ, PARENT_ENDPOINT))
        gateway = replace(config.gateway, connection_string=emit(connection), connection_string_file="")
        config = replace(
            config, gateway=gateway, parent=(_parent(connection, config.gateway), *config.parent)
        )
    return replace(
        config,
        parent=tuple(proxied(parent, environ) for parent in config.parent),
        webhook=tuple(proxied(hook, environ) for hook in config.webhook),
    )


def _string(gateway: GatewaySection) -> str:
    if not gateway.connection_string_file:
        return gateway.connection_string
    try:
        return Path(gateway.connection_string_file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConnectionStringInvalid(f"{gateway.connection_string_file}: cannot be read: {why}") from None


def _parent(connection: ConnectionString, gateway: GatewaySection) -> ParentSection:
    """The section of the default parent, whose repositories have the same names on this node."""
    settings = {name: getattr(gateway, name) for name in ParentSettings.__struct_fields__}
    settings["insecure"] = gateway.insecure or connection.protocol == "http"
    return ParentSection(
        url=connection.url,
        default=True,
        namespaces=gateway.namespaces,
        credentials=CredentialsSection(username=connection.token, password=connection.password),
        **settings,
    )


def crosses_network_in_clear(config: Configuration) -> bool:
    """Whether the sync password of a joined configuration leaves this machine without TLS."""
    if not config.gateway.connection_string:
        return False
    return config.parent[0].url.startswith("http:") and not is_here(config.parent[0].url)


def is_here(url: str) -> bool:
    """Whether the host of a URL is a loopback address or localhost, without resolving it."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
