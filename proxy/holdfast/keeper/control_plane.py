"""The keeper's side of the control plane: a command becomes one transaction.

A secret that a person chose is hashed before it, on a thread, one at a time: each takes 19 MiB, and the writer's thread
has pushes to commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import ceil

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store

from holdfast import config, errors
from holdfast.clock import Clock
from holdfast.control import command as commands
from holdfast.control.execute import Context, Outcome, execute
from holdfast.gateway.rates import KEPT, NOTICES, PATIENCE_SECONDS, REPORTS, Rates
from holdfast.keeper.heartbeats import KIND as LEASES
from holdfast.keeper.heartbeats import Heartbeats, LastReport
from holdfast.keeper.pushes import stored
from holdfast.resources import password
from holdfast.resources.model import QUIET, STATUS, Status

#: commands that a connected registry below causes, and what it may cause of them
SHARES: dict[type[commands.Command], str] = {
    commands.Activate: REPORTS,
    commands.RecordReport: REPORTS,
    commands.TakeNotices: NOTICES,
}
#: the longest Retry-After for a child that has filled its part of the log (seconds)
LONGEST_WAIT_SECONDS = 60


class ControlPlane:
    """The part of `KeeperApi` that changes the control plane. `limits` bounds its size, and `rates` what the registries
    below may write. `status_received` is called when one of them reported its status."""

    def __init__(
        self,
        store: Store,
        heartbeats: Heartbeats,
        limits: config.ControlSection,
        rates: Rates,
        clock: Clock,
        status_received: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self.heartbeats, self.limits, self.rates = store, heartbeats, limits, rates
        self._clock, self._status_received = clock, status_received
        #: one secret is hashed at a time
        self._hashing = asyncio.Lock()

    async def control(self, command: bytes) -> bytes:
        """See `KeeperApi.control`."""
        order = commands.decode_command(command)
        self._require_share(order, len(command))
        return msgspec.json.encode(await self.execute(order))

    async def execute(self, order: commands.Command) -> commands.CommandResult:
        """Do a command. Raises as `KeeperApi.control`."""
        self._require_room(order)
        context = Context(self._clock.now(), self.limits, verifier=await self._verifier(order))
        outcomes: list[Outcome] = []
        remembered: list[LastReport] = []

        def plan(view: ResourceView) -> Sequence[ResourceChange]:
            outcomes.append(execute(self.heartbeats.over(view), order, context))
            return self.heartbeats.worth(view, outcomes[-1].changes, remembered)

        # a lease is synced before its holder gets the answer: `revived` reads those on the disk alone
        change = self._store.documents.change(
            plan, quiet=QUIET, synced=frozenset({STATUS}), events=lambda: outcomes[-1].events
        )
        change.add_done_callback(
            lambda done: self.heartbeats.settled(remembered, well=done.exception() is None)
        )
        await stored(change, errors.ControlUnknown)
        if isinstance(order, commands.TakeNotices):
            self.rates.spend(order.name, KEPT, len(outcomes[-1].events), self._clock.monotonic())
        if isinstance(order, commands.Activate | commands.Release | commands.RecordReport):
            self._status_received()
        return outcomes[-1].result

    async def statuses(self) -> dict[str, Status]:
        """See `KeeperApi.statuses`."""
        return self.heartbeats.statuses(self._store)

    async def write_heartbeats(self) -> None:
        """Write the last reports of the registries below, when this keeper ends. Raises StoreError."""
        change = self._store.documents.change(
            lambda view: list(self.heartbeats.final_changes(view)), quiet=QUIET | {LEASES}
        )
        await asyncio.shield(asyncio.wrap_future(change))

    def _require_share(self, order: commands.Command, size: int) -> None:
        """Refuse what a child has written beyond its share of the journal. The keeper counts it, because each worker
        sees a part of it. Raises `ShareSpent`."""
        if not isinstance(order, commands.Activate | commands.RecordReport | commands.TakeNotices):
            return
        kind, now = SHARES[type(order)], self._clock.monotonic()
        wait = self.rates.wait(order.name, kind, now)
        if wait > PATIENCE_SECONDS:
            raise errors.ShareSpent(
                f"connected registry {order.name}: too many {kind}; the next one is taken in {ceil(wait)} s",
                retry_after=ceil(wait),
            )
        self.rates.spend(order.name, kind, size, now)

    def _require_room(self, order: commands.Command) -> None:
        """Refuse notices of a child that filled its part of the log, so that one child does not push the cursors of
        others out of it. Raises `ShareSpent`."""
        if not isinstance(order, commands.TakeNotices):
            return
        wait = self.rates.wait(order.name, KEPT, self._clock.monotonic())
        if wait:
            raise errors.ShareSpent(
                f"connected registry {order.name} has told a tenth of gateway.messages; it may tell a tenth each day,"
                " and what it keeps until then is taken later",
                retry_after=min(ceil(wait), LONGEST_WAIT_SECONDS),
            )

    async def _verifier(self, order: commands.Command) -> str:
        """The verifier of the secret that a person chose, "" where none was chosen. Raises `ControlInvalid`."""
        secret = order.secret if isinstance(order, commands.GenerateCredentials) else None
        if secret is None:
            return ""
        async with self._hashing:
            return await asyncio.to_thread(password.verifier_of, secret)
