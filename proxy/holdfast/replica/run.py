"""One run: look at the parents, then bring what is missing, at most so many images at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast.config import SyncRepository
from holdfast.errors import Refusal
from holdfast.manifest import ManifestInvalid
from holdfast.replica.copy import Copy, TooDeep
from holdfast.replica.failure import kind_of, reason_of
from holdfast.replica.holdings import Reading
from holdfast.replica.look import Look
from holdfast.sync.backoff import trouble
from holdfast.sync.plan import Image
from holdfast.sync.schedule import FULL
from holdfast.sync.wanted import Rule
from holdfast.sync.work import Job, Run, follow

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

log = structlog.get_logger()

#: an image that waits, or a parent that is away, is looked at this often (seconds)
LOOK_SECONDS = 5.0


class Round:
    """A run of the node over its rows. `job` is what to store of it at any moment."""

    def __init__(
        self,
        keeper: Keeper,
        rows: Sequence[tuple[str, SyncRepository]],
        slots: int,
        trigger: str,
        before: Job | None,
    ) -> None:
        self._keeper, self._clock, self._rows, self._slots = keeper, keeper.clock, rows, slots
        self._trigger, self._before = trigger, before
        self._reading = Reading(keeper.parents)
        self._copy = Copy(keeper, self._reading, anew=trigger in FULL)
        self.look = Look(keeper, self._reading, self._copy, keeps=True)
        self._rules: dict[str, Rule] = {}
        self._job = follow(before, trigger, self._clock.now())
        #: None while the parents are looked at
        self.run: Run | None = None

    @property
    def job(self) -> Job:
        """As it stands."""
        return self._job if self.run is None else self.run.job(self._clock.now())

    @property
    def is_well(self) -> bool:
        """Whether everything wanted is here, once it is over."""
        return not self.look.away and not self.job.troubles

    async def work(self) -> None:
        """All of it. Cancelled it stops at the byte."""
        try:
            await self.look.over(self._rows, self._slots)
            self._begin()
            await self._bring()
        finally:
            await self.look.departures.keep()
            await self._reading.close()

    def _begin(self) -> None:
        look, now = self.look, self._clock.now()
        job = follow(self._before, self._trigger, now, wanted={*look.images, *look.failures, *self._unseen()})
        troubles = dict(job.troubles)
        for key, (kind, reason, after) in look.failures.items():
            troubles[key] = trouble(troubles.get(key), kind, reason, now, self._share(), after)
        self._rules = {key: rule for key, (rule, _) in look.images.items()}
        images = [image for _, image in look.images.values()]
        self.run = Run(replace(job, troubles=troubles, over=False), images, self._slots)

    def _unseen(self) -> list[str]:
        """Keys of images whose parent was not reached: nothing new is known of them."""
        if self._before is None or not self.look.away:
            return []
        return list(self._before.troubles)

    async def _bring(self) -> None:
        assert self.run is not None
        run, tasks = self.run, set[asyncio.Task[None]]()
        try:
            while True:
                parents = self._keeper.parents.items()
                away = {n for n, parent in parents if parent.state == "offline" or parent.is_closed("sync")}
                while (image := run.take(self._clock.now(), away)) is not None:
                    tasks.add(asyncio.create_task(self._image(run, image)))
                if not tasks and run.is_over(self._clock.now()):
                    return
                now = self._clock.now()
                wake = min(run.wake(now) or now + LOOK_SECONDS, now + LOOK_SECONDS)
                pause = asyncio.create_task(self._clock.sleep(max(wake - now, 0.05)))
                done, _ = await asyncio.wait({*tasks, pause}, return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                tasks -= done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            run.released()

    async def _image(self, run: Run, image: Image) -> None:
        """One image to its end. What fails is told to the run, and stops nothing."""
        target = image.target
        try:
            await self._copy.bring(self._rules[target.key], target, run.grown, self._landed)
        except (Refusal, StoreError, ManifestInvalid, TooDeep) as error:
            self._failed(run, image, error)
        except Exception as error:
            log.exception("image failed", image=target.key)
            self._failed(run, image, error)
        else:
            run.done(image, self._clock.now())
            self.look.departures.brought(target.repository)
            log.info("image synchronised", image=target.key, digest=target.digest)

    def _landed(self, size: int) -> None:
        assert self.run is not None
        self.run.received(size, self._clock.now())

    def _failed(self, run: Run, image: Image, error: Exception) -> None:
        kind = kind_of(error, self._keeper.parents[image.target.parent].state)
        after, now = float(getattr(error, "retry_after", 0) or 0), self._clock.now()
        found = run.failed(image, kind, reason_of(error), now, self._share(), after)
        log.warning(
            "image not synchronised",
            image=image.target.key,
            kind=kind,
            reason=found.reason,
            tries=found.attempts,
        )

    def _share(self) -> float:
        return self._clock.jitter(1.0)
