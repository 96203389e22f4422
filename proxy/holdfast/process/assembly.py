"""Composes a keeper of its parts, each complete when it is made: a part gets those that were made before it. Modules
are imported where a part is made: without a parent the keeper does without aiohttp, which is 10 MB and a third of its
start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from holdfast_core.digest import Digest
from holdfast_core.store import Store

from holdfast.background import BackgroundTasks
from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.fill.registry import FillRegistry
from holdfast.fill.repair import record_damage
from holdfast.gateway.connection_string import parse
from holdfast.gateway.parent_settings import own_registry
from holdfast.gateway.rates import Rates, node_rates
from holdfast.keeper.control_plane import ControlPlane
from holdfast.keeper.disk import DiskWatch
from holdfast.keeper.event_log import EventLog
from holdfast.keeper.fetched_content import FetchedContent
from holdfast.keeper.heartbeats import Heartbeats, pending_reports
from holdfast.keeper.keeper import Keeper
from holdfast.keeper.keeper_parts import KeeperParts
from holdfast.keeper.misses.blob_misses import BlobMisses
from holdfast.keeper.misses.list_misses import ListMisses
from holdfast.keeper.misses.manifest_misses import ManifestMisses
from holdfast.keeper.misses.parent_access import ParentAccess
from holdfast.keeper.node_health import NodeHealth
from holdfast.keeper.pushed_images import PushedImages
from holdfast.keeper.pushes import Pushes
from holdfast.keeper.record_repair import RecordRepair
from holdfast.keeper.upkeep_rounds import UpkeepRounds
from holdfast.outbox.conflicts import Conflicts
from holdfast.outbox.node_outbox import NodeOutbox
from holdfast.parent.switch import Switches
from holdfast.resources.model import GarbageCollection
from holdfast.routing import Repository
from holdfast.storage.budget import DiskBudget
from holdfast.storage.collection_rounds import CollectionRounds
from holdfast.storage.eviction_rounds import EvictionRounds
from holdfast.storage.scrubbing.damage_repair import DamageRepair
from holdfast.storage.scrubbing.scrub_rounds import ScrubRounds
from holdfast.storage.space_admission import SpaceAdmission
from holdfast.storage.space_ledger import SpaceLedger

if TYPE_CHECKING:
    from holdfast.gateway.gateway_client import GatewayClient
    from holdfast.gateway.own_registry import OwnRegistry
    from holdfast.notify.notices import NoticeSender
    from holdfast.notify.webhook_delivery import Webhooks
    from holdfast.outbox.parent_inventory import ParentInventory
    from holdfast.outbox.sender import OutboxSender
    from holdfast.parent.client import Parent
    from holdfast.storage.images.prefetch import Prefetches
    from holdfast.sync.context import SyncContext
    from holdfast.sync.source.polled_source import WorkSource
    from holdfast.sync.synchroniser import Synchroniser


class ParentGateway(NamedTuple):
    """The connected registry that this node is, and the client of its parent's gateway."""

    own: OwnRegistry
    client: GatewayClient


class Base(NamedTuple):
    """What most parts are made of. `gateway` is None on a node that is no connected registry."""

    config: Configuration
    store: Store
    clock: Clock
    #: by namespace; none on a root
    parents: Mapping[str, Parent]
    fills: FillRegistry
    gateway: ParentGateway | None
    outbox: NodeOutbox
    tasks: BackgroundTasks

    def report_due(self) -> None:
        """Have what is new reported to the parent now."""
        if self.gateway is not None:
            self.gateway.own.report_due.set()


def make_keeper(config: Configuration, store: Store, clock: Clock) -> Keeper:
    """The keeper of a configuration; nothing is started."""
    parents = make_parents(config, clock) if config.parent else {}
    admission = make_admission(config, store, clock)
    fills = FillRegistry(store, parents.__getitem__, config.fills, clock, admission)
    gateway = make_gateway(config, clock, parents)
    return compose(config, store, clock, parents, fills, gateway, source_of(config, gateway), admission)


def make_admission(config: Configuration, store: Store, clock: Clock) -> SpaceAdmission:
    """What says whether there is room, by the budget of the configuration on the disk of the store."""
    budget = DiskBudget.of(config.store, store.disk_bytes())
    return SpaceAdmission(store, SpaceLedger(budget), clock)


def make_parents(config: Configuration, clock: Clock) -> dict[str, Parent]:
    """The clients of the parents, by namespace. They share one link."""
    from holdfast.bandwidth.lane import SharedLink
    from holdfast.bandwidth.share import LinkShare
    from holdfast.parent.client import Parent

    share = LinkShare(config.link.caps, config.link.minimum_share, now=clock.monotonic())
    link, size = SharedLink(share, clock), config.limits.manifest_bytes
    return {parent.name: Parent(parent, clock, size, link=link) for parent in config.parent}


def own_name(config: Configuration) -> str:
    """The connected registry that this node is, "" for any other node."""
    text = config.gateway.connection_string
    return parse(text).registry if text else ""


