"""The HTTP server: sockets, deadlines, the connection cap, TLS, draining."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Protocol

import structlog

from holdfast.clock import Clock
from holdfast.config import Configuration, Limits
from holdfast.connection import Connection
from holdfast.endpoint import dispatch as clients
from holdfast.endpoint.node import Answer
from holdfast.tls import Certificate
from holdfast.wire.message import Request

log = structlog.get_logger()

#: deadlines are looked at this often, or four times within the shortest of them (seconds)
SWEEP_SECONDS = 1.0
#: the certificate's files are looked at this often (seconds)
CERTIFICATE_SECONDS = 10.0
#: TLS handshakes take no longer (seconds; uvloop's own default is 60)
HANDSHAKE_SECONDS = 10.0
#: access lines are written this often (seconds), or when so many wait
ACCESS_SECONDS, ACCESS_LINES = 0.1, 256
#: a cancelled endpoint may take so long to undo what it began (seconds)
TIDY_SECONDS = 5.0
#: connections beyond the cap that may wait for their 503; more are dropped
REFUSED_AT_ONCE = 64


class Served(Protocol):
    """What a server itself needs of what it serves. `draining` is set when connections are let go."""

    config: Configuration
    clock: Clock
    draining: bool


#: what answers a request to what is served
Dispatch = Callable[[Any, Request], Answer]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is open and what has happened."""

    connections: int
    refused: int
    answered: int


class Server:
    """Serves a node on sockets that listen already. One per process.

    Limits and certificate are those of the node's configuration unless given; a `plain` one has no certificate.
    `dispatch` is what answers: clients' endpoints unless given. Make it in the running loop; `start` returns when
    connections are taken. Raises what `Certificate` raises.
    """

    def __init__(
        self,
        node: Served,
        limits: Limits | None = None,
        tls: Certificate | None = None,
        *,
        plain: bool = False,
        dispatch: Dispatch | None = None,
    ) -> None:
        self.node, self.limits = node, limits or node.config.limits
        self.dispatch: Dispatch = dispatch or clients.answer
        self.draining = False
        self.loop = asyncio.get_running_loop()
        certified = node.config.tls.cert and not plain
        self._tls = tls or (Certificate(node.config.tls, node.config.login.client_ca) if certified else None)
        self._cap = self.limits.connections or default_cap()
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._gone = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._date = (0, "")
        self._lines: list[dict[str, object]] = []
        self._outbox: list[tuple[asyncio.WriteTransport, bytes]] = []
        self._total = [0, 0]
        self._access = structlog.get_logger("holdfast.access").bind()
        #: whether anybody reads access lines: they are a tenth of a small answer's cost
        self.logs_access = bool(self._access.is_enabled_for(logging.INFO))

    async def start(self, sockets: list[socket.socket]) -> None:
        """Take connections. The sockets stay the caller's: it may hand them to the next process."""
        for listener in sockets:
            self._servers.append(await self._serve(listener.dup()))
        self._sweep()
        if self._tls is not None:
            self._watch_certificate()

    async def _serve(self, listener: socket.socket) -> asyncio.Server:
        context = self._tls.context if self._tls is not None else None
        timeouts = (HANDSHAKE_SECONDS, self.limits.stall_timeout) if context else (None, None)
        return await self.loop.create_server(
            lambda: Connection(self),
            sock=listener,
            backlog=4096,
            ssl=context,
            ssl_handshake_timeout=timeouts[0],
            ssl_shutdown_timeout=timeouts[1],
        )

    # -- what connections call ---------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more; one without room is answered 503 by the connection."""
        if len(self._connections) < self._cap:
            self._connections.add(connection)
            return True
        self._total[1] += 1
        if len(self._refused) >= REFUSED_AT_ONCE:
            connection.abort()
        self._refused.add(connection)
        return False

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
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

    def count(self) -> None:
        """One more answer."""
        self._total[0] += 1

    def access(self, **fields: object) -> None:
        """One line in the access log, after the answer and not in its way: lines are written together, at
        most `ACCESS_SECONDS` late. The path only: queries may hold secrets (security.md S35)."""
        if not self._lines:
            self._later(ACCESS_SECONDS, self.flush_access)
        self._lines.append(fields)
        if len(self._lines) == ACCESS_LINES:
            self.loop.call_soon(self.flush_access)

    def flush_access(self) -> None:
        """Write the lines that wait."""
        lines, self._lines = self._lines, []
        for fields in lines:
            self._access.info("request answered", **fields)

    def date(self) -> str:
        """The Date header's value, made once a second."""
        now = int(self.node.clock.now())
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]

    # -- the operator's side -----------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """Counts since the start; `connections` are open now."""
        return Statistics(len(self._connections), self._total[1], self._total[0])

    def reload_certificate(self) -> None:
        """Look at the certificate's files now (SIGHUP). A bad pair changes nothing and is logged."""
        if self._tls is not None:
            self._tls.reload()

    def begin_drain(self) -> None:
        """Take no more connections; let every one go after the answer under way. /readyz says no."""
        self.draining = self.node.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.drain()
        if not self._connections:
            self._gone.set()

    async def wait_drained(self, limit: float | None = None) -> None:
        """Return when the last connection is gone, by force after the drain timeout, or after `limit` seconds."""
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
        for timer in self._timers.values():
            timer.cancel()
        self.flush_access()
        for server in self._servers:
            server.close()
        ending = [connection.abort() for connection in [*self._connections, *self._refused]]
        if tasks := [task for task in ending if task is not None]:
            await asyncio.wait(tasks, timeout=TIDY_SECONDS)

    def _sweep(self) -> None:
        now = self.loop.time()
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
    connections without a word."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, int(soft * 0.7) - 200) if soft != resource.RLIM_INFINITY else 100_000
