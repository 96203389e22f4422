"""Opens the store that a configuration names."""

from __future__ import annotations

from holdfast_core.errors import StoreRefused
from holdfast_core.store import Store

from holdfast.config import Configuration


def open_store(config: Configuration, *, write: bool) -> Store:
    """The store of a configuration. Raises StoreRefused; a worker that comes before the keeper brought an older
    store up to date is started again."""
    store = Store.create_or_open(
        config.data,
        write=write,
        inline_bytes=config.inline_bytes,
        scrub_interval=config.scrub_interval,
        mode=config.store_mode,
    )
    if not (write or store.uploads.ready):
        store.close()
        raise StoreRefused(f"{config.data} is being brought up to date; try again")
    return store
