"""The connection string: all that a connected registry needs for its first request to its parent (references.md 1.11).

    ConnectedRegistryName=plant;SyncTokenName=plant;SyncTokenPassword=…;ParentGatewayEndpoint=host:port;ParentEndpointProtocol=https

Pieces are split at `;`, then at the first `=` only, because passwords contain `=`. A byte order mark, carriage returns
and line ends around it are dropped: files that were written on Windows have them. `$NAME` or `${NAME}` in a value
stands for an environment variable; in a password only when it is the whole value, because a password may contain `$`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, cast
from urllib.parse import urlsplit

from msgspec import Struct

#: key in the string → field here, in the order in which they are written
KEYS = {
    "ConnectedRegistryName": "registry",
    "SyncTokenName": "token",
    "SyncTokenPassword": "password",
    "ParentGatewayEndpoint": "endpoint",
    "ParentEndpointProtocol": "protocol",
}
IDENTITY_KEY = "ManagedIdentityClientId"
#: longest string that is read (bytes); the longest valid one is under 2 KiB
STRING_LIMIT, PASSWORD_LIMIT = 8192, 1024
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{4,39}")
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
_ENDPOINT = re.compile(r"(?:[\w-]+(?:\.[\w-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Protocol = Literal["http", "https"]


class ConnectionStringInvalid(ValueError):
    """A string that cannot be used. The text names the key, what was found and what is allowed, and never holds
    the password."""


class ConnectionString(Struct, frozen=True):
    """The values of a connection string. `endpoint` is host[:port] of the parent."""

    registry: str
    token: str
    password: str
    endpoint: str
    protocol: Protocol = "https"

    def __repr__(self) -> str:
        return (
            f"ConnectionString({self.registry!r}, {self.token!r}, ***, {self.endpoint!r}, {self.protocol!r})"
        )

    @property
    def url(self) -> str:
        """The parent's base URL."""
        return f"{self.protocol}://{self.endpoint}"


def parse(text: str, environ: Mapping[str, str] | None = None, endpoint: str = "") -> ConnectionString:
    """The values of a string. `$NAME` refers to `environ`; `endpoint`, unless empty, replaces the one in the string and
    may hold references too (ACR_PARENT_GATEWAY_ENDPOINT). Raises ConnectionStringInvalid."""
    pieces = _pieces(text)
    if endpoint:
        pieces["ParentGatewayEndpoint"] = endpoint.strip()
    for key in KEYS:
        if key not in pieces:
            raise ConnectionStringInvalid(f"{key}: missing; the keys are {', '.join(KEYS)}")
    return _checked({key: _expanded(key, value, environ or {}) for key, value in pieces.items()})


def emit(connection: ConnectionString) -> str:
    """The text of a connection string, as `holdfast connected-registry get-settings` prints it; `parse` returns the
    same values.

    Raises ConnectionStringInvalid for values that no string can carry, such as a password with `;`."""
    values = {key: getattr(connection, field) for key, field in KEYS.items()}
    for key, value in values.items():
        if ";" in value or value != value.strip(" \t\ufeff"):
            raise ConnectionStringInvalid(
                f"{key}: holds `;` or blanks at its ends, which the string cannot carry"
            )
        if _is_reference(key, value):
            raise ConnectionStringInvalid(f"{key}: would be read as the name of an environment variable")
    _checked(values)
    return ";".join(f"{key}={value}" for key, value in values.items())


def _pieces(text: str) -> dict[str, str]:
    if len(text) > STRING_LIMIT:
        raise ConnectionStringInvalid(
            f"found {len(text)} characters; a connection string has {STRING_LIMIT} at most"
        )
    pieces: dict[str, str] = {}
    for key, value in _split(text.strip("\ufeff \t\r\n")):
        if key in pieces:
            raise ConnectionStringInvalid(f"{key}: found twice; allowed: once")
        pieces[key] = value
    if IDENTITY_KEY in pieces:
        _refuse_identity(pieces)
    for key, value in pieces.items():
        if key not in KEYS:
            shown = key[:60] if key.isprintable() else "a key that cannot be printed"
            raise ConnectionStringInvalid(f"{shown}: unknown key; the keys are {', '.join(KEYS)}")
        if not value:
            raise ConnectionStringInvalid(f"{key}: found nothing; it must have a value")
    return pieces


