"""The objects that synchronisation works with: the store, the parents, and the ways to write content."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.fill.registry import FillRegistry
from holdfast.parent.client import FetchedManifest, Parent
from holdfast.parent.request_budget import BudgetedParent


@dataclass(frozen=True, slots=True)
class SyncContext:
    """One for each keeper. `background` has the same parents within the request budget of background work, `keep`
    writes a fetched manifest under its tag or digest, and `is_going_up` is whether a change of a tag waits in the
    outbox."""

    store: Store
    parents: Mapping[str, Parent]
    background: Mapping[str, BudgetedParent]
    fills: FillRegistry
    config: Configuration
    clock: Clock
    keep: Callable[[str, str, FetchedManifest], Awaitable[None]]
    is_going_up: Callable[[str, str], bool]
