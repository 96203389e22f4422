"""The keeper's side of the control plane: a command becomes one transaction.

What takes long is done before it: a secret that a person chose is hashed on a thread, one at a time, because each takes
19 MiB and the writer's thread has pushes to commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from holdfast_core.record import ResourceChange
from holdfast_core.resources import ResourceView
from holdfast_core.store import Store

from holdfast import config, errors
from holdfast.clock import Clock
from holdfast.control import command as commands
from holdfast.control import password
from holdfast.control.execute import Context, Outcome, execute
from holdfast.control.resource import QUIET, STATUS
from holdfast.keeper.heartbeats import KIND as LEASES
from holdfast.keeper.heartbeats import Heartbeats, Word
from holdfast.keeper.push import stored


class Control:
    """The part of `KeeperPort` that changes the control plane."""

    store: Store
    clock: Clock
    #: bounds of the control plane
    limits: config.Control
    #: what those below said last, where the store has an older word
    heartbeats: Heartbeats
    #: a connected registry below said something of itself
    heard: Callable[[], None] | None = None
    #: one secret is hashed at a time
    _hashing: asyncio.Lock | None = None

    async def control(self, command: bytes) -> bytes:
        """See `KeeperPort.control`."""
        order = commands.understood(command)
        return msgspec.json.encode(await self.execute(order))

    async def execute(self, order: commands.Command) -> commands.Result:
        """Do a command. Raises as `KeeperPort.control`."""
        context = Context(self.clock.now(), self.limits, verifier=await self._verifier(order))
        outcomes: list[Outcome] = []
        remembered: list[Word] = []

        def plan(view: ResourceView) -> Sequence[ResourceChange]:
            outcomes.append(execute(self.heartbeats.over(view), order, context))
            return self.heartbeats.worth(view, outcomes[-1].changes, remembered)

        # a lease is synced before its holder hears of it: `revived` knows no other than those on the disk
        change = self.store.change_resources(
            plan, quiet=QUIET, synced=frozenset({STATUS}), told=lambda: outcomes[-1].told
        )
        change.add_done_callback(
            lambda done: self.heartbeats.settled(remembered, well=done.exception() is None)
        )
        await stored(change, errors.ControlUnknown)
        if self.heard is not None and isinstance(
            order, commands.Activate | commands.Release | commands.Report
        ):
            self.heard()
        return outcomes[-1].result

    async def statuses(self) -> bytes:
        """See `KeeperPort.statuses`."""
        return msgspec.json.encode(self.heartbeats.statuses(self.store))

    async def write_heartbeats(self) -> None:
        """Have what those below said last in the store, as the last thing of this keeper. Raises StoreError."""
        change = self.store.change_resources(
            lambda view: list(self.heartbeats.last_words(view)), quiet=QUIET | {LEASES}
        )
        await asyncio.shield(asyncio.wrap_future(change))

    async def _verifier(self, order: commands.Command) -> str:
        """The verifier of the secret that a person chose, "" where nobody did. Raises `ControlInvalid`."""
        secret = order.secret if isinstance(order, commands.GenerateCredentials) else None
        if secret is None:
            return ""
        if self._hashing is None:
            self._hashing = asyncio.Lock()
        async with self._hashing:
            return await asyncio.to_thread(password.verifier_of, secret)
