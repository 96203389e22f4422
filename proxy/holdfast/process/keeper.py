"""The keeper process."""

from __future__ import annotations

import asyncio
import os
import socket

import structlog
import uvloop
from holdfast_core.errors import StoreError, Unwritable
from holdfast_core.store import Store

from holdfast.clock import Clock, SystemClock
from holdfast.config import Configuration
from holdfast.keeper.disk import LONGEST_SECONDS, PROBE_SECONDS, UNREADABLE, sentence
from holdfast.keeper.service import Service
from holdfast.process.assembly import make_keeper, make_rounds
from holdfast.process.child import Inheritance
from holdfast.process.ending import first, on_signals, watch_lifeline
from holdfast.process.store import open_store

log = structlog.get_logger()


def run(config: Configuration, gift: Inheritance) -> int:
    """Keep the store until SIGTERM; the exit code."""
    try:
        return uvloop.run(_main(config, gift))
    except StoreError as error:
        log.error("keeper failed", reason=str(error))
        return 1


async def opened(
    config: Configuration, service: Service, listener: socket.socket, clock: Clock, ending: asyncio.Event
) -> Store | None:
    """The store, as soon as its disk can be read; until then workers are told why not, at once. None when the process
    is to end. Raises StoreRefused."""
    wait = PROBE_SECONDS
    while not ending.is_set():
        try:
            return open_store(config, write=True)
        except Unwritable as error:
            log.error("store not opened", reason=str(error), again_in=wait)
            service.unopened = sentence(UNREADABLE, str(error))
        await service.start(listener)
        await first(ending, clock.sleep(wait))
        wait = min(2 * wait, LONGEST_SECONDS)
    return None


async def _main(config: Configuration, gift: Inheritance) -> int:
    ending = on_signals()
    watch_lifeline(gift.lifeline)
    service, listener, clock = Service(), socket.socket(fileno=gift.listener), SystemClock()
    store = await opened(config, service, listener, clock, ending)
    if store is None:
        await service.close()
        return 0
    keeper = make_keeper(config, store, clock)
    rounds = make_rounds(config, keeper)
    await keeper.start()
    if rounds is not None:
        await rounds.start()
    service.keeper = keeper
    await service.start(listener)
    log.info("keeper ready")
    await first(ending, keeper.store_failed)
    if keeper.store_failed.is_set():
        log.error("keeper failed", reason=store.statistics().failed)
        os._exit(1)  # nothing more may be written; the supervisor's next keeper looks at the disk afresh
    await service.close()
    if rounds is not None:
        await rounds.close()
    await keeper.close()
    store.close()
    log.info("keeper ended")
    return 0
