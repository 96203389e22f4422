"""Who a managed node is: one record in its store, made before it first speaks to its parent."""

from __future__ import annotations

import msgspec
from holdfast_core.errors import RecordDamaged, StoreRefused
from holdfast_core.store import Store

from holdfast.control.resource import IDENTITY, REGISTRY, SCOPE_MAP, TOKEN, Identity

#: name of the record
SELF = "self"


def own_identity(store: Store) -> Identity | None:
    """The record, None on a node that never was a child."""
    held = store.resource(IDENTITY, SELF)
    return None if held is None else msgspec.json.decode(held.body, type=Identity)


def refuse_other(store: Store, name: str) -> None:
    """Raises StoreRefused when the store is not that of connected registry `name`, "" for a node without connection
    string: what one node was told must not be mixed with what another was."""
    try:
        identity = own_identity(store)
    except (
        RecordDamaged
    ):  # whose it is cannot be told; it goes on serving, and the parent tells the rest again
        return
    if identity is None:
        kinds = [kind for kind in (REGISTRY, TOKEN, SCOPE_MAP) if store.resource_count(kind)]
        if name and kinds:
            raise StoreRefused(
                f"this store holds a control plane of its own ({kinds[0]} records), which the parent's word would"
                f" replace; give connected registry {name!r} an empty --data"
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
