"""Is the endpoint there? A pure state machine with hysteresis: events and `now` in, a verdict out.

    online    ── a failure ──────────────────────────────▶ degraded
    degraded  ── two good answers in a row ──────────────▶ online
    any       ── no connection in time, or 3 failures ───▶ offline
    offline   ── a probe that is answered ───────────────▶ degraded

An operator's `offline` goes above all of it: nothing is asked then, not even by a probe.
Offline, nothing is asked but one probe an interval; a pull learns of it at once instead of paying a
time-out. Answers 5xx do not make an endpoint offline, but five in a row for one repository are believed
for 30 s (reliability.md P2); it is kept by repository, because one broken object must not stop the others.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, NamedTuple

from holdfast.errors import KnownOffline, ParentFailed, StillErring
from holdfast.parent.retry import TRIES

State = Literal["online", "degraded", "offline"]
#: the operator's word: let the state machine decide, or ask the parent nothing at all
Switch = Literal["auto", "offline"]
#: what is shown of an endpoint that answers and gives nothing: it refuses our login, or cannot prove who it is
Refused = Literal["denied", "untrusted"]
Verdict = State | Refused
#: a level above that was said to be away is shown for so long, unless it is said again (seconds)
ABOVE_SECONDS = 120.0
#: clocks that differ by more than this are shown (seconds): tokens, leases and windows go by them
SKEW_SECONDS = 60.0

STRIKES, WINS = 3, 2
BREAKER_SECONDS = 30.0
REPOSITORIES = 1024


class Fault(NamedTuple):
    """Why an endpoint that is there gives nothing before an operator looks at it."""

    kind: Refused
    reason: str


@dataclass(slots=True)
class _Erring:
    count: int = 0
    until: float = 0.0


@dataclass(slots=True)
class Health:
    """One endpoint's. All times are monotonic seconds."""

    probe_interval: float
    state: State = "online"
    _strikes: int = 0
    _wins: int = 0
    _next_probe: float = 0.0
    _erring: OrderedDict[str, _Erring] = field(default_factory=OrderedDict)
    switch: Switch = "auto"
    #: None once it gave something again
    fault: Fault | None = None
    #: what it said of a level above it that is away; "" once it gave something again
    above: str = ""
    above_at: float = 0.0
    #: why it could not be reached the last time
    reason: str = ""
    #: by how much its clock is ahead of ours (seconds), as it said the last time
    ahead: float = 0.0
    _ahead_before: float = 0.0

    def turn(self, switch: Switch, now: float) -> None:
        """What an operator says goes before what is found. Back to auto the endpoint counts as offline until a probe,
        which is due at once, was answered."""
        if self.switch == "offline" and switch == "auto":
            self.state, self._next_probe = "offline", now
        self.switch = switch

    def refusal(self, now: float, repository: str) -> ParentFailed | None:
        """Why not to ask at all now, or None to go ahead."""
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
        """Any answer below 500."""
        self._erring.pop(repository, None)
        self._good()

    def said(self, ahead: float) -> None:
        """By how much its clock is ahead, of one answer. The smaller of two in a row counts: the other one was on its
        way for long, or old."""
        self.ahead, self._ahead_before = min(ahead, self._ahead_before, key=abs), ahead

    def gave(self, repository: str) -> None:
        """What was asked for, so that it took the login, if it wants one."""
        self.fault, self.above = None, ""
        self.answered(repository)

    def refused(self, fault: Fault) -> None:
        """It refuses whatever is asked, or is not who it should be. It is there."""
        self.fault = fault

    def erred(self, now: float, repository: str) -> None:
        """An answer of 500 and above: it is there, and it is not well."""
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
        """No answer. `decisive`: not even a connection within its time-out."""
        self._wins = 0
        self._strikes += 1
        if decisive or self._strikes >= STRIKES or self.state == "offline":
            self.state, self._next_probe = "offline", now + self.probe_interval
        else:
            self.state = "degraded"

    def probe_due(self, now: float) -> bool:
        """Whether to probe now; a yes counts as the interval's probe."""
        if self.switch == "offline" or self.state != "offline" or now < self._next_probe:
            return False
        self._next_probe = now + self.probe_interval
        return True

    def until_probe(self, now: float) -> float:
        """Seconds until a probe is due; the interval while the endpoint is there."""
        waits = self.state == "offline" and self.switch == "auto"
        return max(0.0, self._next_probe - now) if waits else self.probe_interval

    def _good(self) -> None:
        self._strikes = 0
        self._wins = 1 if self.state == "offline" else self._wins + 1
        if self.state != "online":
            self.state = "online" if self._wins >= WINS else "degraded"


def best(states: list[State]) -> State:
    """What several endpoints are together: as good as the best of them."""
    order: tuple[State, ...] = ("online", "degraded", "offline")
    return min(states, key=order.index)
