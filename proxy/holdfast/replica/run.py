"""One run: look at the parents, then bring what is missing, at most so many images at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast.errors import Refusal
from holdfast.manifest import ManifestInvalid
from holdfast.replica.copy import TooDeep
from holdfast.replica.failure import kind_of, reason_of
from holdfast.replica.holdings import Reading
from holdfast.replica.memory import Memory
from holdfast.replica.source import Source
from holdfast.sync.backoff import trouble
from holdfast.sync.plan import Image
from holdfast.sync.wanted import Rule
from holdfast.sync.work import Job, Run, follow

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper
    from holdfast.parent.client import Parent

log = structlog.get_logger()

#: an image that waits, or a parent that is away, is looked at this often (seconds)
LOOK_SECONDS = 5.0


class Round:
    """A run of the node. `job` is what to store of it at any moment."""

    def __init__(self, keeper: Keeper, source: Source, slots: int, trigger: str, memory: Memory) -> None:
        self._keeper, self._clock, self._slots = keeper, keeper.clock, slots
        self.trigger, self._before = trigger, memory.job
        before = memory.job
        self._reading = Reading(keeper.background)
        self.look, self._rows, self._copy = source.search(self._reading, trigger, memory, keeps=True)
        self.look.withdraw = self._withdraw
        self._rules: dict[str, Rule] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._job = follow(before, trigger, self._clock.now())
        #: None while the parents are looked at
        self.run: Run | None = None

    @property
    def job(self) -> Job:
        """As it stands."""
        return self._job if self.run is None else self.run.job(self._clock.now())

    @property
    def is_well(self) -> bool:
        """Whether everything wanted that can be here is, once it is over."""
        return not self.look.away and not any(found.counts for found in self.job.troubles.values())

    async def work(self) -> None:
        """All of it. Cancelled it stops at the byte."""
        try:
            await self.look.over(self._rows, self._slots)
            self._begin()
            await self._bring()
        finally:
            self.look.stopped()
            await self.look.departures.keep()
            await self._reading.close()

    def _begin(self) -> None:
        look, now = self.look, self._clock.now()
        had = () if self._before is None else self._before.troubles
        job = follow(self._before, self.trigger, now, wanted=look.troubled(had))
        troubles = dict(job.troubles)
        if self._before is not None and not look.is_whole:  # it waits as long as it was to wait
            troubles = {key: self._before.troubles[key] for key in troubles}
        for key, (kind, reason, after) in look.failures.items():
            troubles[key] = trouble(troubles.get(key), kind, reason, now, self._share(), after)
        self._rules = {key: rule for key, (rule, _) in look.images.items()}
        images = [image for _, image in look.images.values()]
        self.run = Run(replace(job, troubles=troubles, over=False), images, self._slots)

    async def _bring(self) -> None:
        assert self.run is not None
        run = self.run
        try:
            while True:
                await self._take_up(run)
                may = {name: self._transfers(parent) for name, parent in self._keeper.parents.items()}
                away, slots = {name for name, count in may.items() if not count}, max(may.values(), default=0)
                while (image := run.take(self._clock.now(), away, slots)) is not None:
                    self._tasks[image.target.key] = asyncio.create_task(self._image(run, image))
                if not self._tasks and run.is_over(self._clock.now()) and not self.look.news.is_set():
                    return
                await self._rest(run)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            run.released()

    def _transfers(self, parent: Parent) -> int:
        """Images of this parent at once: none while it is away, has only just come back, or a cap of 0 holds."""
        most = 0 if parent.is_closed("sync") else self._slots
        return parent.availability.transfers(most, self._clock.monotonic())

    async def _rest(self, run: Run) -> None:
        """Until an image is done, one that waits is due, or the look has more."""
        now = self._clock.now()
        wake = min(run.wake(now) or now + LOOK_SECONDS, now + LOOK_SECONDS)
        pause = asyncio.create_task(self._clock.sleep(max(wake - now, 0.05)))
        news = asyncio.create_task(self.look.news.wait())
        try:
            waits = {*self._tasks.values(), pause, news}
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            news.cancel()
        self._tasks = {key: task for key, task in self._tasks.items() if task not in done}

    async def _take_up(self, run: Run) -> None:
        """What became wanted since."""
        for rule, image in await self.look.more():
            self._rules[image.target.key] = rule
            run.add(image)

    async def _withdraw(self, key: str) -> None:
        """What has this name is wanted no longer; nothing is at work on it when this returns."""
        if self.run is not None:
            self.run.withdraw(key)
        if (task := self._tasks.pop(key, None)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _image(self, run: Run, image: Image) -> None:
        """One image to its end. What fails is told to the run, and stops nothing."""
        target = image.target
        try:
            is_named = await self._copy.bring(self._rules[target.key], target, run.grown, self._landed)
        except (Refusal, StoreError, ManifestInvalid, TooDeep) as error:
            self._failed(run, image, error)
        except Exception as error:
            log.exception("image failed", image=target.key)
            self._failed(run, image, error)
        else:
            run.done(image, self._clock.now())
            if is_named:
                self.look.settled(target.key)
            else:
                self.look.overtaken(target)
            self.look.departures.brought(target.repository)
            log.info("image synchronised", image=target.key, digest=target.digest)

    def _landed(self, size: int) -> None:
        assert self.run is not None
        self.run.received(size, self._clock.now())

    def _failed(self, run: Run, image: Image, error: Exception) -> None:
        kind = kind_of(error, self._keeper.parents[image.target.parent].state)
        after, now = float(getattr(error, "retry_after", 0) or 0), self._clock.now()
        found = run.failed(image, kind, reason_of(error), now, self._share(), after)
        if kind != "offline":
            self.look.settled(image.target.key)
        log.warning(
            "image not synchronised",
            image=image.target.key,
            kind=kind,
            reason=found.reason,
            tries=found.attempts,
        )

    def _share(self) -> float:
        return self._clock.jitter(1.0)
