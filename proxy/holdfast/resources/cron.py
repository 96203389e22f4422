"""Schedules: the occurrences of a cron expression, and the slots in which a connected registry may ask its parent.

A cron expression has five fields in UTC. UTC has no daylight saving: no occurrence is skipped in spring or repeated in
autumn. Each occurrence opens a slot as long as the sync window (references.md 1.1); every minute means always. Times
are wall seconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

from holdfast.resources.model import SyncProperties
from holdfast.timestamps import duration

if TYPE_CHECKING:
    from cronsim import CronSim

MINUTE_SECONDS = 60.0
#: times outside are taken for these (years 1970 and 9000): a wrong clock must not stop the node
EARLIEST, LATEST = 0.0, 221_845_392_000.0
#: where gaps are measured from: 1 January 2024, a leap year
ORIGIN = 1_704_067_200.0
#: occurrences, and seconds (5 years), looked at for the shortest gap
SAMPLE, SPAN_SECONDS = 1500, 157_766_400.0
CONTINUOUS = "* * * * *"
#: the slot of a schedule without a window: one contact takes no longer (seconds)
SLOT_SECONDS = 60.0


class ScheduleInvalid(ValueError):
    """A schedule or window that is invalid. The text says what was found, what is allowed and what to do."""


class Cron:
    """The occurrences of one expression. Raises ScheduleInvalid for an invalid expression, and for one that never
    fires."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self.every_minute = is_continuous(text)
        self._around = (0.0, 0.0)
        self._check()

    def _check(self) -> None:
        from cronsim import CronSimError

        if not self.text.isascii() or len(self.text.split()) != 5:
            raise ScheduleInvalid(
                f"the schedule {self.text[:80]!r} is no cron expression; allowed: 5 fields in UTC: minute, hour, day,"
                " month, weekday, such as '0 22 * * *'"
            )
        try:
            first = next(self._sim(ORIGIN), None)
        except CronSimError as error:
            raise ScheduleInvalid(
                f"the schedule {self.text[:80]!r} cannot be read or never fires ({error}); allowed: 5 fields in UTC"
                " that name a day that exists"
            ) from None
        if first is None:
            raise ScheduleInvalid(
                f"the schedule {self.text[:80]!r} never fires; name a day that its month has, or leave out one of day"
                " and weekday"
            )

    def _sim(self, at: float, *, reverse: bool = False) -> CronSim:
        from cronsim import CronSim

        start = datetime.fromtimestamp(int(min(max(at, EARLIEST), LATEST)), UTC)
        return CronSim(self.text, start, reverse=reverse)

    def around(self, at: float) -> tuple[float, float]:
        """(the last occurrence up to and with `at`, the first one after it), in wall seconds; without bound where
        there is none."""
        if not self._around[0] <= at < self._around[1]:
            self._around = self._search(at)
        return self._around

    def _search(self, at: float) -> tuple[float, float]:
        if self.every_minute:
            last = at - at % MINUTE_SECONDS
            return last, last + MINUTE_SECONDS
        before = next(self._sim(at + 1, reverse=True), None)
        after = next(self._sim(at), None)
        return (
            before.timestamp() if before else -inf,
            after.timestamp() if after else inf,
        )

    def shortest_gap(self, enough: float = 0.0) -> float:
        """Seconds between the two occurrences that lie closest together; ends at the first below `enough`."""
        return MINUTE_SECONDS if self.every_minute else _shortest_gap(self.text, enough)


@lru_cache(maxsize=64)
def _shortest_gap(text: str, enough: float) -> float:
    from cronsim import CronSim

    shortest, last = inf, None
    for number, time in enumerate(CronSim(text, datetime.fromtimestamp(ORIGIN, UTC))):
        if last is not None:
            shortest = min(shortest, (time - last).total_seconds())
        over = number > SAMPLE or time.timestamp() > ORIGIN + SPAN_SECONDS
        if over or shortest < enough or shortest <= MINUTE_SECONDS:
            break
        last = time
    return shortest


@lru_cache(maxsize=256)
def occurrences(text: str) -> Cron | None:
    """Returns a cron expression; None for an invalid text, or one that never fires."""
    try:
        return Cron(text)
    except ScheduleInvalid:
        return None


def is_continuous(schedule: str) -> bool:
    """Whether a schedule is every minute: requests to the parent are always allowed, and a window has no effect."""
    return all(part in ("*", "*/1") for part in schedule.split())


def closed_for(sync: SyncProperties, now: float) -> float:
    """Seconds until the next slot opens; 0 while one is open; infinite when no occurrence ever comes."""
    if is_continuous(sync.schedule):
        return 0.0
    opened, opens = _around(sync, now)
    return 0.0 if now < opened + window_seconds(sync) else max(0.0, opens - now)


def silence_of(sync: SyncProperties, now: float) -> float:
    """Returns the seconds for which a node need not report by its schedule: until its next slot after the present one
    has ended. A lease must outlast it, or a second instance would take over from a living one."""
    if is_continuous(sync.schedule):
        return 0.0
    opens = now + closed_for(sync, now)
    if opens > now:
        return opens + window_seconds(sync) - now
    return _around(sync, now)[1] + window_seconds(sync) - now


def window_seconds(sync: SyncProperties) -> float:
    """How long a slot stays open."""
    if sync.sync_window is None:
        return SLOT_SECONDS
    window = duration(sync.sync_window)
    return SLOT_SECONDS if window is None else window.total_seconds()


def _around(sync: SyncProperties, now: float) -> tuple[float, float]:
    cron = occurrences(sync.schedule)
    return (-inf, inf) if cron is None else cron.around(now)
