"""`KeeperPort` over the Unix socket: how a worker asks the keeper.

The keeper may die at any time. A call that was under way is asked again once the keeper is back (every
call may be asked twice), and a reader of a fill goes on at its byte; its client notices a pause at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import structlog
from holdfast_core.digest import Digest
from holdfast_core.reading import BlobReader
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.keeper.frames import (
    Advance,
    Call,
    Changed,
    Failure,
    FollowAnswer,
    Frame,
    FrameReader,
    Leave,
    Result,
    Seen,
    encode,
    refusal_of,
)
from holdfast.keeper.port import BlobAnswer, Following, ListAnswer, ManifestAnswer, Status
from holdfast.keeper.view import FillView, KeeperLost

log = structlog.get_logger()
T = TypeVar("T")

#: Between attempts to reach a keeper that is restarting (seconds).
RECONNECT_SECONDS = 0.05
#: How long a call waits for the keeper to come back; within the 25 s of every answer.
AWAY_SECONDS = 15.0
#: A reader tells how far it has come after so many bytes; half of the least read-ahead of a range.
ADVANCE_BYTES = 1 << 20
#: Opened fills remembered at most; a body that joins late was opened moments ago.
HANDLES = 10_000
#: Access times are told this often (seconds).
SEEN_SECONDS = 10.0


class Link(asyncio.Protocol):
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
        """Ask and wait. Raises the refusal, or KeeperLost."""
        if not self.alive:
            raise KeeperLost
        self._numbers += 1
        number = self._numbers
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self.send(Call(number, method, arguments))
        try:
            return await answer
        finally:
            del self._answers[number]

    async def follow(self, fill: int, start: int, end: int, whole: bool) -> tuple[int, FillView]:
        """Attach a reader to a fill. The view is made where the answer arrives, before the next frame is
        looked at: news that follows in the same packet must find it."""
        if not self.alive:
            raise KeeperLost
        self._follows[self._numbers + 1] = fill
        answer: tuple[int, FillView] = await self.call("follow", fill, start, end, whole)
        return answer

    def leave(self, fill: int, reader: int, view: FillView) -> None:
        """A reader is gone; the last one closes the view."""
        self.send(Leave(reader))
        view.readers -= 1
        if view.readers == 0:
            if self.views.get(fill) is view:
                del self.views[fill]
            view.close()

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Changed):
            if view := self.views.get(frame.fill):
                view.change(frame.change)
        elif isinstance(frame, Result | Failure):
            self._settle(frame)

    def _settle(self, frame: Result | Failure) -> None:
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
            self.leave(fill, *value)  # the asker left before its answer came

    def _outcome(self, frame: Result | Failure, fill: int | None) -> Any:
        if isinstance(frame, Failure):
            raise refusal_of(frame.kind, frame.message, frame.detail, frame.code, frame.retry_after)
        return frame.value if fill is None else self._joined(fill, frame.value)

    def _joined(self, fill: int, value: Any) -> tuple[int, FillView]:
        answer = msgspec.convert(value, FollowAnswer)
        view = self.views.get(fill)
        if (
            view is None or view.failure is not None
        ):  # a fill that failed may go on; slow readers keep its past
            try:
                self.views[fill] = FillView(answer.snapshot)
            except OSError:  # the file was renamed into the store in between
                self.send(Leave(answer.reader))
                raise
        self.views[fill].readers += 1
        return answer.reader, self.views[fill]


class Opened(NamedTuple):
    """A fill that a keeper named. Keepers number from 1, so the number means something on its link only;
    the worker's own handles never repeat."""

    link: Link
    fill: int
    repository: str
    digest: str


