"""`--workers 0`: keeper and server in one process, through the same interface."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from pathlib import Path

from holdfast.admin import address_file
from holdfast.clock import Clock, SystemClock
from holdfast.config import Configuration
from holdfast.log import log
from holdfast.process import loop
from holdfast.process.assembly import make_keeper
from holdfast.process.listening import Listening, bound
from holdfast.process.open_store import until_opened
from holdfast.process.process_group import GRACE_SECONDS, Group
from holdfast.process.serving import serve
from holdfast.process.shutdown import first, take_reload
from holdfast.process.store_unavailable import StoreUnavailable
from holdfast.process.supervisor import RestartDelay, announce

#: how long answers may go on once the store failed; others wait for the next one meanwhile
FAILED_SECONDS = 2.0


def run(config: Configuration, group: Group, listening: Listening) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises StoreRefused."""
    return loop.run(_main(config, group, listening))


async def _main(config: Configuration, group: Group, listening: Listening) -> int:
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    take_reload(_refuse_reload)
    clock, delay = SystemClock(), RestartDelay()
    old = asyncio.create_task(group.end_workers(config.limits.drain_timeout + GRACE_SECONDS))
    while not ending.is_set():
        delay.started(clock.monotonic())
        await _serve_from_disk(config, clock, listening, ending)
        if not ending.is_set():
            wait = delay.after_death(clock.monotonic())
            log.error("store opened anew", opened_in=wait)
            await first(ending, clock.sleep(wait))
    listening.close()
    await old
    address_file.remove(Path(config.data))
    group.close()
    return 0


async def _serve_from_disk(
    config: Configuration, clock: Clock, listening: Listening, ending: asyncio.Event
) -> None:
    """One store and all that stands on it, from its opening until the node is to end, or the store failed: only what
    begins anew finds out what is on the disk. Clients who connect meanwhile wait in the queues of the sockets; while
    the disk cannot be read they are refused."""
    over, unopened = asyncio.Event(), StoreUnavailable(config, clock)
    store = await until_opened(config, clock, ending, partial(unopened.serve, listening), write=True)
    await unopened.close()
    if store is None:
        return
    keeper = make_keeper(bound(config, listening), store, clock)
    await keeper.start()
    announce(listening, config)

    async def end() -> None:
        await first(ending, keeper.store_failed)
        if ending.is_set():
            listening.close()  # no process takes over: clients turn to another registry at once
        over.set()

    def patience() -> float:
        limit = config.limits.drain_timeout
        return limit if ending.is_set() else min(FAILED_SECONDS, limit)

    watch = asyncio.create_task(end())
    await serve(config, store, keeper, clock, listening.again(), over, patience)
    await watch
    await keeper.close()
    store.close()


def _refuse_reload() -> None:
    """SIGHUP. New configurations come by new processes, and there is only this one."""
    log.error("configuration refused", reason="workers = 0: one process cannot replace itself; restart it")
