"""When to synchronise. Pure: schedule, state and `now` (wall seconds) in; actions and when to look again out.

- A window is open by the wall clock alone: from an occurrence of the schedule until `syncWindow` later. Outside nothing
  runs but what an operator forces.
- Every occurrence asks for one run, once, whenever it is noticed: `State.lived` holds the stretches of wall time that
  were lived through, and an occurrence counts when its stretch is lived for the first time. So a clock that is set back
  asks for nothing twice, one that is set forward and back again skips nothing, and a machine that was off or suspended
  catches up once, however much it missed.
- What was asked for stays asked for until it ended well: a run that a window's end, a kill or a clock cut off goes
  on in the next window.
- One run at a time. What is asked for meanwhile follows it.

The state is stored before its actions are taken; a node that starts again calls `woken` first.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from holdfast.control import rules
from holdfast.sync.cron import Cron, ScheduleInvalid

#: Why a run is asked for; a later one includes an earlier one. The last four are full synchronisations and have the
#: original's names (connected-registry 1.2, registrySyncResult).
CHANGES: Final = "Changes"
SCHEDULED: Final = "Scheduled"
RECOVERY, TOKEN_UPDATE, INITIAL, MANUAL = "RecoveryService", "SyncTokenUpdate", "InitialSync", "ManualResync"
TRIGGERS: Final = ("", CHANGES, SCHEDULED, RECOVERY, TOKEN_UPDATE, INITIAL, MANUAL)
FULL = frozenset({RECOVERY, TOKEN_UPDATE, INITIAL, MANUAL})

#: a node starts up to a tenth of its window after the others, and at most this much
SPREAD_SECONDS = 600.0
CONTINUOUS_SPREAD_SECONDS = 6.0
#: never sleep longer than this without looking at the wall clock, which may have been set
LOOK_SECONDS = 60.0
#: a run that failed is asked for again no later than this, also when the clock was set back
AGAIN_SECONDS = 3600.0
#: stretches of wall time remembered; one is added for each gap of more than one occurrence
STRETCHES = 8


class Schedule:
    """A schedule that can be kept. `window` None: a run has no end; `continuous`: always connected, and the window is
    ignored. `ttl` is how long messages wait at the parent, in both modes (connected-registry 8, contradiction 5)."""

    def __init__(self, cron: Cron, window: float | None, ttl: float) -> None:
        self.cron, self.ttl = cron, ttl
        self.continuous = cron.every_minute
        self.window = None if self.continuous else window

    @classmethod
    def parse(cls, schedule: str, window: str | None = None, ttl: str = "P2D") -> Schedule:
        """From the texts of a connected registry or of `[sync]`. Raises ScheduleInvalid."""
        cron = Cron(schedule)
        found = None if not window else seconds(window, "window")
        if found is not None and not cron.every_minute:
            gap = cron.shortest_gap(found)
            if found > gap:
                raise ScheduleInvalid(
                    f"the window {window} is longer than the shortest time between two occurrences of"
                    f" {cron.text!r} ({spoken(gap)}); shorten the window, or use '* * * * *' to stay connected"
                )
        return cls(cron, found, seconds(ttl, "message TTL"))

    def delay(self, share: float) -> float:
        """Seconds by which this node starts after an occurrence; `share` from 0 to 1 is its own."""
        if self.continuous:
            return share * CONTINUOUS_SPREAD_SECONDS
        return share * min(SPREAD_SECONDS, (self.window or 10 * SPREAD_SECONDS) / 10)

    def closes(self, now: float, share: float) -> float | None:
        """The end of the window that is open now, None when none is; without bound where runs have no end."""
        if self.window is None:
            return float("inf")
        opened = self.cron.around(now - self.delay(share))[0]
        return opened + self.window if now < opened + self.window else None

    def warnings(self) -> list[str]:
        """What can be kept and will disappoint."""
        gap = self.cron.shortest_gap()
        if self.continuous or self.ttl >= 2 * gap:
            return []
        return [
            f"messages expire after {spoken(self.ttl)}, and the schedule {self.cron.text!r} fires every"
            f" {spoken(gap)}: one missed window makes the next synchronisation a full one; use a TTL of"
            f" {spoken(2 * gap)} or more"
        ]


class Stretch(Struct, frozen=True, array_like=True):
    """Wall time that was lived through, both ends included."""

    since: float
    until: float


class State(Struct, frozen=True):
    """What is remembered between two looks, and stored. `asked` and `running` are triggers, "" for none. `missed`
    counts the times that occurrences passed unnoticed (off, suspended, another clock), since the last run began.
    `synced_at` is when the parent's changes were last all known (wall seconds), 0 never. `forced`: an operator wants
    it now."""

    lived: tuple[Stretch, ...] = ()
    asked: str = ""
    running: str = ""
    forced: bool = False
    missed: int = 0
    synced_at: float = 0.0
    again_at: float = 0.0


class Start(Struct, frozen=True):
    """Begin, or go on with, a run. It must be over at `closes` (wall seconds, without bound where it may last)."""

    trigger: str
    closes: float
    missed: int = 0


class Cancel(Struct, frozen=True):
    """Stop at the byte; what is here stays here."""

    reason: str


class Due(Struct, frozen=True):
    """`connected`: whether the parent may be talked to now. `wake`: wall seconds of the next thing to do."""

    state: State
    actions: tuple[Start | Cancel, ...]
    connected: bool
    closes: float | None
    wake: float

    def pause(self, now: float) -> float:
        """Seconds to sleep, short enough to notice a clock that was set."""
        return min(max(self.wake - now, 0.0), LOOK_SECONDS)


def due(schedule: Schedule, state: State, now: float, share: float = 0.0) -> Due:
    """What to do now. Idempotent: with the state it returns and the same `now` it gives no action."""
    state = _noticed(schedule, state, now, share)
    state = _expired(schedule, state, now)
    closes = schedule.closes(now, share)
    actions: list[Start | Cancel] = []
    if state.running and closes is None and not state.forced:
        actions.append(Cancel("the window is over"))
        state = replace(state, running="", asked=later(state.running, state.asked))
    if state.asked and not state.running and (closes is not None or state.forced) and _rested(state, now):
        end = float("inf") if closes is None or state.forced else closes
        actions.append(Start(state.asked, end, state.missed))
        state = replace(state, asked="", running=state.asked, missed=0, again_at=0.0)
    return Due(state, tuple(actions), closes is not None, closes, _wake(schedule, state, now, share))


def asked(state: State, trigger: str, *, force: bool = False) -> State:
    """Somebody wants a run: a change arrived, the scope changed, an operator said so. `force` does not wait for a
    window; the run then lasts until it is done."""
    if not force:
        return replace(state, asked=later(state.asked, trigger))
    again_at = 0.0  # an operator does not wait for a backoff either
    return replace(state, asked=later(state.asked, trigger), forced=True, again_at=again_at)


def finished(state: State, now: float, *, again_in: float | None = None) -> State:
    """The run ended: well, or with `again_in` seconds to wait before the rest is tried."""
    if again_in is None:
        return replace(state, running="", forced=False, synced_at=now)
    return replace(
        state,
        running="",
        forced=False,
        asked=later(state.running, state.asked),
        again_at=now + min(again_in, AGAIN_SECONDS),
    )


def woken(state: State) -> State:
    """The state of a node that starts: nothing runs, and what ran is asked for again."""
    return replace(state, running="", asked=later(state.running, state.asked))


def later(one: str, other: str) -> str:
    """Of two triggers the one that includes the other."""
    return max(one, other, key=TRIGGERS.index)


def seconds(text: str, what: str) -> float:
    """An ISO 8601 duration. Raises ScheduleInvalid."""
    found = rules.duration(text)
    if found is None or found.total_seconds() <= 0:
        raise ScheduleInvalid(
            f"the {what} {text[:80]!r} is no duration; allowed: ISO 8601 in weeks, days, hours, minutes, such as PT4H"
        )
    return found.total_seconds()


def spoken(length: float) -> str:
    """Seconds for a person: the two largest units."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, length = divmod(int(length), size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _noticed(schedule: Schedule, state: State, now: float, share: float) -> State:
    """Live up to now, and ask for what the newly lived time holds."""
    at = now - schedule.delay(share)
    near = max((s for s in state.lived if s.since <= at), key=lambda s: s.since, default=None)
    last, _ = schedule.cron.around(at)
    if near is None:
        over = schedule.window is not None and now >= last + schedule.window
        return _asking(state, _with(state.lived, None, Stretch(at, at)), missed=over)
    passed = _passed(schedule, state, near)
    if at <= near.until or last <= near.until:
        lived = _with(state.lived, near, Stretch(near.since, max(at, near.until)))
        return _asking(state, lived, missed=True) if passed else replace(state, lived=lived)
    # passed over: asked for once, and not lived, so that it counts when a clock set back comes by it again
    several = schedule.cron.around(last - 1)[0] > near.until
    over = schedule.window is not None and now >= last + schedule.window
    if over or several:
        found = Stretch(at if over else last, at)
        if over and any(s.since > at for s in state.lived):  # caught up when the clock went forward over it
            return replace(state, lived=_with(state.lived, None, found))
        return _asking(state, _with(state.lived, None, found), missed=True)
    return _asking(state, _with(state.lived, near, Stretch(near.since, at)), missed=False)


