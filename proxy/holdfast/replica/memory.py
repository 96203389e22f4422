"""What outlasts the process: when runs are due, and how the last one went. One quiet record of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import structlog
from holdfast_core.errors import StoreError
from holdfast_core.record import ResourceChange
from holdfast_core.resources import ResourceView
from holdfast_core.store import Store
from msgspec import Struct
from msgspec.structs import replace

from holdfast.control.resource import SyncResult
from holdfast.sync.schedule import FULL, State
from holdfast.sync.work import Job

log = structlog.get_logger()

KIND, NAME = "sync", "self"


class Memory(Struct, frozen=True):
    """`rate` is bytes a second as last measured, 0 never; `words` and `here` are of the last look at the parents;
    `result` of the last full synchronisation.

    Of a managed node: `cursor` is how far everything in the parent's log is here or among the job's troubles, "" where
    only a full synchronisation tells; `held` are tags of which it said something that waits for the outbox, as
    `sync.held` has them; `scope` and `resync` are what was last heard of the sync token's repositories and of the
    operator's wish for a full synchronisation."""

    state: State = State()
    job: Job | None = None
    rate: float = 0.0
    words: tuple[str, ...] = ()
    here: int = 0
    result: SyncResult = SyncResult()
    cursor: str = ""
    held: dict[str, str | None] = {}
    scope: tuple[str, ...] = ()
    resync: str = ""


def recall(store: Store) -> Memory:
    """What was kept; nothing when there is none, or none that can be read."""
    try:
        held = store.resource(KIND, NAME)
        return Memory() if held is None else msgspec.json.decode(held.body, type=Memory)
    except (StoreError, msgspec.DecodeError) as error:  # everything wanted is looked at anew
        log.error("state of synchronisation cannot be read", reason=str(error))
        return Memory()


def is_news(kept: Memory, memory: Memory) -> bool:
    """Whether more than the times of looks that brought nothing differs from what was kept. Those are worth no write a
    look: what is lost of them in a kill makes the next look come sooner."""
    return _lasting(kept) != _lasting(memory)


def _lasting(memory: Memory) -> Memory:
    state, job = memory.state, memory.job
    asked, running = (trigger if trigger in FULL else "" for trigger in (state.asked, state.running))
    if job is not None:
        did = job.troubles or job.images_done or job.bytes_done
        job = replace(job, serial=0, trigger="", began=0.0) if did else None
    state = State(asked=asked, running=running, forced=state.forced, missed=state.missed)
    return replace(memory, state=state, job=job, rate=0.0)


async def keep(store: Store, memory: Memory) -> None:
    """Write it down. Raises StoreError."""
    body = msgspec.json.encode(memory)

    def plan(_: ResourceView) -> Sequence[ResourceChange]:
        return [ResourceChange(KIND, NAME, body)]

    await asyncio.wrap_future(store.change_resources(plan, quiet=frozenset({KIND})))
