"""What a node is, for a person."""

from __future__ import annotations

from holdfast.config import Configuration
from holdfast.gateway.connection_string import parse


def role(config: Configuration) -> str:
    """`root`, `root, ReadOnly`, `2 parents, ReadWrite`, `connected registry plant`."""
    if text := config.gateway.connection_string:
        return f"connected registry {parse(text).registry}"
    parents, mode = len(config.parent), config.store_mode
    place = f"{parents} parent{'s' if parents != 1 else ''}" if parents else "root"
    return place if mode == "root" else f"{place}, {mode}"