def make_gateway(config: Configuration, clock: Clock, parents: Mapping[str, Parent]) -> ParentGateway | None:
    """The gateway of a connected registry's parent, which is the first one; None for any other node."""
    if not (name := own_name(config)):
        return None
    from holdfast.gateway.gateway_client import GatewayClient
    from holdfast.gateway.own_registry import OwnRegistry

    client = GatewayClient(config.parent[0], name, clock)
    parents[config.parent[0].name].add_transport(client.transport)
    return ParentGateway(OwnRegistry(name, config.gateway.poll, clock), client)


def source_of(
    config: Configuration, gateway: ParentGateway | None
) -> Callable[[SyncContext], WorkSource] | None:
    """Makes the source of synchronisation: of a connected registry its parent, of a node with `[sync]` the parents that
    it polls. None for a node that does not synchronise."""
    if gateway is not None:
        from holdfast.sync.source.managed_source import ManagedSource

        return partial(ManagedSource, config=config, own=gateway.own, client=gateway.client)
    if config.sync.schedule:
        from holdfast.sync.source.polled_source import PolledSource

        return partial(PolledSource, config=config)
    return None


def compose(
    config: Configuration,
    store: Store,
    clock: Clock,
    parents: Mapping[str, Parent],
    fills: FillRegistry,
    gateway: ParentGateway | None = None,
    make_source: Callable[[SyncContext], WorkSource] | None = None,
    admission: SpaceAdmission | None = None,
) -> Keeper:
    """The keeper over these parents and fills. It synchronises when `make_source` gives it a source."""
    outbox = NodeOutbox(store.references.outbox, parents)
    base = Base(config, store, clock, parents, fills, gateway, outbox, BackgroundTasks())
    fetched = FetchedContent(store, clock)
    context = make_context(base, fetched) if parents else None
    synchroniser, prefetches = make_synchroniser(base, context, make_source), make_prefetches(base, context)
    conflicts = Conflicts(store, clock, base.report_due)
    images = PushedImages(store, parents, fills.bring, base.outbox, clock, base.tasks)
    records = RecordRepair(store, parents, base.outbox, clock)
    access = ParentAccess(parents, config, clock, synchroniser)
    manifests = ManifestMisses(store, access, fetched, config.tags, clock)
    admission = admission or make_admission(config, store, clock)
    parts = KeeperParts(
        store=store,
        clock=clock,
        parents=parents,
        fills=fills,
        tasks=base.tasks,
        disk=DiskWatch(store, clock, base.tasks),
        switches=Switches(store, parents, clock, config.parent[0].name if gateway is not None else None),
        records=records,
        upkeep=UpkeepRounds(store, records, config.push, clock, base.tasks),
        collection=make_collection(base, synchroniser, prefetches),
        scrub=make_scrub(base),
        admission=admission,
        eviction=make_eviction(base, admission, synchroniser, prefetches),
        event_log=EventLog(store, config, clock),
        manifests=manifests,
        blobs=BlobMisses(store, access, fills, clock),
        lists=ListMisses(store, access, fetched, config.tags, clock, synchroniser),
        images=images,
        pushes=make_pushes(base, images, manifests, admission),
        senders=[make_sender(base, name, conflicts, images, synchroniser) for name in parents],
        synchroniser=synchroniser,
        prefetches=prefetches,
        webhooks=make_webhooks(base),
        notices=make_notices(base),
        own_registry=gateway.own if gateway is not None else None,
    )
    return with_control_plane(base, parts, conflicts)


def with_control_plane(base: Base, parts: KeeperParts, conflicts: Conflicts) -> Keeper:
    """The keeper of these parts, with its control plane, and the agent of a connected registry."""
    config, store, clock, health = base.config, base.store, base.clock, NodeHealth(parts)
    heartbeats = Heartbeats(clock.now(), pending_reports(store))
    rates = Rates(node_rates(config.gateway.messages))
    if base.gateway is None:
        return Keeper(parts, ControlPlane(store, heartbeats, config.control, rates, clock), health, None)
    from holdfast.gateway.agent import GatewayAgent
    from holdfast.gateway.status_relay import StatusRelay

    assert parts.synchroniser is not None
    own, client = base.gateway
    relay = StatusRelay(own, partial(heartbeats.statuses, store))
    control_plane = ControlPlane(store, heartbeats, config.control, rates, clock, relay.status_received)
    agent = GatewayAgent(
        config,
        own,
        store,
        control_plane.control,
        lambda: [*health.troubles(), *conflicts.details()],
        clock,
        client,
        relay,
        parts.synchroniser.synchronised,
        parts.synchroniser.wake,
    )
    return Keeper(parts, control_plane, health, agent)


def make_scrub(base: Base) -> ScrubRounds:
    """What reads all bytes of the disk once a period, and repairs what it finds."""
    repair = DamageRepair(base.store, base.parents, base.fills, base.clock)
    return ScrubRounds(base.store, base.config.scrub, repair, lambda: base.fills.is_transferring, base.clock)


