"""The keeper: the one process that writes to the store and speaks to parents. Its parts implement `KeeperApi`;
`holdfast.process.assembly` makes them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from holdfast_core.digest import Digest
from holdfast_core.errors import Unwritable

from holdfast import errors
from holdfast.keeper.control_plane import ControlPlane
from holdfast.keeper.keeper_parts import KeeperParts
from holdfast.keeper.node_health import NodeHealth
from holdfast.notify.delivery_record import Pinged
from holdfast.parent.switch import ParentReport
from holdfast.storage.collection_report import CollectionStatus
from holdfast.storage.images.deleted_images import DeletedImages
from holdfast.storage.images.pinned_images import PinnedImages
from holdfast.storage.images.repository_removal import RepositoryDeletes
from holdfast.storage.scrubbing.scrub_report import ScrubStatus
from holdfast.sync.report import ImageOrder, PlanReport, PrefetchReport, SyncReport

if TYPE_CHECKING:  # without a parent a node does without these: aiohttp is 10 MB
    from holdfast.gateway.agent import GatewayAgent
    from holdfast.parent.client import Parent
    from holdfast.sync.synchroniser import Synchroniser


class Keeper:
    """Implements `KeeperApi`, so that it serves in process as it is: each method is that of a part. `agent` is
    that of a connected registry."""

    def __init__(
        self, parts: KeeperParts, control_plane: ControlPlane, health: NodeHealth, agent: GatewayAgent | None
    ) -> None:
        self._control_plane, self.agent = control_plane, agent
        self.parts, self.store, self.clock = parts, parts.store, parts.clock
        self.parents, self.fills = parts.parents, parts.fills
        #: set when the store stopped acknowledging (a failed sync, a poisoned index) and the disk can be read; the
        #: process must end, because only a fresh start finds out what is on the disk
        self.store_failed = parts.disk.failed
        repeating = parts.records.repeating
        self.manifest = repeating(parts.manifests.manifest)
        self.blob_size = repeating(parts.blobs.blob_size)
        self.blob = repeating(parts.blobs.blob)
        self.repair = repeating(parts.blobs.repair)
        self.follow = parts.blobs.follow
        self.tags = repeating(parts.lists.tags)
        self.referrers = repeating(parts.lists.referrers)
        self.mend = parts.records.mend
        self.put_manifest = repeating(parts.pushes.put_manifest)
        self.admit_push = parts.eviction.admit_push
        self.put_blob = repeating(parts.pushes.put_blob)
        self.commit_upload = repeating(parts.pushes.commit_upload)
        self.mount = repeating(parts.pushes.mount)
        self.delete = repeating(parts.pushes.delete)
        self.set_lock = repeating(parts.pushes.set_lock)
        self.retry_outbox = parts.pushes.retry_outbox
        self.control = control_plane.control
        self.statuses = control_plane.statuses
        self.turn_parent = parts.switches.set
        self.order_collection = parts.collection.order
        self.order_scrub = parts.scrub.order
        pins = PinnedImages(parts.store, parts.clock)
        self.pin, self.unpin = pins.pin, pins.unpin
        self.undelete = DeletedImages(parts.store, parts.pushes.restore, parts.clock).undelete
        deletes = RepositoryDeletes(parts.store, parts.pushes.delete, parts.pushes.has_parent, parts.clock)
        self.delete_repository = deletes.delete_repository
        self.status = health.status

    def seen(self, repository: str, digest: str) -> None:
        """See `KeeperApi.seen`."""
        self.store.blobs.seen(repository, Digest.parse(digest), self.clock.now())
        self.parts.eviction.used(digest)

    def disk_refused(self) -> None:
        """See `KeeperApi.disk_refused`."""
        self.parts.tasks.begin(self.parts.disk.check())

    async def list_parents(self) -> list[ParentReport]:
        """See `KeeperApi.list_parents`."""
        return self.parts.switches.reports()

    async def synchronisation(self) -> SyncReport:
        """See `KeeperApi.synchronisation`."""
        return self._synchroniser().status()

    async def order_synchronisation(self) -> SyncReport:
        """See `KeeperApi.order_synchronisation`."""
        await self._synchroniser().order_run()
        return self._synchroniser().status()

    async def plan_synchronisation(self) -> PlanReport:
        """See `KeeperApi.plan_synchronisation`."""
        return await self._synchroniser().plan()

    def _synchroniser(self) -> Synchroniser:
        if self.parts.synchroniser is None:
            raise errors.ControlConflict(
                "this node does not synchronise by itself; name what it shall have under [sync] in its configuration"
            )
        return self.parts.synchroniser

    async def collection(self, is_dry: bool) -> CollectionStatus:
        """See `KeeperApi.collection`."""
        return self.parts.collection.status(is_dry=is_dry)

    async def scrub(self) -> ScrubStatus:
        """See `KeeperApi.scrub`."""
        return self.parts.scrub.status()

    async def order_prefetch(self, images: tuple[ImageOrder, ...], by: str) -> tuple[PrefetchReport, ...]:
        """See `KeeperApi.order_prefetch`."""
        if self.parts.prefetches is None:
            raise errors.ControlConflict("this node has no parent: there is nothing to prefetch from")
        return await self.parts.prefetches.order(images, by)

    async def prefetches(self) -> tuple[PrefetchReport, ...]:
        """See `KeeperApi.prefetches`."""
        return () if self.parts.prefetches is None else self.parts.prefetches.reports()

    async def ping_webhook(self, name: str) -> Pinged:
        """See `KeeperApi.ping_webhook`."""
        if self.parts.webhooks is None:
            raise errors.ControlUnknown("this node has no webhooks; they are in its configuration")
        return await self.parts.webhooks.ping(name)

    async def start(self) -> None:
        """Take up parked fills and begin the rounds of all parts. Uses no network before it returns."""
        parts, begin = self.parts, self.parts.tasks.begin
        parts.disk.start()
        await parts.switches.load()
        await parts.fills.start()
        parts.upkeep.start()
        for parent in parts.parents.values():
            begin(self._probe(parent))
        if parts.parents:
            begin(parts.images.run())
        if parts.webhooks is not None:
            await parts.webhooks.start()
        if parts.notices is not None:
            parts.notices.start()
        if parts.synchroniser is not None:
            await parts.synchroniser.start()
        if parts.prefetches is not None:
            parts.prefetches.start()
        parts.eviction.start()  # what is synchronised is known now, and stays
        begin(parts.collection.run())
        begin(parts.scrub.run())
        for sender in parts.senders:
            begin(sender.run())
        begin(parts.event_log.run())
        if self.agent is not None:
            await self.agent.start()

    async def _probe(self, parent: Parent) -> None:
        """One probe an interval while a parent is away, instead of one time-out a pull."""
        while True:
            await self.clock.sleep(parent.until_probe())
            await parent.probe()

    async def close(self) -> None:
        """Stop the rounds, park the fills, make everything durable."""
        parts = self.parts
        rounds = (
            parts.synchroniser,
            parts.webhooks,
            parts.notices,
            parts.tasks,
            parts.collection,
            parts.scrub,
        )
        for part in (self.agent, *rounds):
            if part is not None:
                await part.close()
        for misses in (parts.manifests, parts.lists, parts.blobs):
            await misses.close()
        await parts.fills.close()
        with contextlib.suppress(Unwritable):
            await self._control_plane.write_heartbeats()
        await parts.upkeep.close()
        for parent in parts.parents.values():
            await parent.close()
