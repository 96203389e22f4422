"""Opens the store that a configuration names."""

from __future__ import annotations

from holdfast_core.store import Store

from holdfast.config import Configuration


def open_store(config: Configuration, *, write: bool) -> Store:
    """The store of a configuration. Raises StoreRefused."""
    return Store.create_or_open(
        config.data, write=write, inline_bytes=config.inline_bytes, scrub_interval=config.scrub_interval
    )
