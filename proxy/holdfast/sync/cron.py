"""A cron expression of five fields, in UTC: the moments around a moment. UTC has no daylight saving, so nothing is
skipped in spring and nothing comes twice in autumn."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cronsim import CronSim

MINUTE_SECONDS = 60.0
#: moments outside are taken for these (years 1970 and 9000): a clock that is wrong must not stop the node
EARLIEST, LATEST = 0.0, 221_845_392_000.0
#: where gaps are measured from: 1 January 2024, a leap year
ORIGIN = 1_704_067_200.0
#: occurrences, and seconds (5 years), looked at for the shortest gap
SAMPLE, SPAN_SECONDS = 1500, 157_766_400.0


class ScheduleInvalid(ValueError):
    """A schedule or window that cannot be kept. The text says what was found, what is allowed and what to do."""


class Cron:
    """Occurrences of one expression. Raises ScheduleInvalid for what is no expression, and for one that never fires."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self.every_minute = all(part in ("*", "*/1") for part in self.text.split())
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

        moment = datetime.fromtimestamp(int(min(max(at, EARLIEST), LATEST)), UTC)
        return CronSim(self.text, moment, reverse=reverse)

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
            before.timestamp() if before else float("-inf"),
            after.timestamp() if after else float("inf"),
        )

    def shortest_gap(self, enough: float = 0.0) -> float:
        """Seconds between the two occurrences that lie closest together; ends at the first below `enough`."""
        return MINUTE_SECONDS if self.every_minute else _shortest_gap(self.text, enough)


@lru_cache(maxsize=64)
def _shortest_gap(text: str, enough: float) -> float:
    from cronsim import CronSim

    shortest, last = float("inf"), None
    for number, moment in enumerate(CronSim(text, datetime.fromtimestamp(ORIGIN, UTC))):
        if last is not None:
            shortest = min(shortest, (moment - last).total_seconds())
        over = number > SAMPLE or moment.timestamp() > ORIGIN + SPAN_SECONDS
        if over or shortest < enough or shortest <= MINUTE_SECONDS:
            break
        last = moment
    return shortest
