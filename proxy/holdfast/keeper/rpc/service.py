"""The keeper's end of the socket: takes calls from workers, sends answers and the changes of fills."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, cast

from holdfast_core.errors import StoreError

from holdfast import errors
from holdfast.fill.readers import FillChange, Reader
from holdfast.keeper.api import KeeperStatus
from holdfast.keeper.disk import unreadable
from holdfast.keeper.keeper import Keeper
from holdfast.keeper.rpc.frames import (
    AdvanceFrame,
    CallFrame,
    ChangedFrame,
    DiskRefusedFrame,
    FailureFrame,
    FollowAnswer,
    Frame,
    FrameInvalid,
    FrameReader,
    LeaveFrame,
    ResultFrame,
    SeenFrame,
    encode,
    failure_of,
    unpacked,
)
from holdfast.keeper.rpc.remote_methods import KEEPER_METHODS, RemoteMethod
from holdfast.log import log


class Service:
    """Accepts workers on a listening Unix socket. As long as it has no keeper, because the store cannot be opened, each
    call is refused at once, and `status` has the reason."""

    def __init__(
        self, keeper: Keeper | None = None, methods: Mapping[str, RemoteMethod] = KEEPER_METHODS
    ) -> None:
        self.keeper, self._unopened, self.methods = keeper, "", methods
        self.connections: set[WorkerConnection] = set()
        self._server: asyncio.AbstractServer | None = None

    async def serve(self, listener: socket.socket, keeper: Keeper) -> None:
        """Answer by the keeper from now on."""
        self.keeper = keeper
        await self.start(listener)

    async def start(self, listener: socket.socket, unopened: str = "") -> None:
        """Begin to accept, once. `unopened`: why there is no keeper."""
        self._unopened = unopened
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: WorkerConnection(self), sock=listener)

    def required(self) -> Keeper:
        """The keeper. Raises KeeperAway as long as there is none."""
        if self.keeper is None:
            raise unreadable()
        return self.keeper

    def status(self) -> KeeperStatus:
        """The status as long as there is no keeper."""
        return KeeperStatus(False, (self._unopened,))

    async def close(self) -> None:
        """Stop accepting and end every connection."""
        if self._server:
            self._server.close()
        for connection in list(self.connections):
            connection.end()


class WorkerConnection(asyncio.Protocol):
    """One worker. Its readers leave their fills when it goes."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.reader = FrameReader()
        self.followings: dict[int, tuple[int, Reader]] = {}
        self.subscriptions: dict[int, Callable[[], None]] = {}
        self.calls: set[asyncio.Task[None]] = set()
        self.numbers = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self.service.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self.reader.feed(data)
        except FrameInvalid as error:
            log.error("worker refused", reason=str(error))
            self.end()
            return
        for frame in frames:
            self._take(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.service.connections.discard(self)
        self.transport = None
        for stop in self.subscriptions.values():
            stop()
        self.subscriptions.clear()
        for _, following in self.followings.values():
            following.close()
        self.followings.clear()

    def end(self) -> None:
        """Close the connection."""
        if self.transport:
            self.transport.close()

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, CallFrame):
            task = asyncio.ensure_future(self._answer(frame))
            self.calls.add(task)
            task.add_done_callback(self.calls.discard)
        elif isinstance(frame, LeaveFrame):
            self._leave(frame.reader)
        elif isinstance(frame, AdvanceFrame):
            self._advance(frame)
        elif isinstance(frame, DiskRefusedFrame):
            if self.service.keeper:
                self.service.keeper.disk_refused()
        elif isinstance(frame, SeenFrame):
            for repository, digest in frame.rows if self.service.keeper else ():
                self.service.required().seen(repository, digest)

    async def _answer(self, call: CallFrame) -> None:
        try:
            value = await self._value(call)
        except errors.Refusal as refusal:
            self._send(failure_of(call.number, refusal))
        except StoreError as error:
            log.error("store failed", method=call.method, error=str(error))
            self._send(failure_of(call.number, errors.of_store(error)))
        except Exception as error:
            if (busy := errors.of_shortage(error)) is not None:
                log.error("call refused", method=call.method, reason=busy.message)
                return self._send(failure_of(call.number, busy))
            log.exception("call failed", method=call.method)
            self._send(
                FailureFrame(
                    call.number, "NodeFailed", f"{call.method} failed", type(error).__name__, None, None
                )
            )
        else:
            self._send(ResultFrame(call.number, unpacked(value)))

    async def _value(self, call: CallFrame) -> Any:
        method = self.service.methods.get(call.method)
        if method is None:
            raise errors.NodeFailed(f"the keeper has no method {call.method!r}")
        arguments = method.arguments.decode(call.arguments)
        if call.method == "follow":
            return await self._follow(*arguments)
        if call.method == "status" and self.service.keeper is None:
            return self.service.status()
        return await getattr(self.service.required(), call.method)(*arguments)

    async def _follow(self, fill: int, start: int, end: int, whole: bool) -> FollowAnswer:
        keeper = self.service.required()
        following = await keeper.follow(fill, start, end, whole)
        if self.transport is None:
            following.close()
            raise errors.NodeFailed("the worker is gone")
        self.numbers += 1
        self.followings[self.numbers] = (fill, following)
        if fill not in self.subscriptions:
            self.subscriptions[fill] = keeper.fills.subscribe(fill, lambda c: self._changed(fill, c))
        return FollowAnswer(self.numbers, keeper.fills.snapshot(fill))

    def _leave(self, reader: int) -> None:
        fill, following = self.followings.pop(reader, (0, None))
        if following is None:
            return
        following.close()
        if all(other != fill for other, _ in self.followings.values()) and fill in self.subscriptions:
            self.subscriptions.pop(fill)()

    def _advance(self, frame: AdvanceFrame) -> None:
        _, following = self.followings.get(frame.reader, (0, None))
        if following is not None:
            (following.demand if frame.waits else following.advance)(frame.offset)

    def _changed(self, fill: int, change: FillChange) -> None:
        self._send(ChangedFrame(fill, change))

    def _send(self, frame: Frame) -> None:
        if self.transport and not self.transport.is_closing():
            self.transport.write(encode(frame))
