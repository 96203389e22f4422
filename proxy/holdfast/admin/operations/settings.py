"""What a connected registry's node is given to start with (references.md 1.11, 1.12). Nothing is rotated unless the
request says which password."""

from __future__ import annotations

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

from msgspec import UNSET

from holdfast.admin.documents import SettingsDocument
from holdfast.admin.operation import AdminCall, reply
from holdfast.admin.operations.parents import parent_host, scheme
from holdfast.admin.operations.registries import named, sync_token
from holdfast.admin.request_bodies import SettingsWanted
from holdfast.control import command
from holdfast.errors import ControlInvalid
from holdfast.gateway.connection_string import ConnectionString, ConnectionStringInvalid, emit
from holdfast.resources.model import ConnectedRegistry, PasswordName
from holdfast.wire.message import Reply

#: in place of a password, when none was generated
PLACEHOLDER = "<sync-token-password>"
PASSWORDS: dict[int, PasswordName] = {1: "password1", 2: "password2"}


async def show(call: AdminCall) -> Reply:
    """POST …/settings."""
    body: SettingsWanted = call.body
    registry, token = named(call), sync_token(call)
    endpoint = body.parent_endpoint or parent_endpoint(call, registry)
    _string(
        registry.name, token.name, PLACEHOLDER, endpoint, body.parent_protocol
    )  # before a password is spent
    password = None
    if body.generate_password is not None:
        order = command.GenerateCredentials(token=token.name, passwords=(PASSWORDS[body.generate_password],))
        password = (await call.order(order)).passwords[0].value
    login = call.catalogue.status(registry.name).login_server
    return reply(
        SettingsDocument(
            ACR_REGISTRY_CONNECTION_STRING=_string(
                registry.name, token.name, password or PLACEHOLDER, endpoint, body.parent_protocol
            ),
            ACR_REGISTRY_CERTIFICATE_VOLUME="/var/acr/certs",
            ACR_REGISTRY_DATA_VOLUME="/var/acr/data",
            SYNC_TOKEN_USER=token.name,
            SYNC_TOKEN_PASSWORD=password or UNSET,
            ACR_REGISTRY_LOGIN_SERVER=login.host if login and _is_a_name(login.host) else UNSET,
            warnings=_warnings(call, registry, body),
        )
    )


def _is_a_name(host: str) -> bool:
    """Whether clients may be held to a host[:port] that a node reported. An address is where it listens, and that need
    not be what clients type: a node configured to answer to it alone would refuse the others."""
    plain = urlsplit(f"//{host}").hostname or ""
    try:
        ipaddress.ip_address(plain)
    except ValueError:
        return plain not in ("", "localhost")
    return False


def parent_endpoint(call: AdminCall, registry: ConnectedRegistry) -> str:
    """host[:port] at which the parent is reached. Raises `ControlInvalid` where it is not known here."""
    if host := parent_host(call, registry):
        return host
    if registry.parent.id is not None:
        why = "the parent did not report where it is reached"
    else:
        why = f"this node listens on every address ({call.clients[0]}) and does not know its name"
    raise ControlInvalid(
        f"parentEndpoint: missing; {why}: give HOST[:PORT], or set login.server in its configuration",
        field="parentEndpoint",
    )


def _string(
    registry: str, token: str, password: str, endpoint: str, protocol: Literal["http", "https"]
) -> str:
    try:
        return emit(ConnectionString(registry, token, password, endpoint, protocol))
    except ConnectionStringInvalid as error:
        raise ControlInvalid(f"parentEndpoint: {error}", field="parentEndpoint") from None


def _warnings(call: AdminCall, registry: ConnectedRegistry, body: SettingsWanted) -> tuple[str, ...]:
    """What will not work, or not safely."""
    warnings = list[str]()
    if body.parent_protocol == "http":
        warnings.append("http: the sync token's password crosses the network in clear")
    here = scheme(call.node.config)
    if registry.parent.id is None and body.parent_endpoint is None and here != body.parent_protocol:
        warnings.append(f"this node serves {here}, and the connection string has {body.parent_protocol}")
    return tuple(warnings)
