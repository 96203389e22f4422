"""When to synchronise. Pure: schedule, state and `now` (wall seconds) in; actions and the time of the next step out.

- The wall clock alone decides whether a window is open: from an occurrence of the schedule until `syncWindow` later.
  Outside a window only a run that an operator forces is started.
- Every occurrence requests one run, once, even when it is noticed late: `ScheduleState.covered` holds the spans of wall
  time that were covered, and an occurrence counts when its span is covered for the first time. So a clock that is set
  back requests no run twice, a clock that is set forward and back again skips none, and a machine that was off or
  suspended catches up with one run, however many occurrences it missed.
- A request stays until its run succeeded: a run that the end of a window, a kill or a clock stopped goes on in the next
  window.
- One run at a time. A request that comes meanwhile waits for its end.

The state is stored before its actions are carried out; a node that starts again calls `after_restart` first.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from holdfast import timestamps
from holdfast.resources.cron import Cron, ScheduleInvalid
from holdfast.timestamps import spoken

#: Why a run is requested; each trigger includes those before it. The last four are full synchronisations and have the
#: original's names (references.md 1.1, registrySyncResult).
CHANGES: Final = "Changes"
SCHEDULED: Final = "Scheduled"
RECOVERY, TOKEN_UPDATE, INITIAL, MANUAL = "RecoveryService", "SyncTokenUpdate", "InitialSync", "ManualResync"
TRIGGERS: Final = ("", CHANGES, SCHEDULED, RECOVERY, TOKEN_UPDATE, INITIAL, MANUAL)
FULL = frozenset({RECOVERY, TOKEN_UPDATE, INITIAL, MANUAL})

#: a node's delay after an occurrence is at most a tenth of its window, and at most this (seconds)
SPREAD_SECONDS = 600.0
CONTINUOUS_SPREAD_SECONDS = 6.0
#: longest sleep before the wall clock, which may have been set, is read again (seconds)
LOOK_SECONDS = 60.0
#: longest pause after a run that failed (seconds), also when the clock was set back
AGAIN_SECONDS = 3600.0
#: spans of wall time that are kept; one is added for each gap of more than one occurrence
SPANS = 8


class Schedule:
    """A schedule of runs. `window` is in seconds, None when a run may last without bound; `continuous` means always
    connected, and the window is ignored. `ttl` is how long messages wait at the parent (seconds), in both modes
    (references.md 1.21)."""

    def __init__(self, cron: Cron, window: float | None, ttl: float) -> None:
        self.cron, self.ttl = cron, ttl
        self.continuous = cron.every_minute
        self.window = None if self.continuous else window

    @classmethod
    def parse(cls, schedule: str, window: str | None = None, ttl: str = "P2D") -> Schedule:
        """Parses the texts of a connected registry or of `[sync]`. Raises ScheduleInvalid."""
        cron = Cron(schedule)
        length = None if not window else seconds(window, "window")
        if length is not None and not cron.every_minute:
            gap = cron.shortest_gap(length)
            if length > gap:
                raise ScheduleInvalid(
                    f"the window {window} is longer than the shortest time between two occurrences of"
                    f" {cron.text!r} ({spoken(gap)}); shorten the window, or use '* * * * *' to stay connected"
                )
        return cls(cron, length, seconds(ttl, "message TTL"))

    def delay(self, share: float) -> float:
        """Returns the seconds by which this node starts after an occurrence; `share` from 0 to 1 is the node's own."""
        if self.continuous:
            return share * CONTINUOUS_SPREAD_SECONDS
        return share * min(SPREAD_SECONDS, (self.window or 10 * SPREAD_SECONDS) / 10)

    def closes(self, now: float, share: float) -> float | None:
        """Returns the end of the window that is open now (wall seconds), None when none is open, infinity where runs
        may last without bound."""
        if self.window is None:
            return float("inf")
        opened = self.cron.around(now - self.delay(share))[0]
        return opened + self.window if now < opened + self.window else None

    def closed_for(self, now: float) -> float:
        """Returns the seconds until the window opens for a node with share 0; 0 while it is open."""
        return 0.0 if self.closes(now, 0.0) is not None else self.cron.around(now)[1] - now

    def warnings(self) -> list[str]:
        """Returns sentences about settings that are valid and will not serve well."""
        gap = self.cron.shortest_gap()
        if self.continuous or self.ttl >= 2 * gap:
            return []
        return [
            f"messages expire after {spoken(self.ttl)}, and the schedule {self.cron.text!r} fires every"
            f" {spoken(gap)}: one missed window makes the next synchronisation a full one; use a TTL of"
            f" {spoken(2 * gap)} or more"
        ]


