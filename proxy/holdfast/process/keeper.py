"""The keeper process."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import structlog
import uvloop
from holdfast_core.errors import StoreError

from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.keeper.service import Service
from holdfast.process.assembly import make_keeper, make_rounds
from holdfast.process.child import Inheritance
from holdfast.process.ending import first, ordered
from holdfast.process.group import Membership
from holdfast.process.store import until_opened

log = structlog.get_logger()


def run(config: Configuration, gift: Inheritance) -> int:
    """Keep the store until the supervisor ends it; the exit code."""
    try:
        return uvloop.run(_main(config, gift))
    except StoreError as error:
        log.error("keeper failed", reason=str(error))
        return 1


async def _main(config: Configuration, gift: Inheritance) -> int:
    ending = ordered(gift.lifeline)
    service, listener, clock = Service(), socket.socket(fileno=gift.listener), SystemClock()

    async def told(why: str) -> None:
        service.unopened = why
        await service.start(listener)

    membership = Membership(Path(config.data), gift)
    store = await until_opened(config, clock, ending, told, write=True, membership=membership)
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
