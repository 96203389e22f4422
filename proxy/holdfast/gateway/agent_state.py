"""The state machine of a connected registry towards its parent. Pure: outcomes and `now` in, one action out.

    not active ── Activate ──▶ active ── Report, Fetch, Report, Fetch … ──▶ …
        ▲                        │
        └ another instance is active, or the operator deactivated this one ┘

Outside the window of its schedule a node sends nothing except during a contact: Activate if necessary, Fetch, one
Report. A contact takes place at the start, when an operator orders one, and once a day. Without it a wrong schedule
could not be corrected from the parent.

No state stops the node from serving what it holds: a failure means a pause and a sentence for /readyz. Times are
monotonic seconds, except `wall` (seconds since 1970), which only the schedule uses: the wall clock of an edge node may
jump by years.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from msgspec import Struct

from holdfast.backoff import Backoff
from holdfast.resources.cron import closed_for
from holdfast.resources.model import SyncProperties

#: after the first failure in a row; doubled by each, up to the poll interval or CEILING, whichever is less (seconds)
FIRST_PAUSE_SECONDS, CEILING_SECONDS = 1.0, 60.0
#: outside the window the schedule is evaluated again this often, because the wall clock may have been set (seconds)
LOOK_SECONDS = 60.0
#: between two requests for configuration, when the parent answers without waiting for a change (seconds)
LEAST_SECONDS = 1.0
#: longest time for which the parent may hold a request for configuration open (seconds)
WAIT_SECONDS = 55.0
#: between two contacts outside the window, and the longest pause after one that failed (seconds)
CONTACT_SECONDS, CONTACT_PAUSE_SECONDS = 86_400.0, 900.0


class AskActivation(Struct, frozen=True):
    """Ask to be the active instance."""


class FetchConfiguration(Struct, frozen=True):
    """Request the configuration if it differs from `etag`; the parent may wait `wait` seconds for a change."""

    etag: str
    wait: float


class SendReport(Struct, frozen=True):
    """Send the node's status, which renews the lease."""


class Rest(Struct, frozen=True):
    """Do nothing for `seconds`."""

    seconds: float


Action = AskActivation | FetchConfiguration | SendReport | Rest


class Activated(Struct, frozen=True):
    """The parent activated this instance as generation `generation`, with a lease of `lease` seconds."""

    generation: int
    lease: float


class Configured(Struct, frozen=True):
    """New configuration was received and kept."""

    etag: str
    sync: SyncProperties


class Unchanged(Struct, frozen=True):
    """The parent's configuration is the stored one."""


class Reported(Struct, frozen=True):
    """The parent accepted the report; the lease lasts `lease` seconds from when the report was sent."""

    lease: float


class OtherInstanceActive(Struct, frozen=True):
    """ALREADY_ACTIVATED: another instance is active."""


class Deactivated(Struct, frozen=True):
    """NOT_ACTIVATED: the operator deactivated this registry, so that another instance can take its place."""


class AccessRefused(Struct, frozen=True):
    """The parent refuses this node's credentials or its registry; an immediate retry would not help."""

    why: str


class NoAnswer(Struct, frozen=True):
    """No answer, or one that cannot be used."""

    why: str
    retry_after: float = 0.0


class BrokenOff(Struct, frozen=True):
    """The request for configuration was cancelled in favour of a pending report."""


Outcome = (
    Activated
    | Configured
    | Unchanged
    | BrokenOff
    | Reported
    | OtherInstanceActive
    | Deactivated
    | AccessRefused
    | NoAnswer
)