class RemoteKeeper:
    """See `KeeperPort`."""

    def __init__(self, path: str, store: Store, clock: Clock) -> None:
        self.path, self.store, self.clock = path, store, clock
        self._link: Link | None = None
        self._here = asyncio.Event()
        self._gone = asyncio.Event()
        self._connector: asyncio.Task[None] | None = None
        self._fills: OrderedDict[int, Opened] = OrderedDict()
        self._handles = count(1)
        self._seen: dict[tuple[str, str], None] = {}
        self._closing = False

    async def start(self) -> None:
        """Begin to connect; does not wait for the keeper."""
        self._connector = asyncio.create_task(self._stay_connected())
        self._flush_seen()

    async def close(self) -> None:
        """End the connection."""
        self._closing = True
        if self._connector:
            self._connector.cancel()
            await asyncio.gather(self._connector, return_exceptions=True)
        if self._link and self._link.transport:
            self._send_seen()
            self._link.transport.close()

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._gone.clear()
            try:
                _, link = await loop.create_unix_connection(lambda: Link(self._lost), self.path)
            except OSError:
                await self.clock.sleep(RECONNECT_SECONDS)
                continue
            self._link = link
            self._here.set()
            await self._gone.wait()
            log.warning("keeper lost")
            await self.clock.sleep(RECONNECT_SECONDS)

    def _lost(self) -> None:
        self._here.clear()
        self._gone.set()

    async def _connected(self) -> Link:
        try:
            async with asyncio.timeout(AWAY_SECONDS):
                while self._link is None or not self._link.alive:
                    self._here.clear()
                    await self._here.wait()
        except TimeoutError:
            raise errors.KeeperAway("the keeper is restarting", retry_after=2) from None
        return self._link

    async def _call(self, kind: type[T], method: str, *arguments: Any) -> tuple[Link, T]:
        """Ask until a keeper lives long enough to answer."""
        for _ in range(5):
            link = await self._connected()
            try:
                return link, msgspec.convert(await link.call(method, *arguments), kind)
            except KeeperLost:
                continue
        raise errors.KeeperAway("the keeper keeps restarting", retry_after=5)

    async def manifest(self, repository: str, reference: str) -> ManifestAnswer:
        """See `KeeperPort.manifest`."""
        return (await self._call(ManifestAnswer, "manifest", repository, reference))[1]

    async def blob_size(self, repository: str, digest: str) -> int:
        """See `KeeperPort.blob_size`."""
        return (await self._call(int, "blob_size", repository, digest))[1]

    async def blob(self, repository: str, digest: str, start: int, end: int, whole: bool) -> BlobAnswer:
        """See `KeeperPort.blob`."""
        link, answer = await self._call(BlobAnswer, "blob", repository, digest, start, end, whole)
        if not answer.fill:
            return answer
        handle = next(self._handles)
        self._fills[handle] = Opened(link, answer.fill, repository, digest)
        if len(self._fills) > HANDLES:
            self._fills.popitem(last=False)
        return BlobAnswer(answer.size, handle)

    async def follow(self, fill: int, start: int, end: int, whole: bool) -> Following:
        """See `KeeperPort.follow`."""
        opened = self._opened(fill)
        reader = RemoteFollowing(self, opened.repository, opened.digest, start, end, whole)
        try:
            await reader.attach(opened)
        except (KeeperLost, errors.NodeFailed, FileNotFoundError):
            # another keeper by now, or the fill ended in between
            await reader.attach_again(start)
        return reader

    def _opened(self, handle: int) -> Opened:
        opened = self._fills.get(handle)
        if opened is None:
            raise errors.NodeFailed("this fill was opened too long ago", code="BLOB_UNKNOWN")
        return opened

    async def tags(self, repository: str) -> ListAnswer:
        """See `KeeperPort.tags`."""
        return (await self._call(ListAnswer, "tags", repository))[1]

    async def referrers(self, repository: str, digest: str) -> ListAnswer:
        """See `KeeperPort.referrers`."""
        return (await self._call(ListAnswer, "referrers", repository, digest))[1]

    async def repair(self, repository: str, digest: str, start: int, end: int) -> None:
        """See `KeeperPort.repair`."""
        await self._call(type(None), "repair", repository, digest, start, end)

    async def status(self) -> Status:
        """See `KeeperPort.status`. Does not wait for a keeper that is away."""
        if self._link is None or not self._link.alive:
            return Status(False, ("the keeper is away",))
        try:
            return msgspec.convert(await self._link.call("status"), Status)
        except KeeperLost:
            return Status(False, ("the keeper is away",))

    def seen(self, repository: str, digest: str) -> None:
        """See `KeeperPort.seen`."""
        self._seen[repository, digest] = None

    def _flush_seen(self) -> None:
        self._send_seen()
        if not self._closing:
            asyncio.get_running_loop().call_later(SEEN_SECONDS, self._flush_seen)

    def _send_seen(self) -> None:
        if self._seen and self._link and self._link.alive:
            self._link.send(Seen(tuple(self._seen)))
            self._seen.clear()


