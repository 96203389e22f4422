"""When runs begin and end, what is remembered of them, and what is told. One in the keeper of a node that synchronises;
where its work comes from is `source.py`'s."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import structlog
from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast.control.moment import stamp
from holdfast.control.resource import SyncProgress, SyncResult
from holdfast.replica.memory import Memory, is_news, keep, recall
from holdfast.replica.planning import Planning
from holdfast.replica.report import SHOWN, PlanReport, SyncReport, TroubleReport
from holdfast.replica.run import Round
from holdfast.replica.source import Source
from holdfast.sync import full
from holdfast.sync import schedule as when
from holdfast.sync.backoff import Trouble
from holdfast.sync.progress import Progress
from holdfast.sync.work import stall

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

log = structlog.get_logger()

#: after an error of this program, or of the store (seconds)
BROKEN_SECONDS = 30.0
#: one that did not tell all of its tags, after this; the others wait as long
UNTOLD_SECONDS = 300.0
#: for images that failed the next run begins no sooner than this after the last (seconds)
RETRY_SECONDS = 60.0
#: the state of a run is written down this often (seconds), and so is that of runs that only follow the parent's log:
#: what a kill forgets of them the log tells again
KEEP_SECONDS = 5.0
#: what is no news is written down so often
RECORD_SECONDS = 3600.0
#: a plan that takes longer is asked for again (seconds); within the 25 s of every answer
PLAN_SECONDS = 10.0
#: a plan that nobody asked for since is made anew (seconds)
PLAN_AGE_SECONDS = 60.0


class Replica:
    """Keeps the node's own schedule. Nothing waits for it: clients are served whatever it does."""

    def __init__(self, keeper: Keeper, source: Source) -> None:
        self._keeper, self._clock, self._store = keeper, keeper.clock, keeper.store
        self._source, self._slots = source, keeper.config.sync.transfers
        self.memory = self._recorded = Memory()
        self._recorded_at = float("-inf")
        #: called when what a report says changed
        self.news: Callable[[], None] = lambda: None
        self._said = full.Synchronised()
        self._share = keeper.clock.jitter(1.0)
        self._woken = asyncio.Event()
        self._ended_at = 0.0
        self._is_written = True
        self._round: Round | None = None
        self._work: asyncio.Task[None] | None = None
        self._planning: Planning | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def schedule(self) -> when.Schedule | None:
        """None while nobody has said one."""
        return self._source.schedule

    async def start(self) -> None:
        """Take up what is held, and begin. Uses no network before it returns."""
        memory = recall(self._store)
        self._recorded = memory
        self.memory = replace(memory, state=when.woken(memory.state))
        self._source.start(self.memory, self._share, self._came)
        for words in self.schedule.warnings() if self.schedule is not None else ():
            log.warning("synchronisation", reason=words)
        self._tasks = [asyncio.create_task(self._keep_time()), asyncio.create_task(self._write_down())]

    async def close(self) -> None:
        """Stop where it is; the next start goes on."""
        if not self._tasks:
            return  # never started: what is kept is newer than what is known here
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._source.close()
        await self._stop()
        if self._planning is not None:
            await self._planning.close()
        await self._kept(last=True)

    def notes(self) -> list[str]:
        """Sentences for /readyz."""
        ttl = float("inf") if self.schedule is None else self.schedule.ttl
        found = stall(self.memory.state.synced_at, self._clock.now(), ttl)
        notes = [] if found is None else [f"synchronisation: {found.words}"]
        running = self._round
        if (
            running is not None
            and running.run is not None
            and not self._waits()
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

    def synchronised(self) -> full.Synchronised:
        """What a report to the parent says of it."""
        now, current = self._clock.now(), self._round
        run = None if current is None else current.run
        progress = None if run is None or run.is_over(now) else _progress(run.progress(now))
        synced_at = self.memory.state.synced_at
        return full.Synchronised(self.memory.result, synced_at, progress is not None, progress)

    def decided(self, repository: str, tag: str, *, ours: bool) -> None:
        """A change of a tag went up (`ours`), or gave way to the parent's."""
        if self._source.decided(f"{repository}:{tag}", ours=ours):
            self._came()

    def follows(self, repository: str, tag: str) -> bool:
        """See `Source`."""
        return self._source.follows(repository, tag)

    def wake(self) -> None:
        """The source may have something to say."""
        self._woken.set()

    def _came(self) -> None:
        """Something is to be brought, whatever went wrong before: the parent was just heard of."""
        state = replace(when.asked(self.memory.state, when.CHANGES), again_at=0.0)
        self.memory = replace(self.memory, state=state)
        self._woken.set()

    def run_now(self) -> None:
        """An operator wants a full run, whatever the window. One that is under way is followed by it."""
        state = when.asked(self.memory.state, when.MANUAL, force=True)
        self.memory = replace(self.memory, state=state)
        self._woken.set()

    def status(self) -> SyncReport:
        """Where it stands."""
        now, state, memory = self._clock.now(), self.memory.state, self.memory
        schedule, current = self.schedule, self._round
        closes = None if schedule is None else schedule.closes(now, self._share)
        job = current.job if current is not None else memory.job
        troubles = sorted((job.troubles if job is not None else {}).items())[:SHOWN]
        run = current.run if current is not None else None
        return SyncReport(
            schedule=self._source.texts[0],
            window=self._source.texts[1],
            window_open=closes is not None,
            closes=None if closes is None or closes == float("inf") else stamp(closes),
            running=state.running,
            asked=state.asked,
            last_sync_time=stamp(state.synced_at) if state.synced_at else None,
            looked_at=current.look.asked if current is not None else 0,
            up_to_date=current.look.here if current is not None else memory.here,
            progress=None if run is None else _progress(run.progress(now)),
            troubles=tuple(_trouble(key, found) for key, found in troubles),
            words=(*self._waits(), *(current.look.words if current is not None else memory.words)),
        )

    def _waits(self) -> list[str]:
        """Why parents are not asked now."""
        return [words for asking in self._keeper.background.values() if (words := asking.words())]

    async def plan(self) -> PlanReport:
        """What the next run would fetch. Nothing is kept of what is read for it."""
        now = self._clock.monotonic()
        if self._planning is None or now - self._planning.asked_at > PLAN_AGE_SECONDS:
            if self._planning is not None:
                await self._planning.close()
            self._planning = Planning(self._keeper, self._source, self.memory, self._slots)
        found = self._planning
        found.asked_at = now
        await asyncio.wait((found.task,), timeout=PLAN_SECONDS)
        if found.task.done():
            self._planning = None
            found.task.result()
        return found.report(self.schedule, self.memory.rate, self._waits())

    # ---- time

    async def _keep_time(self) -> None:
        while True:
            try:
                await self._turn()
            except StoreError as error:
                log.error("synchronisation cannot be recorded", reason=str(error))
                await self._clock.sleep(BROKEN_SECONDS)
            except Exception:
                log.exception("synchronisation failed")
                await self._clock.sleep(BROKEN_SECONDS)

    async def _turn(self) -> None:
        now, before = self._clock.now(), self.memory
        memory = self._source.notice(before)
        schedule = self._source.schedule
        if schedule is None or not (self._source.is_ready or memory.state.running):
            self.memory = memory
            return await self._rest(when.LOOK_SECONDS)
        retry_at = self._retry_at()
        state = memory.state
        if retry_at is not None and retry_at <= now:
            state, retry_at = when.asked(state, when.CHANGES), None
        due = when.due(schedule, state, now, self._share)
        result = full.looked_at(memory.result, now, schedule.ttl)
        self.memory = replace(memory, state=due.state, result=_awaited(result, due.state))
        for action in due.actions:
            await self._act(action, now)
        if self.memory != before:
            await self._kept(at_once=not _follows(before, self.memory))
        pause = due.pause(now)
        return await self._rest(pause if retry_at is None else min(pause, max(retry_at - now, 0.0)))

    async def _act(self, action: when.Start | when.Cancel, now: float) -> None:
        await self._stop()
        if isinstance(action, when.Cancel):
            log.info("synchronisation stops", reason=action.reason)
            return
        is_full = action.trigger in when.FULL
        tell = log.info if is_full or action.missed else log.debug
        tell("synchronisation begins", trigger=action.trigger, missed=action.missed)
        if is_full:
            at = self._source.asked_at(action.trigger)
            result = full.begun(self.memory.result, action.trigger, max(now, at))
            self.memory = replace(self.memory, result=result)
        self._round = Round(self._keeper, self._source, self._slots, action.trigger, self.memory)
        self._work = asyncio.create_task(self._worked(self._round))

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
            well, broke = current.is_well, current.run is None
        except Exception:
            log.exception("synchronisation failed")
            well, broke = False, True
        now, look = self._clock.now(), current.look
        again_in = look.patience if look.away or broke else None
        if look.failures and look.is_whole:
            again_in = UNTOLD_SECONDS
        self._took(current)
        self._round, self._ended_at = None, now
        result = self.memory.result
        if current.trigger in when.FULL and again_in is None:
            result = full.ended(result, now, failed=not well)
        state = when.finished(self.memory.state, now, again_in=again_in)
        self.memory = replace(self.memory, state=state, result=result)
        if self._source.waits and not broke:
            self._came()
        await self._kept(at_once=current.trigger != when.CHANGES or not well)
        tell = log.info if look.asked else log.debug
        tell("synchronisation ended", complete=well, here=look.here, asked=look.asked)
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
            await asyncio.wait((self._work,))  # a cancellation of who waits here stays his own
            if self._round is not None:
                self._took(self._round)
        self._work = self._round = None

    def _took(self, current: Round) -> None:
        """Remember what there is of a run."""
        found = None if current.run is None else current.run.progress(self._clock.now())
        rate = 0.0 if found is None else found.rate
        look, words, here = current.look, self.memory.words, self.memory.here
        if look.is_whole:
            here = look.here + (0 if found is None else found.images_done)
        if look.is_whole or look.words:
            words = tuple(look.words[:SHOWN])
        self.memory = replace(
            self.memory, job=current.job, rate=rate or self.memory.rate, words=words, here=here
        )

    async def _kept(self, *, at_once: bool = True, last: bool = False) -> None:
        """Say what is new to who reports it, and write it down, or have it done within `KEEP_SECONDS`. What is no
        news is written once an hour, and as the `last` thing."""
        self.memory = self._source.remembered(self.memory)
        said = self.synchronised()
        if (said.result, said.syncing) != (self._said.result, self._said.syncing):
            self._said = said
            self.news()
        self._is_written = False
        if not at_once:
            return
        now = self._clock.monotonic()
        self._is_written = True
        if not (last or is_news(self._recorded, self.memory) or now - self._recorded_at >= RECORD_SECONDS):
            return
        self._recorded, self._recorded_at = self.memory, now
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
            elif not self._is_written:
                await self._kept()


def _follows(before: Memory, after: Memory) -> bool:
    """Whether nothing is new but that a run which follows the parent's log begins, or is wanted."""
    triggers = {
        when.CHANGES,
        before.state.running,
        before.state.asked,
        after.state.running,
        after.state.asked,
    }
    return triggers <= {"", when.CHANGES} and replace(before, state=after.state) == after


def _awaited(result: SyncResult, state: when.State) -> SyncResult:
    """The record when a full synchronisation is asked for and none is under way."""
    if state.asked not in when.FULL or state.running or full.is_under_way(result, state.asked):
        return result
    if result.sync_state == "Pending" and result.sync_trigger == state.asked:
        return result
    return full.asked_for(result, full.trigger_of(state.asked))


def _progress(found: Progress) -> SyncProgress:
    return SyncProgress(
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


def _trouble(key: str, found: Trouble) -> TroubleReport:
    return TroubleReport(
        image=key,
        kind=found.kind,
        reason=found.reason,
        attempts=found.attempts,
        since=stamp(found.since),
        next_try=stamp(found.next_at),
    )
