"""What a worker and the single process share: serve until ordered to end, then drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast.admin import auth
from holdfast.admin.address_file import is_secure
from holdfast.admin.listener import AdminApi
from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.endpoint.node import Node
from holdfast.gateway.connection_string import parse
from holdfast.gateway.parent_settings import follow_settings
from holdfast.keeper.api import KeeperApi
from holdfast.keeper.disk import PROBE_SECONDS
from holdfast.log import log
from holdfast.process.listening import Listening
from holdfast.process.memory import give_back_rounds
from holdfast.routing import Router
from holdfast.server.server import Server

#: How often the store closes what was not read for a while.
LET_GO_SECONDS = 2.0
#: An operator's tools open a few; the rest of the descriptors is for clients.
ADMIN_CONNECTIONS = 128


async def serve(
    config: Configuration,
    store: Store,
    port: KeeperApi,
    clock: Clock,
    listening: Listening,
    ending: asyncio.Event,
    patience: Callable[[], float] | None = None,
) -> None:
    """Serve on the sockets until `ending` is set, then finish what is under way within the drain time, or that which
    `patience` says then."""
    node = Node(store, port, Router(config), config, clock)
    servers = [Server(node)]
    await servers[0].start(listening.clients)
    if listening.admin:
        servers.append(admin_server(node, listening))
        await servers[1].start(listening.admin)
    beside = [asyncio.create_task(let_go(store, clock)), asyncio.create_task(give_back_rounds(clock))]
    beside += [task for task in (follow_parent(config, node), lock_again(store, clock)) if task]
    log.info("worker ready")
    await ending.wait()
    for task in beside:
        task.cancel()
    for server in servers:
        server.begin_drain()
    listening.close()
    limit = patience() if patience is not None else config.limits.drain_timeout
    await asyncio.gather(*(server.wait_drained(limit) for server in servers))
    await node.push.finish()
    log.info("worker ended")


async def let_go(store: Store, clock: Clock) -> None:
    """Close what is no longer read, every few seconds."""
    while True:
        await clock.sleep(LET_GO_SECONDS)
        store.blobs.let_go()


def follow_parent(config: Configuration, node: Node) -> asyncio.Task[None] | None:
    """The task that applies the parent's settings of this node; None on a node that is no connected registry."""
    if not (text := config.gateway.connection_string):
        return None
    name = parse(text).registry
    return asyncio.create_task(follow_settings(node.store, name, node.clock, node.router.adopt))


def lock_again(store: Store, clock: Clock) -> asyncio.Task[None] | None:
    """The task that opens an index again which was opened on a read-only file system, once it can be written: the
    keeper writes nothing before every reader did so. None where that is not the case."""
    if store.is_waiting or not store.is_unlocked:
        return None

    async def rounds() -> None:
        while store.is_unlocked:
            await clock.sleep(PROBE_SECONDS)
            store.lock_again()

    return asyncio.create_task(rounds())


def admin_server(node: Node, listening: Listening) -> Server:
    """The server of the admin API on its own sockets, for the operator in the data directory. Raises what
    `operator.read` raises."""
    address = listening.admin_address
    assert address is not None
    operator = auth.read(Path(node.config.data))
    admin = AdminApi(operator, node.clock, listening.address, node.config.login.failures)
    limits = replace(node.config.limits, connections=ADMIN_CONNECTIONS)
    plain = not is_secure(address[0], node.config)
    return Server(node, limits, plain=plain, dispatch=admin.answer, makes_room=True)