class RemoteFollowing:
    """One reader of a fill, in a worker. Survives the keeper."""

    def __init__(
        self, port: RemoteKeeper, repository: str, digest: str, start: int, end: int, whole: bool
    ) -> None:
        self.port, self.repository, self.digest = port, repository, digest
        self.start, self.end, self.whole = start, end, whole
        self.size = 0
        self._told = start
        self._link: Link | None = None
        self._fill = self._reader = 0
        self._view: FillView | None = None
        self._held: BlobReader | None = None

    async def attach(self, opened: Opened) -> None:
        """Join a fill on the connection of the keeper that named it."""
        link, fill = opened.link, opened.fill
        reader, view = await link.follow(fill, self.start, self.end, self.whole)
        self._link, self._fill, self._reader, self._view = link, fill, reader, view
        self.size = view.size

    async def attach_again(self, offset: int) -> None:
        """Ask for the blob once more from `offset` on: it may be held by now, or filling anew."""
        self._detach()
        self.start = max(self.start, offset)
        for _ in range(5):
            answer = await self.port.blob(self.repository, self.digest, self.start, self.end, self.whole)
            if not answer.fill:
                return self._take_held()
            with contextlib.suppress(KeeperLost, errors.NodeFailed, FileNotFoundError):
                return await self.attach(self.port._opened(answer.fill))
        raise errors.KeeperAway("the keeper keeps restarting", retry_after=5)

    def _take_held(self) -> None:
        blob = self.port.store.blob(self.repository, Digest.parse(self.digest))
        if blob is None:
            raise errors.BlobUnknown(f"{self.digest} is gone")
        self._held = self.port.store.open_blob(blob)
        self.size = blob.size

    async def wait_for(self, offset: int) -> int:
        """See `Following.wait_for`."""
        while self._view is not None:
            self._refuse_gone(self._view, offset)
            try:
                if self._view.available(offset) <= offset:
                    self._tell(offset, waits=True)
                await self._view.wait(offset)
                return self._view.available(offset)
            except KeeperLost:
                await self.attach_again(offset)
        return self.size

    def _refuse_gone(self, view: FillView, offset: int) -> None:
        """In an unstored fill what this reader passed is gone; a body that goes back cannot be had."""
        if view.in_memory and offset < self._told:
            raise errors.NodeFailed("the disk is full and these bytes have passed", code="BLOB_UNKNOWN")

    def _tell(self, offset: int, *, waits: bool) -> None:
        if self._link is not None:
            self._told = offset
            self._link.send(Advance(self._reader, offset, waits))

    async def wait_verified(self) -> None:
        """See `Following.wait_verified`."""
        while self._view is not None:
            try:
                return await self._view.wait(-1)
            except KeeperLost:
                await self.attach_again(self.size)
        return None

    def available(self, offset: int) -> int:
        """See `Following.available`."""
        view = self._view
        if view is None:
            return self.size
        return offset if view.in_memory and offset < self._told else view.available(offset)

    def read(self, offset: int, length: int) -> bytes:
        """See `Following.read`."""
        if self._view is None:
            assert self._held is not None
            return self._held.read(offset, length)
        data = self._view.read(offset, length)
        end = offset + len(data)
        if end - self._told >= ADVANCE_BYTES and (self._view.in_memory or not self.whole):
            self._tell(end, waits=False)
        return data

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """See `Following.lend`. Memory is given back behind a reader, so an unstored fill is read."""
        if self._view is None or self._view.in_memory:
            return None
        if offset - self._told >= ADVANCE_BYTES and not self.whole:
            self._tell(offset, waits=False)
        return self._view.lend(length)

    def _detach(self) -> None:
        link, view = self._link, self._view
        self._link = self._view = None
        if view is None or link is None:
            return
        link.leave(self._fill, self._reader, view)

    def close(self) -> None:
        """Leave the fill."""
        self._detach()
        if self._held:
            self._held.close()
            self._held = None
