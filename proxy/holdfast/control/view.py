"""What the API shows of a resource: the original's property names (connected-registry 1.2, 4.1). A verifier, a lease
and an operator's wish that is on its way down are never in it."""

from __future__ import annotations

from typing import Any

import msgspec
from holdfast_core.record import Resource

from holdfast.control import moment, states
from holdfast.control.resource import (
    PATHS,
    REGISTRY,
    SCOPE_MAP,
    TOKEN,
    ConnectedRegistry,
    ScopeMap,
    Status,
    Token,
    Wire,
    id_of,
)

#: The original's types, without its resource provider.
TYPES = {kind: f"Holdfast/{path}" for kind, path in PATHS.items()}
SYSTEM_ETAG = '"system"'


def etag_of(resource: Resource | None) -> str:
    """The ETag of a stored resource; that of what the system defines for None."""
    return SYSTEM_ETAG if resource is None else f'"{resource.revision:x}"'


def registry_view(registry: ConnectedRegistry, status: Status, now: float, etag: str) -> dict[str, Any]:
    """A connected registry. `gatewayEndpoint` is empty: where a parent is reached its operator knows (3.2)."""
    sync = registry.parent.sync_properties
    properties = {
        "provisioningState": "Succeeded",
        "mode": registry.mode,
        "version": status.version,
        "connectionState": states.connection(status, registry, now),
        "lastActivityTime": status.last_activity_time,
        "lastActivitySeconds": _age(status.last_activity_time, now),
        "expectedTime": states.expected(status, registry, now),
        "activation": {"status": states.activation(status)},
        "parent": {
            "id": registry.parent.id,
            "syncProperties": {
                "tokenId": sync.token_id,
                "schedule": sync.schedule,
                "syncWindow": sync.sync_window,
                "messageTtl": sync.message_ttl,
                "lastSyncTime": status.last_sync_time,
                "gatewayEndpoint": "",
            },
        },
        "clientTokenIds": list(registry.client_token_ids),
        "loginServer": _plain(status.login_server),
        "logging": _plain(registry.logging),
        "statusDetails": [_plain(detail) for detail in status.status_details],
        "notificationsList": list(registry.notifications_list),
        "garbageCollection": _plain(registry.garbage_collection),
        "registrySyncResult": _plain(status.registry_sync_result),
        "syncProgress": _plain(status.sync_progress),
    }
    return _envelope(REGISTRY, registry.name, etag, properties)


def _age(time: str | None, now: float) -> int | None:
    return None if time is None else max(0, int(now - moment.seconds(time)))


def scope_map_view(scope_map: ScopeMap, etag: str) -> dict[str, Any]:
    """A scope map."""
    properties = {
        "provisioningState": "Succeeded",
        "type": scope_map.type,
        "description": scope_map.description,
        "creationDate": scope_map.creation_date or None,
        "actions": list(scope_map.actions),
    }
    return _envelope(SCOPE_MAP, scope_map.name, etag, properties)


def token_view(token: Token, etag: str) -> dict[str, Any]:
    """A token, its passwords without anything that proves them."""
    passwords = [
        {"name": password.name, "creationTime": password.creation_time, "expiry": password.expiry}
        for password in token.passwords
    ]
    properties = {
        "provisioningState": "Succeeded",
        "status": token.status,
        "scopeMapId": token.scope_map_id,
        "creationDate": token.creation_date or None,
        "credentials": {"passwords": passwords},
    }
    return _envelope(TOKEN, token.name, etag, properties)


def _envelope(kind: str, name: str, etag: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": id_of(kind, name),
        "name": name,
        "type": TYPES[kind],
        "etag": etag,
        "properties": properties,
    }


def _plain(value: Wire | None) -> Any:
    return msgspec.to_builtins(value)