def _passed(schedule: Schedule, state: State, near: Stretch) -> bool:
    """Whether an occurrence lies between the stretch that was lived in last and `near`, which the clock led into."""
    here = state.lived[-1]
    return here.until < near.since and schedule.cron.around(near.since - 1)[0] > here.until


def _asking(state: State, lived: tuple[Stretch, ...], *, missed: bool) -> State:
    """An occurrence does not wait for what failed before it."""
    count = state.missed + int(missed)
    return replace(state, lived=lived, asked=later(state.asked, SCHEDULED), missed=count, again_at=0.0)


def _with(lived: tuple[Stretch, ...], old: Stretch | None, new: Stretch) -> tuple[Stretch, ...]:
    """The latest used last; the longest unused are forgotten."""
    return (*(s for s in lived if s != old), new)[-STRETCHES:]


def _expired(schedule: Schedule, state: State, now: float) -> State:
    """A synchronisation longer ago than messages live needs a full one. A time of the last one that is still to come
    was told by a wrong clock: it counts from now."""
    if state.synced_at > now:
        return replace(state, synced_at=now)
    wanted = later(state.running, state.asked)
    if state.synced_at and now - state.synced_at > schedule.ttl and wanted not in FULL:
        return replace(state, asked=later(state.asked, RECOVERY))
    return state


def _rested(state: State, now: float) -> bool:
    """Whether a run that failed may be tried again; also when the clock went back behind the failure."""
    return not state.again_at - AGAIN_SECONDS <= now < state.again_at


def _wake(schedule: Schedule, state: State, now: float, share: float) -> float:
    delay = schedule.delay(share)
    moments = [schedule.cron.around(now - delay)[1] + delay]
    closes = schedule.closes(now, share)
    if closes is not None:
        moments.append(closes)  # also with no run: pushes go up and changes are listened to until then
    if state.asked and not state.running and not _rested(state, now):
        moments.append(state.again_at)
    if state.synced_at and state.synced_at + schedule.ttl > now:
        moments.append(state.synced_at + schedule.ttl + 1)
    return min(moments)
