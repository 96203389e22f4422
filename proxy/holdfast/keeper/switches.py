"""The operator's switch of each parent: written down, obeyed by everything that speaks to that parent, and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog
from holdfast_core.errors import StoreError
from holdfast_core.record import ResourceChange
from holdfast_core.resources import ResourceView
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.control.moment import stamp
from holdfast.control.resource import Wire
from holdfast.parent.health import SKEW_SECONDS, Switch, Verdict
from holdfast.wire.names import shown

if TYPE_CHECKING:
    from holdfast.parent.client import Parent

log = structlog.get_logger()

#: one quiet record: the names of the parents that are switched off
KIND, NAME = "parents", "self"
#: what the parent without a name is called
UNNAMED = "default"


class ParentReport(Wire, frozen=True):
    """One parent, as it is shown. `since` is when it went or came; `losses` are those of the last half hour; the limits
    are the parent's own words about requests, null where it says nothing."""

    name: str
    url: str
    state: Verdict
    switch: Switch
    since: str
    losses: int
    requests: int
    rate_limit: int | None
    rate_limit_remaining: int | None
    note: str


def apart(seconds: float) -> str:
    """A difference between clocks, in steps that do not change with each look."""
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


#: what to do about a parent that is there and gives nothing
REMEDIES: dict[str, str] = {
    "denied": "it refuses the login; look at the name and the password in its `credentials`",
    "untrusted": "its certificate proves nothing here; look at `ca`, its host name and its certificate",
}


def trouble_of(parent: Parent) -> str:
    """A sentence about a parent from which nothing can be had, "" where something can."""
    name, verdict = parent.name or parent.url, parent.verdict
    if verdict in REMEDIES and parent.fault is not None:
        return f"parent {name} is {verdict}: {REMEDIES[verdict]} ({parent.fault.reason})"
    if verdict == "offline":
        why = f" ({parent.outage})" if parent.outage and parent.availability.switch == "auto" else ""
        return f"parent {name} is offline{why}: what is held is served, what is not is refused"
    if parent.above:
        return f"parent {name}: {parent.above}; what none of those below it holds is refused"
    if abs(parent.ahead) > SKEW_SECONDS:
        way = "behind" if parent.ahead > 0 else "ahead of"
        return (
            f"the clock of this node is {apart(abs(parent.ahead))} {way} that of parent {name}: leases, tokens and"
            " windows go wrong; set it, or have it set by NTP"
        )
    return ""


class Switches:
    """Of all parents of a node. `managed`: the namespace of the parent whose connected registry this node is, None for
    a node that is none."""

    def __init__(
        self, store: Store, parents: Mapping[str, Parent], clock: Clock, managed: str | None = None
    ) -> None:
        self._store, self._clock, self._managed = store, clock, managed
        self._parents = {name or UNNAMED: parent for name, parent in parents.items()}
        self._turn = asyncio.Lock()

    async def take_up(self) -> None:
        """Obey what was written down; before anything speaks to a parent."""
        try:
            held = self._store.resource(KIND, NAME)
            names = msgspec.json.decode(held.body, type=list[str]) if held is not None else []
        except (StoreError, msgspec.DecodeError) as error:
            # to be silent for ever because of a damaged record would be worse than a packet
            log.error("switches of the parents cannot be read; all are auto", reason=str(error))
            return
        for name in names:
            if (parent := self._parents.get(name)) is not None:
                log.warning("parent is switched off", parent=name)
                await parent.turn("offline")

    async def turn(self, name: str, switch: Switch) -> None:
        """Write it down, then obey it. Raises ControlUnknown and StoreError."""
        parent = self._parents.get(name)
        if parent is None:
            there = ", ".join(sorted(self._parents)) or "none"
            raise errors.ControlUnknown(f"no parent {shown(name)!r}; there are: {there}", field="name")
        async with self._turn:
            off = {one for one, other in self._parents.items() if other.availability.switch == "offline"}
            off = off | {name} if switch == "offline" else off - {name}
            body = msgspec.json.encode(sorted(off))

            def plan(_: ResourceView) -> Sequence[ResourceChange]:
                return [ResourceChange(KIND, NAME, body if off else None)]

            await asyncio.shield(
                asyncio.wrap_future(self._store.change_resources(plan, quiet=frozenset({KIND})))
            )
            log.warning("parent switched", parent=name, switch=switch)
            await parent.turn(switch)

    def reports(self) -> list[ParentReport]:
        """All of them, by name."""
        return [self._report(name, parent) for name, parent in sorted(self._parents.items())]

    def _report(self, name: str, parent: Parent) -> ParentReport:
        now = self._clock.monotonic()
        seen, counters = parent.availability.seen(now), parent.counters
        return ParentReport(
            name=name,
            url=parent.url,
            state=parent.verdict,
            switch=seen.switch,
            since=stamp(self._clock.now() - (now - seen.since)),
            losses=seen.losses,
            requests=counters["requests"],
            rate_limit=counters.get("ratelimit_limit"),
            rate_limit_remaining=counters.get("ratelimit_remaining"),
            note=self._note(name, seen.switch) or (parent.fault.reason if parent.fault else ""),
        )

    def _note(self, name: str, switch: Switch) -> str:
        if switch == "offline" and self._managed is not None and name == (self._managed or UNNAMED):
            return (
                "its gateway hears nothing either: the lease of this connected registry runs out, and what is revoked"
                " there is not heard of here"
            )
        return ""
