"""All webhooks of a node: each on its own, so that a receiver that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import msgspec
import structlog
from holdfast_core.errors import StoreError
from holdfast_core.store import Store

from holdfast import config
from holdfast.clock import Clock
from holdfast.control.moment import stamp
from holdfast.errors import ControlUnknown
from holdfast.notify.progress import WEBHOOK, keep
from holdfast.notify.receiver import Receiver
from holdfast.notify.report import Pinged
from holdfast.notify.webhook import Webhook
from holdfast.parent.address import Lookup
from holdfast.sync.notification import ping_of, plain_ping_of
from holdfast.wire.names import shown

log = structlog.get_logger()


class Webhooks:
    """What the keeper has of them. `own` is the connected registry that this node is, "" at the root; `host` what the
    node is called."""

    def __init__(
        self,
        hooks: Sequence[config.Webhook],
        store: Store,
        clock: Clock,
        own: str = "",
        host: str = "",
        lookup: Lookup | None = None,
    ) -> None:
        self._store, self._clock, self._own, self._host = store, clock, own, host
        self._receivers = {hook.name: Receiver(hook, clock, lookup) for hook in hooks}
        self._hooks = [Webhook(hook, store, self._receivers[hook.name], own, host, clock) for hook in hooks]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Have the event log kept, and go on where the last keeper was; what is not configured any more is forgotten.
        Uses no network before it returns."""
        try:
            await asyncio.shield(asyncio.wrap_future(self._store.keep_events(True)))
            await self._forget()
            for hook in self._hooks:
                await hook.take_up()
        except StoreError as error:
            log.error("webhooks not taken up", reason=str(error))
        self._tasks = [asyncio.create_task(hook.run()) for hook in self._hooks]

    async def _forget(self) -> None:
        names = {hook.hook.name for hook in self._hooks}
        for row in self._store.resources(WEBHOOK):
            if row.name not in names:
                await keep(self._store, row.name, None)

    async def close(self) -> None:
        """Stop where they are. An event that was under way is told again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for receiver in self._receivers.values():
            await receiver.close()

    def notes(self) -> list[str]:
        """Sentences about those that fail."""
        return [
            f"webhook {hook.hook.name} fails since {stamp(hook.standing.failing_since)}: {hook.standing.answer}"
            for hook in self._hooks
            if hook.standing.failures
        ]

    async def ping(self, name: str) -> bytes:
        """Send one receiver an event of nothing: `Pinged` as JSON. Raises ControlUnknown."""
        found = next((hook for hook in self._hooks if hook.hook.name == name), None)
        if found is None:
            raise ControlUnknown(f"there is no webhook {shown(name)!r}; they are in the configuration")
        id, now = f"ping-{secrets.token_hex(8)}", self._clock.now()
        plain = found.hook.format == "acr"
        body = plain_ping_of(id, now, self._host) if plain else ping_of(id, now, found.topic)
        answer = await self._receivers[name].post(body)
        return msgspec.json.encode(Pinged(name, answer.is_taken, answer.words))
