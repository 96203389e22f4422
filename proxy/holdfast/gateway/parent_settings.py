"""The settings of a node that its parent decides. Every process of the node applies the mode and the log level within a
second of a change; when garbage is collected is read by the keeper (`holdfast/storage/collection_rounds.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from holdfast_core.errors import StoreError
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.gateway.identity import own_identity
from holdfast.log import log
from holdfast.resources.model import REGISTRY, ConnectedRegistry, LogLevel

#: between two reads of the control plane's revision (seconds); one record each
LOOK_SECONDS = 1.0
#: the original's levels, as they are called here
LEVELS: dict[LogLevel, str] = {
    "Debug": "debug",
    "Information": "info",
    "Warning": "warning",
    "Error": "error",
    "None": "none",
}


def own_registry(store: Store, name: str) -> ConnectedRegistry | None:
    """The stored configuration of connected registry `name`; None for "" and before the first contact. Raises
    RecordDamaged."""
    held = store.documents.get(REGISTRY, name) if name else None
    return None if held is None else msgspec.json.decode(held.body, type=ConnectedRegistry)


def apply_settings(store: Store, name: str) -> None:
    """Set mode and log level of this process by the stored configuration of connected registry `name`; without one,
    change nothing."""
    if (registry := own_registry(store, name)) is None:
        return
    store.set_mode(registry.mode)
    log.set_level(LEVELS[registry.logging.log_level])


async def follow_settings(
    store: Store, name: str, clock: Clock, adopt: Callable[[Sequence[str]], None]
) -> None:
    """Apply the settings now and after each change, until cancelled. `adopt` takes the namespaces of the parents."""
    applied = -1
    while True:
        try:
            if (revision := store.documents.revision()) != applied:
                apply_settings(store, name)
                if (identity := own_identity(store)) is not None:
                    adopt(identity.namespaces)
                applied = revision
        except StoreError:
            applied = -1  # a damaged record: the former settings stay in force, and it is read again
        await clock.sleep(LOOK_SECONDS)
