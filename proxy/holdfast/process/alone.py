"""`--workers 0`: keeper and server in one process, through the same interface."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import structlog
import uvloop

from holdfast.admin import place
from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.process.assembly import make_keeper, make_rounds
from holdfast.process.group import GRACE_SECONDS, Group
from holdfast.process.listen import bound, node_listeners
from holdfast.process.serving import serve
from holdfast.process.store import open_store
from holdfast.process.supervisor import announce

log = structlog.get_logger()


def run(config: Configuration, group: Group) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises StoreRefused and ConfigInvalid."""
    return uvloop.run(_main(config, group))


async def _main(config: Configuration, group: Group) -> int:
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _refuse_reload)
    listening = node_listeners(config, 1, joins=bool(group.old_workers))
    store = open_store(config, write=True)
    keeper = make_keeper(config, store, clock := SystemClock())
    rounds = make_rounds(bound(config, listening), keeper)
    await keeper.start()
    if rounds is not None:
        await rounds.start()
    announce(listening, config)
    failure = asyncio.create_task(_end_with(keeper.store_failed, ending))
    old = asyncio.create_task(group.end_workers(config.limits.drain_timeout + GRACE_SECONDS))
    await serve(config, store, keeper, clock, listening, ending)
    failure.cancel()
    await old
    if rounds is not None:
        await rounds.close()
    await keeper.close()
    store.close()
    place.remove(Path(config.data))
    group.close()
    return int(keeper.store_failed.is_set())


async def _end_with(failed: asyncio.Event, ending: asyncio.Event) -> None:
    """A store that takes no more writes ends the node: only a fresh start finds out what is on the disk."""
    await failed.wait()
    ending.set()


def _refuse_reload() -> None:
    """SIGHUP. New configurations come by new processes, and there is only this one."""
    log.error("configuration refused", reason="workers = 0: one process cannot replace itself; restart it")
