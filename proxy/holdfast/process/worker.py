"""A worker process: serves hits from the store, asks the keeper for the rest."""

from __future__ import annotations

import socket
from pathlib import Path

import structlog
import uvloop
from holdfast_core.errors import StoreError

from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.config_file import ConfigInvalid
from holdfast.keeper.remote import RemoteKeeper
from holdfast.process.child import Inheritance
from holdfast.process.ending import on_signals, watch_lifeline
from holdfast.process.listen import Listening, keeper_path
from holdfast.process.serving import serve
from holdfast.process.store import open_store

log = structlog.get_logger()


def run(config: Configuration, gift: Inheritance) -> int:
    """Serve until SIGTERM, then drain; the exit code."""
    try:
        return uvloop.run(_main(config, gift))
    except (StoreError, ConfigInvalid) as error:
        log.error("worker failed", reason=str(error))
        return 1


def inherited(descriptor: int) -> list[socket.socket]:
    """The socket of an inherited descriptor; none for -1."""
    return [socket.socket(fileno=descriptor)] if descriptor >= 0 else []


async def _main(config: Configuration, gift: Inheritance) -> int:
    ending, clock = on_signals(), SystemClock()
    watch_lifeline(gift.lifeline)
    store = open_store(config, write=False)
    keeper = RemoteKeeper(keeper_path(Path(gift.keeper).parent), store, clock)
    await keeper.start()
    listening = Listening([socket.socket(fileno=gift.listener)], inherited(gift.admin))
    await serve(config, store, keeper, clock, listening, ending)
    await keeper.close()
    store.close()
    return 0
