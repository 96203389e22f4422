"""Where the body of a request ends: bytes in, bytes of the body out. No sockets, no event loop.

A body with a Content-Length is counted, its bytes handed on as they came. A chunked one goes through the chunk
gate (`wire.chunks`).
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from holdfast.errors import BodyBroken
from holdfast.wire.chunks import ChunkReader

#: bytes of a body handed out at once
TAKE_BYTES = 1 << 20


class Framing(Protocol):
    """One body. `length` is None when it is unknown before the end; `waiting` counts the bytes that arrived and were
    not taken; `begun`: some have arrived. `ended`: all were taken, and `tail` has the bytes behind the body."""

    length: int | None
    waiting: int
    begun: bool
    ended: bool
    tail: bytes

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""

    def take(self) -> bytes | None:
        """The next bytes, b"" once `ended`, None until more arrive. Raises `BodyBroken`, and again at each later
        call."""

    def skip(self, most: int) -> bool:
        """Throw away what is here. False when the end cannot be reached, or not within `most` bytes from
        the first call: that depends on the body, not on how much of it has arrived."""

    def break_off(self) -> None:
        """Nothing more will be read of it."""


class Counted:
    """A body of `length` bytes, more than none."""

    __slots__ = ("_broken", "_left", "_parts", "begun", "ended", "length", "tail", "waiting")

    def __init__(self, length: int, data: bytes) -> None:
        self.length: int | None = length
        self._left = length
        self._parts: deque[bytes] = deque()
        self.waiting = 0
        self.begun = self.ended = self._broken = False
        self.tail = b""
        if data:
            self.feed(data)

    def feed(self, data: bytes) -> None:
        """As `Framing`."""
        self.begun = True
        left = self._left
        if len(data) > left:
            self.tail += data[left:]
            data = data[:left]
        if data:
            self._left -= len(data)
            self.waiting += len(data)
            self._parts.append(data)

    def take(self) -> bytes | None:
        """As `Framing`."""
        if self._broken:
            raise BodyBroken("the body was given up")
        if not self._parts:
            return b"" if self.ended else None
        data = self._parts.popleft()
        if self._parts and len(data) + len(self._parts[0]) <= TAKE_BYTES:
            data = self._joined(data)
        self.waiting -= len(data)
        self.ended = not self._parts and not self._left
        return data

    def _joined(self, first: bytes) -> bytes:
        """The parts that arrived between two reads, joined: each read costs the reader more than the copy."""
        parts, size = [first], len(first)
        while self._parts and size + len(self._parts[0]) <= TAKE_BYTES:
            parts.append(self._parts.popleft())
            size += len(parts[-1])
        return b"".join(parts)

    def skip(self, most: int) -> bool:
        """As `Framing`."""
        passes = not self._broken and self.waiting + self._left <= most
        self._parts.clear()
        self.waiting = 0
        self.ended = not self._left
        return passes

    def break_off(self) -> None:
        """As `Framing`."""
        self._broken = True


class Chunked:
    """A chunked body."""

    __slots__ = ("_given_up", "_parts", "_reader", "_skipped", "begun", "ended", "length", "tail", "waiting")

    def __init__(self, data: bytes) -> None:
        self.length: int | None = None
        self._reader = ChunkReader()
        self._parts: deque[bytes] = deque()
        self.waiting = self._skipped = 0
        self.begun = self.ended = self._given_up = False
        self.tail = b""
        if data:
            self.feed(data)

    def feed(self, data: bytes) -> None:
        """As `Framing`."""
        self.begun = True
        if self.ended:
            self.tail += data
        else:
            self.waiting += len(data)
            self._parts.append(data)

    def take(self) -> bytes | None:
        """As `Framing`."""
        if self._given_up:
            raise BodyBroken("the body was given up")
        taken, size = [], 0
        while self._parts and (not size or size + len(self._parts[0]) <= TAKE_BYTES):
            content, _ = self._read()
            if content:
                taken.append(content)
                size += len(content)
        if taken:
            return taken[0] if len(taken) == 1 else b"".join(taken)
        if self._reader.fault:
            raise BodyBroken(f"the chunked body is malformed: {self._reader.fault}")
        return b"" if self.ended else None

    def skip(self, most: int) -> bool:
        """As `Framing`; all bytes of the coding count."""
        while self._parts and self._skipped <= most:
            self._skipped += self._read()[1]
        return self._skipped <= most and not self._reader.fault and not self._given_up

    def break_off(self) -> None:
        """As `Framing`."""
        self._given_up = True

    def _read(self) -> tuple[bytes, int]:
        """The content of the oldest part, and how much of the part belongs to the body."""
        data = self._parts.popleft()
        self.waiting -= len(data)
        content, read = self._reader.read(data)
        if self._reader.ended:
            self.ended = True
            self.tail = b"".join([data[read:], *self._parts])
        if self.ended or self._reader.fault:
            self._parts.clear()
            self.waiting = 0
        return content, read
