"""What endpoints work with, and nothing else: no socket, no process, no parent client."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.keeper.port import KeeperPort
from holdfast.login.access import Access
from holdfast.push.budget import Budget
from holdfast.push.means import Means
from holdfast.routing import Router, Scope
from holdfast.wire.message import Reply

#: Bodies of manifests that a process holds at once, or eight of the longest if that is more
MANIFEST_BODIES_BYTES = 64 << 20
#: An endpoint answers at once from the store, or hands back what will ask the keeper. Hits thus cost no task.
Answer = Reply | Coroutine[Any, Any, Reply]


@dataclass(slots=True)
class Node:
    """The context of every endpoint. `draining` makes /readyz say no while connections are let go. `access` says who
    asks, and what that allows."""

    store: Store
    port: KeeperPort
    router: Router
    config: Configuration
    clock: Clock
    draining: bool = False
    push: Means = field(default_factory=Means)
    manifest_bodies: Budget = field(init=False)
    access: Access = field(init=False)

    def __post_init__(self) -> None:
        longest = self.config.limits.manifest_bytes
        self.access = Access(self.store, self.config, self.clock)
        self.manifest_bodies = Budget(max(MANIFEST_BODIES_BYTES, 8 * longest), longest)

    def asks(self, scope: Scope) -> bool:
        """Whether the keeper is asked for what is not held here."""
        return scope.has_parent and self.config.on_miss == "parent"
