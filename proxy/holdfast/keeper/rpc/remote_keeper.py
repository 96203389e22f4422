"""`KeeperApi` over the Unix socket, for workers.

The keeper may die at any time. A call that was under way is repeated once the keeper is back (every call may be made
twice), and a reader of a fill goes on at its byte; its client notices a pause at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from itertools import count
from typing import Any, NamedTuple, Self, cast

import msgspec
from holdfast_core.blob_files.blob_reader import BlobReader
from holdfast_core.digest import Digest
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.control import command as commands
from holdfast.fill.readers import BlobAnswer
from holdfast.keeper.api import (
    NO_CONDITION,
    Condition,
    Following,
    KeeperApi,
    KeeperStatus,
    Kind,
)
from holdfast.keeper.rpc.fill_view import FillView, KeeperLost
from holdfast.keeper.rpc.frames import SEEN_ROWS, AdvanceFrame, DiskRefusedFrame, SeenFrame
from holdfast.keeper.rpc.keeper_link import KeeperLink
from holdfast.keeper.rpc.remote_methods import KEEPER_METHODS, RemoteMethod, derived_questions
from holdfast.log import log

#: Between attempts to reach a keeper that is restarting (seconds).
RECONNECT_SECONDS = 0.05
#: How long a call waits for the keeper to come back; within the 25 s of every answer.
AWAY_SECONDS = 15.0
#: How long the client of an upload waits for room.
ADMISSION_SECONDS = 22.0
#: How many keepers a call is put to before it is given up.
ATTEMPTS = 5
#: How often a reader requests its blob again, and the pause before the second time (it doubles; 5 s in all).
ATTACH_ATTEMPTS, ATTACH_PAUSE_SECONDS = 8, 0.02
#: A reader reports its position after so many bytes; half of the least read-ahead of a range.
ADVANCE_BYTES = 1 << 20
#: Opened fills remembered at most; a body that joins late was opened moments ago.
HANDLES = 10_000
#: Access times are sent this often (seconds).
SEEN_SECONDS = 10.0


class RemoteFill(NamedTuple):
    """A fill that a keeper named. Keepers number from 1, so the number means something on its link only;
    the worker's own handles never repeat."""

    link: KeeperLink
    fill: int
    repository: str
    digest: str


