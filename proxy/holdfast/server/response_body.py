"""Moves one body into a transport, no faster than the client takes it and without holding up the others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from holdfast.errors import NodeFailed
from holdfast.wire.message import BodySource, ReplyBody

#: 64 KiB reads: larger ones were no faster on plain TCP
CHUNK_BYTES = 64 * 1024
#: Over TLS each piece passes Python, OpenSSL and a buffer of the connection as large as itself: 128 KiB cost 7%
#: less processor time a byte than 64, 256 KiB another 3%, which is not worth the buffers of idle connections.
SECURE_CHUNK_BYTES = 128 * 1024
#: bytes handed to sendfile at once: a chunk of the store
FILE_BYTES = 1 << 20
#: a run shorter than this is not worth a second descriptor of the socket
LEAST_FILE_BYTES = 256 * 1024
#: bytes one body may move before the other connections of the loop have their turn
TURN_BYTES = 1 << 20

Done = Callable[[Exception | None], None]


class Channel:
    """A second descriptor of a plain socket, for sendfile: uvloop allows no waiting on the transport's own. To be used
    while the transport has nothing to write, or the bytes would mix."""

    __slots__ = ("_fd", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: int) -> None:
        self._loop, self._fd = loop, os.dup(socket)

    def send(self, file: int, offset: int, length: int) -> int:
        """Bytes that the socket took of the file, -1 when it is full. Raises OSError."""
        try:
            return os.sendfile(self._fd, file, offset, length)
        except BlockingIOError:
            return -1

    def wait(self, ready: Callable[[], None]) -> None:
        """Call `ready` once, when the socket has room."""

        def once() -> None:
            self._loop.remove_writer(self._fd)
            ready()

        self._loop.add_writer(self._fd, once)

    def close(self) -> None:
        """Give the descriptor back. The transport keeps its own."""
        self._loop.remove_writer(self._fd)
        os.close(self._fd)


class OutgoingBody:
    """One body on its way out. `done` is called once: with None, or with what cut the body short.

    Verified bytes of a file go by sendfile where `socket` is a plain socket's descriptor (-1: it is not, or
    TLS): a third of the processor time of reading and writing them, at the same speed or better.

    `stop` (the connection is gone) closes the source and does not call `done`.
    """

    __slots__ = (
        *("_at", "_body", "_channel", "_done", "_end", "_index", "_loop", "_paused", "_resting", "_socket"),
        *("_step", "_task", "_transport", "blocked", "sent"),
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.WriteTransport,
        body: ReplyBody,
        done: Done,
        socket: int = -1,
    ) -> None:
        self._loop, self._transport, self._body, self._done = loop, transport, body, done
        self._socket = socket
        self._step = CHUNK_BYTES if socket >= 0 else SECURE_CHUNK_BYTES
        self._channel: Channel | None = None
        self.blocked = False
        self._index = -1
        self._at = self._end = 0
        self._paused = self._resting = False
        self._task: asyncio.Task[None] | None = None
        self.sent = 0

    def start(self, head: bytes) -> None:
        """Send `head` and as much of the body as the socket takes at once."""
        data = self._read_nowait()
        self._write(head + data if data else head, len(data or b""))
        self._move()

    def pause(self) -> None:
        """The transport is full."""
        self._paused = True

    def resume(self) -> None:
        """The transport has room again."""
        self._paused = False
        if self._task is None and not self._resting and not self.blocked:
            self._move()

    def stop(self) -> None:
        """The connection is closed: close the source."""
        if self._task is not None:
            self._task.cancel()
        self._done = _ignored
        self._close()

    @property
    def waiting(self) -> bool:
        """Whether the next byte is on its way over the link."""
        return self._task is not None and self._source.distant

    @property
    def _source(self) -> BodySource:
        return self._body.source

    def _rest(self) -> None:
        """Let the other connections have their turn."""
        self._resting = True
        self._loop.call_soon(self._move)

    def _move(self) -> None:
        self._resting = False
        moved = 0
        while not self._paused and self._done is not _ignored:
            if self.sent == self._body.length:
                return self._finish(None)
            if moved >= TURN_BYTES:
                return self._rest()
            sent = self._send_file()
            if sent:
                moved += sent
                continue
            if self.blocked:
                return None
            data = self._read_nowait()
            if data is None:
                self._task = self._loop.create_task(self._wait())
                return None
            moved += len(data)
            self._write(data, len(data))
        return None

    def _send_file(self) -> int:
        """Bytes that went from the file to the socket; 0 when they cannot, or when it is full (`blocked`)."""
        size = min(FILE_BYTES, self._end - self._at)
        small = self._channel is None and size < LEAST_FILE_BYTES
        if self._socket < 0 or size <= 0 or small or self._transport.get_write_buffer_size():
            return 0
        loan = self._source.lend(self._at, size)
        if loan is None:
            return 0
        if self._channel is None:
            self._channel = Channel(self._loop, self._socket)
        try:
            sent = self._channel.send(loan[0], self._at, loan[1])
        except OSError:
            # the client has disconnected, which the next write notices; or this file system has no sendfile
            self._socket = -1
            return 0
        if sent < 0:
            self.blocked = True
            self._channel.wait(self._unblock)
            return 0
        self._at += sent
        self.sent += sent
        return sent

    def _unblock(self) -> None:
        self.blocked = False
        self._move()

    def _read_nowait(self) -> bytes | None:
        """The next bytes if they are in memory; None when `read` has to fetch them, or to raise the reason.
        Steps from piece to piece."""
        while self._at >= self._end:
            self._index += 1
            if self._index == len(self._body.pieces):
                return b""
            piece = self._body.pieces[self._index]
            if piece.literal:
                return piece.literal
            self._at, self._end = piece.start, piece.end
        try:
            return self._source.read_nowait(self._at, min(self._step, self._end - self._at)) or None
        except Exception:  # noqa: BLE001 - `read` meets the same fault, can repair it, and reports it
            return None

    def _write(self, data: bytes, of_body: int) -> None:
        if self._at < self._end:
            self._at += of_body
        self.sent += of_body
        self._transport.write(data)

    async def _bring(self) -> bytes:
        """Wait for the next bytes; b"" when they need not be read, because the file can send them."""
        source = self._source
        if source.distant:
            await source.arrived(self._at)
            if self._send_file() or self.blocked:
                return b""
        data = await source.read(self._at, min(self._step, self._end - self._at))
        if not data:
            raise NodeFailed("the source ended before the body")
        return data

    async def _wait(self) -> None:
        """Read the bytes that are not in memory, then continue."""
        try:
            data = await self._bring()
        except Exception as failure:  # noqa: BLE001 - the body ends short; the connection logs why
            self._task = None
            return self._finish(failure)
        self._task = None
        if self._done is not _ignored:
            if data:
                self._write(data, len(data))
            if not self.blocked:
                self._move()
        return None

    def _finish(self, failure: Exception | None) -> None:
        done, self._done = self._done, _ignored
        self._close()
        done(failure)

    def _close(self) -> None:
        self._body.source.close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _ignored(_failure: Exception | None) -> None:
    """The `done` of a body that is over."""
