"""The protocol between a worker and the keeper: length-prefixed msgpack over a Unix socket. Sans I/O.

Worker to keeper: Call, Leave, Advance, Seen, DiskRefused. Keeper to worker: Result, Failure, Changed. A Call is
answered once, in any order. `ChangedFrame` follows the fills a connection reads.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from holdfast import errors
from holdfast.fill.readers import FillChange, FillSnapshot

HEADER_BYTES = 4
#: The largest manifest that can be configured (64 MiB), either way, and what stands around it.
LARGEST_BYTES = 65 << 20
#: Rows of one `SeenFrame`; each is under 1 KiB.
SEEN_ROWS = 10_000


class CallFrame(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """A question: a method of `KeeperApi` and its arguments, which only the method's own decoder reads."""

    number: int
    method: str
    arguments: msgspec.Raw


class LeaveFrame(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """A reader of a fill is gone."""

    reader: int


class AdvanceFrame(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """How far a reader of a fill has come; `waits` when the byte at `offset` is not there yet."""

    reader: int
    offset: int
    waits: bool


class SeenFrame(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """Hits since the last such message, as (repository, digest)."""

    rows: tuple[tuple[str, str], ...]


class DiskRefusedFrame(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """A client got the refusal that the disk takes no write."""


class ResultFrame(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """The answer to a Call, which only the method's own decoder reads."""

    number: int
    value: msgspec.Raw


class FailureFrame(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """A Call that was refused. `kind` names a class of `holdfast.errors`."""

    number: int
    kind: str
    message: str
    detail: str
    code: str | None
    retry_after: int | None
    headers: tuple[tuple[str, str], ...] = ()


class ChangedFrame(msgspec.Struct, frozen=True, array_like=True, tag="g"):
    """Something happened to a fill that this connection reads."""

    fill: int
    change: FillChange


class FollowAnswer(msgspec.Struct, frozen=True, array_like=True):
    """A reader was attached; `snapshot` is the fill at that moment."""

    reader: int
    snapshot: FillSnapshot


Frame = (
    CallFrame
    | LeaveFrame
    | AdvanceFrame
    | SeenFrame
    | DiskRefusedFrame
    | ResultFrame
    | FailureFrame
    | ChangedFrame
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


class FrameInvalid(Exception):
    """The other side does not speak this protocol; the connection ends."""


def unpacked(value: Any) -> msgspec.Raw:
    """Arguments or an answer, for a frame that is sent. The encoder packs what a field holds, whatever its annotation:
    with the frame, and without the second copy that packing it first would take."""
    return cast("msgspec.Raw", value)


def encode(frame: Frame) -> bytes:
    """A frame as bytes to send."""
    body = _encoder.encode(frame)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class FrameReader:
    """Bytes in any pieces in, whole frames out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises FrameInvalid."""
        self._buffer += data
        frames: list[Frame] = []
        start = 0
        while len(self._buffer) - start >= HEADER_BYTES:
            length = int.from_bytes(self._buffer[start : start + HEADER_BYTES], "big")
            if length > LARGEST_BYTES:
                raise FrameInvalid(f"a frame of {length} bytes; at most {LARGEST_BYTES} are allowed")
            end = start + HEADER_BYTES + length
            if len(self._buffer) < end:
                break
            frames.append(self._decode(bytes(self._buffer[start + HEADER_BYTES : end])))
            start = end
        del self._buffer[:start]
        return frames

    @staticmethod
    def _decode(body: bytes) -> Frame:
        try:
            frame: Frame = _decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise FrameInvalid(str(error)) from None
        return frame


def failure_of(number: int, error: errors.Refusal) -> FailureFrame:
    """A refusal as a frame."""
    kind = type(error).__name__
    return FailureFrame(
        number, kind, error.message, error.detail, error.code, error.retry_after, error.headers
    )


def refusal_of(
    kind: str,
    message: str,
    detail: str = "",
    code: str | None = None,
    retry_after: int | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> errors.Refusal:
    """A refusal from its name; an unknown name is a fault of this node."""
    found = getattr(errors, kind, None)
    if not (isinstance(found, type) and issubclass(found, errors.Refusal)):
        found = errors.NodeFailed
    return found(message, detail=detail, code=code, retry_after=retry_after, headers=headers)
