"""One run: scans the parents, then fetches what is missing, a bounded number of images at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast.backoff import trouble
from holdfast.errors import Refusal
from holdfast.log import log
from holdfast.oci.manifest import ManifestUnreadable
from holdfast.sync.holdings import ManifestReader
from holdfast.sync.image_copy import TooDeep, kind_of, reason_of
from holdfast.sync.plan import Image
from holdfast.sync.run_record import RunRecord
from holdfast.sync.run_state import Job, RunState, next_job
from holdfast.sync.source.polled_source import WorkSource
from holdfast.sync.source.selection import Rule

if TYPE_CHECKING:
    from holdfast.parent.client import Parent
    from holdfast.sync.context import SyncContext


#: interval between checks of images that wait and parents that are unavailable (seconds)
LOOK_SECONDS = 5.0


class SyncRun:
    """A run of the node. `job` is the part to store, at any time."""

    def __init__(
        self, context: SyncContext, source: WorkSource, slots: int, trigger: str, record: RunRecord
    ) -> None:
        self._context, self._clock, self._slots = context, context.clock, slots
        self.trigger, self._before = trigger, record.job
        before = record.job
        self._reading = ManifestReader(context.background)
        self.scan, self._rows, self._copy = source.run_parts(self._reading, trigger, record, keeps=True)
        self.scan.withdraw = self._withdraw
        self._rules: dict[str, Rule] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._job = next_job(before, trigger, self._clock.now())
        #: None during the scan
        self.run: RunState | None = None

    @property
    def job(self) -> Job:
        """Returns the job as it is now."""
        return self._job if self.run is None else self.run.job(self._clock.now())

    @property
    def is_well(self) -> bool:
        """Whether the run, once it is over, fetched every image that the parents have and grant."""
        return not self.scan.away and not any(entry.counts for entry in self.job.troubles.values())

    async def work(self) -> None:
        """Runs to the end. When it is cancelled, the bytes that have arrived stay."""
        try:
            await self.scan.run(self._rows, self._slots)
            self._start_fetching()
            await self._fetch()
        finally:
            self.scan.stopped()
            await self.scan.removals.write()
            await self._reading.close()

    def _start_fetching(self) -> None:
        scan, now = self.scan, self._clock.now()
        had = () if self._before is None else self._before.troubles
        job = next_job(self._before, self.trigger, now, selected=scan.troubled(had))
        troubles = dict(job.troubles)
        if self._before is not None and not scan.is_whole:  # a trouble keeps its pause
            troubles = {key: self._before.troubles[key] for key in troubles}
        for key, (kind, reason, after) in scan.failures.items():
            troubles[key] = trouble(troubles.get(key), kind, reason, now, self._share(), after)
        self._rules = {key: rule for key, (rule, _) in scan.images.items()}
        images = [image for _, image in scan.images.values()]
        self.run = RunState(replace(job, troubles=troubles, over=False), images, self._slots)

    async def _fetch(self) -> None:
        assert self.run is not None
        run = self.run
        try:
            while True:
                await self._add_ready(run)
                may = {name: self._transfers(parent) for name, parent in self._context.parents.items()}
                away, slots = {name for name, count in may.items() if not count}, max(may.values(), default=0)
                while (image := run.take(self._clock.now(), away, slots)) is not None:
                    self._tasks[image.target.key] = asyncio.create_task(self._image(run, image))
                if not self._tasks and run.is_over(self._clock.now()) and not self.scan.more_ready.is_set():
                    return
                await self._wait(run)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            run.released()

    def _transfers(self, parent: Parent) -> int:
        """Returns how many images of a parent may be fetched at once: fewer after an outage, none during one or with a
        cap of 0."""
        most = 0 if parent.is_closed("sync") else self._slots
        return parent.availability.transfers(most, self._clock.monotonic())

    async def _wait(self, run: RunState) -> None:
        """Waits until an image is done, one that waits is due, or the scan has more."""
        now = self._clock.now()
        wake = min(run.wake(now) or now + LOOK_SECONDS, now + LOOK_SECONDS)
        pause = asyncio.create_task(self._clock.sleep(max(wake - now, 0.05)))
        more_ready = asyncio.create_task(self.scan.more_ready.wait())
        try:
            waits = {*self._tasks.values(), pause, more_ready}
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            more_ready.cancel()
        self._tasks = {key: task for key, task in self._tasks.items() if task not in done}

    async def _add_ready(self, run: RunState) -> None:
        """Adds the images that became due since the scan."""
        for rule, image in await self.scan.more():
            self._rules[image.target.key] = rule
            run.add(image)

    async def _withdraw(self, key: str) -> None:
        """Removes an image that is no longer selected. The work on it has ended when this returns."""
        if self.run is not None:
            self.run.withdraw(key)
        if (task := self._tasks.pop(key, None)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _image(self, run: RunState, image: Image) -> None:
        """Fetches one image. A failure is recorded and does not stop the run."""
        target = image.target
        try:
            is_named = await self._copy.fetch(
                self._rules[target.key], target, lambda image, _: run.grown(image), self._landed
            )
        except (Refusal, StoreError, ManifestUnreadable, TooDeep) as error:
            self._failed(run, image, error)
        except Exception as error:
            log.exception("image failed", image=target.key)
            self._failed(run, image, error)
        else:
            run.done(image, self._clock.now())
            if is_named:
                self.scan.settled(target.key)
            else:
                self.scan.overtaken(target)
            self.scan.removals.synchronised(target.repository)
            log.info("image synchronised", image=target.key, digest=target.digest)

    def _landed(self, size: int) -> None:
        assert self.run is not None
        self.run.received(size, self._clock.now())

    def _failed(self, run: RunState, image: Image, error: Exception) -> None:
        kind = kind_of(error, self._context.parents[image.target.parent].state)
        after, now = float(getattr(error, "retry_after", 0) or 0), self._clock.now()
        entry = run.failed(image, kind, reason_of(error), now, self._share(), after)
        if kind != "offline":
            self.scan.settled(image.target.key)
        log.warning(
            "image not synchronised",
            image=image.target.key,
            kind=kind,
            reason=entry.reason,
            tries=entry.attempts,
        )

    def _share(self) -> float:
        return self._clock.jitter(1.0)