@derived_questions(KeeperApi)
class RemoteKeeper(KeeperApi):
    """The keeper, for a worker: a method that is not defined here is a call on the socket."""

    def __init__(self, path: str, store: Store, clock: Clock) -> None:
        self.path, self.store, self.clock = path, store, clock
        self._link: KeeperLink | None = None
        self._here = asyncio.Event()
        self._gone = asyncio.Event()
        self._attempted = asyncio.Event()
        self._connector: asyncio.Task[None] | None = None
        self._fills: OrderedDict[int, RemoteFill] = OrderedDict()
        self._handles = count(1)
        self._seen: dict[tuple[str, str], None] = {}
        self._closing = False

    @classmethod
    def at(cls, path: str, store: Store, clock: Clock) -> Self:
        """The keeper that listens on a path. (A type checker takes the class for abstract: it sees no derived
        method.)"""
        return cls(path, store, clock)

    async def start(self) -> None:
        """Connect. Returns after the first attempt, whether it succeeded or not: a worker that listens before would say
        that the keeper is away while it is there."""
        self._connector = asyncio.create_task(self._stay_connected())
        await self._attempted.wait()
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
                _, link = await loop.create_unix_connection(lambda: KeeperLink(self._lost), self.path)
            except OSError:
                self._attempted.set()
                await self.clock.sleep(RECONNECT_SECONDS)
                continue
            self._link = link
            self._here.set()
            self._attempted.set()
            log.info("keeper connected")
            await self._gone.wait()
            log.warning("keeper lost")
            await self.clock.sleep(RECONNECT_SECONDS)

    def _lost(self) -> None:
        self._here.clear()
        self._gone.set()

    async def _connected(self) -> KeeperLink:
        try:
            async with asyncio.timeout(AWAY_SECONDS):
                while self._link is None or not self._link.alive:
                    self._here.clear()
                    await self._here.wait()
        except TimeoutError:
            raise errors.KeeperAway("the keeper is restarting", retry_after=2) from None
        return self._link

    async def ask(self, method: RemoteMethod, arguments: tuple[Any, ...]) -> Any:
        """The answer of the first keeper that lives long enough to give one. Raises the refusal, and `KeeperAway`."""
        return (await self._asked(method, arguments))[1]

    async def _asked(
        self,
        method: RemoteMethod,
        arguments: tuple[Any, ...],
        done: tuple[type[errors.Refusal], ...] = (),
        repeatable: bool = True,
    ) -> tuple[KeeperLink, Any]:
        """The connection that answered, and the answer. A call with a condition is put to one keeper only: when that
        dies, its own change may be why the condition no longer holds. `done`: the refusals that say, when a keeper died
        over the call, that it had done its work; the answer is None then."""
        repeatable = repeatable and not method.is_conditional(arguments)
        for attempt in range(ATTEMPTS if repeatable else 1):
            link = await self._connected()
            try:
                return link, method.answer.decode(await link.call(method.name, *arguments))
            except KeeperLost:
                continue
            except done:
                if attempt == 0:
                    raise
                return link, None
        raise errors.KeeperAway("the keeper keeps restarting", retry_after=5)

    async def blob(self, repository: str, digest: str, start: int, end: int, whole: bool) -> BlobAnswer:
        """See `KeeperApi.blob`. The number of the fill is this worker's own."""
        link, answer = await self._asked(KEEPER_METHODS["blob"], (repository, digest, start, end, whole))
        if not answer.fill:
            return cast("BlobAnswer", answer)
        handle = next(self._handles)
        self._fills[handle] = RemoteFill(link, answer.fill, repository, digest)
        if len(self._fills) > HANDLES:
            self._fills.popitem(last=False)
        return BlobAnswer(answer.size, handle)

    async def follow(self, fill: int, start: int, end: int, whole: bool) -> Following:
        """See `KeeperApi.follow`."""
        opened = self._opened(fill)
        reader = RemoteFollowing(self, opened.repository, opened.digest, start, end, whole)
        try:
            await reader.attach(opened)
        except (KeeperLost, errors.NodeFailed, FileNotFoundError):
            # another keeper by now, or the fill ended in between
            await reader.attach_again(start)
        return reader

    def _opened(self, handle: int) -> RemoteFill:
        opened = self._fills.get(handle)
        if opened is None:
            raise errors.NodeFailed("this fill was opened too long ago", code="BLOB_UNKNOWN")
        return opened

    async def admit_push(self, size: int) -> None:
        """See `KeeperApi.admit_push`. The next keeper is asked when one is away; one that does not answer is not waited
        for long: an upload goes on without it, up to its commit."""
        with contextlib.suppress(errors.KeeperAway, TimeoutError):
            async with asyncio.timeout(ADMISSION_SECONDS):
                await self._asked(KEEPER_METHODS["admit_push"], (size,))

    async def delete(
        self, repository: str, kind: Kind, name: str, condition: Condition = NO_CONDITION
    ) -> None:
        """See `KeeperApi.delete`. When a keeper died over it, nothing left to delete is success."""
        arguments = (repository, kind, name, condition)
        await self._asked(KEEPER_METHODS["delete"], arguments, (errors.ManifestUnknown, errors.BlobUnknown))

    async def control(self, command: bytes) -> bytes:
        """See `KeeperApi.control`. When a keeper died over a deletion, nothing left to delete is what was asked for; a
        command with a condition is put to one keeper only."""
        order = commands.decode_command(command)
        done = (errors.ControlUnknown,) if isinstance(order, commands.DELETIONS) else ()
        _, result = await self._asked(
            KEEPER_METHODS["control"], (command,), done, not commands.is_conditional(order)
        )
        return msgspec.json.encode(commands.CommandResult(changed=True)) if result is None else result

    async def status(self) -> KeeperStatus:
        """See `KeeperApi.status`. Does not wait for a keeper that is away."""
        if self._link is None or not self._link.alive:
            return KeeperStatus(False, ("the keeper is away",))
        try:
            answer = await self._link.call("status")
        except KeeperLost:
            return KeeperStatus(False, ("the keeper is away",))
        return cast("KeeperStatus", KEEPER_METHODS["status"].answer.decode(answer))

    def seen(self, repository: str, digest: str) -> None:
        """See `KeeperApi.seen`."""
        self._seen[repository, digest] = None

    def disk_refused(self) -> None:
        """See `KeeperApi.disk_refused`."""
        if self._link and self._link.alive:
            self._link.send(DiskRefusedFrame())

    def _flush_seen(self) -> None:
        self._send_seen()
        if not self._closing:
            asyncio.get_running_loop().call_later(SEEN_SECONDS, self._flush_seen)

    def _send_seen(self) -> None:
        if self._seen and self._link and self._link.alive:
            rows = tuple(self._seen)
            for start in range(0, len(rows), SEEN_ROWS):
                self._link.send(SeenFrame(rows[start : start + SEEN_ROWS]))
            self._seen.clear()


