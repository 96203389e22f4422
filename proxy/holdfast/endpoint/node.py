"""What endpoints work with, and nothing else: no socket, no process, no parent client."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.keeper.port import KeeperPort
from holdfast.routing import Router, Scope
from holdfast.wire.message import Reply

#: An endpoint answers at once from the store, or hands back what will ask the keeper. Hits thus cost no task.
Answer = Reply | Coroutine[Any, Any, Reply]


@dataclass(slots=True)
class Node:
    """The context of every endpoint. `draining` makes /readyz say no while connections are let go."""

    store: Store
    port: KeeperPort
    router: Router
    config: Configuration
    clock: Clock
    draining: bool = False

    def asks(self, scope: Scope) -> bool:
        """Whether the keeper is asked for what is not held here."""
        return scope.has_parent and self.config.on_miss == "parent"
