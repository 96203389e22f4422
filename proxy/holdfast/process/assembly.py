"""Puts a keeper together from its parts."""

from __future__ import annotations

from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.fill.fills import Fills
from holdfast.keeper.keeper import Keeper
from holdfast.parent.client import Parent


def make_keeper(config: Configuration, store: Store, clock: Clock) -> Keeper:
    """The keeper with its parents and fills; nothing is started."""
    parents = {parent.name: Parent(parent, clock, config.limits.manifest_bytes) for parent in config.parent}
    fills = Fills(store, parents.__getitem__, config.fills, clock)
    return Keeper(store, parents, fills, config, clock)