class RemoteFollowing:
    """One reader of a fill, in a worker. Survives the keeper."""

    def __init__(
        self, port: RemoteKeeper, repository: str, digest: str, start: int, end: int, whole: bool
    ) -> None:
        self.port, self.repository, self.digest = port, repository, digest
        self.start, self.end, self.whole = start, end, whole
        self.size = 0
        self._reported = start
        self._link: KeeperLink | None = None
        self._fill = self._reader = 0
        self._view: FillView | None = None
        self._held: BlobReader | None = None

    async def attach(self, opened: RemoteFill) -> None:
        """Join a fill on the connection of the keeper that named it."""
        link, fill = opened.link, opened.fill
        reader, view = await link.follow(fill, self.start, self.end, self.whole)
        self._link, self._fill, self._reader, self._view = link, fill, reader, view
        self.size = view.size

    async def attach_again(self, offset: int) -> None:
        """Request the blob once more from `offset` on: it may be held by now, or another fill may run."""
        self._detach()
        self.start = max(self.start, offset)
        for attempt in range(ATTACH_ATTEMPTS):
            if attempt:  # the file may be on its way from fills/ to blobs/, and the index not know it yet
                await self.port.clock.sleep(ATTACH_PAUSE_SECONDS * 2 ** (attempt - 1))
            answer = await self.port.blob(self.repository, self.digest, self.start, self.end, self.whole)
            if not answer.fill:
                return self._take_held(answer.unlinked)
            with contextlib.suppress(KeeperLost, errors.NodeFailed, FileNotFoundError):
                return await self.attach(self.port._opened(answer.fill))
        raise errors.KeeperAway("the keeper keeps restarting", retry_after=5)

    def _take_held(self, unlinked: bool) -> None:
        store, digest = self.port.store, Digest.parse(self.digest)
        blob = store.blobs.anywhere(digest) if unlinked else store.blobs.get(self.repository, digest)
        if blob is None:
            raise errors.BlobUnknown(f"{self.digest} is gone")
        self._held = self.port.store.blobs.open(blob)
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
        if view.in_memory and offset < self._reported:
            raise errors.NodeFailed("the disk is full and these bytes have passed", code="BLOB_UNKNOWN")

    def _tell(self, offset: int, *, waits: bool) -> None:
        if self._link is not None:
            self._reported = offset
            self._link.send(AdvanceFrame(self._reader, offset, waits))

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
        return offset if view.in_memory and offset < self._reported else view.available(offset)

    def read(self, offset: int, length: int) -> bytes:
        """See `Following.read`."""
        if self._view is None:
            assert self._held is not None
            return self._held.read(offset, length)
        data = self._view.read(offset, length)
        end = offset + len(data)
        if end - self._reported >= ADVANCE_BYTES and (self._view.in_memory or not self.whole):
            self._tell(end, waits=False)
        return data

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """See `Following.lend`. Memory is given back behind a reader, so an unstored fill is read."""
        if self._view is None or self._view.in_memory:
            return None
        if offset - self._reported >= ADVANCE_BYTES and not self.whole:
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
