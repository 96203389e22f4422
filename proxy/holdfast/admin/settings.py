"""What a connected registry's node is given to start with (connected-registry 3.2, 3.3). Nothing is rotated unless the
request says which password."""

from __future__ import annotations

import ipaddress
from typing import Any, Literal
from urllib.parse import urlsplit

from holdfast.admin.body import SettingsWanted
from holdfast.admin.operation import Call, reply
from holdfast.admin.registries import found, sync_token
from holdfast.control import command
from holdfast.control.resource import ConnectedRegistry, PasswordName
from holdfast.errors import ControlInvalid
from holdfast.gateway.connection_string import ConnectionString, ConnectionStringInvalid, emit
from holdfast.wire.message import Reply

#: stands where a password would, when none was made
PLACEHOLDER = "<sync-token-password>"
VOLUMES = {
    "ACR_REGISTRY_CERTIFICATE_VOLUME": "/var/acr/certs",
    "ACR_REGISTRY_DATA_VOLUME": "/var/acr/data",
}
PASSWORDS: dict[int, PasswordName] = {1: "password1", 2: "password2"}


async def show(call: Call) -> Reply:
    """POST …/settings."""
    body: SettingsWanted = call.body
    registry, token = found(call), sync_token(call)
    endpoint = body.parent_endpoint or parent_endpoint(call, registry)
    _string(
        registry.name, token.name, PLACEHOLDER, endpoint, body.parent_protocol
    )  # before a password is spent
    password = None
    if body.generate_password is not None:
        order = command.GenerateCredentials(token=token.name, passwords=(PASSWORDS[body.generate_password],))
        password = (await call.order(order)).passwords[0].value
    answer: dict[str, Any] = {
        "ACR_REGISTRY_CONNECTION_STRING": _string(
            registry.name, token.name, password or PLACEHOLDER, endpoint, body.parent_protocol
        ),
        **VOLUMES,
        "SYNC_TOKEN_USER": token.name,
    }
    if password:
        answer["SYNC_TOKEN_PASSWORD"] = password
    if (login := call.catalogue.status(registry.name).login_server) and _is_a_name(login.host):
        answer["ACR_REGISTRY_LOGIN_SERVER"] = login.host
    return reply({**answer, "warnings": _warnings(call, registry, body)})


def _is_a_name(host: str) -> bool:
    """Whether clients may be held to a host[:port] that a node reported. An address is where it listens, and that need
    not be what clients type: a node that is told to answer to it alone would refuse the others."""
    plain = urlsplit(f"//{host}").hostname or ""
    try:
        ipaddress.ip_address(plain)
    except ValueError:
        return plain not in ("", "localhost")
    return False


def parent_endpoint(call: Call, registry: ConnectedRegistry) -> str:
    """host[:port] at which the parent is reached, as far as it is known here. Raises `ControlInvalid`."""
    if registry.parent.id is not None:
        login = call.catalogue.status(registry.parent.id).login_server
        if login and login.host:
            return login.host
        raise ControlInvalid(
            "parentEndpoint: missing; the parent has not said where it is reached: give HOST[:PORT], or set"
            " login.server in its configuration",
            field="parentEndpoint",
        )
    if call.node.config.login.server:
        return call.node.config.login.server
    host, port = call.clients
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        raise ControlInvalid(
            f"parentEndpoint: missing; this node listens on every address ({host}) and does not know its name: give"
            " HOST[:PORT], or set login.server in its configuration",
            field="parentEndpoint",
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _string(
    registry: str, token: str, password: str, endpoint: str, protocol: Literal["http", "https"]
) -> str:
    try:
        return emit(ConnectionString(registry, token, password, endpoint, protocol))
    except ConnectionStringInvalid as error:
        raise ControlInvalid(f"parentEndpoint: {error}", field="parentEndpoint") from None


def _warnings(call: Call, registry: ConnectedRegistry, body: SettingsWanted) -> list[str]:
    """What will not work, or not safely."""
    config, found = call.node.config, list[str]()
    if body.parent_protocol == "http":
        found.append("http: the sync token's password crosses the network in clear")
    scheme = config.login.scheme or ("https" if config.tls.cert else "http")
    if registry.parent.id is None and body.parent_endpoint is None and scheme != body.parent_protocol:
        found.append(f"this node serves {scheme}, and the connection string says {body.parent_protocol}")
    return found
