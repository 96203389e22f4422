"""The identity of a connected registry: one record in its store, written before the first request to its parent. Also
the name of a node's role."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from holdfast_core.errors import RecordDamaged, StoreRefused

from holdfast.config import Configuration
from holdfast.gateway.connection_string import parse
from holdfast.resources.model import IDENTITY, REGISTRY, SCOPE_MAP, TOKEN, Identity

if TYPE_CHECKING:  # the supervisor names the role and opens no store: 2 MB
    from holdfast_core.store import Store

#: name of the record
SELF = "self"


def own_identity(store: Store) -> Identity | None:
    """The record, None on a node that never was a connected registry."""
    held = store.documents.get(IDENTITY, SELF)
    return None if held is None else msgspec.json.decode(held.body, type=Identity)


def refuse_other(store: Store, name: str) -> None:
    """Raises StoreRefused when the store is not that of connected registry `name` ("" for a node without connection
    string), so that the configurations of two nodes never mix."""
    try:
        identity = own_identity(store)
    except (
        RecordDamaged
    ):  # its owner is unknown: serve all the same, the parent sends the configuration again
        return
    if identity is None:
        kinds = [kind for kind in (REGISTRY, TOKEN, SCOPE_MAP) if store.documents.count(kind)]
        if name and kinds:
            raise StoreRefused(
                f"this store holds a control plane of its own ({kinds[0]} records), which the parent's configuration"
                f" would replace; give connected registry {name!r} an empty --data"
            )
    elif not name:
        raise StoreRefused(
            f"this store is that of connected registry {identity.name!r}; give its connection string"
            " (ACR_REGISTRY_CONNECTION_STRING), or another --data"
        )
    elif identity.name.lower() != name.lower():
        raise StoreRefused(
            f"this store is that of connected registry {identity.name!r}, the connection string names {name!r};"
            " give each its own --data"
        )


def role(config: Configuration) -> str:
    """The role as a text: `root`, `root, ReadOnly`, `2 parents, ReadWrite`, `connected registry plant`."""
    if text := config.gateway.connection_string:
        return f"connected registry {parse(text).registry}"
    parents, mode = len(config.parent), config.store_mode
    place = f"{parents} parent{'s' if parents != 1 else ''}" if parents else "root"
    return place if mode == "root" else f"{place}, {mode}"