class TimeSpan(Struct, frozen=True, array_like=True):
    """A span of wall time that was covered, both ends included (wall seconds)."""

    since: float
    until: float


class ScheduleState(Struct, frozen=True, rename={"covered": "lived", "requested": "asked"}):
    """The state between two steps, as it is stored. `requested` and `running` are triggers, "" for none. `missed`
    counts how often occurrences passed unnoticed (off, suspended, another clock) since the last run began. `synced_at`
    is when all of the parent's changes were known last (wall seconds), 0 never. `forced`: the run does not wait for a
    window. In the store `covered` is `lived`, and `requested` is `asked`."""

    covered: tuple[TimeSpan, ...] = ()
    requested: str = ""
    running: str = ""
    forced: bool = False
    missed: int = 0
    synced_at: float = 0.0
    again_at: float = 0.0


class StartRun(Struct, frozen=True):
    """Begin a run, or go on with one. It has to end at `closes` (wall seconds, infinity without bound)."""

    trigger: str
    closes: float
    missed: int = 0


class CancelRun(Struct, frozen=True):
    """Stop the run; what was fetched stays."""

    reason: str


class Due(Struct, frozen=True):
    """The new state and what to do. `connected`: whether requests to the parent are allowed now. `wake`: when the next
    step is due (wall seconds)."""

    state: ScheduleState
    actions: tuple[StartRun | CancelRun, ...]
    connected: bool
    closes: float | None
    wake: float

    def pause(self, now: float) -> float:
        """Returns the seconds to sleep, short enough to notice a clock that was set."""
        return min(max(self.wake - now, 0.0), LOOK_SECONDS)


def due(schedule: Schedule, state: ScheduleState, now: float, share: float = 0.0) -> Due:
    """Returns what to do now. Idempotent: with the state that it returns and the same `now` there is no action."""
    state = _cover(schedule, state, now, share)
    state = _request_recovery(schedule, state, now)
    closes = schedule.closes(now, share)
    actions: list[StartRun | CancelRun] = []
    if state.running and closes is None and not state.forced:
        actions.append(CancelRun("the window is over"))
        state = replace(state, running="", requested=broader(state.running, state.requested))
    if (
        state.requested
        and not state.running
        and (closes is not None or state.forced)
        and _is_pause_over(state, now)
    ):
        end = float("inf") if closes is None or state.forced else closes
        actions.append(StartRun(state.requested, end, state.missed))
        state = replace(state, requested="", running=state.requested, missed=0, again_at=0.0)
    return Due(state, tuple(actions), closes is not None, closes, _next_wake(schedule, state, now, share))


def request_run(state: ScheduleState, trigger: str, *, force: bool = False) -> ScheduleState:
    """The state after a request for a run: by a change that arrived, a changed scope, or an operator. With `force` the
    run does not wait for a window and lasts until it is done."""
    if not force:
        return replace(state, requested=broader(state.requested, trigger))
    again_at = 0.0  # an operator does not wait for a backoff either
    return replace(state, requested=broader(state.requested, trigger), forced=True, again_at=again_at)


def end_run(state: ScheduleState, now: float, *, again_in: float | None = None) -> ScheduleState:
    """The state after the end of the run. `again_in` is None after a success, else the pause before the next try
    (seconds)."""
    if again_in is None:
        return replace(state, running="", forced=False, synced_at=now)
    return replace(
        state,
        running="",
        forced=False,
        requested=broader(state.running, state.requested),
        again_at=now + min(again_in, AGAIN_SECONDS),
    )


def after_restart(state: ScheduleState) -> ScheduleState:
    """The state of a node that starts: no run is under way, and the one that was is requested again."""
    return replace(state, running="", requested=broader(state.running, state.requested))


def broader(one: str, other: str) -> str:
    """Returns the one of two triggers that includes the other."""
    return max(one, other, key=TRIGGERS.index)


