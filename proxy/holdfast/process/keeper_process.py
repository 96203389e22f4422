"""The keeper process."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from holdfast_core.errors import StoreError

from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.keeper.rpc.service import Service
from holdfast.log import log
from holdfast.process import loop
from holdfast.process.assembly import make_keeper
from holdfast.process.index_compaction import until_long
from holdfast.process.inheritance import INDEX_LONG, Inheritance
from holdfast.process.memory import give_back_rounds
from holdfast.process.open_store import until_opened
from holdfast.process.process_group import Membership
from holdfast.process.shutdown import first, ordered


def run(config: Configuration, gift: Inheritance) -> int:
    """Keep the store until the supervisor ends it; the exit code."""
    try:
        return loop.run(_main(config, gift))
    except StoreError as error:
        log.error("keeper failed", reason=str(error))
        return 1


async def _main(config: Configuration, gift: Inheritance) -> int:
    ending = ordered(gift.lifeline)
    service, listener, clock = Service(), socket.socket(fileno=gift.listener), SystemClock()

    async def report(reason: str) -> None:
        await service.start(listener, reason)

    membership = Membership(Path(config.data), gift)
    store = await until_opened(config, clock, ending, report, write=True, membership=membership)
    if store is None:
        await service.close()
        return 0
    keeper = make_keeper(config, store, clock)
    await keeper.start()
    await service.serve(listener, keeper)
    log.info("keeper ready")
    giving_back = asyncio.create_task(give_back_rounds(clock))
    long = asyncio.create_task(until_long(Path(config.data), clock))
    await first(ending, keeper.store_failed, asyncio.shield(long))
    is_long = long.done() and not long.cancelled() and not ending.is_set()
    long.cancel()
    giving_back.cancel()
    if keeper.store_failed.is_set():
        log.error("keeper failed", reason=store.statistics().failed)
        os._exit(1)  # nothing more may be written; the supervisor's next keeper finds out what is on the disk
    await service.close()
    await keeper.close()
    store.close()
    log.info("keeper ended", index_long=is_long)
    return INDEX_LONG if is_long else 0