def _split(text: str) -> Iterator[tuple[str, str]]:
    """(key, value) of every piece; one `;` at the end ends the last piece."""
    if not text:
        raise ConnectionStringInvalid(f"found an empty connection string; the keys are {', '.join(KEYS)}")
    for number, piece in enumerate(text.removesuffix(";").split(";"), 1):
        key, equals, value = piece.partition("=")
        if not equals:  # the piece itself may be the rest of a password with a `;` in it, so it is not shown
            raise ConnectionStringInvalid(f"piece {number} has no `=`; allowed: key=value, parted by `;`")
        yield key.strip(" \t\r\n\ufeff"), value.strip(" \t\r\n\ufeff")


def _refuse_identity(pieces: Mapping[str, str]) -> None:
    if "SyncTokenName" in pieces or "SyncTokenPassword" in pieces:
        raise ConnectionStringInvalid(
            f"{IDENTITY_KEY}: found beside a sync token; allowed: one credential form, SyncTokenName with"
            " SyncTokenPassword"
        )
    raise ConnectionStringInvalid(
        f"{IDENTITY_KEY}: managed identities are Azure's and are not available here; use SyncTokenName with"
        " SyncTokenPassword (holdfast connected-registry get-settings prints them)"
    )


def _is_reference(key: str, value: str) -> bool:
    """Whether `parse` would replace something in this value from the environment."""
    look = _REFERENCE.fullmatch if key == "SyncTokenPassword" else _REFERENCE.search
    return look(value) is not None


def _expanded(key: str, value: str, environ: Mapping[str, str]) -> str:
    def look_up(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if not environ.get(name):
            raise ConnectionStringInvalid(f"{key}: refers to ${name}, which is not set in the environment")
        return environ[name].strip(" \t\r\n")

    return _REFERENCE.sub(look_up, value) if _is_reference(key, value) else value


def _checked(values: Mapping[str, str]) -> ConnectionString:
    for key, value in values.items():
        if _CONTROL.search(value):
            raise ConnectionStringInvalid(f"{key}: holds a control character; allowed: printable text")
    name, token = values["ConnectedRegistryName"], values["SyncTokenName"]
    if not _NAME.fullmatch(name):
        allowed = "5 to 40 letters and digits that begin with a letter"
        raise ConnectionStringInvalid(f"ConnectedRegistryName: found {name[:60]!r}; allowed: {allowed}")
    if not _TOKEN.fullmatch(token):
        raise ConnectionStringInvalid(f"SyncTokenName: found {token[:60]!r}; allowed: the name of a token")
    if not 0 < len(values["SyncTokenPassword"].encode("utf-8", "surrogateescape")) <= PASSWORD_LIMIT:
        raise ConnectionStringInvalid(f"SyncTokenPassword: found none, or over {PASSWORD_LIMIT} bytes")
    _check_endpoint(values["ParentGatewayEndpoint"])
    if (protocol := values["ParentEndpointProtocol"]) not in ("http", "https"):
        raise ConnectionStringInvalid(
            f"ParentEndpointProtocol: found {protocol[:20]!r}; allowed: http or https"
        )
    return ConnectionString(
        name, token, values["SyncTokenPassword"], values["ParentGatewayEndpoint"], cast("Protocol", protocol)
    )


def _check_endpoint(endpoint: str) -> None:
    try:
        port = urlsplit(f"//{endpoint}").port
    except ValueError:
        port = 0
    if not _ENDPOINT.fullmatch(endpoint) or port == 0:
        shown = endpoint.rpartition("@")[2][:80]
        raise ConnectionStringInvalid(
            f"ParentGatewayEndpoint: found {shown!r}; allowed: host[:port], without scheme and path"
        )
