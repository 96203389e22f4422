"""Applies the settings of a node that its parent decides: the mode and the log level. Every process of the node does so
within a second of a change."""

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


def apply_settings(store: Store, name: str) -> None:
    """Set mode and log level of this process by the stored configuration of connected registry `name`; without one,
    change nothing."""
    if (held := store.documents.get(REGISTRY, name)) is None:
        return
    registry = msgspec.json.decode(held.body, type=ConnectedRegistry)
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
