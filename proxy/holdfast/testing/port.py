"""A keeper with scripted answers: content of the parent, its arrival, and a count of the requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.record import Descriptor
from holdfast_core.store import Store

from holdfast.background import BackgroundTasks
from holdfast.clock import Clock
from holdfast.config import ControlSection as Limits
from holdfast.config import GatewaySection
from holdfast.errors import (
    BlobUnknown,
    ControlConflict,
    ControlUnknown,
    ManifestUnknown,
    NameUnknown,
    NodeFull,
    RecordLost,
)
from holdfast.fill.readers import BlobAnswer
from holdfast.fill.repair import UnstoredChunk
from holdfast.gateway.rates import Rates, node_rates
from holdfast.http.health import Switch
from holdfast.keeper.api import KeeperStatus, ListAnswer, ManifestAnswer
from holdfast.keeper.control_plane import ControlPlane
from holdfast.keeper.heartbeats import Heartbeats, pending_reports
from holdfast.keeper.pushed_images import PushedImages
from holdfast.keeper.pushes import Pushes
from holdfast.keeper.rpc.remote_methods import KEEPER_METHODS
from holdfast.notify.delivery_record import Pinged
from holdfast.outbox.node_outbox import NodeOutbox
from holdfast.parent.switch import ParentReport
from holdfast.storage.collection_report import CollectionStatus
from holdfast.storage.images.deleted_images import DeletedImages
from holdfast.storage.images.pinned_images import PinnedImages
from holdfast.storage.images.repository_removal import RepositoryDeletes
from holdfast.storage.scrubbing.scrub_report import ScrubStatus
from holdfast.sync.report import ImageOrder, PlanReport, PrefetchReport, SyncReport

_P = TypeVar("_P", bound="ScriptedPort")


@dataclass(slots=True)
class ScriptedFill:
    """A blob that is being fetched. The test moves it on by `grow`, `verify`, `fail`."""

    body: bytes
    landed: int = 0
    verified: bool = False
    failure: Exception | None = None
    readers: list[tuple[int, int, bool]] = field(default_factory=list)
    closed: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def grow(self, end: int) -> None:
        """Bytes up to `end` are on disk."""
        self.landed = max(self.landed, end)
        self.changed.set()

    def verify(self) -> None:
        """All of it is here and matched its digest."""
        self.landed, self.verified = len(self.body), True
        self.changed.set()

    def fail(self, failure: Exception) -> None:
        """The fill fails."""
        self.failure = failure
        self.changed.set()


class ScriptedFollowing:
    """`holdfast.keeper.api.Following` over a scripted fill."""

    def __init__(self, fill: ScriptedFill) -> None:
        self.size = len(fill.body)
        self._fill = fill

    async def wait_for(self, offset: int) -> int:
        """See `Following.wait_for`."""
        while self._fill.landed <= offset:
            await self._change()
        return self._fill.landed

    async def wait_verified(self) -> None:
        """See `Following.wait_verified`."""
        while not self._fill.verified:
            await self._change()

    async def _change(self) -> None:
        if self._fill.failure is not None:
            raise self._fill.failure
        self._fill.changed.clear()
        await self._fill.changed.wait()

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """Its bytes are in no file."""
        return None

    def available(self, offset: int) -> int:
        """See `Following.available`."""
        return max(offset, self._fill.landed)

    def read(self, offset: int, length: int) -> bytes:
        """See `Following.read`."""
        return self._fill.body[offset : min(offset + length, self._fill.landed)]

    def close(self) -> None:
        """See `Following.close`."""
        self._fill.closed += 1


def counted(cls: type[_P]) -> type[_P]:
    """A class decorator: each question that the class answers itself is counted first."""
    for name in KEEPER_METHODS.keys() & (vars(cls).keys() - {"mend"}):
        setattr(cls, name, _counted(name, getattr(cls, name)))
    return cls


def _counted(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(answer)
    async def question(port: ScriptedPort, *arguments: Any, **named: Any) -> Any:
        await port.count(name, arguments)
        return await answer(port, *arguments, **named)

    return question


@counted
class ScriptedPort:
    """`holdfast.keeper.api.KeeperApi` that a test scripts. Changes are made in the store as the keeper makes them.

    `manifests` maps (repository, reference) to (media type, body); `tag_lists` and `referrer_lists` hold
    the parent's answers; `fills` maps a digest to a fill. `failure` is raised by every method when
    set. `calls` counts the calls by method.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        limits: Limits | None = None,
        heartbeats: Heartbeats | None = None,
        status_received: Callable[[], None] = lambda: None,
        *,
        restorable: bool = False,
    ) -> None:
        self.store, self.clock, tasks = store, clock, BackgroundTasks()
        self.heartbeats = heartbeats or Heartbeats(clock.now(), pending_reports(store))
        rates = Rates(node_rates(GatewaySection().messages))
        self.control_plane = ControlPlane(
            store, self.heartbeats, limits or Limits(), rates, clock, status_received
        )
        outbox = NodeOutbox(store.references.outbox, ())
        images = PushedImages(store, {}, _no_parent, outbox, clock, tasks)
        pushes = Pushes(
            *(store, {}, outbox, images, self.manifest, lambda size: None, clock, tasks),
            restorable=restorable,
        )
        self.put_manifest, self.put_blob = pushes.put_manifest, pushes.put_blob
        self.commit_upload, self.mount = pushes.commit_upload, pushes.mount
        self.delete, self.set_lock = pushes.delete, pushes.set_lock
        pins = PinnedImages(store, clock)
        self.pin, self.unpin = pins.pin, pins.unpin
        self.undelete = DeletedImages(store, pushes.restore, clock).undelete
        deletes = RepositoryDeletes(store, pushes.delete, pushes.has_parent, clock)
        self.delete_repository = deletes.delete_repository
        self.retry_outbox, self.statuses = pushes.retry_outbox, self.control_plane.statuses
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.answers: dict[tuple[str, str], ManifestAnswer] = {}
        self.tag_lists: dict[str, list[str]] = {}
        self.referrer_lists: dict[tuple[str, str], list[Descriptor]] = {}
        self.fills: dict[str, ScriptedFill] = {}
        self.failure: Exception | None = None
        self.hang = False
        #: bytes that may be pushed at once; None: any number
        self.room: int | None = None
        self.calls: Counter[str] = Counter()
        self.hits: list[tuple[str, str]] = []
        self.repairs: list[tuple[str, int, int]] = []
        self.ranges: list[tuple[int, int, bool]] = []
        self.troubles: tuple[str, ...] = ()
        self.ready = True

    async def count(self, question: str, arguments: tuple[Any, ...]) -> None:
        """Count a call; raise or hang where the test has set that."""
        self.calls[question] += 1
        if question == "repair":
            self.repairs.append(arguments[1:])
        if question == "admit_push":
            return  # an upload goes on without a keeper
        if self.hang:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure

    async def manifest(self, repository: str, reference: str) -> ManifestAnswer:
        """See `KeeperApi.manifest`."""
        if (repository, reference) in self.answers:
            return self.answers[repository, reference]
        manifest = self.manifests.get((repository, reference))
        if manifest is None:
            raise ManifestUnknown("no such manifest at the parent")
        digest, now = Digest.of(manifest[1]), self.clock.now()
        await _done(self.store.references.put_manifest(repository, digest, *manifest, owned=False, now=now))
        if ":" not in reference:
            await _done(self.store.references.put_tag(repository, reference, digest, now=now))
        return ManifestAnswer(str(digest))

    async def admit_push(self, size: int) -> None:
        """See `KeeperApi.admit_push`."""
        if self.room is not None and size > self.room:
            raise NodeFull(f"this node has no room for {size} more bytes", code="BLOB_UPLOAD_INVALID")

    async def control(self, command: bytes) -> bytes:
        """See `KeeperApi.control`."""
        return await self.control_plane.control(command)

    async def mend(self, record: bytes) -> None:
        """See `KeeperApi.mend`: there is no copy."""
        raise RecordLost(layout.describe(record))

    async def list_parents(self) -> list[ParentReport]:
        """See `KeeperApi.list_parents`: a root."""
        return []

    async def turn_parent(self, name: str, switch: Switch) -> None:
        """See `KeeperApi.turn_parent`: a root."""
        raise ControlUnknown(f"no parent {name!r}")

    async def synchronisation(self) -> SyncReport:
        """See `KeeperApi.synchronisation`: this node does not."""
        raise ControlConflict("this node does not synchronise by itself")

    async def order_synchronisation(self) -> SyncReport:
        """See `KeeperApi.order_synchronisation`: this node does not."""
        return await self.synchronisation()

    async def plan_synchronisation(self) -> PlanReport:
        """See `KeeperApi.plan_synchronisation`: this node does not."""
        raise ControlConflict("this node does not synchronise by itself")

    async def ping_webhook(self, name: str) -> Pinged:
        """See `KeeperApi.ping_webhook`: the receiver takes it."""
        return Pinged(name, True, "answered 204")

    async def scrub(self) -> ScrubStatus:
        """See `KeeperApi.scrub`: there was no pass."""
        return ScrubStatus(period=0.0, held=0, paused=False, current=None, last_full_pass=None, unrepaired=0)

    async def order_scrub(self, by: str) -> ScrubStatus:
        """See `KeeperApi.order_scrub`: nothing is held."""
        return await self.scrub()

    async def collection(self, is_dry: bool) -> CollectionStatus:
        """See `KeeperApi.collection`: this node does not by itself."""
        return CollectionStatus(enabled=False, schedule="", next_run=None, running=False, report=None)

    async def order_collection(self, is_dry: bool, by: str) -> CollectionStatus:
        """See `KeeperApi.order_collection`: there is no garbage."""
        return await self.collection(is_dry)

    async def order_prefetch(self, images: tuple[ImageOrder, ...], by: str) -> tuple[PrefetchReport, ...]:
        """See `KeeperApi.order_prefetch`: a root."""
        raise ControlConflict("this node has no parent: there is nothing to prefetch from")

    async def prefetches(self) -> tuple[PrefetchReport, ...]:
        """See `KeeperApi.prefetches`: none."""
        return ()

    async def blob_size(self, repository: str, digest: str) -> int:
        """See `KeeperApi.blob_size`."""
        return len(self._fill(digest).body)

    async def blob(self, repository: str, digest: str, start: int, end: int, whole: bool) -> BlobAnswer:
        """See `KeeperApi.blob`."""
        self.ranges.append((start, end, whole))
        held = self.store.blobs.get(repository, Digest.parse(digest))
        if held is not None:
            return BlobAnswer(held.size)
        return BlobAnswer(len(self._fill(digest).body), 1 + list(self.fills).index(digest))

    def _fill(self, digest: str) -> ScriptedFill:
        if digest not in self.fills:
            raise BlobUnknown("no such blob at the parent")
        return self.fills[digest]

    async def follow(self, fill: int, start: int, end: int, whole: bool) -> ScriptedFollowing:
        """See `KeeperApi.follow`."""
        scripted = list(self.fills.values())[fill - 1]
        scripted.readers.append((start, end, whole))
        return ScriptedFollowing(scripted)

    async def tags(self, repository: str) -> ListAnswer:
        """See `KeeperApi.tags`."""
        if repository not in self.tag_lists:
            raise NameUnknown("no such repository at the parent")
        await _done(
            self.store.references.lists.put_tag_list(
                repository, self.tag_lists[repository], now=self.clock.now()
            )
        )
        return ListAnswer()

    async def referrers(self, repository: str, digest: str) -> ListAnswer:
        """See `KeeperApi.referrers`."""
        rows = self.referrer_lists.get((repository, digest), [])
        subject = Digest.parse(digest)
        await _done(
            self.store.references.lists.put_referrers(repository, subject, rows, now=self.clock.now())
        )
        return ListAnswer()

    async def repair(self, repository: str, digest: str, start: int, end: int) -> UnstoredChunk | None:
        """See `KeeperApi.repair`: `count` took note of it. A test that repairs replaces it."""
        return None

    def seen(self, repository: str, digest: str) -> None:
        """See `KeeperApi.seen`."""
        self.hits.append((repository, digest))

    def disk_refused(self) -> None:
        """See `KeeperApi.disk_refused`."""
        self.calls["disk_refused"] += 1

    async def status(self) -> KeeperStatus:
        """See `KeeperApi.status`."""
        return KeeperStatus(self.ready, self.troubles)


async def _no_parent(repository: str, digest: str) -> None:
    raise BlobUnknown("no parent has it")


async def _done(future: Future[None]) -> None:
    await asyncio.wrap_future(future)
