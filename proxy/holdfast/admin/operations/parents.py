"""The parents of a node over the admin API: their states, the operator's switch, and the endpoints at which the
parents of connected registries are reached."""

from __future__ import annotations

import ipaddress
from typing import Literal

from holdfast.admin.documents import ParentStateDocument, ParentStateList, ParentStateProperties
from holdfast.admin.operation import AdminCall, reply
from holdfast.config import Configuration
from holdfast.errors import ControlUnknown
from holdfast.oci.names import shown
from holdfast.parent.switch import ParentReport
from holdfast.resources.derived_fields import shared
from holdfast.resources.model import ConnectedRegistry
from holdfast.wire.message import Reply


async def show_list(call: AdminCall) -> Reply:
    """GET of all, by name."""
    return reply(ParentStateList(value=tuple(document(one) for one in await call.node.port.list_parents())))


async def show(call: AdminCall) -> Reply:
    """GET of one."""
    return reply(document(await _named(call)))


async def change(call: AdminCall) -> Reply:
    """PATCH: the switch."""
    await call.node.port.turn_parent(call.name, call.body.switch)
    return reply(document(await _named(call)))


async def _named(call: AdminCall) -> ParentReport:
    for one in await call.node.port.list_parents():
        if one.name == call.name:
            return one
    raise ControlUnknown(f"no parent {shown(call.name)!r}", field="name")


def document(report: ParentReport) -> ParentStateDocument:
    """A parent and its state."""
    properties = ParentStateProperties(**shared(report, ParentStateProperties))
    return ParentStateDocument(
        id=f"parents/{report.name}", name=report.name, type="holdfast/parents", properties=properties
    )


def scheme(config: Configuration) -> Literal["http", "https"]:
    """The URL scheme at which clients reach this node."""
    return config.login.scheme or ("https" if config.tls.cert else "http")


def parent_host(call: AdminCall, registry: ConnectedRegistry) -> str:
    """host[:port] of a connected registry's parent. "" where the parent did not report it, and for this node when it
    listens on every address and has no configured name."""
    if registry.parent.id is not None:
        login = call.catalogue.status(registry.parent.id).login_server
        return "" if login is None else login.host
    if call.node.config.login.server:
        return call.node.config.login.server
    host, port = call.clients
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def gateway_endpoint(call: AdminCall, registry: ConnectedRegistry) -> str:
    """The URL of a connected registry's parent; without a host where only the scheme is known."""
    if registry.parent.id is None:
        return f"{scheme(call.node.config)}://{parent_host(call, registry)}"
    login = call.catalogue.status(registry.parent.id).login_server
    if login is None:
        return ""
    return f"{'https' if login.tls.status == 'Enabled' else 'http'}://{login.host}"
