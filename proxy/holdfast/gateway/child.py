"""What a connected registry does next towards its parent. Pure: answers and `now` in, one action out.

    not active ── Activate ──▶ active ── Report, Fetch, Report, Fetch … ──▶ …
        ▲                        │
        └── another is active, cut loose by the operator ┘

Nothing here ever stops the node from serving what it holds: a failure means a pause and a sentence for /readyz. Times
are monotonic seconds, but for `wall` (seconds since 1970), which only the schedule looks at: at the edge the wall clock
steps by years.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from holdfast.control.resource import SyncProperties
from holdfast.control.schedule import closed_for

#: after the first failure in a row; doubled by each, up to the poll interval or CEILING, whichever is less (seconds)
FIRST_PAUSE_SECONDS, CEILING_SECONDS = 1.0, 60.0
#: a closed schedule is looked at again this often, because the wall clock may have been set (seconds)
LOOK_SECONDS = 60.0
#: between two questions for configuration, when the parent answers without waiting for a change (seconds)
LEAST_SECONDS = 1.0
#: longest a parent is asked to hold a question for configuration open (seconds)
WAIT_SECONDS = 55.0


class Activate(Struct, frozen=True):
    """Ask to be the active instance."""


class Fetch(Struct, frozen=True):
    """Ask for configuration other than `etag`; the parent may wait `wait` seconds for a change."""

    etag: str
    wait: float


class Report(Struct, frozen=True):
    """Tell the node's status, which renews the lease."""


class Rest(Struct, frozen=True):
    """Do nothing for `seconds`."""

    seconds: float


Action = Activate | Fetch | Report | Rest


class Activated(Struct, frozen=True):
    """The parent said yes: this is generation `generation`, silent for `lease` seconds at most."""

    generation: int
    lease: float


class Configured(Struct, frozen=True):
    """New configuration was received and kept."""

    etag: str
    sync: SyncProperties


class Unchanged(Struct, frozen=True):
    """The configuration is the one that is held."""


class Reported(Struct, frozen=True):
    """The parent took the status; the lease runs `lease` seconds from when it was sent."""

    lease: float


class Elsewhere(Struct, frozen=True):
    """ALREADY_ACTIVATED: another instance is active."""


class CutLoose(Struct, frozen=True):
    """The operator deactivated this registry, to make room for another instance."""


class Denied(Struct, frozen=True):
    """The parent refuses this node's credentials or its registry; trying at once would not help."""

    why: str


class Failed(Struct, frozen=True):
    """No answer, or none that can be used."""

    why: str
    retry_after: float = 0.0


class BrokenOff(Struct, frozen=True):
    """The question for configuration gave way to something that is to be reported."""


Outcome = Activated | Configured | Unchanged | BrokenOff | Reported | Elsewhere | CutLoose | Denied | Failed


