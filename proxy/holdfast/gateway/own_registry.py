"""This node as a connected registry: its identity, and where it stands with its parent. The agent changes both;
synchronisation, notices and the outbox read them before they send anything to the parent's gateway."""

from __future__ import annotations

import asyncio
import secrets

from holdfast.clock import Clock
from holdfast.gateway.agent_state import AgentState
from holdfast.resources.cron import closed_for
from holdfast.resources.model import Identity


class OwnRegistry:
    """`poll` is the time between two reports (seconds). The events wake the agent."""

    def __init__(self, name: str, poll: float, clock: Clock) -> None:
        self._clock = clock
        self.identity = Identity(name=name, instance=secrets.token_hex(16))
        self.state = AgentState(poll, clock.jitter)
        #: there is something to report that does not wait for the time of the next report
        self.report_due = asyncio.Event()
        #: an operator ordered that the parent is asked for configuration now
        self.contact_ordered = asyncio.Event()

    @property
    def is_active(self) -> bool:
        """Whether this is the active instance of the registry, by the parent's last answer."""
        return self.state.active

    def take_up(self, identity: Identity) -> None:
        """From now on this is the identity, which is in the store."""
        self.identity = identity

    def active_instance(self) -> tuple[str, int] | None:
        """The instance and generation for requests to the parent now; None while this is not the active instance, or
        its schedule is closed."""
        sync = self.state.sync
        if not self.state.active or sync is None or closed_for(sync, self._clock.now()) > 0:
            return None
        return self.identity.instance, self.state.generation

    def order_contact(self) -> None:
        """Have the parent asked for configuration now, whatever the window."""
        self.state.contact(self._clock.monotonic())
        self.contact_ordered.set()

    def notes(self) -> list[str]:
        """Sentences for /readyz; none when the parent was well when last asked."""
        name, trouble = self.identity.name, self.state.trouble
        if trouble:
            held = "serves what it holds" if self.identity.activated else "holds nothing yet"
            return [f"connected registry {name} {held}: {trouble}"]
        if not self.identity.activated:
            return [f"connected registry {name} is not activated yet"]
        return []
