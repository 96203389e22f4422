"""Receives long bodies: straight from the socket into blocks of memory, at a bounded window, and fast enough.

aiohttp reads heads, and short bodies. Of a long one it would make three copies on the event loop (the
loop's, the parser's, the reader's), so once the head is read its connection is taken over: the kernel, or
TLS, writes into blocks that are then written to disk and hashed where they are. When all of the announced
length was received the connection goes back to aiohttp, and can carry the next request.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from contextlib import suppress

import aiohttp
from aiohttp.client_proto import ResponseHandler

from holdfast.errors import TimedOut
from holdfast.http.block import Block

#: A shorter rest of a body stays with aiohttp.
LEAST_BYTES = 1 << 20
#: The size of a block, and the most that one piece holds.
BLOCK_BYTES = 2 << 20
#: Received and not read yet; beyond it the socket is not read, so the parent's sender waits.
AHEAD_BYTES = 4 << 20
#: A window is as long as two round trips and this (seconds): one trip keeps the link busy, the second lets a transfer
#: grow that is slower than it could be, and the rest fills the link's queue
QUEUE_SECONDS = 0.03
#: A window is no smaller than this (bytes, segments): less would be sent in tiny packets.
LEAST_WINDOW, LEAST_SEGMENTS = 8 * 1024, 4
#: The clamp of a window without a bound.
UNBOUND = 1 << 30
#: A parent must send so much on average (reliability.md P9).
FLOOR_BYTES_PER_SECOND = 1024
#: Where struct tcp_info has the size of the segments that come, and the shortest round trip in µs (linux/tcp.h)
RECEIVED_MSS, SHORTEST_TRIP = 20, 148
#: Linux 5.16: whether the kernel tunes the buffer (asm-generic/socket.h); a larger one cannot be had where
#: net.core.rmem_max is as it comes
SO_BUF_LOCK, SOCK_RCVBUF_LOCK, LOCKED_BYTES = 72, 2, 192 * 1024


class BodyPace:
    """Decides when a body comes too slowly to go on: one rule for a stall and for a drip. Pure.

    Bytes count against the time spent waiting for them. Time in which no bytes were read (a full disk queue, a slow
    reader) does not count, so back-pressure is never taken for a slow parent.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._waited, self._bytes = 0.0, 0

    def left(self) -> float:
        """Seconds of waiting until the window must have brought enough."""
        return self._window - self._waited

    def add(self, size: int, waited: float) -> None:
        """`size` bytes came after `waited` seconds. Raises TimedOut when a whole window brought too few."""
        self._waited += waited
        self._bytes += size
        if self._waited < self._window:
            return
        if self._bytes < self._window * FLOOR_BYTES_PER_SECOND:
            raise TimedOut(f"the parent sent {self._bytes} bytes in {self._window:g} s")
        self._waited, self._bytes = 0.0, 0


def take_over(response: aiohttp.ClientResponse) -> SocketBody | None:
    """The body, if it has a length and its rest is long; what aiohttp has of it already comes first. None: aiohttp
    reads it. Raises what `response.content` raises."""
    connection, length = response.connection, response.content_length
    if connection is None or length is None or "Transfer-Encoding" in response.headers:
        return None
    handler, transport = connection.protocol, connection.transport
    if handler is None or transport is None or transport.is_closing() or length < LEAST_BYTES:
        return None
    early = deque[memoryview]()
    while piece := response.content.read_nowait():
        early.append(memoryview(piece))
    return SocketBody(response, handler, transport, early, length - sum(map(len, early)))