def seconds(text: str, what: str) -> float:
    """Returns an ISO 8601 duration in seconds; `what` names it in the error. Raises ScheduleInvalid."""
    length = timestamps.duration(text)
    if length is None or length.total_seconds() <= 0:
        raise ScheduleInvalid(
            f"the {what} {text[:80]!r} is no duration; allowed: ISO 8601 in weeks, days, hours, minutes, such as PT4H"
        )
    return length.total_seconds()


def _cover(schedule: Schedule, state: ScheduleState, now: float, share: float) -> ScheduleState:
    """The state after covering the time up to now; an occurrence in the newly covered time requests a run."""
    at = now - schedule.delay(share)
    near = max((s for s in state.covered if s.since <= at), key=lambda s: s.since, default=None)
    last, _ = schedule.cron.around(at)
    if near is None:
        over = schedule.window is not None and now >= last + schedule.window
        return _request_occurrence(state, _add_span(state.covered, None, TimeSpan(at, at)), missed=over)
    passed = _is_occurrence_skipped(schedule, state, near)
    if at <= near.until or last <= near.until:
        covered = _add_span(state.covered, near, TimeSpan(near.since, max(at, near.until)))
        return _request_occurrence(state, covered, missed=True) if passed else replace(state, covered=covered)
    # the gap requests one run and is not covered, so that its occurrences count when a clock set back reaches them
    # again
    several = schedule.cron.around(last - 1)[0] > near.until
    over = schedule.window is not None and now >= last + schedule.window
    if over or several:
        span = TimeSpan(at if over else last, at)
        if over and any(s.since > at for s in state.covered):  # requested when the clock went over it
            return replace(state, covered=_add_span(state.covered, None, span))
        return _request_occurrence(state, _add_span(state.covered, None, span), missed=True)
    return _request_occurrence(state, _add_span(state.covered, near, TimeSpan(near.since, at)), missed=False)


def _is_occurrence_skipped(schedule: Schedule, state: ScheduleState, near: TimeSpan) -> bool:
    """Whether an occurrence lies between the span that was covered last and `near`, into which the clock was set."""
    here = state.covered[-1]
    return here.until < near.since and schedule.cron.around(near.since - 1)[0] > here.until


def _request_occurrence(
    state: ScheduleState, covered: tuple[TimeSpan, ...], *, missed: bool
) -> ScheduleState:
    """The state after an occurrence, which does not wait for the pause after a failure."""
    count = state.missed + int(missed)
    return replace(
        state, covered=covered, requested=broader(state.requested, SCHEDULED), missed=count, again_at=0.0
    )


def _add_span(covered: tuple[TimeSpan, ...], old: TimeSpan | None, new: TimeSpan) -> tuple[TimeSpan, ...]:
    """Returns the spans with `new` in place of `old`, at the end; the oldest are dropped."""
    return (*(s for s in covered if s != old), new)[-SPANS:]


def _request_recovery(schedule: Schedule, state: ScheduleState, now: float) -> ScheduleState:
    """Requests a full synchronisation when the last one is longer ago than messages live. A last one in the future was
    stamped by a wrong clock and counts from now."""
    if state.synced_at > now:
        return replace(state, synced_at=now)
    trigger = broader(state.running, state.requested)
    if state.synced_at and now - state.synced_at > schedule.ttl and trigger not in FULL:
        return replace(state, requested=broader(state.requested, RECOVERY))
    return state


def _is_pause_over(state: ScheduleState, now: float) -> bool:
    """Whether the pause after a failed run is over; true as well when the clock was set back to before the failure."""
    return not state.again_at - AGAIN_SECONDS <= now < state.again_at


def _next_wake(schedule: Schedule, state: ScheduleState, now: float, share: float) -> float:
    delay = schedule.delay(share)
    moments = [schedule.cron.around(now - delay)[1] + delay]
    closes = schedule.closes(now, share)
    if closes is not None:
        moments.append(closes)  # without a run as well: pushes are sent and changes are received until then
    if state.requested and not state.running and not _is_pause_over(state, now):
        moments.append(state.again_at)
    if state.synced_at and state.synced_at + schedule.ttl > now:
        moments.append(state.synced_at + schedule.ttl + 1)
    return min(moments)
