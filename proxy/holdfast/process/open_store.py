"""Opens the store that a configuration names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from holdfast_core.errors import StoreRefused, Unwritable
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.keeper.disk import LONGEST_SECONDS, PROBE_SECONDS, UNREADABLE, sentence
from holdfast.log import log
from holdfast.process.process_group import Membership
from holdfast.process.shutdown import first


def open_store(config: Configuration, *, write: bool) -> Store:
    """The store of a configuration; on a disk that takes no writes it serves what it holds. Raises StoreRefused; a
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
        uuid=config.store.uuid,
    )
    if not store.blobs.knows_pages:
        log.warning(
            "every read is hashed", reason="/proc/self/pagemap cannot be read here; allow it to the process"
        )
    if not (write or store.uploads.ready):
        store.close()
        raise StoreRefused(f"{config.data} is being brought up to date; try again")
    return store


async def until_opened(
    config: Configuration,
    clock: Clock,
    ending: asyncio.Event,
    report: Callable[[str], Awaitable[None]],
    *,
    write: bool,
    membership: Membership | None = None,
) -> Store | None:
    """`open_store`, tried until the disk can be read, and as a child not before its membership; `report` gets why it
    could not, for a person. None when the process is to end. A process that ended over it would be started again and
    again, and answer no request meanwhile."""
    wait = PROBE_SECONDS
    while not ending.is_set():
        try:
            if membership is not None and not membership.hold():
                return None
            return open_store(config, write=write)
        except Unwritable as error:
            log.error("store not opened", reason=str(error), again_in=wait)
            await report(sentence(UNREADABLE, str(error)))
        await first(ending, clock.sleep(wait))
        wait = min(2 * wait, LONGEST_SECONDS)
    return None
