"""The availability of a parent, for the whole node: its endpoints' health, overridden by the operator's switch, and
whether bulk work may run. Pure; `now` is monotonic seconds.

`http.health.Health` decides about one endpoint: online, degraded, offline, with hysteresis, one probe an interval
whatever the load. Here several endpoints are one parent, `offline` by an operator also stops the probes, and bulk work
waits until a parent that came back has stayed for a while: a link that flaps would otherwise start and lose a transfer
each time.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from holdfast.backoff import Backoff
from holdfast.http.health import Health, State, Switch, best

#: bulk work begins this long after a parent came back, doubled for each time it was lost within the memory, up to a
#: bound
SETTLE_SECONDS = 5.0
SETTLE = Backoff(SETTLE_SECONDS, 300.0, spread=0.0)
FLAP_MEMORY_SECONDS = 1800.0

#: the events that lead from one state to another, for the documents; `Health` acts on them
TABLE: dict[tuple[State, str], State] = {
    ("online", "a failure"): "degraded",
    ("online", "no connection in time"): "offline",
    ("degraded", "two good answers in a row"): "online",
    ("degraded", "three failures in a row"): "offline",
    ("degraded", "no connection in time"): "offline",
    ("offline", "a probe that is answered"): "degraded",
}


class AvailabilityReport(Struct, frozen=True):
    """For the API and `/readyz`. `since` is when the state began (monotonic seconds); `losses` within the memory."""

    state: State
    switch: Switch
    since: float
    losses: int


class Availability:
    """The availability of one parent."""

    def __init__(self, endpoints: Sequence[Health], now: float, switch: Switch = "auto") -> None:
        self._endpoints = endpoints
        self._switch: Switch = switch
        self._state = self._now_state()
        self._since = now
        self._lost: list[float] = []
        self.set_switch(switch, now)

    @property
    def switch(self) -> Switch:
        """The operator's switch."""
        return self._switch

    def set_switch(self, switch: Switch, now: float) -> None:
        """Set the operator's switch. `auto` after `offline` has the endpoints probed at once."""
        self._switch = switch
        for health in self._endpoints:
            health.set_switch(switch, now)
        self.refresh(now)

    def refresh(self, now: float) -> State:
        """The present state; counts a change of it."""
        state = self._now_state()
        if state == self._state:
            return state
        if state == "offline" and self._switch == "auto":
            self._lost = [at for at in self._lost if now - at < FLAP_MEMORY_SECONDS] + [now]
        if "offline" in (state, self._state):
            self._since = now
        self._state = state
        return state

    def may_synchronise(self, now: float) -> bool:
        """Whether bulk work may run: the parent is reachable, and has been for long enough."""
        return self.refresh(now) != "offline" and now - self._since >= self.settling(now)

    def settling(self, now: float) -> float:
        """Seconds that the parent must have been reachable before bulk work begins; 0 before it was ever lost."""
        lost = [at for at in self._lost if now - at < FLAP_MEMORY_SECONDS]
        return SETTLE.longest(len(lost)) if lost else 0.0

    def transfers(self, most: int, now: float) -> int:
        """The number of bulk transfers at once: one while the parent is degraded."""
        if not self.may_synchronise(now):
            return 0
        return 1 if self._state == "degraded" else most

    def report(self, now: float) -> AvailabilityReport:
        """The state for the API and `/readyz`."""
        state = self.refresh(now)
        return AvailabilityReport(
            state, self._switch, self._since, sum(now - at < FLAP_MEMORY_SECONDS for at in self._lost)
        )

    def _now_state(self) -> State:
        return "offline" if self._switch == "offline" else best([health.state for health in self._endpoints])


def markdown() -> str:
    """The states of a parent as `docs/sync.md` has them."""
    lines = ["| a parent that is | after | is |", "|---|---|---|"]
    lines += [f"| {before} | {event} | {after} |" for (before, event), after in TABLE.items()]
    return "\n".join(lines)
