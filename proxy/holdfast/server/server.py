"""The HTTP server: sockets, deadlines, the connection cap, TLS, draining."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Protocol

from holdfast.clock import Clock
from holdfast.config import Configuration, LimitsSection
from holdfast.endpoint import dispatch as clients
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import NodeBusy
from holdfast.log import AccessLine, LogLimit, access_log, log
from holdfast.server.connection import ClientConnection
from holdfast.server.hits import Hits
from holdfast.server.tls import ServerCertificate, TlsListener
from holdfast.wire.message import Request

#: deadlines are looked at this often, or four times within the shortest of them (seconds)
SWEEP_SECONDS = 1.0
#: the certificate's files are looked at this often (seconds)
CERTIFICATE_SECONDS = 10.0
#: access lines are written this often (seconds), or when so many wait
ACCESS_SECONDS, ACCESS_LINES = 0.1, 256
#: a cancelled endpoint may take so long to undo what it began (seconds)
TIDY_SECONDS = 5.0
#: connections beyond the cap that may wait for their 503; more are dropped
REFUSED_AT_ONCE = 64
#: idle connections that are ended for one request that found no descriptor
SHED_AT_ONCE = 8


class Served(Protocol):
    """The part of a node that the server itself uses. `draining` is set while connections end."""

    config: Configuration
    clock: Clock
    draining: bool


#: what answers a request to what is served
Dispatch = Callable[[Any, Request], Answer]


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What is open and what has happened."""

    connections: int
    refused: int
    answered: int


