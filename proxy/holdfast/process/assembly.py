"""Puts a keeper together from its parts. Each is imported where it is at work: without a parent the keeper does without
aiohttp, which is 10 MB and a third of its start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.control.resource import StatusDetail
from holdfast.fill.fills import Fills
from holdfast.gateway.connection_string import parse
from holdfast.keeper.keeper import Keeper
from holdfast.keeper.troubles import troubles_of

if TYPE_CHECKING:
    from holdfast.gateway.link import Link
    from holdfast.gateway.rounds import Rounds
    from holdfast.parent.client import Parent
    from holdfast.replica.replica import Replica


def make_keeper(config: Configuration, store: Store, clock: Clock) -> Keeper:
    """The keeper with its parents and fills; nothing is started."""
    parents = make_parents(config, clock) if config.parent else {}
    fills = Fills(store, parents.__getitem__, config.fills, clock)
    keeper = Keeper(store, parents, fills, config, clock)
    if config.sync.schedule:
        from holdfast.replica.replica import Replica
        from holdfast.replica.source import Polled

        keeper.replica = Replica(keeper, Polled(keeper, config))
    if config.webhook:
        from holdfast.notify.webhooks import Webhooks

        keeper.webhooks = Webhooks(config.webhook, store, clock, own_name(config), config.login.server)
    return keeper


def make_parents(config: Configuration, clock: Clock) -> dict[str, Parent]:
    """The clients of the parents, by namespace. They share one link."""
    from holdfast.parent.client import Parent
    from holdfast.parent.lane import Line
    from holdfast.sync.share import Share

    share = Share(config.link.caps, config.link.minimum_share, now=clock.monotonic())
    line, size = Line(share, clock), config.limits.manifest_bytes
    return {parent.name: Parent(parent, clock, size, line=line) for parent in config.parent}


def own_name(config: Configuration) -> str:
    """The connected registry that this node is, "" for any other node."""
    text = config.gateway.connection_string
    return parse(text).registry if text else ""


def make_rounds(config: Configuration, keeper: Keeper) -> Rounds | None:
    """The conversation of a connected registry with its parent, which says what the keeper synchronises; None on every
    other node. Nothing is started."""
    if not (text := config.gateway.connection_string):
        return None
    from holdfast.gateway.link import Link
    from holdfast.gateway.rounds import Rounds
    from holdfast.notify.upward import Upward

    def troubles() -> list[StatusDetail]:
        return [*troubles_of(keeper), *keeper.conflicts.details()]

    name = parse(text).registry
    rounds = Rounds(config, name, keeper.store, keeper.control, troubles, keeper.clock)
    rounds.statuses = partial(keeper.heartbeats.statuses, keeper.store)
    keeper.notes, keeper.heard, keeper.conflicts.news = rounds.notes, rounds.heard_below, rounds.news
    link, following = (Link(config.parent[0], name, keeper.clock) for _ in range(2))
    for one in (rounds.link, link, following):
        keeper.parents[config.parent[0].name].oversee(one.transport)
    ask_above(keeper, rounds, config)
    keeper.upward = Upward(keeper.store, name, link, rounds.standing, keeper.clock)
    keeper.replica = managed_replica(config, keeper, rounds, following)
    return rounds


def ask_above(keeper: Keeper, rounds: Rounds, config: Configuration) -> None:
    """Have what goes up to the parent of a connected registry ask its gateway what is there already."""
    from holdfast.gateway.link import Link, Unlogged
    from holdfast.gateway.message import Known, Sought
    from holdfast.keeper.above import Heads, Inquiries

    parent, name = keeper.parents[config.parent[0].name], rounds.identity.name
    link = Link(config.parent[0], name, keeper.clock)
    parent.oversee(link.transport)

    async def exists(sought: Sequence[Sought]) -> Known | object:
        standing = rounds.standing()
        return None if standing is None else await link.exists(*standing, sought)

    for climb in keeper.climbs:
        if climb.parent == parent.name:
            climb.above = Inquiries(exists, Unlogged, Heads(parent.up), keeper.clock, link.close)


def managed_replica(config: Configuration, keeper: Keeper, rounds: Rounds, link: Link) -> Replica:
    """What synchronises a connected registry; the two tell each other what is new."""
    from holdfast.replica.managed import Managed
    from holdfast.replica.replica import Replica

    replica = Replica(keeper, Managed(keeper, config, rounds, link))
    rounds.synchronised, rounds.told, replica.news = replica.synchronised, replica.wake, rounds.news
    return replica
