"""What a keeper is composed of (`holdfast.process.assembly` makes it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast_core.store import Store

from holdfast.background import BackgroundTasks
from holdfast.clock import Clock
from holdfast.fill.registry import FillRegistry
from holdfast.keeper.disk import DiskWatch
from holdfast.keeper.event_log import EventLog
from holdfast.keeper.misses.blob_misses import BlobMisses
from holdfast.keeper.misses.list_misses import ListMisses
from holdfast.keeper.misses.manifest_misses import ManifestMisses
from holdfast.keeper.pushed_images import PushedImages
from holdfast.keeper.pushes import Pushes
from holdfast.keeper.record_repair import RecordRepair
from holdfast.keeper.upkeep_rounds import UpkeepRounds
from holdfast.parent.switch import Switches
from holdfast.storage.collection_rounds import CollectionRounds
from holdfast.storage.eviction_rounds import EvictionRounds
from holdfast.storage.scrubbing.scrub_rounds import ScrubRounds
from holdfast.storage.space_admission import SpaceAdmission

if TYPE_CHECKING:  # without a parent a node does without these: aiohttp is 10 MB
    from holdfast.gateway.own_registry import OwnRegistry
    from holdfast.notify.notices import NoticeSender
    from holdfast.notify.webhook_delivery import Webhooks
    from holdfast.outbox.sender import OutboxSender
    from holdfast.parent.client import Parent
    from holdfast.storage.images.prefetch import Prefetches
    from holdfast.sync.synchroniser import Synchroniser


@dataclass(frozen=True, slots=True)
class KeeperParts:
    """The parts but those of the control plane. Those that a node does without are None."""

    store: Store
    clock: Clock
    #: by namespace; none on a root
    parents: Mapping[str, Parent]
    fills: FillRegistry
    #: the rounds of all parts, which end with the keeper
    tasks: BackgroundTasks
    disk: DiskWatch
    switches: Switches
    records: RecordRepair
    upkeep: UpkeepRounds
    collection: CollectionRounds
    admission: SpaceAdmission
    eviction: EvictionRounds
    scrub: ScrubRounds
    event_log: EventLog
    manifests: ManifestMisses
    blobs: BlobMisses
    lists: ListMisses
    images: PushedImages
    pushes: Pushes
    #: one for each parent
    senders: list[OutboxSender]
    #: of a node with `[sync]`, and of a connected registry
    synchroniser: Synchroniser | None
    #: of a node with a parent
    prefetches: Prefetches | None
    #: of a node with `[[webhook]]`
    webhooks: Webhooks | None
    #: of a connected registry
    notices: NoticeSender | None
    own_registry: OwnRegistry | None