class Server:
    """Serves a node on sockets that listen already. One per process.

    Limits and certificate are those of the node's configuration unless given; a `plain` one has no certificate.
    `dispatch` is what answers: clients' endpoints unless given. With `makes_room` a connection beyond the cap takes the
    place of an idle one. Clients' hits are learned (`hits`). Make it in the running loop; `start` returns when
    connections are taken. Raises what `ServerCertificate` raises.
    """

    def __init__(
        self,
        node: Served,
        limits: LimitsSection | None = None,
        tls: ServerCertificate | None = None,
        *,
        plain: bool = False,
        dispatch: Dispatch | None = None,
        makes_room: bool = False,
    ) -> None:
        self.node, self.limits = node, limits or node.config.limits
        self._makes_room = makes_room
        self.dispatch: Dispatch = dispatch or clients.answer
        self.hits = Hits(node, self.date) if dispatch is None and isinstance(node, Node) else None
        self.draining = False
        self.loop = asyncio.get_running_loop()
        certified = node.config.tls.cert and not plain
        self._tls = tls or (
            ServerCertificate(node.config.tls, node.config.login.client_ca) if certified else None
        )
        self._cap = self.limits.connections or default_cap()
        self._servers: list[asyncio.Server | TlsListener] = []
        self._seldom = LogLimit(node.clock)
        self._connections: set[ClientConnection] = set()
        self._refused: set[ClientConnection] = set()
        self._gone = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._date = (0, "")
        self._lines: list[AccessLine] = []
        self._outbox: list[tuple[asyncio.WriteTransport, bytes]] = []
        self._total = [0, 0]
        #: whether access lines are written, where the log has level info
        self.logs_access = node.config.access_log

    async def start(self, sockets: list[socket.socket]) -> None:
        """Take connections. The sockets stay the caller's: it may hand them to the next process."""
        for listener in sockets:
            self._servers.append(await self._serve(listener.dup()))
        self._sweep()
        if self._tls is not None:
            self._watch_certificate()

    async def _serve(self, listener: socket.socket) -> asyncio.Server | TlsListener:
        if self._tls is None:
            return await self.loop.create_server(lambda: ClientConnection(self), sock=listener, backlog=4096)
        return TlsListener(
            listener,
            self._tls.context,
            lambda: ClientConnection(self),
            lambda: ClientConnection(self, misled=True),
            self.limits.stall_timeout,
            self.node.clock,
        )

    # -- what connections call ---------------------------------------------------------------------

    def admit(self, connection: ClientConnection) -> bool:
        """Whether there is room for one more; one without room is answered 503 by the connection."""
        if len(self._connections) < self._cap or (self._makes_room and self._end_idle()):
            self._connections.add(connection)
            return True
        self._total[1] += 1
        if len(self._refused) >= REFUSED_AT_ONCE:
            connection.abort()
        self._refused.add(connection)
        return False

    def shed(self, busy: NodeBusy) -> None:
        """A request found no descriptor or no memory: end connections that wait for nothing, so that the next finds
        some. Logs it at most once a minute."""
        ended = 0
        while ended < SHED_AT_ONCE and self._end_idle():
            ended += 1
        if (more := self._seldom.due("shed")) is not None:
            log.error(
                "request refused",
                reason=busy.message,
                connections=len(self._connections),
                ended=ended,
                **more,
            )

    def _end_idle(self) -> bool:
        """End the idle connection whose time-out is the next, if there is one."""
        idle = [one for one in self._connections if one.idle_until is not None]
        if not idle:
            return False
        first = min(idle, key=lambda one: one.idle_until or 0.0)
        self._connections.discard(first)
        first.abort()
        return True

    def forget(self, connection: ClientConnection) -> None:
        """A connection was closed."""
        self._connections.discard(connection)
        self._refused.discard(connection)
        if not self._connections:
            self._gone.set()

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Write `data` when every connection that was readable has been read, in one burst with the other
        answers. A write wakes the reader on the other side; one at a time, each of them costs a wake-up
        (32 connections on loopback: 1.6 times the requests/s). What must come after it calls `flush`."""
        if not self._outbox:
            self.loop.call_soon(self.flush)
        self._outbox.append((transport, data))

    def flush(self) -> None:
        """Hand over what `write` kept."""
        outbox, self._outbox = self._outbox, []
        for transport, data in outbox:
            transport.write(data)

    def note_tls(self, client: str) -> None:
        """Log that a client speaks TLS on a plain port, at most once a minute for each client."""
        if (more := self._seldom.due(client)) is not None:
            note = (
                "this port speaks plain HTTP: the client is to use http://, or this node tls.cert and tls.key"
            )
            log.warning("TLS on a plain port", client=client, note=note, **more)

    def count(self) -> None:
        """One more answer; the hit lane counts its own."""
        self._total[0] += 1

    def access(self, line: AccessLine) -> None:
        """One line in the access log, after the answer and not in its way: lines are written together, at
        most `ACCESS_SECONDS` late. The path only: queries may hold secrets (security.md S35)."""
        if not self._lines:
            self._later(ACCESS_SECONDS, self.flush_access)
        self._lines.append(line)
        if len(self._lines) == ACCESS_LINES:
            self.loop.call_soon(self.flush_access)

    def flush_access(self) -> None:
        """Write the lines that wait."""
        lines, self._lines = self._lines, []
        access_log.write(lines)

    def date(self, at: float | None = None) -> str:
        """The Date header's value now, or `at` that time (wall seconds); made once a second."""
        now = int(self.node.clock.now() if at is None else at)
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]

    # -- the operator's side -----------------------------------------------------------------------

    def statistics(self) -> ServerStatistics:
        """Counts since the start; `connections` are open now."""
        given = 0 if self.hits is None else self.hits.lane.given
        return ServerStatistics(len(self._connections), self._total[1], self._total[0] + given)

    def reload_certificate(self) -> None:
        """Look at the certificate's files now (SIGHUP). A bad pair changes nothing and is logged."""
        if self._tls is not None:
            self._tls.reload()

    def begin_drain(self) -> None:
        """Accept no more connections; end each after its present answer. /readyz answers 503."""
        self.draining = self.node.draining = True
        self._end_hits()
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.drain()
        if not self._connections:
            self._gone.set()

    async def wait_drained(self, limit: float | None = None) -> None:
        """Wait until the last connection has ended; they are ended after the drain timeout, or after `limit`
        seconds."""
        try:
            async with asyncio.timeout(self.limits.drain_timeout if limit is None else limit):
                while self._connections:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:
            log.warning("connections cut", open=len(self._connections))
        await self.close()

    async def close(self) -> None:
        """End at once: listeners, connections, timers. What is cut off may tidy up after itself."""
        self.draining = self.node.draining = True
        self._end_hits()
        for timer in self._timers.values():
            timer.cancel()
        self.flush_access()
        for server in self._servers:
            server.abort() if isinstance(server, TlsListener) else server.close()
        ending = [connection.abort() for connection in [*self._connections, *self._refused]]
        if tasks := [task for task in ending if task is not None]:
            await asyncio.wait(tasks, timeout=TIDY_SECONDS)

    def _end_hits(self) -> None:
        """From now on each answer ends its connection."""
        if self.hits is not None:
            self.hits.tell_uses()
            self._total[0] += self.hits.lane.given
            self.hits = None

    def _sweep(self) -> None:
        now = self.loop.time()
        if self.hits is not None:
            self.hits.tell_uses()
        for connection in [*self._connections, *self._refused]:
            connection.check(now)
        limits = self.limits
        shortest = min(limits.head_timeout, limits.idle_timeout, limits.stall_timeout)
        self._later(min(SWEEP_SECONDS, shortest / 4), self._sweep)

    def _watch_certificate(self) -> None:
        self.reload_certificate()
        self._later(CERTIFICATE_SECONDS, self._watch_certificate)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers[call.__name__] = self.loop.call_later(seconds, call)


def default_cap() -> int:
    """0.7 × the descriptor limit − 200: past the limit the kernel takes and drops
    connections without an answer."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, int(soft * 0.7) - 200) if soft != resource.RLIM_INFINITY else 100_000
