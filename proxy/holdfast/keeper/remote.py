"""`KeeperPort` over the Unix socket: how a worker asks the keeper.

The keeper may die at any time. A call that was under way is asked again once the keeper is back (every
call may be asked twice), and a reader of a fill goes on at its byte; its client notices a pause at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from itertools import count
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import structlog
from holdfast_core.digest import Digest
from holdfast_core.reading import BlobReader
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.control import command as commands
from holdfast.keeper.condition import NO_CONDITION, Condition
from holdfast.keeper.frames import SEEN_ROWS, Advance, Seen
from holdfast.keeper.link import Link
from holdfast.keeper.port import (
    Allowed,
    BlobAnswer,
    Following,
    Kind,
    ListAnswer,
    Lockable,
    ManifestAnswer,
    Status,
    SyncOrder,
    UnstoredChunk,
)
from holdfast.keeper.view import FillView, KeeperLost
from holdfast.parent.health import Switch

log = structlog.get_logger()
T = TypeVar("T")

#: Between attempts to reach a keeper that is restarting (seconds).
RECONNECT_SECONDS = 0.05
#: How long a call waits for the keeper to come back; within the 25 s of every answer.
AWAY_SECONDS = 15.0
#: How many keepers a call is put to before it is given up.
ATTEMPTS = 5
#: How often a reader asks for its blob anew, and the pause before the second time (it doubles; 5 s in all).
ATTACH_ATTEMPTS, ATTACH_PAUSE_SECONDS = 8, 0.02
#: A reader tells how far it has come after so many bytes; half of the least read-ahead of a range.
ADVANCE_BYTES = 1 << 20
#: Opened fills remembered at most; a body that joins late was opened moments ago.
HANDLES = 10_000
#: Access times are told this often (seconds).
SEEN_SECONDS = 10.0


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

    async def _call(
        self, kind: type[T], method: str, *arguments: Any, attempts: int = ATTEMPTS
    ) -> tuple[Link, T]:
        """Ask until a keeper lives long enough to answer. What depends on how things are is put to one keeper
        only: when it dies, nobody knows whether its own doing is why the condition no longer holds."""
        for _ in range(attempts):
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

    async def repair(self, repository: str, digest: str, start: int, end: int) -> UnstoredChunk | None:
        """See `KeeperPort.repair`."""
        kind = cast("type[UnstoredChunk | None]", UnstoredChunk | None)
        return (await self._call(kind, "repair", repository, digest, start, end))[1]

    async def mend(self, record: bytes) -> None:
        """See `KeeperPort.mend`."""
        await self._call(type(None), "mend", record)

    async def put_manifest(
        self,
        repository: str,
        digest: str,
        tags: tuple[str, ...],
        media_type: str,
        body: bytes,
        condition: Condition = NO_CONDITION,
    ) -> None:
        """See `KeeperPort.put_manifest`."""
        attempts = ATTEMPTS if condition == NO_CONDITION else 1
        arguments = (repository, digest, tags, media_type, body, condition)
        await self._call(type(None), "put_manifest", *arguments, attempts=attempts)

    async def put_blob(self, repository: str, digest: str, body: bytes) -> None:
        """See `KeeperPort.put_blob`."""
        await self._call(type(None), "put_blob", repository, digest, body)

    async def commit_upload(self, repository: str, name: str, size: int, digest: str, table: bytes) -> None:
        """See `KeeperPort.commit_upload`."""
        await self._call(type(None), "commit_upload", repository, name, size, digest, table)

    async def mount(self, repository: str, digest: str, source: str) -> bool:
        """See `KeeperPort.mount`."""
        return (await self._call(bool, "mount", repository, digest, source))[1]

    async def delete(
        self, repository: str, kind: Kind, name: str, condition: Condition = NO_CONDITION
    ) -> None:
        """See `KeeperPort.delete`. When a keeper died over it, nothing left to delete is what was wanted."""
        for attempt in range(ATTEMPTS if condition == NO_CONDITION else 1):
            link = await self._connected()
            try:
                return cast(None, await link.call("delete", repository, kind, name, condition))
            except KeeperLost:
                continue
            except (errors.ManifestUnknown, errors.BlobUnknown):
                if attempt == 0:
                    raise
                return None
        raise errors.KeeperAway("the keeper keeps restarting", retry_after=5)

    async def set_lock(self, repository: str, kind: Lockable, name: str, change: Allowed) -> None:
        """See `KeeperPort.set_lock`."""
        await self._call(type(None), "set_lock", repository, kind, name, change)

    async def retry_outbox(self, number: int) -> None:
        """See `KeeperPort.retry_outbox`."""
        await self._call(type(None), "retry_outbox", number)

    async def control(self, command: bytes) -> bytes:
        """See `KeeperPort.control`. When a keeper died over a deletion, nothing left to delete is what was wanted; a
        command with a condition is put to one keeper only."""
        order = commands.understood(command)
        for attempt in range(1 if commands.is_conditional(order) else ATTEMPTS):
            link = await self._connected()
            try:
                return cast(bytes, await link.call("control", command))
            except KeeperLost:
                continue
            except errors.ControlUnknown:
                if attempt == 0 or not isinstance(order, commands.DELETIONS):
                    raise
                return msgspec.json.encode(commands.Result(changed=True))
        raise errors.KeeperAway("the keeper keeps restarting", retry_after=5)

    async def statuses(self) -> bytes:
        """See `KeeperPort.statuses`."""
        return (await self._call(bytes, "statuses"))[1]

    async def list_parents(self) -> bytes:
        """See `KeeperPort.list_parents`."""
        return (await self._call(bytes, "list_parents"))[1]

    async def turn_parent(self, name: str, switch: Switch) -> None:
        """See `KeeperPort.turn_parent`."""
        await self._call(type(None), "turn_parent", name, switch)

    async def synchronise(self, order: SyncOrder) -> bytes:
        """See `KeeperPort.synchronise`."""
        return (await self._call(bytes, "synchronise", order))[1]

    async def ping_webhook(self, name: str) -> bytes:
        """See `KeeperPort.ping_webhook`."""
        return (await self._call(bytes, "ping_webhook", name))[1]

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
            rows = tuple(self._seen)
            for start in range(0, len(rows), SEEN_ROWS):
                self._link.send(Seen(rows[start : start + SEEN_ROWS]))
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
        blob = store.blob_anywhere(digest) if unlinked else store.blob(self.repository, digest)
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
