"""A long body straight from the socket into memory of ours.

aiohttp reads heads, and short bodies. Of a long one it would make three copies on the event loop (the
loop's, the parser's, the reader's), so once the head is read its connection is taken over: the kernel, or
TLS, writes into blocks that are then written to disk and hashed where they are. When all of the announced
length is here the connection goes back to aiohttp, and can carry the next request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import aiohttp

from holdfast.parent.block import Block

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

#: A body with less to come stays with aiohttp.
LEAST_BYTES = 1 << 20
#: What is received into at once, and at most what one piece holds.
BLOCK_BYTES = 2 << 20
#: Received and not taken yet; beyond it the socket is not read, so the parent's sender waits.
AHEAD_BYTES = 4 << 20


def take_over(response: aiohttp.ClientResponse) -> Body | None:
    """The body, if there is a length and much to come; what aiohttp has of it already comes first. None: it
    is aiohttp's to read. Raises what `response.content` raises."""
    connection, length = response.connection, response.content_length
    if connection is None or length is None or "Transfer-Encoding" in response.headers:
        return None
    handler, transport = connection.protocol, connection.transport
    if handler is None or transport is None or transport.is_closing() or length < LEAST_BYTES:
        return None
    early = deque[memoryview]()
    while piece := response.content.read_nowait():
        early.append(memoryview(piece))
    return Body(response, handler, transport, early, length - sum(map(len, early)))


class Body(asyncio.BufferedProtocol):
    """Reads like an `aiohttp.StreamReader`: `read_nowait` and `readany`, in pieces of up to BLOCK_BYTES.

    A piece stays as it is for as long as somebody has it or a slice of it. Then its memory is received into
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
        self._paused = False
        if left > 0:
            self._lead(self)

    def _lead(self, protocol: asyncio.BaseProtocol) -> None:
        """From here on the connection's bytes are for `protocol`. Paused meanwhile: a loop looks at what
        kind of protocol it has when reading begins."""
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def _free_block(self) -> memoryview:
        block = next((block for block in self._blocks if block.is_free), None)
        if block is None:
            block = Block(BLOCK_BYTES)
            self._blocks.append(block)
        return memoryview(block)

    # -- what the event loop tells -----------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: what is announced, and one more byte to see that it ends there."""
        if self._end == BLOCK_BYTES:
            if self._start < self._end:
                self._full.append(self._block[self._start :])
            self._block = self._free_block()
            self._start = self._end = 0
        return self._block[self._end : self._end + self._left + 1]

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        count = min(nbytes, self._left)
        if count < nbytes:
            self._handler.force_close()  # what follows the body would be taken for the next answer
        self._end += count
        self._left -= count
        self._unread += count
        if not self._left:
            self._lead(self._handler)
            self._response.content.feed_eof()
        elif self._unread >= AHEAD_BYTES:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended before the body did."""
        self._error = exc or aiohttp.ClientPayloadError("the body ended early")
        self._handler.connection_lost(exc)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the reader asks ----------------------------------------------------------------------

    def read_nowait(self) -> memoryview | bytes:
        """The next bytes that are here; b"" when there are none."""
        if self._full:
            piece = self._full.popleft()
        elif self._start < self._end:
            piece = self._block[self._start : self._end]
            self._start = self._end
        else:
            return b""
        self._unread -= len(piece)
        if self._paused and self._unread < AHEAD_BYTES and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        return piece

    async def readany(self) -> memoryview | bytes:
        """The next bytes as soon as there are any; b"" at the end. Raises OSError or
        aiohttp.ClientPayloadError when the connection ends before the body."""
        while not self._unread and self._left:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.read_nowait()
