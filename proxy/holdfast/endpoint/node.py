"""The context of the endpoints: store, keeper, routing, login. It has no socket, process or parent client."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from holdfast_core.facets.references import References
from holdfast_core.facets.stored_blobs import StoredBlobs
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.gateway.rates import PROCESS_RATES, Rates
from holdfast.keeper.api import KeeperApi
from holdfast.login.access import Access
from holdfast.push.body_budget import BodyBudget
from holdfast.push.context import PushContext
from holdfast.routing import RoutedRepository, Router
from holdfast.storage.collection_schedule import found_for
from holdfast.wire.message import Reply

#: most bytes of manifest bodies that a process holds at once; eight of the longest if that is more
MANIFEST_BODIES_BYTES = 64 << 20
#: A hit is answered at once from the store, without a coroutine; anything else by a coroutine.
Answer = Reply | Coroutine[Any, Any, Reply]


@dataclass(slots=True)
class Node:
    """The context of every endpoint. While `draining`, /readyz answers 503 and connections end. `access` identifies
    callers and has their rights. `blobs` and `references` are those of `store`. `found_for`: `collection_schedule`."""

    store: Store
    port: KeeperApi
    router: Router
    config: Configuration
    clock: Clock
    draining: bool = False
    push: PushContext = field(default_factory=PushContext)
    blobs: StoredBlobs = field(init=False)
    references: References = field(init=False)
    manifest_bodies: BodyBudget = field(init=False)
    access: Access = field(init=False)
    found_for: float = field(init=False)
    #: the rate limits of connected registries below at this process
    shares: Rates = field(default_factory=lambda: Rates(PROCESS_RATES))

    def __post_init__(self) -> None:
        self.blobs, self.references = self.store.blobs, self.store.references
        longest = self.config.limits.manifest_bytes
        self.found_for = found_for(self.config.garbage_collection)
        self.access = Access(self.store, self.config, self.clock)
        self.manifest_bodies = BodyBudget(max(MANIFEST_BODIES_BYTES, 8 * longest), longest)

    def asks(self, scope: RoutedRepository) -> bool:
        """Whether the keeper fetches content that is not held here."""
        return scope.has_parent and self.config.on_miss == "parent"
