"""One client connection: reads requests one at a time, answers them, and ends in a way the client can read.

A request that the store answers is served within `data_received`: no task, one write. Everything else runs
as a task with a deadline. Reading stops while more than a head's worth of bytes waits behind a request, or
more of its body than an endpoint takes at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

import msgspec
from holdfast_core.errors import StoreError

from holdfast.errors import (
    ClientGone,
    KeeperAway,
    PlainSpoken,
    Refusal,
    RequestTimeout,
    TlsSpoken,
    TooManyConnections,
    of_shortage,
)
from holdfast.log import LEVELS, AccessLine, log
from holdfast.server.connection_state import TABLE, ConnectionEvent, ConnectionState
from holdfast.server.hits import Lesson
from holdfast.server.request_body import WAITING_BYTES, AnswerTimer, IncomingBody
from holdfast.server.response_body import OutgoingBody
from holdfast.wire.exchange import Exchange, Phase
from holdfast.wire.message import Reply, ReplyBody, Request
from holdfast.wire.refusal import reply_to
from holdfast.wire.routes import READS

if TYPE_CHECKING:
    from holdfast.server.server import Server


#: uvloop's default high-water mark over TLS is 512 KiB a connection
WRITE_HIGH_BYTES = 256 * 1024
#: a client that reads slower than this for a whole stall timeout is disconnected (bytes/s)
LEAST_RATE = 1024
#: after an early answer: how long a client may continue to send, and be silent, before it reads the answer (s)
LINGER_SECONDS, LINGER_SILENCE_SECONDS = 30.0, 5.0
#: answers up to this size are sent in one burst with those of other connections (bytes)
BURST_BYTES = 16 * 1024
#: requests answered from one read before other connections have their turn
TURN_REQUESTS = 16
NEVER = float("inf")
#: what the access log has of a client's name for itself, and of the registry that a mirror's client means
AGENT_CHARACTERS, NS_CHARACTERS = 200, 255

# Names of this module for what every request passes: a look-up of a global costs less than one of an enum's member.
IDLE, READING = ConnectionState.IDLE, ConnectionState.READING
LINGERING, CLOSED = ConnectionState.LINGERING, ConnectionState.CLOSED
ABANDONED = ConnectionState.ABANDONED
ON_PART, ON_CLEAR = TABLE[ConnectionEvent.PART], TABLE[ConnectionEvent.CLEAR]
ON_REQUEST, ON_ANSWER, ON_SENT = (
    TABLE[event] for event in (ConnectionEvent.REQUEST, ConnectionEvent.ANSWER, ConnectionEvent.SENT)
)
ON_REPEATED = TABLE[ConnectionEvent.REPEATED]
ON_END, ON_CANCELLED, ON_LOST = (
    TABLE[event] for event in (ConnectionEvent.END, ConnectionEvent.CANCELLED, ConnectionEvent.LOST)
)


class ClientConnection(asyncio.Protocol):
    """The protocol of one transport. The server sweeps `check` about once a second for every deadline. `misled`: the
    client speaks plain HTTP on a port for TLS, and gets an error that says so."""

    def __init__(self, server: Server, *, misled: bool = False) -> None:
        self._server, self._is_misled = server, misled
        self._loop = server.loop
        self._limits = server.limits
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._exchange = Exchange(self._limits)
        self._request: Request | None = None
        self._reply: Reply | None = None
        self._task: asyncio.Task[None] | None = None
        self._incoming: IncomingBody | None = None
        self._outgoing: OutgoingBody | None = None
        self.state = IDLE
        self._write_paused = self._read_paused = self._half_closed = False
        #: `_serve` runs: what it calls does not call it again
        self._serving = False
        #: no access line: there was no request
        self._is_silent = False
        self._started = 0.0
        self._deadline = NEVER
        self._linger_end = NEVER
        self._window = (0.0, 0)
        self._socket, self._written = -1, 0
        #: what answers depend on beside the head (`Hits.facts`)
        self._facts = b""

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
        if self._server.hits is not None:
            self._facts = self._server.hits.facts(exchange)
        self._deadline = self._loop.time() + self._limits.idle_timeout
        if not self._server.admit(self) and not self._transport.is_closing():
            self._send(reply_to(TooManyConnections("this node has too many connections")))

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state is LINGERING:
            self._deadline = self._loop.time() + LINGER_SILENCE_SECONDS
            return
        if state is IDLE and not self._write_paused:
            # the same as `_serve` does, without its way there: a third of a hit
            if (size := self._repeat(data)) == len(data):
                self._deadline = self._loop.time() + self._limits.idle_timeout
                return
            data = data[size:]
        self._exchange.receive(data)
        if self._incoming is not None:
            self._incoming.wake()
        elif state is IDLE or state is READING:
            self._serve()
        self._regulate()

    def _regulate(self) -> None:
        """Pause reading while more waits than is taken at once, and resume it after."""
        most = self._limits.head_bytes if self._incoming is None else WAITING_BYTES
        enough = self._exchange.waiting > most
        if enough is not self._read_paused and not self.is_lost:
            self._read_paused = enough
            (self._transport.pause_reading if enough else self._transport.resume_reading)()

    def eof_received(self) -> bool | None:
        """A client may close its half and still read the answer under way; over TLS there are no halves. A client that
        waits for the keeper or for a fill cannot be distinguished from one that left, so it counts as gone: no client
        of a registry closes its half, and a fill's policy depends on which readers left."""
        self._half_closed = True
        if self._incoming is not None:
            self._incoming.lose(ClientGone("the connection ended before the body"))
        if self._exchange.secure or self.state is LINGERING or self._waiting():
            return False
        if self.state in (IDLE, READING):
            self._loop.call_soon(self._serve)  # the bytes that were received and not read yet; then the end
        return True

    def _waiting(self) -> bool:
        """Whether the answer under way changes nothing, and waits for the keeper or a fill."""
        if self._task is not None:
            return self._request is not None and self._request.method in READS
        return self._outgoing is not None and self._outgoing.waiting

    def pause_writing(self) -> None:
        self._write_paused = True
        self._window = (self._loop.time(), self._delivered())
        if self._outgoing is not None:
            self._outgoing.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._outgoing is not None:
            self._outgoing.resume()
        elif self.state in (IDLE, READING):
            self._serve()

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = ON_LOST[self.state]
        if self._incoming is not None:
            self._incoming.lose(ClientGone("the connection was lost before the body ended"))
        if self._outgoing is not None:
            self._log(complete=False)
            self._outgoing.stop()
        if self._task is None:
            self._server.forget(self)
        elif self._waiting():
            self._task.cancel()

    # -- requests ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Answer what has been received, until something has to wait."""
        if self._serving:
            return
        self._serving = True
        try:
            for _ in range(TURN_REQUESTS):
                state = self.state
                if (state is not IDLE and state is not READING) or self._write_paused:
                    break
                if not self._next():
                    if self._half_closed and self.state is not LINGERING:
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
        """Begin the next request; False when it has not arrived yet."""
        self._request = None
        if self._exchange.phase is Phase.HEAD and (size := self._repeat(self._exchange.unread)):
            self._exchange.skip(size)
            self.state = ON_REPEATED[self.state]
            return True
        try:
            request = self._exchange.next_request()
            if request is None:
                if self._exchange.phase is Phase.OVER:  # what was left of a body is too much, or malformed
                    self._end()
                return False
            self._begin(request)
        except TlsSpoken as error:
            # no alert: Go's clients, docker and containerd among them, recognise HTTP in place of TLS, report it,
            # and retry with http:// where they may
            self._server.note_tls(self._exchange.client)
            self._is_silent = True
            self._send(self._refused(error))
        except Exception as error:  # noqa: BLE001 - every error has an answer
            self._send(self._refused(error))
        return True

    def _repeat(self, data: bytes) -> int:
        """Answer the request at the beginning of `data` from the hit lane; its size, 0 when it is not known there."""
        server = self._server
        if server.hits is None or self._is_misled:
            return 0
        found = server.hits.lane.find(self._facts, data)
        if found is None:
            return 0
        self._write(found.data)
        if server.logs_access and log.least <= LEVELS["info"]:
            server.access(msgspec.structs.replace(found.line, client=self._exchange.client))
        return found.head_size

    def _begin(self, request: Request) -> None:
        self._request = request
        self.state = ON_REQUEST[self.state]
        self._started = self._loop.time()
        if self._is_misled:
            raise PlainSpoken("plain HTTP on a port that speaks TLS; ask https://")
        timer = None
        if self._exchange.body is not None or request.method not in READS:
            timer = AnswerTimer(self._loop, self._limits.answer_timeout)
            self._request = request = self._with_body(request, timer)
        lesson = self._lesson(request)
        if lesson is None:
            answer = self._server.dispatch(self._server.node, request)
        else:
            answer = lesson.answer(self._server.dispatch, request)
        if isinstance(answer, Reply):
            self._send(answer, lesson)
        else:
            timer = timer or AnswerTimer(self._loop, self._limits.answer_timeout)
            self._task = self._loop.create_task(self._answer_later(answer, timer))
            # not in the task, which may be cancelled before its first step
            self._task.add_done_callback(lambda task: self._cancelled(answer) if task.cancelled() else None)

    def _lesson(self, request: Request) -> Lesson | None:
        hits = self._server.hits
        return None if hits is None else hits.lesson(self._facts, self._exchange.raw_head, request)

    def _with_body(self, request: Request, timer: AnswerTimer) -> Request:
        if self._exchange.body is not None:
            self._incoming = IncomingBody(self._loop, self._exchange.body, self._limits, self._go_on)
            self._incoming.timer = timer
            if self._half_closed:
                self._incoming.lose(ClientGone("the connection ended before the body"))
        return msgspec.structs.replace(request, body=self._incoming, allow=timer.allow)

    def _go_on(self) -> None:
        """The endpoint reads more of the body."""
        if (invitation := self._exchange.invite()) and not self.is_lost:
            self._write(invitation)
        self._regulate()

    async def _answer_later(self, answer: Coroutine[Any, Any, Reply], timer: AnswerTimer) -> None:
        try:
            async with timer:
                reply = await answer
        except TimeoutError:
            reply = self._refused(KeeperAway("no answer in time"))
        except Exception as error:  # noqa: BLE001 - every error has an answer
            reply = self._refused(error)
        self._task = None
        if self.state is ABANDONED:
            self.state = ON_ANSWER[self.state]
            self._abandon(reply)
        else:
            self._send(reply)

    def _cancelled(self, answer: Coroutine[Any, Any, Reply]) -> None:
        answer.close()  # it may never have begun
        self.state = ON_CANCELLED[self.state]
        self._abandon()
        self._transport.abort()

    def _abandon(self, reply: Reply | None = None) -> None:
        """End a request whose client has disconnected; `reply` is dropped."""
        self._task = None
        if self._incoming is not None:
            self._incoming.close()
        if reply is not None:
            reply.drop()
            self._reply = reply
            self._log(complete=False)
        self._server.forget(self)

    def _refused(self, error: Exception) -> Reply:
        """The answer to an error. A fault of the store is logged, an unexpected error with its traceback."""
        path = self._request.path if self._request else ""
        if (busy := of_shortage(error)) is not None:
            error = busy
            self._server.shed(busy)
        elif isinstance(error, StoreError):
            log.error("store failed", path=path, error=str(error))
        elif not isinstance(error, Refusal):
            log.error("request failed", path=path, exc_info=error)
        noun = self._request.route.noun if self._request else None
        return reply_to(error, noun) if noun else reply_to(error)

    def _send(self, reply: Reply, lesson: Lesson | None = None) -> None:
        if self._incoming is not None:
            self._incoming.close()
        try:
            answer = self._exchange.answer(reply, self._server.date(), last=self._server.draining)
        except Refusal as error:
            reply.drop()
            reply, lesson = self._refused(error), None
            answer = self._exchange.answer(reply, self._server.date(), last=True)
        self._reply = reply
        if lesson is not None and self._request is not None:
            size = len(reply.body) if isinstance(reply.body, bytes) else reply.body.length
            line = _access_line(self._request, "", reply.status, size)
            lesson.learn(self._request, answer, reply.status, line)
        self.state = ON_ANSWER[self.state]
        if isinstance(answer.body, ReplyBody):
            self._written += len(answer.head) + answer.body.length
            self._outgoing = OutgoingBody(self._loop, self._transport, answer.body, self._sent, self._socket)
            self._window = (self._loop.time(), self._delivered())
            if self._write_paused:
                self._outgoing.pause()
            self._server.flush()
            self._outgoing.start(answer.head)
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
        self._outgoing = self._incoming = None
        if failure is not None or self._exchange.phase is Phase.OVER or self._server.draining:
            self._end()
            return
        self.state = ON_SENT[self.state]
        self._serve()

    def _log(self, *, complete: bool) -> None:
        request, reply = self._request, self._reply
        if reply is None:
            return
        self._server.count()
        if not self._server.logs_access or log.least > LEVELS["info"] or self._is_silent:
            return
        body = reply.body
        sent = self._outgoing.sent if self._outgoing else len(body) if isinstance(body, bytes) else 0
        seconds = round(self._loop.time() - self._started, 6) if self._started else 0.0
        client = self._exchange.client
        if request is None:
            line = AccessLine(client, "", "", reply.status, 0, sent, seconds, complete)
        else:
            line = _access_line(request, client, reply.status, sent, seconds, complete)
        self._server.access(line)

    # -- the end -----------------------------------------------------------------------------------

    def _end(self) -> None:
        """Close so that the client can read the answer: FIN, never RST. Linux answers unread bytes
        with RST, which discards what the client has not read yet; so they are read and dropped."""
        self.state = ON_END[self.state]
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

    @property
    def is_lost(self) -> bool:
        """Whether the transport is closed."""
        return self.state is ABANDONED or self.state is CLOSED

    def drain(self) -> None:
        """Close the connection as soon as no answer is being sent."""
        if self.state is IDLE:
            self._end()

    def abort(self) -> asyncio.Task[None] | None:
        """End at once. The task that is under way is cancelled, and returned."""
        task = self._task
        if task is not None:
            task.cancel()
        self._transport.abort()
        return task

    # -- deadlines ---------------------------------------------------------------------------------

    @property
    def idle_until(self) -> float | None:
        """When it ends without a further request; None while a request is answered."""
        if self.state in (IDLE, READING, LINGERING):
            return min(self._deadline, self._linger_end)
        return None

    def _set_deadline(self) -> None:
        state = self.state
        if state is not IDLE and state is not READING:
            return
        now = self._loop.time()
        if not self._exchange.begun:
            self.state = ON_CLEAR[state]
            self._deadline = now + self._limits.idle_timeout
        elif state is IDLE:
            # the head's clock starts with its first byte and is not wound up by later ones
            self.state = ON_PART[state]
            self._deadline = now + self._limits.head_timeout

    def check(self, now: float) -> None:
        """Called by the server's sweep: act on the deadlines that have passed."""
        if self._incoming is not None:
            self._incoming.check(now)
        if self.is_lost:
            return
        if self._half_closed and self._waiting():
            self._transport.close()
        elif self._stuck():
            self._check_stall(now)
        elif self.state is LINGERING:
            if now >= min(self._deadline, self._linger_end):
                self._transport.abort()
        elif self.state in (IDLE, READING) and now >= self._deadline:
            if self.state is READING and self._exchange.phase is Phase.HEAD:
                self._request = None
                self._send(reply_to(RequestTimeout("the request did not arrive in time")))
            else:
                self._end()

    def _stuck(self) -> bool:
        """Whether bytes wait for the client to take them."""
        if self._outgoing is not None and self._outgoing.blocked:
            return True
        return self._transport.get_write_buffer_size() > 0 and (self._write_paused or self.state is LINGERING)

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
        handed = self._written if self._outgoing is None else self._outgoing.sent
        return handed - self._transport.get_write_buffer_size()


def _access_line(
    request: Request, client: str, status: int, sent: int, seconds: float = 0.0, complete: bool = True
) -> AccessLine:
    """The line of one request. Without `seconds`: it was answered when it was read, and the loop's time stood still."""
    return AccessLine(
        client,
        request.method,
        request.path,
        status,
        request.body.received if request.body else 0,
        sent,
        seconds,
        complete,
        request.note.user,
        (request.header("user-agent") or "")[:AGENT_CHARACTERS],
        (request.parameter("ns") or "")[:NS_CHARACTERS] if request.query else "",
        request.note.cache,
    )