def make_collection(
    base: Base, synchroniser: Synchroniser | None, prefetches: Prefetches | None
) -> CollectionRounds:
    """What collects garbage. Cached content stays while its parent cannot be reached, or has not answered since the
    start: it could not be had again. No parent is asked for that: a collection has no window."""

    def managed() -> GarbageCollection | None:
        own = own_registry(base.store, own_name(base.config))
        return None if own is None else own.garbage_collection

    def kept_since(repository: str) -> float:
        parent = base.parents.get(Repository.from_key(repository).namespace)
        if parent is not None and not parent.was_heard:
            return -inf
        since = inf if prefetches is None else prefetches.since()
        return since if synchroniser is None else min(since, synchroniser.unfinished_since(repository))

    return CollectionRounds(base.store, base.config.garbage_collection, managed, kept_since, base.clock)


def make_context(base: Base, fetched: FetchedContent) -> SyncContext:
    """What synchronisation and prefetches work with."""
    from holdfast.parent.request_budget import BudgetedParent
    from holdfast.sync.context import SyncContext

    config, parents = base.config, base.parents
    return SyncContext(
        base.store,
        parents,
        {name: BudgetedParent(parent, config.sync, base.clock) for name, parent in parents.items()},
        base.fills,
        config,
        base.clock,
        fetched.keep,
        base.outbox.is_going_up,
    )


def make_prefetches(base: Base, context: SyncContext | None) -> Prefetches | None:
    """What brings images by order; None without a parent."""
    if context is None:
        return None
    from holdfast.storage.images.prefetch import Prefetches

    return Prefetches(context, base.tasks)


def make_synchroniser(
    base: Base, context: SyncContext | None, make_source: Callable[[SyncContext], WorkSource] | None
) -> Synchroniser | None:
    """What synchronises, with its source; None without one."""
    if context is None or make_source is None:
        return None
    from holdfast.sync.synchroniser import Synchroniser

    if base.gateway is None:
        return Synchroniser(context, make_source(context))
    own = base.gateway.own
    return Synchroniser(context, make_source(context), base.report_due, own.order_contact)


def make_pushes(
    base: Base, images: PushedImages, manifests: ManifestMisses, admission: SpaceAdmission
) -> Pushes:
    """The keeper's side of what clients change."""
    fetch, pushed = manifests.manifest, admission.ledger.pushed
    restorable = bool(base.config.garbage_collection.deleted_after)
    return Pushes(
        *(base.store, base.parents, base.outbox, images, fetch, pushed, base.clock, base.tasks),
        restorable=restorable,
    )


def make_eviction(
    base: Base, admission: SpaceAdmission, synchroniser: Synchroniser | None, prefetches: Prefetches | None
) -> EvictionRounds:
    """What makes room."""

    def coming() -> Set[tuple[str, Digest]]:
        fills = base.fills.coming()
        return fills if prefetches is None else fills | prefetches.held()

    return EvictionRounds(
        base.store,
        admission,
        base.config.store,
        base.parents,
        coming,
        synchroniser.covers if synchroniser is not None else lambda repository: False,
        base.clock,
        base.tasks,
    )


def make_sender(
    base: Base, namespace: str, conflicts: Conflicts, images: PushedImages, synchroniser: Synchroniser | None
) -> OutboxSender:
    """The sender to one parent. That of a connected registry finds out what the parent has by inquiries at the
    gateway, many names at once."""
    from holdfast.outbox.sender import OutboxSender

    parent = base.parents[namespace]
    return OutboxSender(
        base.store,
        parent,
        base.outbox.queues[namespace],
        base.config.sync.conflict,
        base.clock,
        conflicts,
        images.is_complete,
        partial(record_damage, base.store),
        synchroniser,
        make_inventory(base, parent),
    )


def make_inventory(base: Base, parent: Parent) -> ParentInventory | None:
    """The inventory by inquiries of a connected registry's parent; None for any other parent."""
    if base.gateway is None or parent.name != base.config.parent[0].name:
        return None
    from holdfast.gateway.gateway_client import Unlogged
    from holdfast.gateway.protocol import InquiredNames, InquiryAnswer
    from holdfast.outbox.parent_inventory import HeadInventory, InquiryInventory

    own, client = base.gateway

    async def exists(names: Sequence[InquiredNames]) -> InquiryAnswer | object:
        instance = own.active_instance()
        return None if instance is None else await client.exists(*instance, names)

    return InquiryInventory(exists, Unlogged, HeadInventory(parent.up), base.clock)


def make_webhooks(base: Base) -> Webhooks | None:
    """What delivers events; None without `[[webhook]]`."""
    config = base.config
    if not config.webhook:
        return None
    from holdfast.notify.webhook_delivery import Webhooks

    return Webhooks(config.webhook, base.store, base.clock, own_name(config), config.login.server)


def make_notices(base: Base) -> NoticeSender | None:
    """What sends notices to the parent of a connected registry; None for any other node."""
    if base.gateway is None:
        return None
    from holdfast.notify.notices import NoticeSender

    own, client = base.gateway
    return NoticeSender(base.store, own.identity.name, client, own.active_instance, base.clock)
