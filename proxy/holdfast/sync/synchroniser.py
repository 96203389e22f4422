"""The synchroniser: starts and ends runs, stores their record and reports on them. One in the keeper of each node that
synchronises; a `WorkSource` says what is synchronised, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from holdfast_core.errors import StoreError
from msgspec.structs import replace

from holdfast.background import rest
from holdfast.backoff import Trouble
from holdfast.bandwidth.progress import Progress
from holdfast.gateway import full_sync
from holdfast.log import log
from holdfast.resources.model import SyncProgress, SyncResult
from holdfast.sync import schedule as when
from holdfast.sync.dry_run import DryRun
from holdfast.sync.report import SHOWN, PlanReport, SyncReport, TroubleReport
from holdfast.sync.run import SyncRun
from holdfast.sync.run_record import RunRecord, is_worth_writing, read_record, write_record
from holdfast.sync.run_state import parse_key, stall_of
from holdfast.sync.source.polled_source import WorkSource
from holdfast.timestamps import stamp

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext

#: pause after an unexpected error, or an error of the store (seconds)
BROKEN_SECONDS = 30.0
#: pause after a run in which a parent did not answer every request (seconds)
INCOMPLETE_SECONDS = 300.0
#: shortest time between a run and the next one for images that failed (seconds)
RETRY_SECONDS = 60.0
#: interval of writes of the record during a run (seconds), and for runs that only follow the parent's log: after a kill
#: the log is read again
KEEP_SECONDS = 5.0
#: interval of writes of a record in which only times changed (seconds)
RECORD_SECONDS = 3600.0
#: longest wait for a plan before an incomplete one is returned (seconds); within the 25 s of every answer
PLAN_SECONDS = 10.0
#: a plan that was not requested for so long is made again (seconds)
PLAN_AGE_SECONDS = 60.0


class Synchroniser:
    """Keeps the node's schedule. Clients never wait for it. `report_due` is called when the contents of a report to the
    parent changed, `run_ordered` when an operator requests a run."""

    def __init__(
        self,
        context: SyncContext,
        source: WorkSource,
        report_due: Callable[[], None] = lambda: None,
        run_ordered: Callable[[], None] = lambda: None,
    ) -> None:
        self._context, self._clock, self._store = context, context.clock, context.store
        self._source, self._slots = source, context.config.sync.transfers
        self.record = self._recorded = RunRecord()
        self._recorded_at = float("-inf")
        self._report_due, self._run_ordered = report_due, run_ordered
        self._reported = full_sync.Synchronised()
        self._share = context.clock.jitter(1.0)
        self._woken = asyncio.Event()
        self._ended_at = 0.0
        self._is_written = True
        self._run: SyncRun | None = None
        self._work: asyncio.Task[None] | None = None
        self._dry_run: DryRun | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def schedule(self) -> when.Schedule | None:
        """Returns the schedule, None while it is not known."""
        return self._source.schedule

    async def start(self) -> None:
        """Reads the stored record and starts. Uses no network before it returns."""
        record = read_record(self._store)
        self._recorded = record
        self.record = replace(record, state=when.after_restart(record.state))
        self._source.start(self.record, self._share, self._request_changes)
        for words in self.schedule.warnings() if self.schedule is not None else ():
            log.warning("synchronisation", reason=words)
        self._tasks = [
            asyncio.create_task(self._keep_schedule()),
            asyncio.create_task(self._write_regularly()),
        ]

    async def close(self) -> None:
        """Stops; the next start goes on from there."""
        if not self._tasks:
            return  # never started: the stored record is newer than this one
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._source.close()
        await self._stop()
        if self._dry_run is not None:
            await self._dry_run.close()
        await self._write_record(last=True)

    def notes(self) -> list[str]:
        """Returns sentences for /readyz."""
        ttl = float("inf") if self.schedule is None else self.schedule.ttl
        stall = stall_of(self.record.state.synced_at, self._clock.now(), ttl)
        notes = [] if stall is None else [f"synchronisation: {stall.words}"]
        running = self._run
        if (
            running is not None
            and running.run is not None
            and not self._pauses()
            and (still := running.run.stillness(self._clock.now()))
        ):
            notes.append(f"synchronisation: {still}")
        return notes

    async def order_run(self) -> None:
        """Begins a run now, for an operator. Returns once that is on disk."""
        self._run_ordered()
        self.run_now()
        await self._write_record()

    def synchronised(self) -> full_sync.Synchronised:
        """Returns the part of a report to the parent on synchronisation."""
        now, current = self._clock.now(), self._run
        run = None if current is None else current.run
        progress = None if run is None or run.is_over(now) else _progress(run.progress(now))
        synced_at = self.record.state.synced_at
        return full_sync.Synchronised(self.record.result, synced_at, progress is not None, progress)

    def tag_decided(self, repository: str, tag: str, *, ours: bool) -> None:
        """Records that a change of a tag was sent up (`ours`), or dropped for the parent's."""
        if self._source.tag_decided(f"{repository}:{tag}", ours=ours):
            self._request_changes()

    def follows(self, repository: str, tag: str) -> bool:
        """See `WorkSource`."""
        return self._source.follows(repository, tag)

    def covers(self, repository: str) -> bool:
        """See `WorkSource`."""
        return self._source.covers(repository)

    def has_referrers(self, repository: str) -> bool:
        """Whether every referrer of a manifest of the repository was here after the last complete synchronisation."""
        return bool(self.record.state.synced_at) and self._source.brings_referrers(repository)

    def unfinished_since(self, repository: str) -> float:
        """Returns since when images of the repository may be here in part (wall seconds): what they consist of has no
        name before the manifest, which comes last. Infinity when none is, -inf while one of it fails."""
        job = self._run.job if self._run is not None else self.record.job
        if job is None:
            return inf
        if any(parse_key(key)[0] == repository for key in job.troubles):
            return -inf
        return inf if job.over else job.began

    def wake(self) -> None:
        """Checks the source now."""
        self._woken.set()

    def _request_changes(self) -> None:
        """Requests a run for changes, without the pause after a failure: the parent has just answered."""
        state = replace(when.request_run(self.record.state, when.CHANGES), again_at=0.0)
        self.record = replace(self.record, state=state)
        self._woken.set()

    def run_now(self) -> None:
        """Requests a full run outside any window, for an operator. It follows a run that is under way."""
        state = when.request_run(self.record.state, when.MANUAL, force=True)
        self.record = replace(self.record, state=state)
        self._woken.set()

    def status(self) -> SyncReport:
        """Returns the state of synchronisation."""
        now, state, record = self._clock.now(), self.record.state, self.record
        schedule, current = self.schedule, self._run
        closes = None if schedule is None else schedule.closes(now, self._share)
        job = current.job if current is not None else record.job
        troubles = sorted((job.troubles if job is not None else {}).items())
        run = current.run if current is not None else None
        return SyncReport(
            schedule=self._source.texts[0],
            window=self._source.texts[1],
            window_open=closes is not None,
            closes=None if closes is None or closes == float("inf") else stamp(closes),
            opens=None if schedule is None or closes is not None else stamp(now + schedule.closed_for(now)),
            running=state.running,
            asked=state.requested,
            last_sync_time=stamp(state.synced_at) if state.synced_at else None,
            looked_at=current.scan.checked if current is not None else 0,
            up_to_date=current.scan.up_to_date if current is not None else record.here,
            progress=None if run is None else _progress(run.progress(now)),
            incomplete=len(troubles),
            troubles=tuple(_trouble(key, trouble) for key, trouble in troubles[:SHOWN]),
            words=(*self._pauses(), *(current.scan.words if current is not None else record.words)),
        )

    def _pauses(self) -> list[str]:
        """Returns why parents get no requests now."""
        return [words for parent in self._context.background.values() if (words := parent.words())]

    async def plan(self) -> PlanReport:
        """Returns what the next run would fetch. Nothing is written for it."""
        now = self._clock.monotonic()
        if self._dry_run is None or now - self._dry_run.used_at > PLAN_AGE_SECONDS:
            if self._dry_run is not None:
                await self._dry_run.close()
            self._dry_run = DryRun(self._context, self._source, self.record, self._slots)
        dry_run = self._dry_run
        dry_run.used_at = now
        await asyncio.wait((dry_run.task,), timeout=PLAN_SECONDS)
        if dry_run.task.done():
            self._dry_run = None
            dry_run.task.result()
        return dry_run.report(self.schedule, self.record.rate, self._pauses())

    async def _keep_schedule(self) -> None:
        while True:
            try:
                await self._step()
            except StoreError as error:
                log.error("synchronisation cannot be recorded", reason=str(error))
                await self._clock.sleep(BROKEN_SECONDS)
            except Exception:
                log.exception("synchronisation failed")
                await self._clock.sleep(BROKEN_SECONDS)

    async def _step(self) -> None:
        now, before = self._clock.now(), self.record
        record = self._source.with_requests(before)
        schedule = self._source.schedule
        if schedule is None or not (self._source.is_ready or record.state.running):
            self.record = record
            return await rest(self._clock, when.LOOK_SECONDS, self._woken)
        retry_at = self._retry_at()
        state = record.state
        if retry_at is not None and retry_at <= now:
            state, retry_at = when.request_run(state, when.CHANGES), None
        due = when.due(schedule, state, now, self._share)
        result = full_sync.timed(record.result, now, schedule.ttl)
        self.record = replace(record, state=due.state, result=_with_pending_sync(result, due.state))
        for action in due.actions:
            await self._act(action, now)
        if self.record != before:
            await self._write_record(at_once=not _only_changes_trigger(before, self.record))
        pause = due.pause(now)
        return await rest(
            self._clock, pause if retry_at is None else min(pause, max(retry_at - now, 0.0)), self._woken
        )

    async def _act(self, action: when.StartRun | when.CancelRun, now: float) -> None:
        await self._stop()
        if isinstance(action, when.CancelRun):
            log.info("synchronisation stops", reason=action.reason)
            return
        is_full = action.trigger in when.FULL
        write_log = log.info if is_full or action.missed else log.debug
        write_log("synchronisation begins", trigger=action.trigger, missed=action.missed)
        if is_full:
            at = self._source.requested_at(action.trigger)
            result = full_sync.begun(self.record.result, action.trigger, max(now, at))
            self.record = replace(self.record, result=result)
        self._run = SyncRun(self._context, self._source, self._slots, action.trigger, self.record)
        self._work = asyncio.create_task(self._work_off(self._run))

    async def _work_off(self, current: SyncRun) -> None:
        """Carries out a run to its end, and records the result."""
        try:
            await current.work()
            well, broke = current.is_well, current.run is None
        except Exception:
            log.exception("synchronisation failed")
            well, broke = False, True
        now, scan = self._clock.now(), current.scan
        again_in = scan.retry_seconds if scan.away or broke else None
        if scan.is_whole and not scan.is_answered:
            again_in = INCOMPLETE_SECONDS
        self._update_record(current)
        self._run, self._ended_at = None, now
        result = self.record.result
        if current.trigger in when.FULL and again_in is None:
            result = full_sync.ended(result, now, failed=not well)
        state = when.end_run(self.record.state, now, again_in=again_in)
        self.record = replace(self.record, state=state, result=result)
        if self._source.has_changes and not broke:
            self._request_changes()
        await self._write_record(at_once=current.trigger != when.CHANGES or not well)
        write_log = log.info if scan.checked else log.debug
        write_log("synchronisation ended", complete=well, up_to_date=scan.up_to_date, checked=scan.checked)
        self._woken.set()

    def _retry_at(self) -> float | None:
        """Returns when a run for images that failed is due (wall seconds), None without one."""
        state, job = self.record.state, self.record.job
        if state.running or state.requested or job is None or (due := job.next_try()) is None:
            return None
        return max(due, self._ended_at + RETRY_SECONDS)

    async def _stop(self) -> None:
        """Stops the run that is under way; the bytes that have arrived stay."""
        if self._work is not None and not self._work.done():
            self._work.cancel()
            await asyncio.wait((self._work,))  # does not pass on a cancellation of this coroutine
            if self._run is not None:
                self._update_record(self._run)
        self._work = self._run = None

    def _update_record(self, current: SyncRun) -> None:
        """Updates the record with the state of a run."""
        progress = None if current.run is None else current.run.progress(self._clock.now())
        rate = 0.0 if progress is None else progress.rate
        scan, words, here = current.scan, self.record.words, self.record.here
        if scan.is_whole:
            here = scan.up_to_date + (0 if progress is None else progress.images_done)
        if scan.is_whole or scan.words:
            words = tuple(scan.words[:SHOWN])
        self.record = replace(
            self.record, job=current.job, rate=rate or self.record.rate, words=words, here=here
        )

    async def _write_record(self, *, at_once: bool = True, last: bool = False) -> None:
        """Calls `report_due` when the report changed and writes the record, or leaves the write to the next interval of
        `KEEP_SECONDS`. A record in which only times changed is written once an hour, and when it is the `last` one."""
        self.record = self._source.with_state(self.record)
        report = self.synchronised()
        if (report.result, report.syncing) != (self._reported.result, self._reported.syncing):
            self._reported = report
            self._report_due()
        self._is_written = False
        if not at_once:
            return
        now = self._clock.monotonic()
        self._is_written = True
        if not (
            last or is_worth_writing(self._recorded, self.record) or now - self._recorded_at >= RECORD_SECONDS
        ):
            return
        self._recorded, self._recorded_at = self.record, now
        try:
            await write_record(self._store, self.record)
        except StoreError as error:
            log.error("synchronisation cannot be recorded", reason=str(error))

    async def _write_regularly(self) -> None:
        while True:
            await self._clock.sleep(KEEP_SECONDS)
            if self._run is not None and self._run.run is not None:
                self._update_record(self._run)
                await self._write_record()
            elif not self._is_written:
                await self._write_record()