class SocketBody(asyncio.BufferedProtocol):
    """Reads like an `aiohttp.StreamReader`: `read_nowait` and `readany`, in pieces of up to BLOCK_BYTES.

    A piece stays as it is while a reference to it or to a slice of it exists. Then its memory is received into
    again: it is in the processor's cache, and new pages would cost the kernel as much as the copy.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        handler: ResponseHandler,
        transport: asyncio.Transport,
        early: deque[memoryview],
        left: int,
    ) -> None:
        self._response, self._handler, self._transport = response, handler, transport
        self._full, self._left = early, left
        self._unread = sum(map(len, early))
        self._blocks: list[Block] = []
        self._block = self._free_block()
        self._start = self._end = 0
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused, self._rate = False, 0.0
        self._ahead = AHEAD_BYTES
        if left > 0:
            self._set_protocol(self)

    def _set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the connection's bytes to `protocol` from now on. Paused meanwhile: a loop checks the kind of its
        protocol when reading begins."""
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def _free_block(self) -> memoryview:
        block = next((block for block in self._blocks if block.is_free), None)
        if block is None:
            block = Block(BLOCK_BYTES)
            self._blocks.append(block)
        return memoryview(block)

    # -- for the event loop ------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """The memory for the next bytes: those announced, and one more to see that the body ends there."""
        if self._end == BLOCK_BYTES:
            if self._start < self._end:
                self._full.append(self._block[self._start :])
            self._block = self._free_block()
            self._start = self._end = 0
        return self._block[self._end : self._end + self._left + 1]

    def buffer_updated(self, nbytes: int) -> None:
        """Count bytes that were received."""
        count = min(nbytes, self._left)
        if count < nbytes:
            self._handler.force_close()  # what follows the body would be taken for the next answer
        self._end += count
        self._left -= count
        self._unread += count
        if not self._left:
            self.narrow(0)  # the next body on this connection has its own bound
            self._set_protocol(self._handler)
            self._response.content.feed_eof()
        elif self._unread >= self._ahead:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended before the body."""
        self._error = exc or aiohttp.ClientPayloadError("the body ended early")
        self._handler.connection_lost(exc)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- for the reader ----------------------------------------------------------------------------

    def read_nowait(self) -> memoryview | bytes:
        """The next bytes that were received; b"" when there are none."""
        if self._full:
            piece = self._full.popleft()
        elif self._start < self._end:
            piece = self._block[self._start : self._end]
            self._start = self._end
        else:
            return b""
        self._unread -= len(piece)
        if self._paused and self._unread < self._ahead and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return piece

    def narrow(self, rate: float) -> None:
        """Bound the bytes on the link to what a rate needs (bytes a second), in the kernel's window and here; 0 for no
        bound. Bytes of an earlier window still come. To be called again and again."""
        if not (self._rate or rate) or self._transport.is_closing():
            return
        settled, self._rate = rate == self._rate, rate
        window = bound_window(self._transport, rate, settled)
        self._ahead = min(window or AHEAD_BYTES, AHEAD_BYTES)

    async def readany(self) -> memoryview | bytes:
        """The next bytes as soon as there are any; b"" at the end. Raises OSError or
        aiohttp.ClientPayloadError when the connection ends before the body."""
        while not self._unread and self._left:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.read_nowait()


def bound_window(transport: asyncio.Transport, rate: float, settled: bool) -> int:
    """Bound what the kernel receives before it is read to what a rate needs; 0 ends the bound. `settled`: it was
    bounded so before, and the bytes of an earlier window were received. Returns the window in bytes, 0 for none.

    The clamp bounds the bytes on the link, the buffer those that wait here besides. The kernel moves the clamp when it
    learns how much room a segment takes, so it is set again and again, and it tunes the buffer by itself unless that is
    locked. A buffer that is made smaller before the bytes of the window were received would drop some.
    """
    own = transport.get_extra_info("socket")
    if own is None or not hasattr(socket, "TCP_WINDOW_CLAMP"):
        return 0
    with suppress(OSError):
        window = window_for(own, rate) if rate else 0
        bounded = 0 < window <= LOCKED_BYTES
        buffer = window if bounded else LOCKED_BYTES
        current = own.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        if current < buffer or (settled and bounded and current > buffer):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, window or UNBOUND)
        own.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, SOCK_RCVBUF_LOCK if bounded else 0)
        return window
    return 0


def window_for(own: socket.socket, rate: float) -> int:
    """The window for a rate on this connection, in bytes. Raises OSError."""
    info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SHORTEST_TRIP + 4)
    segment, trip = (int.from_bytes(info[at : at + 4], sys.byteorder) for at in (RECEIVED_MSS, SHORTEST_TRIP))
    return max(int(rate * (QUEUE_SECONDS + 2 * trip / 1e6)), LEAST_WINDOW, LEAST_SEGMENTS * segment)
