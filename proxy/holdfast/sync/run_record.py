"""The record of runs in the store: when runs are due, and the result of the last one. Writing it changes no ETag."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.errors import StoreError
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store
from msgspec import Struct
from msgspec.structs import replace

from holdfast.log import log
from holdfast.resources.model import SyncResult
from holdfast.sync.run_state import Job
from holdfast.sync.schedule import FULL, ScheduleState

KIND, NAME = "sync", "self"


class RunRecord(Struct, frozen=True):
    """`rate` is the last measured rate (bytes a second), 0 without one; `words` and `here` come from the last scan of
    the parents, `result` from the last full synchronisation.

    Of a managed node: everything in the parent's log up to `cursor` is here or among the troubles of the job, and ""
    means that a full synchronisation is needed; `held` are the rows of `HeldTags`; `scope` are the repositories of the
    sync token and `resync` the operator's request for a full synchronisation, both as last received."""

    state: ScheduleState = ScheduleState()
    job: Job | None = None
    rate: float = 0.0
    words: tuple[str, ...] = ()
    here: int = 0
    result: SyncResult = SyncResult()
    cursor: str = ""
    held: dict[str, str | None] = {}
    scope: tuple[str, ...] = ()
    resync: str = ""


def read_record(store: Store) -> RunRecord:
    """Returns the stored record; an empty one when there is none, or none that can be read."""
    try:
        held = store.documents.get(KIND, NAME)
        return RunRecord() if held is None else msgspec.json.decode(held.body, type=RunRecord)
    except (StoreError, msgspec.DecodeError) as error:  # everything selected is compared again
        log.error("state of synchronisation cannot be read", reason=str(error))
        return RunRecord()


def is_worth_writing(kept: RunRecord, record: RunRecord) -> bool:
    """Whether more than the times of scans without a result differs from the stored record. Those times are not written
    after each scan: when a kill loses them, the next scan comes sooner."""
    return _lasting(kept) != _lasting(record)


def _lasting(record: RunRecord) -> RunRecord:
    state, job = record.state, record.job
    requested, running = (trigger if trigger in FULL else "" for trigger in (state.requested, state.running))
    if job is not None:
        did = job.troubles or job.images_done or job.bytes_done
        job = replace(job, serial=0, trigger="", began=0.0) if did else None
    state = ScheduleState(requested=requested, running=running, forced=state.forced, missed=state.missed)
    return replace(record, state=state, job=job, rate=0.0)


async def write_record(store: Store, record: RunRecord) -> None:
    """Writes the record. Raises StoreError."""
    body = msgspec.json.encode(record)

    def plan(_: ResourceView) -> Sequence[ResourceChange]:
        return [ResourceChange(KIND, NAME, body)]

    await asyncio.wrap_future(store.documents.change(plan, quiet=frozenset({KIND})))