@dataclass(slots=True)
class Child:
    """One instance. `poll` is the time between two reports. `etag` and `sync` are of the configuration that is held,
    "" and None before there is any. `jitter` gives a random number of seconds up to its argument."""

    poll: float
    jitter: Callable[[float], float]
    etag: str = ""
    sync: SyncProperties | None = None
    active: bool = False
    generation: int = 0
    #: until when the parent keeps the place free for this instance, by what it said last
    lease_until: float = 0.0
    _trouble: str = ""
    _lease: float = 0.0
    #: in a row, whatever was asked
    _failures: int = 0
    _due: float = 0.0
    _report_due: float = 0.0
    #: what was asked last, for `took`
    _is_reporting: bool = False
    #: reports in a row that the parent did not take, and why it did not take the last one
    _unreported: int = 0
    _why_unreported: str = ""
    #: a question was broken off for a report: the next one is not held open, so that it is answered
    _is_owed: bool = False

    @property
    def trouble(self) -> str:
        """ "" while all is well; a sentence for the log and /readyz otherwise."""
        return self._trouble or self._why_unreported

    def next(self, now: float, wall: float) -> Action:
        """What to do. `took` tells how it went before this is asked again."""
        if now < self._due:
            return Rest(self._due - now)
        if self.sync is not None and (closed := closed_for(self.sync, wall)) > 0:
            return Rest(min(closed, LOOK_SECONDS))
        self._is_reporting = self.active and now >= self._report_due
        if not self.active:
            return Activate()
        if self._is_reporting:
            return Report()
        is_held = self.etag and not self._is_owed
        return Fetch(self.etag, min(WAIT_SECONDS, self._report_due - now) if is_held else 0.0)

    def holds_lease(self, now: float) -> bool:
        """Whether, by the parent's word, nobody else can be active now."""
        return self.active and now < self.lease_until

    def took(self, outcome: Outcome, asked: float, now: float) -> None:
        """What came of the action that `next` gave at `asked`."""
        match outcome:
            case Failed() | Denied():
                self._pause(outcome, now)
            case BrokenOff():
                self._is_owed = True
                self._due = max(now, asked + min(LEAST_SECONDS, self.poll))
                if not self._unreported:  # a parent that does not take reports is not hurried
                    self._report_due = now
            case Elsewhere():
                self._lose("another instance of this connected registry is active (ALREADY_ACTIVATED)")
                self._due = now + self.poll / 2 + self.jitter(self.poll / 2)
            case CutLoose():
                # a while for the instance that the operator made room for; then this one asks again
                self._lose("the operator deactivated this instance")
                self._due = now + max(self._lease, self.poll)
            case _:
                self._go_on(outcome, asked, now)

    def _go_on(self, outcome: Outcome, asked: float, now: float) -> None:
        # the link was away, and the report failed with it
        was_away, self._failures = self._failures > 1, 0
        self._trouble, self._due = "", now
        if self._unreported and was_away:
            self._report_due = now
        if isinstance(outcome, Activated):
            self.active, self.generation = True, outcome.generation
            self._renew(outcome.lease, asked)
            # the configuration first: what was revoked while this node was away counts at once
            self._report_due = now + min(self.poll, LEAST_SECONDS)
        elif isinstance(outcome, Reported):
            self._unreported, self._why_unreported = 0, ""
            self._renew(outcome.lease, asked)
            # three chances to renew, whatever this node's own configuration says
            self._report_due = now + min(self.poll, outcome.lease / 3)
        elif isinstance(outcome, Configured):
            self.etag, self.sync = outcome.etag, outcome.sync
            self._report_due, self._is_owed = now, False
        elif self._is_owed:
            self._is_owed = False
        else:
            self._due = max(now, asked + min(LEAST_SECONDS, self.poll))

    def _renew(self, lease: float, asked: float) -> None:
        """Counted from the asking: the parent counts from the hearing, which is later, but in whole seconds."""
        self._lease, self.lease_until = lease, asked + lease - 1.0

    def _lose(self, trouble: str) -> None:
        self.active, self.lease_until, self._trouble, self._failures = False, 0.0, trouble, 0
        self._unreported, self._why_unreported = 0, ""

    def _pause(self, outcome: Failed | Denied, now: float) -> None:
        at_least = outcome.retry_after if isinstance(outcome, Failed) else 0.0
        self._failures += 1
        if not self._is_reporting:
            self._trouble = outcome.why
            self._due = now + max(at_least, self._step(self._failures))
            return
        # configuration is asked for whatever becomes of the report: what was revoked above counts here
        self._unreported += 1
        self._why_unreported = outcome.why
        self._due = now + self._step(self._failures)
        self._report_due = self._due + max(at_least, self._step(self._unreported))

    def _step(self, failures: int) -> float:
        """The pause after so many failures in a row (seconds)."""
        ceiling = min(CEILING_SECONDS, max(self.poll, FIRST_PAUSE_SECONDS))
        pause = min(ceiling, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16))
        return pause / 2 + self.jitter(pause / 2)
