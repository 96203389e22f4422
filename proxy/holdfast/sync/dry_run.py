"""A dry run: scans the parents and reads the manifests of incomplete images into memory, and writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast import errors
from holdfast.sync.holdings import ManifestReader
from holdfast.sync.image_copy import TooDeep, reason_of
from holdfast.sync.plan import Image, Plan
from holdfast.sync.removal import RemovalVerdict
from holdfast.sync.report import SHOWN, PlannedImage, PlannedRemoval, PlanReport
from holdfast.sync.run_record import RunRecord
from holdfast.sync.schedule import SCHEDULED, Schedule
from holdfast.sync.source.polled_source import WorkSource
from holdfast.sync.source.scan import each
from holdfast.timestamps import stamp

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext


class DryRun:
    """The plan of the next run, as far as it is known."""

    def __init__(self, context: SyncContext, source: WorkSource, record: RunRecord, at_once: int) -> None:
        self._reading, self._at_once = ManifestReader(context.background), at_once
        self._scan, self._rows, self._copy = source.run_parts(self._reading, SCHEDULED, record, keeps=False)
        self._sizes: dict[str, dict[str, int]] = {}
        self._images: list[Image] = []
        self._coming: set[str] = set()
        self.used_at = context.clock.monotonic()
        self.task = asyncio.create_task(self._made())

    async def _made(self) -> None:
        try:
            await self._scan.run(self._rows, self._at_once)
            await each(list(self._scan.images), self._at_once, self._image)
        finally:
            await self._reading.close()

    async def _image(self, key: str) -> None:
        rule, image = self._scan.images[key]
        try:
            whole = await self._copy.full_plan(rule, image.target)
        except (errors.Refusal, StoreError, ValueError, TooDeep) as error:
            self._scan.words.append(f"{key}: {reason_of(error)}")
            return
        fresh = [action for action in whole.actions if action.size and action.digest not in self._coming]
        self._coming.update(action.digest for action in fresh)
        self._images.append(replace(whole, size=sum(action.size for action in fresh)))

    def report(self, schedule: Schedule | None, rate: float, waits: Sequence[str]) -> PlanReport:
        """Returns the plan as far as it is known. `waits` are the reasons why it is incomplete."""
        window = None if schedule is None else schedule.window
        scan, images = self._scan, sorted(self._images, key=lambda image: image.target.key)
        plan = Plan(images, scan.up_to_date, sum(image.size for image in images))
        fit = plan.fit(seconds=window, rate=rate or None)
        unknown = self._unknown()
        words = [*waits, *scan.words, *(f"{key}: {why}" for key, (_, why, _) in scan.failures.items())]
        words += [f"parent {name or 'default'} cannot be reached" for name in sorted(scan.away)]
        return PlanReport(
            ready=self.task.done(),
            looked_at=scan.checked,
            up_to_date=scan.up_to_date,
            images=tuple(
                PlannedImage(image=one.target.key, bytes=one.size, absent=one.absent)
                for one in images[:SHOWN]
            ),
            removals=tuple(map(_removal, scan.removals.verdicts[:SHOWN])),
            bytes=plan.size,
            absent=sum(image.absent for image in images),
            rate=rate,
            window=window,
            fits=None if unknown else fit.whole,
            verdict=unknown or fit.words(),
            words=tuple([*words, *(remark for image in images for remark in image.words)][:SHOWN]),
        )

    def _unknown(self) -> str:
        """Returns why it is not known whether the plan fits; "" where it is."""
        scan = self._scan
        if scan.away:
            names = ", ".join(sorted(name or "default" for name in scan.away))
            return f"not known: parent {names} did not answer"
        if not self.task.done():
            return "not known yet: the scan of the parents is not over"
        return "" if scan.is_answered else "not known: some requests to the parents failed"

    async def close(self) -> None:
        """Stops the dry run."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def _removal(verdict: RemovalVerdict) -> PlannedRemoval:
    return PlannedRemoval(
        name=verdict.name,
        fate=verdict.fate,
        since=stamp(verdict.since),
        at=None if verdict.at is None else stamp(verdict.at),
        words=verdict.words,
    )
