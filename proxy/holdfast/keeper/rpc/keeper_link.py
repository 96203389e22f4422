"""A worker's connection to one keeper process: calls out, answers and the news of fills in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from holdfast import errors
from holdfast.keeper.rpc.fill_view import FillView, KeeperLost
from holdfast.keeper.rpc.frames import (
    CallFrame,
    ChangedFrame,
    FailureFrame,
    FollowAnswer,
    Frame,
    FrameReader,
    LeaveFrame,
    ResultFrame,
    encode,
    refusal_of,
    unpacked,
)

_follow_answer = msgspec.msgpack.Decoder(FollowAnswer)


class KeeperLink(asyncio.Protocol):
    """One connection to one keeper process. Ends when either ends."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._frames = FrameReader()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._follows: dict[int, int] = {}
        self._numbers = 0
        self.views: dict[int, FillView] = {}
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self._take(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        lost = KeeperLost()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(lost)
        for view in self.views.values():
            view.lose(lost)
        self._on_end()

    @property
    def alive(self) -> bool:
        """Whether calls can be sent."""
        return self.transport is not None and not self.transport.is_closing()

    def send(self, frame: Frame) -> None:
        """Send, or say nothing when the connection is gone."""
        if self.transport:
            self.transport.write(encode(frame))

    async def call(self, method: str, *arguments: Any) -> Any:
        """Ask and wait: the answer as it is packed, of `follow` the reader's number and the view. Raises the refusal,
        or KeeperLost."""
        if not self.alive:
            raise KeeperLost
        self._numbers += 1
        number = self._numbers
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self.send(CallFrame(number, method, unpacked(arguments)))
        try:
            return await answer
        finally:
            del self._answers[number]

    async def follow(self, fill: int, start: int, end: int, whole: bool) -> tuple[int, FillView]:
        """Attach a reader to a fill. The view is made where the answer arrives, before the next frame is
        read: a change that follows in the same packet must find it."""
        if not self.alive:
            raise KeeperLost
        self._follows[self._numbers + 1] = fill
        answer: tuple[int, FillView] = await self.call("follow", fill, start, end, whole)
        return answer

    def leave(self, fill: int, reader: int, view: FillView) -> None:
        """A reader is gone; the last one closes the view."""
        self.send(LeaveFrame(reader))
        view.readers -= 1
        if view.readers == 0:
            if self.views.get(fill) is view:
                del self.views[fill]
            view.close()

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, ChangedFrame):
            if view := self.views.get(frame.fill):
                view.change(frame.change)
        elif isinstance(frame, ResultFrame | FailureFrame):
            self._settle(frame)

    def _settle(self, frame: ResultFrame | FailureFrame) -> None:
        fill = self._follows.pop(frame.number, None)
        answer = self._answers.get(frame.number)
        try:
            value = self._outcome(frame, fill)
        except (errors.Refusal, OSError) as error:
            if answer and not answer.done():
                answer.set_exception(error)
            return
        if answer and not answer.done():
            answer.set_result(value)
        elif fill is not None:
            self.leave(fill, *value)  # the caller was cancelled before its answer came

    def _outcome(self, frame: ResultFrame | FailureFrame, fill: int | None) -> Any:
        if isinstance(frame, FailureFrame):
            refused = (frame.kind, frame.message, frame.detail, frame.code, frame.retry_after, frame.headers)
            raise refusal_of(*refused)
        return frame.value if fill is None else self._joined(fill, frame.value)

    def _joined(self, fill: int, value: msgspec.Raw) -> tuple[int, FillView]:
        answer = _follow_answer.decode(value)
        view = self.views.get(fill)
        if (
            view is None or view.failure is not None
        ):  # a fill that failed may go on; slow readers keep its past
            try:
                self.views[fill] = FillView(answer.snapshot)
            except OSError:  # the file was renamed into the store in between
                self.send(LeaveFrame(answer.reader))
                raise
        self.views[fill].readers += 1
        return answer.reader, self.views[fill]