@dataclass(slots=True)
class AgentState:
    """The state of one instance. `poll` is the time between two reports. `etag` and `sync` are those of the stored
    configuration, "" and None before there is one. `jitter` returns a random number of seconds up to its argument."""

    poll: float
    jitter: Callable[[float], float]
    etag: str = ""
    sync: SyncProperties | None = None
    active: bool = False
    generation: int = 0
    #: when the lease ends, by the parent's last answer
    lease_until: float = 0.0
    _trouble: str = ""
    _lease: float = 0.0
    #: failed requests in a row, of any kind
    _failures: int = 0
    _due: float = 0.0
    _report_due: float = 0.0
    #: whether the last action was a report, for `apply`
    _is_reporting: bool = False
    #: reports in a row that failed, and the reason of the last failure
    _unreported: int = 0
    _why_unreported: str = ""
    #: a request for configuration was broken off: the next one is not held open, so that it gets an answer
    _is_owed: bool = False
    #: outside the window: when the next contact begins, and whether it already has the configuration
    _contact_at: float = -inf
    _is_answered: bool = False
    #: whether the last action was taken outside the window, for `apply`
    _is_outside: bool = False

    @property
    def trouble(self) -> str:
        """ "" while all is well; a sentence for the log and /readyz otherwise."""
        return self._trouble or self._why_unreported

    def restore(self, etag: str, sync: SyncProperties) -> None:
        """Take up the configuration that the store has."""
        self.etag, self.sync = etag, sync

    def next(self, now: float, wall: float) -> Action:
        """The next action. `apply` takes its outcome before this is called again."""
        closed = 0.0 if self.sync is None else closed_for(self.sync, wall)
        self._is_outside = closed > 0
        if self._is_outside:
            return self._next_outside(now, closed)
        if now < self._due:
            return Rest(self._due - now)
        self._is_reporting = self.active and now >= self._report_due
        if not self.active:
            return AskActivation()
        if self._is_reporting:
            return SendReport()
        is_held = self.etag and not self._is_owed
        return FetchConfiguration(self.etag, min(WAIT_SECONDS, self._report_due - now) if is_held else 0.0)

    def _next_outside(self, now: float, closed: float) -> Action:
        if now < self._contact_at:
            return Rest(min(closed, LOOK_SECONDS, self._contact_at - now))
        self._is_reporting = self.active and self._is_answered
        if not self.active:
            return AskActivation()
        return SendReport() if self._is_answered else FetchConfiguration(self.etag, 0.0)

    def contact(self, now: float) -> None:
        """Begin a contact now, also outside the window and during a pause after failures."""
        self._contact_at, self._is_answered = now, False
        if self._failures:
            self._due = now

    def holds_lease(self, now: float) -> bool:
        """Whether the parent's last answer rules out another active instance now."""
        return self.active and now < self.lease_until

    def apply(self, outcome: Outcome, started: float, now: float) -> None:
        """Change the state by the outcome of the action that `next` returned at `started`."""
        match outcome:
            case NoAnswer() | AccessRefused():
                self._pause(outcome, now)
            case BrokenOff():
                self._is_owed = True
                self._due = max(now, started + min(LEAST_SECONDS, self.poll))
                if not self._unreported:  # while reports fail, their back-off stays in force
                    self._report_due = now
            case OtherInstanceActive():
                self._lose("another instance of this connected registry is active (ALREADY_ACTIVATED)", now)
                self._due = now + self.poll / 2 + self.jitter(self.poll / 2)
            case Deactivated():
                # gives the other instance time to activate itself; then this one tries again
                self._lose("the operator deactivated this instance", now)
                self._due = now + max(self._lease, self.poll)
            case _:
                self._go_on(outcome, started, now)

    def _go_on(self, outcome: Outcome, started: float, now: float) -> None:
        # a report that failed while the parent could not be reached is sent again at once
        was_away, self._failures = self._failures > 1, 0
        self._trouble, self._due = "", now
        if self._unreported and was_away:
            self._report_due = now
        if isinstance(outcome, Activated):
            self.active, self.generation = True, outcome.generation
            self._renew(outcome.lease, started)
            # the configuration first: a token that was revoked meanwhile is refused at once
            self._report_due = now + min(self.poll, LEAST_SECONDS)
        elif isinstance(outcome, Reported):
            self._unreported, self._why_unreported = 0, ""
            self._renew(outcome.lease, started)
            if self._is_answered:
                self._is_answered, self._contact_at = False, now + CONTACT_SECONDS
            # three attempts to renew within a lease, also when `poll` is longer
            self._report_due = now + min(self.poll, outcome.lease / 3)
        elif isinstance(outcome, Configured):
            self.etag, self.sync = outcome.etag, outcome.sync
            self._report_due, self._is_owed = now, False
            self._is_answered, self._contact_at = True, now
        else:
            self._unchanged(started, now)

    def _unchanged(self, started: float, now: float) -> None:
        if self._is_outside:
            self._is_answered = True
            return
        self._contact_at = now + CONTACT_SECONDS
        if self._is_owed:
            self._is_owed = False
        else:
            self._due = max(now, started + min(LEAST_SECONDS, self.poll))

    def _renew(self, lease: float, started: float) -> None:
        """Set the end of the lease. It counts from the request's start, before the parent's count begins; a second
        less, because the parent counts in whole seconds."""
        self._lease, self.lease_until = lease, started + lease - 1.0

    def _lose(self, trouble: str, now: float) -> None:
        self._is_answered = False
        if self._is_outside:
            self._contact_at = now + CONTACT_PAUSE_SECONDS
        self.active, self.lease_until, self._trouble, self._failures = False, 0.0, trouble, 0
        self._unreported, self._why_unreported = 0, ""

    def _pause(self, outcome: NoAnswer | AccessRefused, now: float) -> None:
        at_least = outcome.retry_after if isinstance(outcome, NoAnswer) else 0.0
        self._failures += 1
        if self._is_outside:
            # outside the window an unreachable parent is no trouble
            self._trouble = outcome.why if isinstance(outcome, AccessRefused) else self._trouble
            self._is_answered = (
                False  # the next contact begins with the configuration, whichever request failed
            )
            self._contact_at = now + max(at_least, self._step(self._failures))
            return
        if not self._is_reporting:
            self._trouble = outcome.why
            self._due = now + max(at_least, self._step(self._failures))
            return
        # a failed report does not delay the configuration, by which revoked tokens are refused
        self._unreported += 1
        self._why_unreported = outcome.why
        self._due = now + self._step(self._failures)
        self._report_due = self._due + max(at_least, self._step(self._unreported))

    def _step(self, failures: int) -> float:
        """The pause after `failures` failures in a row (seconds)."""
        inside = min(CEILING_SECONDS, max(self.poll, FIRST_PAUSE_SECONDS))
        ceiling = CONTACT_PAUSE_SECONDS if self._is_outside else inside
        return Backoff(FIRST_PAUSE_SECONDS, ceiling, spread=0.5).delay(failures, self.jitter(1.0))
