"""The operator's switch of each parent: kept in the store, obeyed by all connections to that parent, and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.errors import StoreError
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.http.health import SKEW_SECONDS, Switch, Verdict
from holdfast.log import log
from holdfast.oci.names import shown
from holdfast.resources.model import ResourceStruct
from holdfast.timestamps import stamp

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent


#: one quiet record: the names of the parents that are switched off
KIND, NAME = "parents", "self"
#: what the parent without a name is called
UNNAMED = "default"


class ParentReport(ResourceStruct, frozen=True):
    """One parent for the API. `since` is when its state began; `losses` are those of the last half hour; the limits
    are the parent's own, null where it names none."""

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
    """A difference between clocks as text, in steps that do not change with each report."""
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


#: what to do about a parent that is reachable and fulfils no request
REMEDIES: dict[str, str] = {
    "denied": "it refuses the login; look at the name and the password in its `credentials`",
    "untrusted": "its certificate proves nothing here; look at `ca`, its host name and its certificate",
}


def trouble_of(parent: Parent) -> str:
    """A sentence about a parent that fulfils no request, "" for any other."""
    name, verdict = parent.name or parent.url, parent.verdict
    if verdict in REMEDIES and parent.fault is not None:
        return f"parent {name} is {verdict}: {REMEDIES[verdict]} ({parent.fault.reason})"
    if verdict == "offline":
        if parent.availability.switch == "offline":
            why = " because an operator switched it off"
            advice = f"`holdfast parent set {parent.name or UNNAMED} auto` switches it on again"
        else:
            why = f" ({parent.last_failure})" if parent.last_failure else ""
            advice = "look at its `url`, at DNS and the link; the node tries it again by itself"
        return f"parent {name} is offline{why}: what is held is served, what is not is refused; {advice}"
    if parent.upstream_outage:
        return (
            f"parent {name}: {parent.upstream_outage}; what none of those below it holds is refused; `holdfast status`"
            " at the parent says why"
        )
    if abs(parent.clock_ahead) > SKEW_SECONDS:
        way = "behind" if parent.clock_ahead > 0 else "ahead of"
        return (
            f"the clock of this node is {apart(abs(parent.clock_ahead))} {way} that of parent {name}: leases, tokens"
            " and windows go wrong; set it, or have it set by NTP"
        )
    return ""


class Switches:
    """The switches of all parents of a node. `managed`: the namespace of the parent whose connected registry this node
    is, None for a node that is none."""

    def __init__(
        self, store: Store, parents: Mapping[str, Parent], clock: Clock, managed: str | None = None
    ) -> None:
        self._store, self._clock, self._managed = store, clock, managed
        self._parents = {name or UNNAMED: parent for name, parent in parents.items()}
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Set the switches as the store has them; called before any request is sent."""
        try:
            held = self._store.documents.get(KIND, NAME)
            names = msgspec.json.decode(held.body, type=list[str]) if held is not None else []
        except (StoreError, msgspec.DecodeError) as error:
            # to stay offline for ever because of a damaged record would be worse than a packet
            log.error("switches of the parents cannot be read; all are auto", reason=str(error))
            return
        for name in names:
            if (parent := self._parents.get(name)) is not None:
                log.warning("parent is switched off", parent=name)
                await parent.set_switch("offline")

    async def set(self, name: str, switch: Switch) -> None:
        """Store a switch, then obey it. Raises ControlUnknown and StoreError."""
        parent = self._parents.get(name)
        if parent is None:
            known = ", ".join(sorted(self._parents)) or "none"
            raise errors.ControlUnknown(f"no parent {shown(name)!r}; there are: {known}", field="name")
        async with self._writing:
            off = {one for one, other in self._parents.items() if other.availability.switch == "offline"}
            off = off | {name} if switch == "offline" else off - {name}
            body = msgspec.json.encode(sorted(off))

            def plan(_: ResourceView) -> Sequence[ResourceChange]:
                return [ResourceChange(KIND, NAME, body if off else None)]

            await asyncio.shield(
                asyncio.wrap_future(self._store.documents.change(plan, quiet=frozenset({KIND})))
            )
            log.warning("parent switched", parent=name, switch=switch)
            await parent.set_switch(switch)

    def reports(self) -> list[ParentReport]:
        """The reports of all parents, by name."""
        return [self._report(name, parent) for name, parent in sorted(self._parents.items())]

    def _report(self, name: str, parent: Parent) -> ParentReport:
        now = self._clock.monotonic()
        state, counters = parent.availability.report(now), parent.counters
        return ParentReport(
            name=name,
            url=parent.url,
            state=parent.verdict,
            switch=state.switch,
            since=stamp(self._clock.now() - (now - state.since)),
            losses=state.losses,
            requests=counters["requests"],
            rate_limit=counters.get("ratelimit_limit"),
            rate_limit_remaining=counters.get("ratelimit_remaining"),
            note=self._note(name, state.switch) or (parent.fault.reason if parent.fault else ""),
        )

    def _note(self, name: str, switch: Switch) -> str:
        if switch == "offline" and self._managed is not None and name == (self._managed or UNNAMED):
            return (
                "no request is sent to its gateway either: the lease of this connected registry expires, and tokens"
                " that are revoked there stay valid here"
            )
        return ""
