"""One client connection: reads requests one at a time, answers them, and ends in a way the client can read.

A request that the store answers is served within `data_received`: no task, one write. Everything else runs
as a task with a deadline. Reading stops while more than a head's worth of bytes waits behind a request, or
more of its body than an endpoint takes at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import msgspec
import structlog
from holdfast_core.errors import StoreError

from holdfast.arrival import WAITING_BYTES, AnswerTimer, Arrival
from holdfast.delivery import Delivery
from holdfast.endpoint.node import Answer
from holdfast.errors import ClientGone, KeeperAway, Refusal, RequestTimeout, TooManyConnections
from holdfast.wire.exchange import Exchange, Phase
from holdfast.wire.message import Body, Reply, Request
from holdfast.wire.refusal import reply_to
from holdfast.wire.routes import READS

if TYPE_CHECKING:
    from holdfast.server import Server

log = structlog.get_logger()

#: uvloop's default high-water mark over TLS is 512 KiB a connection
WRITE_HIGH_BYTES = 256 * 1024
#: a reader slower than this over a whole stall timeout is let go (bytes/s)
LEAST_RATE = 1024
#: after an early end: how long a client may go on sending before it reads the answer, and be silent (s)
LINGER_SECONDS, LINGER_SILENCE_SECONDS = 30.0, 5.0
#: answers up to this size go out in one burst with those of other connections
BURST_BYTES = 16 * 1024
#: requests answered from one read before other connections have their turn
TURN_REQUESTS = 16
NEVER = float("inf")


class Connection(asyncio.Protocol):
    """The protocol of one transport. The server sweeps `check` about once a second for every deadline."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = server.loop
        self._limits = server.limits
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._exchange = Exchange(self._limits)
        self._request: Request | None = None
        self._reply: Reply | None = None
        self._task: asyncio.Task[None] | None = None
        self._arrival: Arrival | None = None
        self._delivery: Delivery | None = None
        self._busy = self._serving = self._lingering = self._keep = self._head_begun = False
        self._write_paused = self._read_paused = self._half_closed = self._lost = False
        self._started = 0.0
        self._deadline = NEVER
        self._linger_end = NEVER
        self._window = (0.0, 0)
        self._socket, self._written = -1, 0

    # -- the transport's calls ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        peer = transport.get_extra_info("peername")
        tls = transport.get_extra_info("ssl_object")
        exchange = self._exchange
        exchange.client = peer[0] if isinstance(peer, tuple) else ""
        if tls is None and (plain := transport.get_extra_info("socket")) is not None:
            self._socket = plain.fileno()
        exchange.secure, exchange.sni = tls is not None, getattr(tls, "sni", "")
        exchange.certified = tls is not None and bool(tls.getpeercert())
        self._deadline = self._loop.time() + self._limits.idle_timeout
        if not self._server.admit(self) and not self._transport.is_closing():
            self._send(reply_to(TooManyConnections("this node has too many connections")))

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._deadline = self._loop.time() + LINGER_SILENCE_SECONDS
            return
        self._exchange.receive(data)
        if self._arrival is not None:
            self._arrival.wake()
        elif not self._busy:
            self._serve()
        self._regulate()

    def _regulate(self) -> None:
        """Read on while somebody takes what comes."""
        most = self._limits.head_bytes if self._arrival is None else WAITING_BYTES
        enough = self._exchange.waiting > most
        if enough is not self._read_paused and not self._lost:
            self._read_paused = enough
            (self._transport.pause_reading if enough else self._transport.resume_reading)()

    def eof_received(self) -> bool | None:
        """A client may close its half and still read what is under way; over TLS there are no halves. One
        that waits for the keeper or for a fill cannot be told from one that left, so it counts as gone: no
        client of a registry closes its half, and a fill's policy wants to know who left."""
        self._half_closed = True
        if self._arrival is not None:
            self._arrival.lose(ClientGone("the connection ended before the body"))
        if self._exchange.secure or self._lingering or (self._busy and self._waiting()):
            return False
        if not self._busy:
            self._loop.call_soon(self._serve)  # what has come and was not read yet; then the end
        return True

    def _waiting(self) -> bool:
        """Whether what is under way is for nobody but the client, and waits for others."""
        if self._task is not None:
            return self._request is not None and self._request.method in READS
        return self._delivery is not None and self._delivery.waiting

    def pause_writing(self) -> None:
        self._write_paused = True
        self._window = (self._loop.time(), self._delivered())
        if self._delivery is not None:
            self._delivery.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._delivery is not None:
            self._delivery.resume()
        elif not self._busy:
            self._serve()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._arrival is not None:
            self._arrival.lose(ClientGone("the connection was lost before the body ended"))
        if self._delivery is not None:
            self._log(complete=False)
            self._delivery.stop()
        if self._task is None:
            self._server.forget(self)
        elif self._waiting():
            self._task.cancel()

    # -- requests ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Answer what has been received, until something has to wait."""
        if self._serving or self._lost:
            return
        self._serving = True
        try:
            for _ in range(TURN_REQUESTS):
                if self._busy or self._lingering or self._write_paused:
                    break
                if not self._next():
                    if self._half_closed:
                        self._end()
                    break
            else:
                self._loop.call_soon(self._serve)
        finally:
            self._serving = False
        if self._read_paused:
            self._regulate()
        self._set_deadline()

    def _next(self) -> bool:
        """Begin the next request; False when it has not come yet."""
        self._request = None
        try:
            request = self._exchange.next_request()
            if request is None:
                if self._exchange.phase is Phase.OVER:  # what was left of a body is too much, or malformed
                    self._end()
                return False
            self._begin(request)
        except Exception as error:  # noqa: BLE001 - every error has an answer
            self._send(self._refused(error))
        return True

    def _begin(self, request: Request) -> None:
        self._request = request
        self._busy, self._head_begun = True, False
        self._started = self._loop.time()
        timer = None
        if self._exchange.body is not None or request.method not in READS:
            timer = AnswerTimer(self._loop, self._limits.answer_timeout)
            self._request = request = self._with_body(request, timer)
        answer = self._server.dispatch(self._server.node, request)
        if isinstance(answer, Reply):
            self._send(answer)
        else:
            timer = timer or AnswerTimer(self._loop, self._limits.answer_timeout)
            self._task = self._loop.create_task(self._answer_later(answer, timer))

    def _with_body(self, request: Request, timer: AnswerTimer) -> Request:
        if self._exchange.body is not None:
            self._arrival = Arrival(self._loop, self._exchange.body, self._limits, self._go_on)
            self._arrival.timer = timer
            if self._half_closed:
                self._arrival.lose(ClientGone("the connection ended before the body"))
        return msgspec.structs.replace(request, body=self._arrival, allow=timer.allow)

    def _go_on(self) -> None:
        """The endpoint wants more of the body."""
        if (invitation := self._exchange.invite()) and not self._lost:
            self._write(invitation)
        self._regulate()

    async def _answer_later(self, answer: Answer, timer: AnswerTimer) -> None:
        assert not isinstance(answer, Reply)
        try:
            async with timer:
                reply = await answer
        except TimeoutError:
            reply = self._refused(KeeperAway("no answer in time"))
        except Exception as error:  # noqa: BLE001 - every error has an answer
            reply = self._refused(error)
        except asyncio.CancelledError:
            self._abandon()
            self._transport.abort()
            raise
        self._task = None
        if self._lost:
            self._abandon(reply)
        else:
            self._send(reply)

    def _abandon(self, reply: Reply | None = None) -> None:
        """There is nobody to answer."""
        self._task = None
        if self._arrival is not None:
            self._arrival.close()
        if reply is not None:
            reply.drop()
            self._reply = reply
            self._log(complete=False)
        self._server.forget(self)

    def _refused(self, error: Exception) -> Reply:
        """The answer that an error is. What is no refusal is logged; what is nobody's plan with its trace."""
        path = self._request.path if self._request else ""
        if isinstance(error, StoreError):
            log.error("store failed", path=path, error=str(error))
        elif not isinstance(error, Refusal):
            log.error("request failed", path=path, exc_info=error)
        noun = self._request.route.noun if self._request else None
        return reply_to(error, noun) if noun else reply_to(error)

    def _send(self, reply: Reply) -> None:
        self._busy = True
        if self._arrival is not None:
            self._arrival.close()
        try:
            answer = self._exchange.answer(reply, self._server.date(), last=self._server.draining)
        except Refusal as error:
            reply.drop()
            reply = self._refused(error)
            answer = self._exchange.answer(reply, self._server.date(), last=True)
        self._reply, self._keep = reply, answer.keep
        if isinstance(answer.body, Body):
            self._written += len(answer.head) + answer.body.length
            self._delivery = Delivery(self._loop, self._transport, answer.body, self._sent, self._socket)
            self._window = (self._loop.time(), self._delivered())
            if self._write_paused:
                self._delivery.pause()
            self._server.flush()
            self._delivery.start(answer.head)
        else:
            reply.drop()
            self._write(answer.head + answer.body)
            self._sent(None)

    def _write(self, data: bytes) -> None:
        self._written += len(data)
        if len(data) <= BURST_BYTES:
            self._server.write(self._transport, data)
        else:
            self._server.flush()
            self._transport.write(data)

    def _sent(self, failure: Exception | None) -> None:
        """The answer is with the transport, whole or cut short by `failure`."""
        if failure is not None:
            log.warning(
                "body cut short", path=self._request.path if self._request else "", error=str(failure)
            )
        self._log(complete=failure is None)
        self._delivery = self._arrival = None
        self._busy = False
        if failure is not None or not self._keep or self._server.draining:
            self._end()
            return
        self._serve()

    def _log(self, *, complete: bool) -> None:
        request, reply = self._request, self._reply
        if reply is None:
            return
        self._server.count()
        if not self._server.logs_access:
            return
        body = reply.body
        sent = self._delivery.sent if self._delivery else len(body) if isinstance(body, bytes) else 0
        self._server.access(
            client=self._exchange.client,
            method=request.method if request else "",
            path=request.path if request else "",
            **_named(request),
            status=reply.status,
            received=request.body.received if request and request.body else 0,
            bytes=sent,
            seconds=round(self._loop.time() - self._started, 6) if self._started else 0.0,
            complete=complete,
        )

    # -- the end -----------------------------------------------------------------------------------

    def _end(self) -> None:
        """Close so that the client can read the answer: FIN, never RST. Linux answers bytes that nobody
        read with RST, which throws away what the client has not read yet; so they are read and dropped."""
        if self._lingering:
            return
        self._lingering = True
        self._server.flush()
        if self._read_paused:
            self._regulate()
        now = self._loop.time()
        self._deadline, self._linger_end = now + LINGER_SILENCE_SECONDS, now + LINGER_SECONDS
        self._window = (now, self._delivered())
        if self._half_closed or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()

    def drain(self) -> None:
        """Let go of the connection as soon as no answer is under way."""
        if not self._busy and not self._lingering and not self._exchange.begun:
            self._end()

    def abort(self) -> asyncio.Task[None] | None:
        """End at once. The task that is under way is cancelled, and returned."""
        task = self._task
        if task is not None:
            task.cancel()
        self._transport.abort()
        return task

    # -- deadlines ---------------------------------------------------------------------------------

    def _set_deadline(self) -> None:
        if self._busy or self._lingering:
            return
        now = self._loop.time()
        if not self._exchange.begun:
            self._deadline = now + self._limits.idle_timeout
            self._head_begun = False
        elif not self._head_begun:
            # the head's clock starts with its first byte and is not wound up by later ones
            self._head_begun = True
            self._deadline = now + self._limits.head_timeout

    def check(self, now: float) -> None:
        """Called by the server's sweep: act on whatever deadline has passed."""
        if self._arrival is not None:
            self._arrival.check(now)
        if self._lost:
            return
        if self._half_closed and self._busy and self._waiting():
            self._transport.close()
        elif self._stuck():
            self._check_stall(now)
        elif self._lingering:
            if now >= min(self._deadline, self._linger_end):
                self._transport.abort()
        elif not self._busy and now >= self._deadline:
            if self._exchange.begun and self._exchange.phase is Phase.HEAD:
                self._request = None
                self._send(reply_to(RequestTimeout("the request did not arrive in time")))
            else:
                self._end()

    def _stuck(self) -> bool:
        """Whether bytes wait for the client to take them."""
        if self._delivery is not None and self._delivery.blocked:
            return True
        return self._transport.get_write_buffer_size() > 0 and (self._write_paused or self._lingering)

    def _check_stall(self, now: float) -> None:
        since, delivered = self._window
        if now - since < self._limits.stall_timeout:
            return
        if self._delivered() - delivered < LEAST_RATE * self._limits.stall_timeout:
            log.info("reader stalled", client=self._exchange.client)
            self._transport.abort()
        else:
            self._window = (now, self._delivered())

    def _delivered(self) -> int:
        """Bytes that left this process."""
        handed = self._written if self._delivery is None else self._delivery.sent
        return handed - self._transport.get_write_buffer_size()


def _named(request: Request | None) -> dict[str, str]:
    """The registry that a mirror's client means, for the access log, where it says one."""
    values = [value for name, value in request.query if name == "ns"] if request and request.query else []
    return {"ns": values[0][:255]} if values else {}
