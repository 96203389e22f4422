"""When runs begin and end, what is remembered of them, and what is told. One in the keeper of a node with `[sync]`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import structlog
from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast import errors
from holdfast.config import Configuration, SyncRepository
from holdfast.control.moment import stamp
from holdfast.replica.copy import Copy, TooDeep
from holdfast.replica.failure import reason_of
from holdfast.replica.holdings import Reading
from holdfast.replica.look import Look, each
from holdfast.replica.memory import Memory, keep, recall
from holdfast.replica.report import (
    PlannedImage,
    PlannedRemoval,
    PlanReport,
    ProgressReport,
    SyncReport,
    TroubleReport,
)
from holdfast.replica.run import Round
from holdfast.repository import Repository
from holdfast.sync import schedule as when
from holdfast.sync.backoff import Trouble
from holdfast.sync.plan import Image, Plan
from holdfast.sync.progress import Progress
from holdfast.sync.prune import Verdict
from holdfast.sync.work import stall

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

log = structlog.get_logger()

#: a parent that was away is asked again after so long (seconds)
AWAY_SECONDS = 30.0
#: one that did not tell all of its tags, after this; the others wait as long
UNTOLD_SECONDS = 300.0
#: for images that failed the next run begins no sooner than this after the last (seconds)
RETRY_SECONDS = 60.0
#: the state of a run is written down this often (seconds)
KEEP_SECONDS = 5.0
#: a plan that takes longer is asked for again (seconds); within the 25 s of every answer
PLAN_SECONDS = 10.0
#: a plan that nobody asked for since is made anew (seconds)
PLAN_AGE_SECONDS = 60.0
#: images in one report
SHOWN = 1000


class Replica:
    """Keeps the node's own schedule. Nothing waits for it: clients are served whatever it does."""

    def __init__(self, keeper: Keeper, config: Configuration) -> None:
        sync = config.sync
        self._keeper, self._clock, self._store = keeper, keeper.clock, keeper.store
        self._given, self._rows = sync, rows_of(config)
        self.schedule = when.Schedule.parse(sync.schedule, sync.window, sync.message_ttl)
        self.memory = Memory()
        self._share = keeper.clock.jitter(1.0)
        self._woken = asyncio.Event()
        self._ended_at = 0.0
        self._round: Round | None = None
        self._work: asyncio.Task[None] | None = None
        self._planning: _Planning | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up what is held, and begin. Uses no network before it returns."""
        memory = recall(self._store)
        self.memory = replace(memory, state=when.woken(memory.state))
        for words in self.schedule.warnings():
            log.warning("synchronisation", reason=words)
        self._tasks = [asyncio.create_task(self._keep_time()), asyncio.create_task(self._write_down())]

    async def close(self) -> None:
        """Stop where it is; the next start goes on."""
        if not self._tasks:
            return  # never started: what is kept is newer than what is known here
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stop()
        if self._planning is not None:
            await self._planning.close()
        await self._kept()

    def notes(self) -> list[str]:
        """Sentences for /readyz."""
        found = stall(self.memory.state.synced_at, self._clock.now(), self.schedule.ttl)
        notes = [] if found is None else [f"synchronisation: {found.words}"]
        running = self._round
        if (
            running is not None
            and running.run is not None
            and (still := running.run.stillness(self._clock.now()))
        ):
            notes.append(f"synchronisation: {still}")
        return notes

    # ---- what is asked of it

    async def ask(self, order: str) -> bytes:
        """`run`, `status` or `plan`, as the admin API asks it; a report as JSON."""
        if order == "run":
            self.run_now()
            await self._kept()
        elif order == "plan":
            return msgspec.json.encode(await self.plan())
        return msgspec.json.encode(self.status())

    def run_now(self) -> None:
        """An operator wants a full run, whatever the window. One that is under way is followed by it."""
        state = when.asked(self.memory.state, when.MANUAL, force=True)
        self.memory = replace(self.memory, state=state)
        self._woken.set()

    def status(self) -> SyncReport:
        """Where it stands."""
        now, state, memory = self._clock.now(), self.memory.state, self.memory
        closes, current = self.schedule.closes(now, self._share), self._round
        job = current.job if current is not None else memory.job
        troubles = sorted((job.troubles if job is not None else {}).items())[:SHOWN]
        run = current.run if current is not None else None
        return SyncReport(
            schedule=self._given.schedule,
            window=self._given.window,
            window_open=closes is not None,
            closes=None if closes is None or closes == float("inf") else stamp(closes),
            running=state.running,
            asked=state.asked,
            last_sync_time=stamp(state.synced_at) if state.synced_at else None,
            looked_at=current.look.asked if current is not None else 0,
            up_to_date=current.look.here if current is not None else memory.here,
            progress=None if run is None else _progress(run.progress(now)),
            troubles=tuple(_trouble(key, found) for key, found in troubles),
            words=tuple(current.look.words if current is not None else memory.words),
        )

    async def plan(self) -> PlanReport:
        """What the next run would fetch. Nothing is kept of what is read for it."""
        now = self._clock.monotonic()
        if self._planning is None or now - self._planning.asked_at > PLAN_AGE_SECONDS:
            if self._planning is not None:
                await self._planning.close()
            self._planning = _Planning(self._keeper, self._rows, self._given.transfers)
        found = self._planning
        found.asked_at = now
        await asyncio.wait((found.task,), timeout=PLAN_SECONDS)
        if found.task.done():
            self._planning = None
            found.task.result()
        return found.report(self.schedule, self.memory.rate)

    # ---- time

    async def _keep_time(self) -> None:
        while True:
            try:
                await self._turn()
            except StoreError as error:
                log.error("synchronisation cannot be recorded", reason=str(error))
                await self._clock.sleep(AWAY_SECONDS)
            except Exception:
                log.exception("synchronisation failed")
                await self._clock.sleep(AWAY_SECONDS)

    async def _turn(self) -> None:
        now = self._clock.now()
        retry_at = self._retry_at()
        state = self.memory.state
        if retry_at is not None and retry_at <= now:
            state, retry_at = when.asked(state, when.CHANGES), None
        due = when.due(self.schedule, state, now, self._share)
        if due.state != self.memory.state:
            self.memory = replace(self.memory, state=due.state)
            await self._kept()
        for action in due.actions:
            await self._stop()
            if isinstance(action, when.Start):
                log.info("synchronisation begins", trigger=action.trigger, missed=action.missed)
                before = self.memory.job
                self._round = Round(self._keeper, self._rows, self._given.transfers, action.trigger, before)
                self._work = asyncio.create_task(self._worked(self._round))
            else:
                log.info("synchronisation stops", reason=action.reason)
        pause = due.pause(now)
        await self._rest(pause if retry_at is None else min(pause, max(retry_at - now, 0.0)))

    async def _rest(self, seconds: float) -> None:
        """Until it is time, or somebody asks, or the run ended."""
        pause = asyncio.create_task(self._clock.sleep(seconds))
        woken = asyncio.create_task(self._woken.wait())
        try:
            await asyncio.wait({pause, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            woken.cancel()
            self._woken.clear()

    async def _worked(self, current: Round) -> None:
        """A run to its end, whatever happens in it."""
        try:
            await current.work()
            well = current.is_well
        except Exception:
            log.exception("synchronisation failed")
            well = False
        now = self._clock.now()
        again_in = AWAY_SECONDS if current.look.away or current.run is None else None
        if current.look.failures:
            again_in = UNTOLD_SECONDS
        self._took(current)
        self._round, self._ended_at = None, now
        self.memory = replace(self.memory, state=when.finished(self.memory.state, now, again_in=again_in))
        await self._kept()
        log.info("synchronisation ended", complete=well, here=current.look.here, asked=current.look.asked)
        self._woken.set()

    def _retry_at(self) -> float | None:
        """When images that failed deserve a run of their own (wall seconds)."""
        state, job = self.memory.state, self.memory.job
        if state.running or state.asked or job is None or (due := job.next_try()) is None:
            return None
        return max(due, self._ended_at + RETRY_SECONDS)

    async def _stop(self) -> None:
        """End the run that is under way, at its byte."""
        if self._work is not None and not self._work.done():
            self._work.cancel()
            with suppress(asyncio.CancelledError):
                await self._work
            if self._round is not None:
                self._took(self._round)
        self._work = self._round = None

    def _took(self, current: Round) -> None:
        """Remember what there is of a run."""
        found = None if current.run is None else current.run.progress(self._clock.now())
        rate = 0.0 if found is None else found.rate
        here = current.look.here + (0 if found is None else found.images_done)
        self.memory = replace(
            self.memory,
            job=current.job,
            rate=rate or self.memory.rate,
            words=tuple(current.look.words[:SHOWN]),
            here=here,
        )

    async def _kept(self) -> None:
        try:
            await keep(self._store, self.memory)
        except StoreError as error:
            log.error("synchronisation cannot be recorded", reason=str(error))

    async def _write_down(self) -> None:
        while True:
            await self._clock.sleep(KEEP_SECONDS)
            if self._round is not None and self._round.run is not None:
                self._took(self._round)
                await self._kept()


class _Planning:
    """A plan on its way: everything that lacks something is read, in memory."""

    def __init__(self, keeper: Keeper, rows: Sequence[tuple[str, SyncRepository]], at_once: int) -> None:
        self._reading = Reading(keeper.parents)
        self._copy = Copy(keeper, self._reading)
        self._look = Look(keeper, self._reading, self._copy, keeps=False)
        self._rows, self._at_once = rows, at_once
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

    def report(self, schedule: when.Schedule, rate: float) -> PlanReport:
        """As far as it is."""
        look, images = self._look, sorted(self._images, key=lambda image: image.target.key)
        found = Plan(images, look.here, sum(image.size for image in images))
        fit = found.fit(seconds=schedule.window, rate=rate or None)
        words = [*look.words, *(f"{key}: {why}" for key, (_, why, _) in look.failures.items())]
        words += [f"parent {name or 'default'} cannot be reached" for name in sorted(look.away)]
        return PlanReport(
            ready=self.task.done(),
            looked_at=look.asked,
            up_to_date=look.here,
            images=tuple(PlannedImage(image=one.target.key, bytes=one.size) for one in images[:SHOWN]),
            removals=tuple(map(_removal, look.departures.verdicts[:SHOWN])),
            bytes=found.size,
            absent=sum(image.absent for image in images),
            rate=rate,
            window=schedule.window,
            fits=fit.whole,
            verdict=fit.words(),
            words=tuple([*words, *(word for image in images for word in image.words)][:SHOWN]),
        )

    async def close(self) -> None:
        """Stop it."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def rows_of(config: Configuration) -> list[tuple[str, SyncRepository]]:
    """(store key, row) of what is wanted; of two rows for one repository the first counts."""
    from holdfast.routing import default_parent

    rows: dict[str, SyncRepository] = {}
    for row in config.sync.repositories:
        namespace = row.parent or default_parent(config.parent) or ""
        rows.setdefault(Repository(namespace, row.name).key, row)
    return list(rows.items())


def _progress(found: Progress) -> ProgressReport:
    return ProgressReport(
        images_done=found.images_done,
        images=found.images,
        bytes_done=found.bytes_done,
        bytes=found.bytes,
        rate=found.rate,
        seconds_left=found.left,
        retrying=found.retrying,
        failed=found.failed,
        parked=found.parked,
    )


def _removal(found: Verdict) -> PlannedRemoval:
    return PlannedRemoval(
        name=found.name,
        fate=found.fate,
        since=stamp(found.since),
        at=None if found.at is None else stamp(found.at),
        words=found.words,
    )


def _trouble(key: str, found: Trouble) -> TroubleReport:
    return TroubleReport(
        image=key,
        kind=found.kind,
        reason=found.reason,
        attempts=found.attempts,
        since=stamp(found.since),
        next_try=stamp(found.next_at),
    )
