"""What a parent says of a node as a whole, taken up by every process of it within a second: the mode and what is
logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from holdfast_core.errors import StoreError
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.control.resource import REGISTRY, ConnectedRegistry, LogLevel
from holdfast.gateway.identity import own_identity
from holdfast.process import log as logs

#: between two looks at whether the control plane changed (seconds); one read of one record each
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
    """Do in this process what the held configuration of connected registry `name` says; nothing before there is
    one."""
    if (held := store.resource(REGISTRY, name)) is None:
        return
    registry = msgspec.json.decode(held.body, type=ConnectedRegistry)
    store.set_mode(registry.mode)
    logs.set_level(LEVELS[registry.logging.log_level])


async def follow_settings(
    store: Store, name: str, clock: Clock, adopt: Callable[[Sequence[str]], None]
) -> None:
    """Apply them now and whenever they change, until cancelled. `adopt` takes the names of the levels above."""
    applied = -1
    while True:
        try:
            if (revision := store.control_revision()) != applied:
                apply_settings(store, name)
                if (identity := own_identity(store)) is not None:
                    adopt(identity.namespaces)
                applied = revision
        except StoreError:
            applied = -1  # a damaged record stays with what was applied before; look again
        await clock.sleep(LOOK_SECONDS)
