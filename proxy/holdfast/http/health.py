"""The health of an endpoint: a pure state machine with hysteresis; events and `now` in, a verdict out.

    online    ── a failure ──────────────────────────────▶ degraded
    degraded  ── two good answers in a row ──────────────▶ online
    any       ── no connection in time, or 3 failures ───▶ offline
    offline   ── a probe that is answered ───────────────▶ degraded

An operator's `offline` overrides all of it: no request is sent then, not even a probe. While an endpoint is offline it
gets one probe an interval and no request; a pull is refused at once instead of waiting for a time-out. Answers of 500
and above do not make an endpoint offline, but after five in a row for one repository its requests are refused for 30 s
(reliability.md P2); they are counted by repository, because one broken object must not stop the others.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, NamedTuple

from holdfast.errors import KnownOffline, ParentFailed, StillErring
from holdfast.http.retry import TRIES

State = Literal["online", "degraded", "offline"]
#: the operator's switch: let the state machine decide, or send the parent no request at all
Switch = Literal["auto", "offline"]
#: what is shown of an endpoint that is reachable and fulfils nothing: it refuses our login, or its certificate is wrong
Refused = Literal["denied", "untrusted"]
Verdict = Literal[State, Refused]
#: the words of a parent about a level above it are shown for so long, unless they come again (seconds)
ABOVE_SECONDS = 120.0
#: clocks that differ by more than this are shown (seconds): tokens, leases and windows go by them
SKEW_SECONDS = 60.0

STRIKES, WINS = 3, 2
BREAKER_SECONDS = 30.0
REPOSITORIES = 1024


class EndpointFault(NamedTuple):
    """Why an endpoint that is reachable fulfils no request until an operator acts."""

    kind: Refused
    reason: str


@dataclass(slots=True)
class _Erring:
    count: int = 0
    until: float = 0.0


@dataclass(slots=True)
class Health:
    """The health of one endpoint. All times are monotonic seconds."""

    probe_interval: float
    state: State = "online"
    _strikes: int = 0
    _wins: int = 0
    _next_probe: float = 0.0
    _erring: OrderedDict[str, _Erring] = field(default_factory=OrderedDict)
    switch: Switch = "auto"
    #: None once a request was fulfilled
    fault: EndpointFault | None = None
    #: its words about a level above it that is offline; "" once a request was fulfilled
    upstream_outage: str = ""
    upstream_outage_at: float = 0.0
    #: why it could not be reached the last time
    reason: str = ""
    #: by how much its clock is ahead of ours (seconds), by the last answers
    clock_ahead: float = 0.0
    _ahead_before: float = 0.0

    def set_switch(self, switch: Switch, now: float) -> None:
        """The operator's switch, which overrides the state. Back to auto the endpoint counts as offline until a probe,
        which is due at once, was answered."""
        if self.switch == "offline" and switch == "auto":
            self.state, self._next_probe = "offline", now
        self.switch = switch

    def refusal(self, now: float, repository: str) -> ParentFailed | None:
        """Why no request is sent now, or None to send it."""
        if self.switch == "offline":
            return KnownOffline(
                "the parent is switched off by the operator", retry_after=ceil(self.probe_interval)
            )
        if self.state == "offline":
            wait = ceil(max(1.0, self._next_probe - now))
            return KnownOffline("the parent is offline", retry_after=wait)
        erring = self._erring.get(repository)
        if erring is not None and now < erring.until:
            wait = ceil(erring.until - now)
            return StillErring("the parent keeps answering with errors", retry_after=wait)
        return None

    def answered(self, repository: str) -> None:
        """Count an answer below 500."""
        self._erring.pop(repository, None)
        self._good()

    def clock_measured(self, ahead: float) -> None:
        """Count by how much its clock is ahead, by one answer. The smaller of two in a row counts: the other one took
        long, or was old."""
        self.clock_ahead, self._ahead_before = min(ahead, self._ahead_before, key=abs), ahead

    def fulfilled(self, repository: str) -> None:
        """Count a request that was fulfilled: its login, if it wants one, was accepted."""
        self.fault, self.upstream_outage = None, ""
        self.answered(repository)

    def refused(self, fault: EndpointFault) -> None:
        """Count that it refuses every request, or is not trusted. It is reachable."""
        self.fault = fault

    def erred(self, now: float, repository: str) -> None:
        """Count an answer of 500 and above: it is reachable, and degraded."""
        self._strikes = self._wins = 0
        self.state = "degraded"
        erring = self._erring.setdefault(repository, _Erring())
        self._erring.move_to_end(repository)
        erring.count += 1
        if erring.count >= TRIES:
            erring.count, erring.until = 0, now + BREAKER_SECONDS
        while len(self._erring) > REPOSITORIES:
            self._erring.popitem(last=False)

    def unreachable(self, now: float, *, decisive: bool = False) -> None:
        """Count a request without answer. `decisive`: not even a connection within its time-out."""
        self._wins = 0
        self._strikes += 1
        if decisive or self._strikes >= STRIKES or self.state == "offline":
            self.state, self._next_probe = "offline", now + self.probe_interval
        else:
            self.state = "degraded"

    def probe_due(self, now: float) -> bool:
        """Whether to probe now; True counts as the interval's probe."""
        if self.switch == "offline" or self.state != "offline" or now < self._next_probe:
            return False
        self._next_probe = now + self.probe_interval
        return True

    def until_probe(self, now: float) -> float:
        """Seconds until a probe is due; the interval while the endpoint is reachable."""
        waits = self.state == "offline" and self.switch == "auto"
        return max(0.0, self._next_probe - now) if waits else self.probe_interval

    def _good(self) -> None:
        self._strikes = 0
        self._wins = 1 if self.state == "offline" else self._wins + 1
        if self.state != "online":
            self.state = "online" if self._wins >= WINS else "degraded"


def best(states: list[State]) -> State:
    """The best of several states."""
    order: tuple[State, ...] = ("online", "degraded", "offline")
    return min(states, key=order.index)
