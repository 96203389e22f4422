"""The scrub of a node: all bytes of blob files, and the journal, are read from the disk once a period and compared with
their hashes; what does not match is fetched again from a parent.

A pass walks the blobs by digest in slices. Where it stands is a document of the store, written every quarter of an hour
and when the node ends, so that a restart reads at most so much again. What is damaged goes into quarantine at once, and
from there to `DamageRepair`, which also tries again what it could not repair before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import StoreError
from holdfast_core.filesystem.disk_state import DiskState
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store

from holdfast.background import for_ever, rest
from holdfast.clock import Clock
from holdfast.config import ScrubSection
from holdfast.log import log
from holdfast.storage.scrubbing.damage_repair import DamageRepair
from holdfast.storage.scrubbing.scrub_pace import LOOK_SECONDS, SLICE_BYTES, ScrubProgress, next_pass, step
from holdfast.storage.scrubbing.scrub_report import ScrubReport, ScrubStatus, ScrubTrigger
from holdfast.timestamps import stamp

#: the first look after a start: a clock without a battery is right by then, and fills that go on have begun
FIRST_LOOK_SECONDS = 60.0
#: the place of a pass is written this often: 700 times in a week, and a killed node reads so much again (seconds)
PLACE_SECONDS = 900.0
#: known damage is tried again this often (seconds)
REPAIR_SECONDS = 60.0
#: a sleep that ends so much too late means that the processors have more to do than they can (seconds)
LATE_SECONDS = 0.05
#: the document that outlasts the process
KIND, NAME = "scrub", "self"


class ScrubRecord(msgspec.Struct, frozen=True):
    """A pass under way: `place` is where it goes on (hexadecimal). `began` is 0 before the first. `last` is the
    report of the last full pass, which began at `last_began`."""

    began: float = 0.0
    place: str = ""
    trigger: ScrubTrigger = "Scheduled"
    is_over: bool = True
    bytes_read: int = 0
    found: int = 0
    lost: int = 0
    repaired: int = 0
    journal_frames: int = 0
    last: ScrubReport | None = None
    last_began: float = 0.0


class ScrubRounds:
    """The scrubs of one node, one at a time. `is_serving` says whether bytes are being fetched for clients."""

    def __init__(
        self,
        store: Store,
        config: ScrubSection,
        repair: DamageRepair,
        is_serving: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._store, self._config, self._repair, self._clock = store, config, repair, clock
        self._is_serving, self._is_late, self._is_paused = is_serving, False, False
        self._record, self._written_at = ScrubRecord(), 0.0
        self._repaired_at = -REPAIR_SECONDS
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Scrub until cancelled."""
        self._record = self._stored_record()
        await self._pause(FIRST_LOOK_SECONDS)
        await for_ever(self._step, self._clock, lambda: LOOK_SECONDS, "scrub")

    async def _step(self) -> bool:
        """One slice, or one look."""
        await self._repair_known()
        if self._store.condition.state is not DiskState.WRITABLE:
            return False  # damage could not be noted
        if self._record.is_over:
            await self._between()
        else:
            await self._slice()
        return True

    async def _between(self) -> None:
        """No pass is under way: begin the next, or wait for it."""
        now, period = self._clock.now(), self._config.period
        due = next_pass(self._record.began, period, now) - now if period else LOOK_SECONDS
        if due <= 0:
            await self._begin("Scheduled")
        else:
            await self._pause(min(due, LOOK_SECONDS))

    async def _begin(self, trigger: ScrubTrigger) -> None:
        self._record = ScrubRecord(
            self._clock.now(),
            trigger=trigger,
            is_over=False,
            last=self._record.last,
            last_began=self._record.last_began,
        )
        await self._write()

    async def _slice(self) -> None:
        if self._record.began > self._clock.now():  # by a clock that was wrong
            self._record = msgspec.structs.replace(self._record, began=self._clock.now())
        record, config = self._record, self._config
        period = config.period if record.trigger == "Scheduled" else 0.0
        progress = ScrubProgress(record.began, record.bytes_read, period)
        held = self._store.space.account().file_bytes
        busy = self._is_late or self._is_serving()
        now = step(progress, held, config.bytes_per_second, self._clock.now(), is_busy=busy)
        self._is_paused = busy and not now.bytes
        read = await self._read(now.bytes) if now.bytes else 0
        if self._record.is_over:
            return
        if self._clock.monotonic() - self._written_at >= PLACE_SECONDS:
            await self._write()
        await self._pause(max(now.wait, read / config.bytes_per_second))

    async def _read(self, size: int) -> int:
        """Read a slice and see to what it found; its bytes, up to a chunk more than `size`."""
        record = self._record
        done = await asyncio.wrap_future(self._store.upkeep.scrub_blobs(bytes.fromhex(record.place), size))
        found = [one for one in done.found if await self._repair.note(*one)]
        if not self._is_of(record):
            return done.bytes_read  # another pass was ordered meanwhile
        chunks = [-(-(end - start) // CHUNK_BYTES) for _, start, end in found]
        self._record = msgspec.structs.replace(
            record,
            place=done.on.hex(),
            bytes_read=record.bytes_read + done.bytes_read,
            found=record.found + sum(chunks),
            lost=record.lost + self._lost(found),
        )
        if found:
            await self._repair_now()
        if not done.on and self._is_of(record):
            frames = await self._journal_frames()
            await self._repair_now()  # counts what came behind the last damage
            if self._is_of(record):
                await self._end(frames)
        return done.bytes_read

    def _is_of(self, record: ScrubRecord) -> bool:
        """Whether the pass under way is still that of the record."""
        return (record.began, record.trigger) == (self._record.began, self._record.trigger)

    def _lost(self, found: Sequence[tuple[Digest, int, int]]) -> int:
        """Files that are not there as they were written."""
        blobs = [self._store.blobs.anywhere(digest) for digest, _, _ in found]
        return len(
            {blob.digest for blob in blobs if blob is not None and not self._store.blobs.is_in_place(blob)}
        )

    async def _end(self, frames: int) -> None:
        now = self._clock.now()
        self._record = msgspec.structs.replace(self._record, is_over=True, journal_frames=frames)
        report = self._report(ended=now)
        self._record = msgspec.structs.replace(self._record, last=report, last_began=self._record.began)
        await self._write()
        told = ("trigger", "bytes", "found", "lost", "repaired", "journal_frames")
        figures = {name: getattr(report, name) for name in told}
        log.info(
            "scrub ended",
            **figures,
            unrepaired=len(self._repair.unrepaired()),
            seconds=round(max(0.0, now - self._record.began), 1),
        )

    async def _journal_frames(self) -> int:
        """Damaged frames of the journal, after it was written again from the index."""
        damaged, after = 0, b""
        try:
            while True:
                done, bad = await asyncio.wrap_future(self._store.upkeep.scrub_journal(after, SLICE_BYTES))
                damaged, after = damaged + bad, done.on
                if not after:
                    break
                await self._pause(SLICE_BYTES / self._config.bytes_per_second)
            if damaged:
                healed = await asyncio.wrap_future(self._store.upkeep.compact_journal())
                log.error("journal damaged", frames=damaged, healed=healed)
        except (OSError, StoreError) as error:
            log.error("journal not looked at", reason=str(error))
        return damaged

    async def _repair_known(self) -> None:
        if self._clock.monotonic() - self._repaired_at >= REPAIR_SECONDS:
            await self._repair_now()

    async def _repair_now(self) -> None:
        repaired = await self._repair.round()
        self._repaired_at = self._clock.monotonic()
        if repaired and not self._record.is_over:
            self._record = msgspec.structs.replace(self._record, repaired=self._record.repaired + repaired)

    async def _pause(self, seconds: float) -> None:
        """Wait, and note whether the processors kept up; an order ends it."""
        due = self._clock.monotonic() + seconds
        await rest(self._clock, seconds, self._woken)
        self._is_late = self._clock.monotonic() - due > LATE_SECONDS

    async def order(self, by: str) -> ScrubStatus:
        """Read everything now, as fast as `bytes_per_second` allows; a scheduled pass gives way to it, and one that was
        ordered goes on."""
        if self._record.is_over or self._record.trigger != "Ordered":
            log.info("scrub ordered", by=by)
            await self._begin("Ordered")
            self._woken.set()
        return self.status()

    def status(self) -> ScrubStatus:
        """How far the scrub is."""
        return ScrubStatus(
            period=self._config.period,
            held=self._store.space.account().file_bytes,
            paused=self._is_paused and not self._record.is_over,
            current=None if self._record.is_over else self._report(None),
            last_full_pass=self._record.last,
            unrepaired=len(self._repair.unrepaired()),
        )

    def notes(self) -> list[str]:
        """What is damaged and waits for its parent, for the operator."""
        return self._repair.notes()

    @property
    def counters(self) -> dict[str, int]:
        """Of the pass under way, or of the last one; when a full one began last (wall seconds, 0 for never)."""
        record = self._record
        return {
            "scrub.bytes": record.bytes_read,
            "scrub.found": record.found,
            "scrub.repaired": record.repaired,
            "scrub.unrepaired": len(self._repair.unrepaired()),
            "scrub.last_full_pass": int(record.last_began),
        }

    def _report(self, ended: float | None) -> ScrubReport:
        record = self._record
        return ScrubReport(
            trigger=record.trigger,
            began=stamp(record.began),
            ended=None if ended is None else stamp(ended),
            bytes=record.bytes_read,
            found=max(record.found, record.repaired),
            lost=record.lost,
            repaired=record.repaired,
            journal_frames=record.journal_frames,
        )

    async def close(self) -> None:
        """Write where the pass stands, after the rounds have ended."""
        if not self._record.is_over:
            await self._write()

    def _stored_record(self) -> ScrubRecord:
        try:
            held = self._store.documents.get(KIND, NAME)
            return ScrubRecord() if held is None else msgspec.json.decode(held.body, type=ScrubRecord)
        except (StoreError, msgspec.DecodeError) as error:
            log.error("record of the scrub cannot be read", reason=str(error))
            return ScrubRecord()

    async def _write(self) -> None:
        body = msgspec.json.encode(self._record)

        def plan(_: ResourceView) -> list[ResourceChange]:
            return [ResourceChange(KIND, NAME, body)]

        try:
            await asyncio.wrap_future(self._store.documents.change(plan, quiet=frozenset({KIND})))
        except StoreError as error:
            log.error("record of the scrub cannot be written", reason=str(error))
        self._written_at = self._clock.monotonic()
