"""Opens the store that a configuration names."""

from __future__ import annotations

import structlog
from holdfast_core.errors import StoreRefused
from holdfast_core.store import Store

from holdfast.config import Configuration

log = structlog.get_logger()


def open_store(config: Configuration, *, write: bool) -> Store:
    """The store of a configuration; one that the disk lets nobody write serves what it holds. Raises StoreRefused; a
    worker that comes before the keeper brought an older
    store up to date is started again."""
    store = Store.create_or_open(
        config.data,
        write=write,
        inline_bytes=config.inline_bytes,
        scrub_interval=config.scrub_interval,
        mode=config.store_mode,
        or_read=True,
        map_bytes=config.map_bytes,
        ballast_bytes=None if config.ballast_bytes < 0 else config.ballast_bytes,
    )
    if not store.knows_pages:
        log.warning(
            "every read is hashed", reason="/proc/self/pagemap cannot be read here; allow it to the process"
        )
    if not (write or store.uploads.ready):
        store.close()
        raise StoreRefused(f"{config.data} is being brought up to date; try again")
    return store
