"""What a worker and the single process share: serve until told to end, then drain."""

from __future__ import annotations

import asyncio
import socket

import structlog
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.endpoint.node import Node
from holdfast.keeper.port import KeeperPort
from holdfast.routing import Router
from holdfast.server import Server

log = structlog.get_logger()


async def serve(
    config: Configuration,
    store: Store,
    port: KeeperPort,
    clock: Clock,
    sockets: list[socket.socket],
    ending: asyncio.Event,
) -> None:
    """Serve on `sockets` until `ending` is set, then finish what is under way within the drain time."""
    server = Server(Node(store, port, Router(config), config, clock))
    await server.start(sockets)
    log.info("worker ready")
    await ending.wait()
    server.begin_drain()
    for listener in sockets:
        listener.close()
    await server.wait_drained()
    log.info("worker ended")
