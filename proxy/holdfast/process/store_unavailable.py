"""Answers of a process whose store cannot be opened, because the disk cannot be read."""

from __future__ import annotations

from holdfast.admin.address_file import is_secure
from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.endpoint import probes
from holdfast.keeper.disk import unreadable
from holdfast.process.listening import Listening
from holdfast.server.server import Server
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import Noun

#: how long answers may go on once the store was opened (seconds); each is a few bytes
LEAVE_SECONDS = 2.0


class StoreUnavailable:
    """What a server needs of a node, without a store. `reason` is for /readyz."""

    def __init__(self, config: Configuration, clock: Clock) -> None:
        self.config, self.clock = config, clock
        self.draining, self.reason = False, ""
        self._servers: list[Server] = []

    async def serve(self, listening: Listening, reason: str) -> None:
        """Say this from now on."""
        self.reason = reason
        if self._servers:
            return
        self._servers.append(Server(self, dispatch=answer))
        await self._servers[0].start(listening.clients)
        if (address := listening.admin_address) is not None:
            self._servers.append(Server(self, plain=not is_secure(address[0], self.config), dispatch=answer))
            await self._servers[1].start(listening.admin)

    async def close(self) -> None:
        """Take no more connections: others do, on the same sockets."""
        for server in self._servers:
            server.begin_drain()
        for server in self._servers:
            await server.wait_drained(LEAVE_SECONDS)


def answer(node: StoreUnavailable, request: Request) -> Reply:
    """Health, and a refusal of everything else. Raises KeeperAway."""
    if request.route.noun is Noun.HEALTH:
        return probes.status_reply(200, {"status": "ok"})
    if request.route.noun is Noun.READINESS:
        return probes.status_reply(
            503, {"ready": False, "reasons": [node.reason], "troubles": [], "parents": {}}
        )
    raise unreadable()