def _only_changes_trigger(before: RunRecord, after: RunRecord) -> bool:
    """Whether the only difference is a run for changes that begins or is requested."""
    triggers = {
        when.CHANGES,
        before.state.running,
        before.state.requested,
        after.state.running,
        after.state.requested,
    }
    return triggers <= {"", when.CHANGES} and replace(before, state=after.state) == after


def _with_pending_sync(result: SyncResult, state: when.ScheduleState) -> SyncResult:
    """Returns the result as pending when a full synchronisation is requested and none is under way."""
    if state.requested not in when.FULL or state.running or full_sync.is_under_way(result, state.requested):
        return result
    if result.sync_state == "Pending" and result.sync_trigger == state.requested:
        return result
    return full_sync.ordered(result, full_sync.trigger_of(state.requested))


def _progress(progress: Progress) -> SyncProgress:
    return SyncProgress(
        images_done=progress.images_done,
        images=progress.images,
        bytes_done=progress.bytes_done,
        bytes=progress.bytes,
        rate=progress.rate,
        seconds_left=progress.left,
        retrying=progress.retrying,
        failed=progress.failed,
        parked=progress.parked,
    )


def _trouble(key: str, trouble: Trouble) -> TroubleReport:
    return TroubleReport(
        image=key,
        kind=trouble.kind,
        reason=trouble.reason,
        attempts=trouble.attempts,
        since=stamp(trouble.since),
        next_try=stamp(trouble.next_at),
    )
