"""Whether a parent is there, for the whole node: what its endpoints' health says, the operator's word above it, and
what synchronisation may do. Pure; `now` is monotonic seconds.

`parent.health.Health` decides about one endpoint: online, degraded, offline, with hysteresis, one probe an interval
whatever the load. Here several are one parent, `offline` by an operator stops also the probes, and bulk work waits
until a parent that came back has stayed for a while: a link that flaps would otherwise start and lose a transfer
each time.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from holdfast.parent.health import Health, State, Switch, best

#: bulk work begins this long after a parent came back, doubled for each time it was lost within the memory, up to a
#: bound
SETTLE_SECONDS, SETTLE_CEILING_SECONDS = 5.0, 300.0
FLAP_MEMORY_SECONDS = 1800.0

#: what leads from one state to another, for the documents; `Health` acts on it
TABLE: dict[tuple[State, str], State] = {
    ("online", "a failure"): "degraded",
    ("online", "no connection in time"): "offline",
    ("degraded", "two good answers in a row"): "online",
    ("degraded", "three failures in a row"): "offline",
    ("degraded", "no connection in time"): "offline",
    ("offline", "a probe that is answered"): "degraded",
}


class Seen(Struct, frozen=True):
    """For the API and `/readyz`. `since` is when the state began (monotonic seconds); `losses` within the memory."""

    state: State
    switch: Switch
    since: float
    losses: int


class Availability:
    """One parent's."""

    def __init__(self, endpoints: Sequence[Health], now: float, switch: Switch = "auto") -> None:
        self._endpoints = endpoints
        self._switch: Switch = switch
        self._state = self._now_state()
        self._since = now
        self._lost: list[float] = []
        self.turn(switch, now)

    @property
    def switch(self) -> Switch:
        """The operator's word."""
        return self._switch

    def turn(self, switch: Switch, now: float) -> None:
        """The operator's word. `auto` after `offline` has the endpoints probed at once."""
        self._switch = switch
        for health in self._endpoints:
            health.turn(switch, now)
        self.look(now)

    def look(self, now: float) -> State:
        """The state; notes when it changed. Costs nothing that waits."""
        found = self._now_state()
        if found == self._state:
            return found
        if found == "offline" and self._switch == "auto":
            self._lost = [at for at in self._lost if now - at < FLAP_MEMORY_SECONDS] + [now]
        if "offline" in (found, self._state):
            self._since = now
        self._state = found
        return found

    def may_synchronise(self, now: float) -> bool:
        """Whether bulk work may go on: the parent is there, and has been for long enough."""
        return self.look(now) != "offline" and now - self._since >= self.settling(now)

    def settling(self, now: float) -> float:
        """Seconds that the parent must have been there before bulk work begins; none before it was ever lost."""
        lost = [at for at in self._lost if now - at < FLAP_MEMORY_SECONDS]
        return min(SETTLE_SECONDS * 2.0 ** (len(lost) - 1), SETTLE_CEILING_SECONDS) if lost else 0.0

    def transfers(self, most: int, now: float) -> int:
        """How many bulk transfers at once: one while the parent is not well."""
        if not self.may_synchronise(now):
            return 0
        return 1 if self._state == "degraded" else most

    def seen(self, now: float) -> Seen:
        """What to show."""
        state = self.look(now)
        return Seen(
            state, self._switch, self._since, sum(now - at < FLAP_MEMORY_SECONDS for at in self._lost)
        )

    def _now_state(self) -> State:
        return "offline" if self._switch == "offline" else best([health.state for health in self._endpoints])


def markdown() -> str:
    """The states of a parent as `docs/sync.md` has them."""
    lines = ["| a parent that is | after | is |", "|---|---|---|"]
    lines += [f"| {before} | {event} | {after} |" for (before, event), after in TABLE.items()]
    return "\n".join(lines)
