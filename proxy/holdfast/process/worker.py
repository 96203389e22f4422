"""A worker process: serves hits from the store, and calls the keeper for the rest."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

from holdfast_core.errors import StoreError

from holdfast.clock import SystemClock
from holdfast.config import ConfigInvalid, Configuration
from holdfast.keeper.rpc.remote_keeper import RemoteKeeper
from holdfast.log import log
from holdfast.process import loop
from holdfast.process.inheritance import Inheritance
from holdfast.process.listening import Listening, keeper_path
from holdfast.process.open_store import until_opened
from holdfast.process.process_group import Membership
from holdfast.process.serving import serve
from holdfast.process.shutdown import ordered
from holdfast.process.store_unavailable import StoreUnavailable


def run(config: Configuration, gift: Inheritance) -> int:
    """Serve until the supervisor ends it, then drain; the exit code."""
    try:
        return loop.run(_main(config, gift))
    except (StoreError, ConfigInvalid) as error:
        log.error("worker failed", reason=str(error))
        return 1


def inherited(descriptor: int) -> list[socket.socket]:
    """The socket of an inherited descriptor; none for -1."""
    return [socket.socket(fileno=descriptor)] if descriptor >= 0 else []


async def _main(config: Configuration, gift: Inheritance) -> int:
    ending, clock = ordered(gift.lifeline), SystemClock()
    listening = Listening([socket.socket(fileno=gift.listener)], inherited(gift.admin))
    unopened, membership = StoreUnavailable(config, clock), Membership(Path(config.data), gift)
    say = partial(unopened.serve, listening)
    store = await until_opened(config, clock, ending, say, write=False, membership=membership)
    await unopened.close()
    if store is None:
        listening.close()  # before the process ends: the next supervisor may wait for the address
        return 0
    keeper = RemoteKeeper.at(keeper_path(Path(gift.keeper).parent), store, clock)
    await keeper.start()
    await serve(config, store, keeper, clock, listening, ending)
    await keeper.close()
    store.close()
    return 0
