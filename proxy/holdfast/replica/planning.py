"""A plan on its way: everything that lacks something is read, in memory, and nothing is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast import errors
from holdfast.control.moment import stamp
from holdfast.replica.copy import TooDeep
from holdfast.replica.failure import reason_of
from holdfast.replica.holdings import Reading
from holdfast.replica.look import each
from holdfast.replica.memory import Memory
from holdfast.replica.report import SHOWN, PlannedImage, PlannedRemoval, PlanReport
from holdfast.replica.source import Source
from holdfast.sync.plan import Image, Plan
from holdfast.sync.prune import Verdict
from holdfast.sync.schedule import SCHEDULED, Schedule

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper


class Planning:
    """What the next run would fetch, as far as it is known."""

    def __init__(self, keeper: Keeper, source: Source, memory: Memory, at_once: int) -> None:
        self._reading, self._at_once = Reading(keeper.background), at_once
        self._look, self._rows, self._copy = source.search(self._reading, SCHEDULED, memory, keeps=False)
        self._sizes: dict[str, dict[str, int]] = {}
        self._images: list[Image] = []
        self._coming: set[str] = set()
        self.asked_at = keeper.clock.monotonic()
        self.task = asyncio.create_task(self._made())

    async def _made(self) -> None:
        try:
            await self._look.over(self._rows, self._at_once)
            await each(list(self._look.images), self._at_once, self._image)
        finally:
            await self._reading.close()

    async def _image(self, key: str) -> None:
        rule, image = self._look.images[key]
        try:
            whole = await self._copy.understood(rule, image.target)
        except (errors.Refusal, StoreError, ValueError, TooDeep) as error:
            self._look.words.append(f"{key}: {reason_of(error)}")
            return
        fresh = [action for action in whole.actions if action.size and action.digest not in self._coming]
        self._coming.update(action.digest for action in fresh)
        self._images.append(replace(whole, size=sum(action.size for action in fresh)))

    def report(self, schedule: Schedule | None, rate: float, waits: Sequence[str]) -> PlanReport:
        """As far as it is. `waits` say why it is no further."""
        window = None if schedule is None else schedule.window
        look, images = self._look, sorted(self._images, key=lambda image: image.target.key)
        found = Plan(images, look.here, sum(image.size for image in images))
        fit = found.fit(seconds=window, rate=rate or None)
        words = [*waits, *look.words, *(f"{key}: {why}" for key, (_, why, _) in look.failures.items())]
        words += [f"parent {name or 'default'} cannot be reached" for name in sorted(look.away)]
        return PlanReport(
            ready=self.task.done(),
            looked_at=look.asked,
            up_to_date=look.here,
            images=tuple(
                PlannedImage(image=one.target.key, bytes=one.size, absent=one.absent)
                for one in images[:SHOWN]
            ),
            removals=tuple(map(_removal, look.departures.verdicts[:SHOWN])),
            bytes=found.size,
            absent=sum(image.absent for image in images),
            rate=rate,
            window=window,
            fits=fit.whole,
            verdict=fit.words(),
            words=tuple([*words, *(word for image in images for word in image.words)][:SHOWN]),
        )

    async def close(self) -> None:
        """Stop it."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def _removal(found: Verdict) -> PlannedRemoval:
    return PlannedRemoval(
        name=found.name,
        fate=found.fate,
        since=stamp(found.since),
        at=None if found.at is None else stamp(found.at),
        words=found.words,
    )
