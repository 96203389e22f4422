"""The body of one request on its way in: what its endpoint reads, and how long the client may take.

The counterpart of `response_body.py`. The bytes and their framing are `wire.framing`'s; here are the waiting, the
socket that is not read while the endpoint does not read, and the two clocks: the client's (a body that stalls) and the
endpoint's (the answer timeout, which rests while the endpoint waits for the client).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import copy
from types import TracebackType

from holdfast.config import LimitsSection
from holdfast.errors import ClientGone, RequestTimeout
from holdfast.wire.framing import Framing

#: a client that sends slower than this for a whole stall timeout is disconnected (bytes/s)
LEAST_RATE = 1024
#: beyond this many bytes that the endpoint has not taken, the socket is not read
WAITING_BYTES = 1 << 20


class AnswerTimer:
    """How long the answer to one request may take: `seconds` from entering it, or what is allowed later. `timeout`
    is set until it is left; after the answer `allow` does nothing."""

    __slots__ = ("_loop", "_seconds", "timeout")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop, self._seconds = loop, seconds
        self.timeout: asyncio.Timeout | None = None

    async def __aenter__(self) -> None:
        self.timeout = await asyncio.timeout(self._seconds).__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        timeout, self.timeout = self.timeout, None
        assert timeout is not None
        await timeout.__aexit__(kind, error, trace)

    def allow(self, seconds: float | None) -> None:
        """As many seconds from now; None: nothing runs out."""
        if self.timeout is not None and not self.timeout.expired():
            self.timeout.reschedule(None if seconds is None else self._loop.time() + seconds)


def _nothing() -> None:
    """The `ask` of a request that is over."""


class IncomingBody:
    """A `wire.message.RequestBody`. `ask` is called when the endpoint needs bytes that have not arrived, and when
    it has taken some, so that the client can continue."""

    __slots__ = (
        *("_ask", "_framing", "_gone", "_limits", "_loop", "_over", "_waited", "_waiter"),
        *("_waiting_since", "_window", "length", "received", "timer"),
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        framing: Framing,
        limits: LimitsSection,
        ask: Callable[[], None],
    ) -> None:
        self._loop, self._framing, self._limits, self._ask = loop, framing, limits, ask
        self.length, self.received = framing.length, 0
        self.timer: AnswerTimer | None = None
        self._gone: Exception | None = None
        self._over = False
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since = 0.0
        self._waited, self._window = 0.0, 0

    async def read(self) -> bytes:
        """As `RequestBody.read`."""
        while (data := self._take()) is None:
            if self._gone is not None:
                self._framing.break_off()
                raise copy(
                    self._gone
                )  # an exception that was raised keeps every frame of its traceback alive
            self._ask()
            await self._more()
        self.received += len(data)
        self._rewind(self._limits.answer_timeout)
        self._ask()
        return data

    def _take(self) -> bytes | None:
        if self._over:
            raise ClientGone("the request is over")
        return self._framing.take()

    async def _more(self) -> None:
        """Wait until bytes arrive, or none will. Only this counts as the client's time."""
        self._rewind(None)
        self._waiting_since = self._loop.time()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._waited += self._loop.time() - self._waiting_since

    def _rewind(self, seconds: float | None) -> None:
        """Give the endpoint so long to its next step; None: the client's turn."""
        if self.timer is not None:
            self.timer.allow(seconds)

    # -- calls of the connection --------------------------------------------------------------------

    def wake(self) -> None:
        """Bytes have arrived."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def lose(self, reason: Exception) -> None:
        """No more bytes will arrive: `read` raises `reason` after the last one."""
        if self._gone is None:
            self._gone = reason
            self.wake()

    def close(self) -> None:
        """The request is over: nothing more is handed out."""
        self._over, self.timer, self._ask = True, None, _nothing
        self.wake()

    def check(self, now: float) -> None:
        """Whether the client takes too long: silent for a stall timeout, or slower than `LEAST_RATE`
        over one. Only time in which the endpoint waited counts."""
        if self._waiter is None:
            return
        waiting, limit = now - self._waiting_since, self._limits.stall_timeout
        waited = self._waited + waiting
        if waiting >= limit or (waited >= limit and self._came() < LEAST_RATE * limit):
            self.lose(RequestTimeout("the body of the request did not arrive in time"))
        elif waited >= limit:
            self._waited, self._window = -waiting, self._window + self._came()

    def _came(self) -> int:
        return self.received - self._window
